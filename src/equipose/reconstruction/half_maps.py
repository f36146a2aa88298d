"""What two half-maps and the molecule's mask say of a map: FSC, resolution, directions, local resolution."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from equipose.core import fsc
from equipose.core.directional_fsc import extremes
from equipose.core.local_resolution import local_resolution
from equipose.reconstruction.names import THRESHOLD


@dataclass(frozen=True)
class Quality:
    """`resolved` is the resolution in Å, or the box's width without one; `local` (L, L, L) is the local one, in Å."""

    resolved: float
    local: np.ndarray
    table: pd.DataFrame
    """fsc.csv: the curves, and those along the best and the worst direction"""
    summary: dict[str, Any]
    """Entries of reconstruction.json"""


def quality(first: np.ndarray, second: np.ndarray, mask: np.ndarray, voxel_size: float) -> Quality:
    """Measures of half-maps (L, L, L) under the molecule's `mask` (L, L, L), 0 to 1; `voxel_size` is in Å."""
    box = len(first)
    curves = fsc.corrected_fsc(first, second, mask)
    resolution = {name: fsc.exact_resolution(curve, THRESHOLD, voxel_size).first for name, curve in curves.items()}
    resolved = resolution["corrected"] or box * voxel_size
    directions = extremes(first * mask, second * mask, THRESHOLD, voxel_size)
    local = local_resolution(first, second, voxel_size, resolved)
    shell = np.arange(box // 2)
    frequency = {"shell": shell, "frequency_per_angstrom": shell / (box * voxel_size)}
    along = {"worst_direction": directions.worst, "best_direction": directions.best}
    summary = {
        "resolution_angstrom": resolution,
        "directional_fsc": {
            "worst_angstrom": directions.worst_angstrom,
            "worst_along": directions.worst_along.tolist(),
            "best_angstrom": directions.best_angstrom,
            "best_along": directions.best_along.tolist(),
        },
        "fsc_off_centre": fsc.off_centre(first, second, mask, int(box * voxel_size / resolved)),
        "resolved_to_the_last_shell": bool((curves["corrected"][1:] >= THRESHOLD).all()),
        "local_resolution_angstrom": quartiles(local[mask > 0.5]),
    }
    return Quality(resolved, local, pd.DataFrame(frequency | curves | along), summary)


def quartiles(values: np.ndarray) -> dict[str, Any]:
    return dict(zip(("quartile1", "median", "quartile3"), np.quantile(values, [0.25, 0.5, 0.75]).tolist(), strict=True))
