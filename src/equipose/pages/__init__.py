"""HTML pages: the report of a study and the report of a reconstruction."""
