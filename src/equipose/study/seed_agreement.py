"""Do seeds agree? Runs on the same images that start from different random numbers, compared without a truth.

A run that fits noise makes a map that confirms its wrong poses: the `confirmed_share` of three wrong runs at SNR 0.05
was 0.88 to 0.90. But another seed finds different wrong poses: these three runs had 4 to 15 % of their poses in common.
Five runs at SNR 0.1, with 98 % of their poses right, had 99 % in common.
"""

import itertools
from pathlib import Path

import numpy as np

from equipose.core.point_groups import ALONE, group
from equipose.core.pose_metrics import CONSISTENT, align, squared_distances
from equipose.core.rotations import from_relion_angles
from equipose.io.particle_tables import ANGLES, read_tables

POSES_COMPARED = 1000
"""Runs are compared by their first images, at most this many."""


def agreeing_share(first: np.ndarray, second: np.ndarray, same: np.ndarray = ALONE) -> float:
    """Part of the images with the same pose in both runs, (n, 3, 3) each, after alignment of frame and hand.

    `same` (g, 3, 3) are the rotations of a point group: symmetry mates count as the same pose.
    """
    moved = align(first, second, group=same).rotations(first)
    return float(np.mean(squared_distances(moved, second, same) < CONSISTENT))


def best_agreement(runs: list[Path], symmetry: str) -> list[float]:
    """For each run folder, its largest `agreeing_share` with another of them, modulo the point group `symmetry`.

    The folders are seeds of one model on one dataset. A run without another seed has NaN.
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
