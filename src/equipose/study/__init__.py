"""Many runs: tables, claims, the plan, the status, what is published."""
