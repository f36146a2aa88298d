"""Do seeds agree? Runs of the same images that start from other random numbers, compared without a truth.

Poses that noise made up are confirmed by the map that they made up, too: `confirmed_share` of three wrong runs at SNR
0.05 was 0.88 to 0.90. Another seed makes up others: these runs had 4 to 15 % of their poses in common, and five
at SNR 0.1, of which 98 % were right, had 99 %.
"""

import itertools
from pathlib import Path

import numpy as np

from equipose.core.point_groups import ALONE, group
from equipose.core.pose_metrics import CONSISTENT, align, squared_distances
from equipose.core.rotations import from_relion_angles
from equipose.io.particles import ANGLES, read_tables

POSES_COMPARED = 1000
"""Images by which runs are compared, the first ones; at most."""


def agreeing_share(first: np.ndarray, second: np.ndarray, same: np.ndarray = ALONE) -> float:
    """Part of the images that have the same pose in both runs, (n, 3, 3) each, whatever frame and hand a run is in.

    Given the rotations `same` (g, 3, 3) of a point group, mates count as the same pose.
    """
    moved = align(first, second, group=same).rotations(first)
    return float(np.mean(squared_distances(moved, second, same) < CONSISTENT))


def best_agreement(runs: list[Path], symmetry: str) -> list[float]:
    """For each of the run folders, seeds of one model on one dataset, its `agreeing_share` with the one it agrees with
    best, modulo the point group `symmetry`; NaN where there is no other.
    """
    best, poses = [float("nan")] * len(runs), [_read_poses(run) for run in runs]
    same = group(symmetry)
    for one, other in itertools.combinations(range(len(runs)), 2):
        share = agreeing_share(poses[one], poses[other], same)
        best[one], best[other] = np.fmax(best[one], share), np.fmax(best[other], share)
    return best


def _read_poses(run: Path) -> np.ndarray:
    _, table = read_tables(run / "poses.star")
    return from_relion_angles(table[list(ANGLES)].to_numpy(float)[:POSES_COMPARED])
