"""A map for the eye: shells weighted by their FSC, and sharpened by the B factor of Guinier's plot where there is one.

At resolutions better than some 10 Å the mean amplitude of a protein's shells is flat but for exp(-B/4 s²), s = 1/d
(Rosenthal and Henderson 2003). At coarser ones the molecule's shape decides it, and no B factor can be read.
"""

import numpy as np
import scipy.fft

from equipose.core.fsc import radii

GUINIER = 10.0
"""Å; the straight line is fitted from here to the map's resolution."""

FEWEST = 5
"""Shells that a line is fitted to, at least."""


def fsc_weights(curve: np.ndarray) -> np.ndarray:
    """The weight √(2 FSC / (1 + FSC)) of each shell, (L/2,): the correlation of the whole map with a map without noise.

    It is 0 from the first shell without correlation on; the mean (shell 0) keeps its weight.
    """
    weights = np.sqrt(2 * np.clip(curve, 0, 1) / (1 + np.clip(curve, 0, 1)))
    weights[0] = 1.0
    gone = np.flatnonzero(curve[1:] <= 0)
    weights[1 + gone[0] if len(gone) else len(weights) :] = 0.0
    return weights


def guinier_b_factor(volume: np.ndarray, weights: np.ndarray, voxel_size: float, resolution: float) -> float | None:
    """B in Å² of the amplitudes exp(-B/4 s²) of a map (L, L, L) times `weights` (L/2,).

    None if fewer than `FEWEST` shells lie between 10 Å and `resolution`.
    """
    box, radius = len(volume), radii(len(volume))
    shell = np.minimum(np.rint(radius).astype(int), box // 2)
    squares = np.abs(scipy.fft.rfftn(volume)) ** 2
    mean = np.bincount(shell.ravel(), squares.ravel()) / np.bincount(shell.ravel()).clip(min=1)
    amplitude = np.sqrt(mean[: box // 2]) * weights
    spacing = np.arange(box // 2) / (box * voxel_size)  # 1/Å
    fitted = (spacing >= 1 / GUINIER) & (spacing <= 1 / resolution) & (amplitude > 0)
    if fitted.sum() < FEWEST:
        return None
    slope = np.polyfit(spacing[fitted] ** 2, np.log(amplitude[fitted]), 1)[0]
    return float(-4 * slope)


def weighted_map(volume: np.ndarray, weights: np.ndarray, voxel_size: float, b_factor: float = 0.0) -> np.ndarray:
    """The map (L, L, L) with its shells multiplied by `weights` (L/2,) and by exp(B/4 s²)."""
    box, radius = len(volume), radii(len(volume))
    factors = np.interp(radius, np.arange(box // 2), weights, right=0.0)
    factors *= np.exp(b_factor / 4 * (np.minimum(radius, box // 2) / (box * voxel_size)) ** 2)
    return scipy.fft.irfftn(scipy.fft.rfftn(volume) * factors, s=volume.shape).astype(np.float32)
