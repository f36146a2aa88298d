"""The settings of a dataset, a model and a run, and the check of a configuration."""
