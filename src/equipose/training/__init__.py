"""One training run, its checkpoint, its forecast and its scores."""
