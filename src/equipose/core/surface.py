"""The surface of a map: a level that encloses a given part of the box."""

import numpy as np


def enclosing_level(volume: np.ndarray, fraction: float) -> float:
    """The density that a `fraction` of the box is above."""
    return float(np.quantile(volume, 1 - fraction))


def molecule_fraction(volume: np.ndarray) -> float:
    """The part of the box that a molecule's map shows: above a fifth of its high densities."""
    return float((volume > 0.2 * np.quantile(volume, 0.999)).mean())
