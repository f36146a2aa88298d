"""How alike two maps are that lie in any two frames and hands: the correlation of their transforms at the best fit.

Shells weigh alike: without that, the lowest ones, of which every particle is a blob, would make all maps alike. Two
maps of a symmetric molecule fit in as many ways as its group has rotations, and any of these will do. So, in contrast
to poses, maps can be compared before a symmetry is known.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from equipose.core.fourier_grid import from_real_map, grid_frequencies, grid_values, real_map
from equipose.core.rotations import HAND_FLIP
from equipose.core.symmetry_axes import LOWEST, centre_of, centred, whitened

POINTS, FEW = 1200, 300
"""Frequencies that are compared at last, and those by which a first fit is sought."""

COARSE = 7.0
"""Shells below which a first fit is sought."""

KEPT = 6
"""Fits that are improved, and frames by which the correlation by chance is measured."""

ROUND = 0.1
"""Least distance from 1 of the correlation by chance that is divided by: nearer to 1, both are the same blob."""

MOVES = ((5.0, 0.5), (2.5, 0.3), (1.0, 0.15), (0.5, 0.08))
"""Degrees and voxels by which a fit is moved about, while that helps."""


@dataclass(frozen=True)
class Fit:
    """How two maps fit best: V_first(x) ≈ V_second(Q (x - c - s) + d), for c and d the centres of both.

    `likeness` is the part of the way to 1 that their correlation is beyond that in any frame: 1 for the same map, 0 for
    chance. Two blobs correlate however they are turned.
    """

    likeness: float
    turn: np.ndarray
    """Q (3, 3): a rotation, or one with a reflection if the maps have different hands"""
    shift: np.ndarray
    """s (3,) in voxels"""
    centres: tuple[np.ndarray, np.ndarray]
    """c and d (3,), voxels from voxel L/2"""

    def in_second(self, point: np.ndarray) -> np.ndarray:
        """Where a point (3,) of the first map, voxels from voxel L/2, lies in the second."""
        return self.centres[1] + self.turn @ (point - self.centres[0] - self.shift)


def likeness(one: Tensor, other: Tensor, shells: float, rotations: Tensor) -> float:
    """The likeness of two maps (L, L, L) at their best `fit`."""
    return fit(one, other, shells, rotations).likeness


def fit(one: Tensor, other: Tensor, shells: float, rotations: Tensor) -> Fit:
    """How two maps (L, L, L) fit best, judged by shells from `LOWEST` to `shells`.

    `rotations` (n, 3, 3), spread some 10° apart, are tried in both hands; the best few are improved.
    """
    centres = centre_of(one), centre_of(other)
    first, second = (whitened(centred(each, centre)) for each, centre in zip((one, other), centres, strict=True))
    few, many = (_frequencies(count, top).to(first) for count, top in ((FEW, min(COARSE, shells)), (POINTS, shells)))
    radius = len(one) // 2

    def correlation(frames: Tensor, shifts: Tensor, k: Tensor) -> Tensor:
        """Of values of the first map at k with those of the second at Q k, moved: frames Q (q, 3, 3), shifts (q, 3)."""
        wanted = grid_values(first, radius, k)
        found = grid_values(second, radius, k @ frames.mT) * torch.exp(-1j * math.pi / radius * (k @ shifts.T).T)
        return (wanted.conj() * found).real.sum(-1) / (wanted.norm() * found.norm(dim=-1))

    def climbed(frame: Tensor, shift: Tensor, turning: bool) -> tuple[float, Tensor, Tensor]:
        """The correlation, frame and shift that moves lead to from this fit; without turning, steps alone are moves."""
        for k, moves in ((few, MOVES[:2]), (many, MOVES[1:])):
            value = correlation(frame[None], shift[None], k)[0]
            for degrees, voxels in moves:
                turns, steps = _moves(degrees, voxels, turning, frame)
                while True:
                    values = correlation(turns @ frame, shift + steps, k)
                    if values.max() <= value:
                        break
                    frame, shift, value = (turns @ frame)[values.argmax()], shift + steps[values.argmax()], values.max()
        return float(value), frame, shift

    either = torch.cat([rotations, rotations @ torch.from_numpy(HAND_FLIP).to(rotations)]).to(first)
    still = torch.zeros(len(either), 3).to(first)
    tried = torch.cat([correlation(*some, few) for some in zip(either.split(500), still.split(500), strict=True)])
    fits = [climbed(either[row], still[row], turning=True) for row in tried.topk(min(KEPT, len(tried))).indices]
    best, frame, shift = max(fits, key=lambda found: found[0])
    strangers = range(0, len(either), math.ceil(len(either) / KEPT))
    by_chance = float(np.mean([climbed(either[row], still[row], turning=False)[0] for row in strangers]))
    alike = (best - by_chance) / max(1 - by_chance, ROUND)
    return Fit(alike, frame.double().cpu().numpy(), shift.double().cpu().numpy(), centres)


def laid(volume: Tensor, found: Fit) -> Tensor:
    """The second map (L, L, L) of a fit, laid on the first: V(Q (x - c - s) + d)."""
    radius = len(volume) // 2
    k = grid_frequencies(radius, volume.device)
    inside = k.norm(dim=-1) < radius
    k, field = k[inside], from_real_map(centred(volume, found.centres[1]), radius)
    turn, step = (torch.from_numpy(part).to(k) for part in (found.turn, found.centres[0] + found.shift))
    moved = grid_values(field, radius, k @ turn.T) * torch.exp(-1j * math.pi / radius * (k @ step))
    values = torch.zeros(len(inside), 2, device=volume.device)
    values[inside] = torch.view_as_real(moved)
    return real_map(values, radius)


def _frequencies(count: int, top: float) -> Tensor:
    """Frequencies (count, 3) in random directions; shells weigh alike."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return torch.from_numpy(directions * rng.uniform(LOWEST, top, (count, 1))).float()


def _moves(degrees: float, voxels: float, turning: bool, like: Tensor) -> tuple[Tensor, Tensor]:
    """Turns (n, 3, 3) and steps (n, 3): six steps without a turn and, if `turning`, six turns without a step."""
    both_ways = np.concatenate([np.eye(3), -np.eye(3)])
    none = np.zeros((6 if turning else 0, 3))
    turns = Rotation.from_rotvec(np.concatenate([np.radians(degrees) * both_ways[: len(none)], 0 * both_ways]))
    steps = np.concatenate([none, voxels * both_ways])
    return torch.from_numpy(turns.as_matrix()).to(like), torch.from_numpy(steps).to(like)
