"""The surface of a map: a level that encloses a given part of the box."""

import numpy as np


def enclosing_level(volume: np.ndarray, fraction: float) -> float:
    """The density level that a `fraction` of the box exceeds."""
    return float(np.quantile(volume, 1 - fraction))


def molecule_fraction(volume: np.ndarray) -> float:
    """The part of the box that a molecule fills: voxels above a fifth of the map's high densities."""
    return float((volume > 0.2 * np.quantile(volume, 0.999)).mean())
