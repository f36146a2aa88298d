"""Functions for the workflow's rules: check the configuration, find its datasets and runs, and what is out of date."""
