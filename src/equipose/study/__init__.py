"""Many runs: their tables, claims, plan and status, and the publication of results."""
