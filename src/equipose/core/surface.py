"""The surface of a map: a level that encloses a given part of the box, and a finer grid for drawing."""

import numpy as np


def enclosing_level(volume: np.ndarray, fraction: float) -> float:
    """The density level that a `fraction` of the box exceeds."""
    return float(np.quantile(volume, 1 - fraction))


def molecule_fraction(volume: np.ndarray) -> float:
    """The part of the box that a molecule fills: voxels above a fifth of the map's high densities."""
    return float((volume > 0.2 * np.quantile(volume, 0.999)).mean())


def fourier_upsample(volume: np.ndarray, box: int) -> np.ndarray:
    """A volume (L, L, L) on a finer grid (box, box, box) of the same extent, by zeros in Fourier space."""
    if box <= len(volume):
        return volume
    spectrum = np.fft.fftshift(np.fft.fftn(volume))
    before = box // 2 - len(volume) // 2
    padded = np.pad(spectrum, [(before, box - len(volume) - before)] * 3)
    return np.fft.ifftn(np.fft.ifftshift(padded)).real * (box / len(volume)) ** 3
