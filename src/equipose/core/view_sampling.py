"""How evenly viewing directions sample Fourier space: the sampling compensation factor.

Each image samples the central plane perpendicular to its viewing direction. Where few planes pass, the map has less
signal to noise. The factor is the harmonic mean of the sampling over all directions, 1 for even views (Baldwin &
Lyumkis 2020, Prog. Biophys. Mol. Biol. 150, 160). Views from all around one axis have 8/π² = 0.81.
"""

import numpy as np

from equipose.core.evenly import evenly
from equipose.core.rotations import half_sphere, viewing_directions

DIRECTIONS = 2000
"""Directions of Fourier space, on a half sphere, at which planes are counted."""

WIDTH = 0.05
"""Half the thickness of a plane, in radii: that of a slice at the tenth shell."""

VIEWS = 1000
"""Poses whose planes are counted at once: 16 MB, whatever their number and the group's."""

COUNTED = 10_000
"""Poses that are counted, spread evenly over all: the factor does not need more."""

LEAST = 0.01
"""Sampling that a direction without any plane counts as, the mean being 1: without it, one hole would be all."""


def compensation_factor(rotations: np.ndarray, group: np.ndarray) -> float:
    """The sampling compensation factor, 0 to 1, of poses (n, 3, 3) and all their mates by the `group` (g, 3, 3)."""
    rotations = rotations[evenly(len(rotations), COUNTED)]
    directions = half_sphere(DIRECTIONS)
    near = np.zeros(len(directions))
    for some in np.array_split(rotations, 1 + len(rotations) // VIEWS):
        for mate in group:
            near += (np.abs(directions @ viewing_directions(some @ mate).T) < WIDTH).sum(1)
    sampling = near / (len(rotations) * len(group)) / WIDTH  # of even views, a part WIDTH is that near
    return float(min(1.0, 1 / np.mean(1 / np.maximum(sampling, LEAST))))
