"""What the rules of the workflow ask of Python: a sound configuration, its datasets and runs, what is out of date."""
