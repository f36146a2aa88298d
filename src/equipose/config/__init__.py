"""What a dataset, a model and a run are made of, and whether a configuration is sound."""
