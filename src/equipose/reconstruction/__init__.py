"""Two half-sets of a user's particles → one map, its poses and a verdict."""
