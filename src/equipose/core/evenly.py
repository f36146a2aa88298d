"""Rows that stand for all: spread evenly, since the first ones of a file may be its best, or of one session alone."""

import numpy as np


def evenly(count: int, most: int) -> np.ndarray:
    """At most so many of `count` rows, (m,), from the first to the last."""
    return np.linspace(0, count - 1, min(most, count)).astype(int)
