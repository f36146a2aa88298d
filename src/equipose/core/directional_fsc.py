"""Fourier shell correlation along directions: where few images look from the side, a map is worse than its one number.

An FSC along a direction counts only frequencies in the double cone about it. Its half angle is 20°, as in Tan et al.
2017 (Nat. Methods 14, 793: 3DFSC). Images that look along a direction have no frequencies along it: the map is worst
along the views that most images have.
"""

from dataclasses import dataclass

import numpy as np
import scipy.fft

from equipose.core.fsc import Crossings, exact_resolution, radii
from equipose.core.rotations import half_sphere

HALF_ANGLE = 20.0
"""Degrees between a cone's axis and its rim."""

DIRECTIONS = 300
"""Axes of cones, on a half sphere, some 8° apart."""

FEWEST = 12
"""Coefficients of a shell in a cone, below which the whole shell's FSC stands: fewer scatter."""


@dataclass(frozen=True)
class Extremes:
    """The FSC (L/2,) along the directions in which a map is worst and best, and the directions (3,), (x, y, z)."""

    worst: np.ndarray
    best: np.ndarray
    worst_along: np.ndarray
    best_along: np.ndarray
    worst_angstrom: float | None
    """where the curve falls below the threshold the first time; None if it is never above"""
    best_angstrom: float | None


def directional_curves(first: np.ndarray, second: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """FSC (d, L/2) of two volumes (L, L, L) in the cones about `directions` (d, 3), unit vectors (x, y, z)."""
    box = len(first)
    radius = radii(box)
    axis, half = np.fft.fftfreq(box, 1 / box), np.arange(box // 2 + 1)
    z, y, x = np.broadcast_arrays(axis[:, None, None], axis[:, None], half)
    shell = np.rint(radius).astype(int)
    used = (shell > 0) & (shell < box // 2)
    weight = np.where((half == 0) | (half == box // 2), 1.0, 2.0) * np.ones_like(radius)
    a, b = (scipy.fft.rfftn(volume.astype(np.float64))[used] for volume in (first, second))
    products = np.stack([(a * b.conj()).real, np.abs(a) ** 2, np.abs(b) ** 2, np.ones_like(a.real)]) * weight[used]
    unit = np.stack([part[used] for part in (x, y, z)], axis=1) / radius[used][:, None]

    def curve(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sums = [np.bincount(shell[used][chosen], part[chosen], minlength=box // 2) for part in products]
        power = np.sqrt(sums[1] * sums[2])
        return np.divide(sums[0], power, out=np.zeros(box // 2), where=power > 0), sums[3]

    whole, _ = curve(np.ones(len(unit), bool))
    # One cone at a time: at 256 px all of them would take 10 GB.
    found = (curve(np.abs(unit @ direction) >= np.cos(np.radians(HALF_ANGLE))) for direction in directions)
    return np.stack([np.where(count >= FEWEST, values, whole) for values, count in found])


def extremes(first: np.ndarray, second: np.ndarray, threshold: float, voxel_size: float) -> Extremes:
    """The directions in which two half-maps (L, L, L), masked, agree least and most: by where their curves fall below
    the threshold, and by their means where several do so alike.
    """
    directions = half_sphere(DIRECTIONS)
    curves = directional_curves(first, second, directions)
    crossings: list[Crossings] = [exact_resolution(curve, threshold, voxel_size) for curve in curves]
    angstrom = np.array([each.first or np.inf for each in crossings])
    order = np.lexsort([curves.mean(1), -angstrom])  # from the worst to the best
    worst, best = order[0], order[-1]
    return Extremes(
        curves[worst],
        curves[best],
        directions[worst],
        directions[best],
        crossings[worst].first,
        crossings[best].first,
    )
