"""Two half-sets brought into one frame, and their poses compared modulo the molecule's point group, told or found.

Poses of a symmetric molecule that was searched as C1 lie in any of its mates, and without the group two right runs
disagree. The half-maps, laid on one another, say which groups the molecule has or nearly has (`symmetry_axes`). The
images decide which of these groups counts: the smallest one modulo which the two runs agree. Where the runs agree
without any group, images tell the mates apart, and the molecule has no group, however symmetric its map looks.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from equipose.core.fourier_grid import grid_map
from equipose.core.likeness import Fit, fit, laid
from equipose.core.mask import solvent_mask
from equipose.core.point_groups import ALONE, group, nearest_mates
from equipose.core.pose_metrics import Alignment
from equipose.core.symmetry_axes import Frame, detect, detected, find_axes
from equipose.poses.refinement import Mates
from equipose.poses.search import spread_rotations
from equipose.reconstruction.halves import Half, back_project, bring_together, centred
from equipose.reconstruction.names import AGREES, CONVERGED
from equipose.training.evaluate import RelionPoses

DETECTED_BY = 0.8
"""Part of the shells by which half-maps are laid on one another, and in which a point group is sought."""

FITS = 8000
"""Rotations in which the half-maps are laid over each other."""


@dataclass(frozen=True)
class Together:
    """Two half-sets in the frame of the first, and how they compare."""

    halves: list[Half]
    alignment: Alignment
    """that moved the second half-set"""
    degrees: list[np.ndarray]
    """for each half-set, the angle (n,) between the two runs' poses of an image"""
    symmetry: str
    """the group modulo which poses are compared"""
    same: np.ndarray
    """its rotations (g, 3, 3), in the first half-set's frame"""
    nearly: bool = False
    """whether the molecule has this group only nearly"""
    correlations: dict[str, float] | None = None
    """of the half-maps after each candidate's rotations; None if the group was told"""
    alike: float | None = None
    """the likeness of the half-maps"""

    @property
    def within(self) -> float:
        """Degrees within which two poses count as the same."""
        return agree_within(self.same)

    @property
    def agree(self) -> list[float]:
        """For each half-set, the share of its images for which both runs have the same pose."""
        return [float(np.mean(apart < self.within)) for apart in self.degrees]


def agree_within(group: np.ndarray) -> float:
    """Degrees within which two poses count as the same, modulo a `group` (g, 3, 3).

    Modulo C12, 15° are all turns about the axis: two runs that share nothing but the axis would agree. So it is a
    quarter of the group's smallest turn at most, and half of such poses agree by chance.
    """
    turns = Rotation.from_matrix(group[1:]).magnitude()
    return min(AGREES, float(np.degrees(turns.min())) / 4) if len(turns) else AGREES


def compare(halves: list[Half], asked: list[RelionPoses]) -> Together:
    """Two half-sets of one run each, compared by the poses `asked` of each other's runs, in whatever frames they lie.

    A point group in the settings is taken as it is. If that is C1, half-maps and images decide.
    """
    told = halves[0].symmetry
    if told != "C1":
        return Together(*bring_together(halves, asked, group(told)), told, group(told))
    maps = [_molecule(half) for half in halves]
    shells, generator = DETECTED_BY * halves[0].box / 2, torch.Generator().manual_seed(0)
    found = fit(maps[0], maps[1], shells, spread_rotations(FITS, generator, torch.from_numpy(ALONE).float()))
    frames = detect(maps[0], shells, laid(maps[1], found))
    chosen = _chosen(frames, halves, asked, found)
    correlations = {name: frame.correlation for name, frame in frames.items()}
    return dataclasses.replace(chosen, correlations=correlations, alike=found.likeness)


def mates(half: Half, name: str) -> Mates:
    """The rotations of a point group, in the frame in which the map of a half-set has it best."""
    frame = find_axes(_molecule(half), name, DETECTED_BY * half.box / 2)
    return Mates(torch.from_numpy(frame.rotations(name)).float(), torch.from_numpy(frame.centre).float())


def _chosen(frames: dict[str, Frame], halves: list[Half], asked: list[RelionPoses], found: Fit) -> Together:
    """The half-sets compared modulo the smallest group by which they agree, or else the largest that the map has."""
    possible = sorted((name for name, frame in frames.items() if frame.nearly), key=lambda name: len(group(name)))
    tried = {"C1": Together(*bring_together(halves, asked, ALONE), "C1", ALONE)}
    for name in ("C1", *possible):
        if name not in tried:
            tried[name] = _modulo(name, frames[name], halves, asked, found)
        if min(tried[name].agree) >= CONVERGED:
            return tried[name]
    return tried[detected(frames)]


def _modulo(name: str, frame: Frame, halves: list[Half], asked: list[RelionPoses], found: Fit) -> Together:
    """The half-sets compared modulo a group with this frame in the first map, its axes moved to voxel L/2.

    Of the mates in which the second map may be laid on the first, the one in which the maps fit best is taken: a group
    that a molecule has only nearly leaves one of them right.
    """
    voxel_size = halves[0].particles.voxel_size
    centres = [voxel_size * each for each in (frame.centre, found.in_second(frame.centre))]
    same = frame.rotations(name)
    moved = [half.centred(centre) for half, centre in zip(halves, centres, strict=True)]
    answers = [centred(poses, centre) for poses, centre in zip(asked, reversed(centres), strict=True)]
    together, alignment, degrees = bring_together(moved, answers, same)
    motion = alignment.volume_map()
    if np.linalg.det(motion) * np.linalg.det(found.turn) > 0:
        mate = motion.T @ nearest_mates(motion[None], found.turn[None], same)[0]
        alignment = Alignment(alignment.rotation @ mate, alignment.hand, mate.T @ alignment.translation)
        together = [moved[0], moved[1].moved(alignment)]
    return Together(together, alignment, degrees, name, same, not frame.found)


def _molecule(half: Half) -> Tensor:
    volume = grid_map(back_project(half))
    return volume * solvent_mask(volume)
