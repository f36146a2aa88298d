"""Structure → volume → particles, simulated or a user's own."""
