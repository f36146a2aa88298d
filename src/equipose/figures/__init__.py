"""Figures: one module and one function each, from a run's files to a picture."""
