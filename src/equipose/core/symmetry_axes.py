"""Find the axes of a point group in a map, and measure how well the map has this symmetry.

A map that was found without symmetry may have any orientation. This module searches for the rotation Q and the centre u
for which V'(x) = V(Q x + u) has its axes where `point_groups` puts them. The measure is the self-rotation correlation:
the map's transform at frequencies Q k is correlated with that at Q S k, for each rotation S of the group. All shells
have the same weight. Otherwise the lowest shells would dominate, and they show a blob that has any symmetry.

Noise lowers this measure, and a noisy map of a symmetric molecule would count as one without symmetry. Of two half-maps
in one frame, the first is therefore compared with the second, and the correlation is divided by that of the two without
a rotation. Noise is in both alike and cancels, since half-maps share none.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy.ndimage
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from equipose.core.fourier_grid import from_real_map, grid_frequencies, grid_values
from equipose.core.fsc import fourier_shell_correlation
from equipose.core.mask import solvent_mask
from equipose.core.point_groups import ALONE, generators, group
from equipose.core.rotations import half_sphere

LOWEST, FEWEST = 3, 6
"""The lowest shell that is compared, and the least number of shells up to which two half-maps are. Below it, a map
hardly changes under any rotation.
"""

POINTS, FEW = 1200, 400
"""Number of frequencies for the final correlation, and for the search of a frame."""

DIRECTIONS, SPINS = 3000, 360
"""Number of directions tried for the first axis, on a half sphere about 2.6° apart, and of turns about that axis."""

KEPT = 5
"""Number of the best directions, and of the best frames, that are refined."""

CYCLIC = (2, 3, 4, 5, 6, 7, 8, 11, 13, 17)
"""Orders of the axes that are tried. Where a map has one of them, twice and three times this order are tried, too."""

HIGHEST = 24
"""Highest order that is tried."""

MORE_AXES = {"T": {2, 3}, "O": {2, 3, 4}, "I": {2, 3, 5}}
"""Groups with axes of several orders, and these orders."""

SYMMETRIC, NEARLY = 0.97, 0.8
"""Least mean correlation at which a map counts as symmetric, and as nearly so. Pairs of noisy half-maps of symmetric
molecules had 0.993 to 1.0, by 3,000 images of SNR 0.2 or 1,000 of SNR 0.05. Tails break the nucleosome's dyad: 0.92.
GroEL without one of its 14 subunits had 0.87, a spike without a twentieth of its atoms 0.93, twelve pieces in a
tetrahedron without one 0.94. A shell of 24 without one has 0.993 at this resolution: images must tell.
"""

BEYOND = 0.8
"""Part of the way from the correlation after any turn to 1 that a map's correlation with its mates must go. A central
blob in noise, which looks alike from all sides, correlates by up to 0.94 with any group, and goes 0.23 of the way.
"""

ANY_TURNS = Rotation.random(40, random_state=0).as_matrix()
"""Turns that are no group's."""

MOVES = ((3.0, 0.4), (1.5, 0.2), (0.7, 0.1), (0.3, 0.05))
"""Degrees and voxels by which the best frames are moved, as long as the correlation rises. A centre that is off by a
fifth of a voxel costs a symmetric map a tenth of its correlation by the tenth shell.
"""

RISE = 1e-4
"""Least rise of the correlation for which a frame is moved."""

UNLIKE = 0.4
"""Least correlation of two half-maps that is divided by: maps that share less are not one molecule's."""

AGREED = 0.5
"""FSC of two half-maps down to which shells are compared."""


@dataclass(frozen=True)
class Frame:
    """The frame V'(x) = V(`rotation` x + `centre`) in which a map has a group's axes.

    `correlation` is the mean correlation of the map with itself turned by the group's rotations, as a part of that
    without a turn: 1 for a symmetric molecule.
    """

    rotation: np.ndarray
    centre: np.ndarray
    """(3,) voxels (x, y, z) from voxel L/2"""
    correlation: float
    after_any_turn: float = 0.0
    """the mean correlation of the map with itself after turns that are no symmetry of it"""

    def rotations(self, symmetry: str) -> np.ndarray:
        """The rotations (g, 3, 3) of a point group, about these axes of the map."""
        return self.rotation @ group(symmetry) @ self.rotation.T

    @property
    def found(self) -> bool:
        """Whether the map has the group: it must look the same after its rotations, and not after all others, too."""
        return self.correlation >= SYMMETRIC and self.nearly

    @property
    def nearly(self) -> bool:
        """Whether the map has the group at least nearly."""
        beyond = (self.correlation - self.after_any_turn) / max(1 - self.after_any_turn, 0.1)
        return self.correlation >= NEARLY and beyond >= BEYOND


def centre_of(volume: Tensor) -> np.ndarray:
    """Centre of mass (3,) of a masked map (L, L, L), (x, y, z) voxels from voxel L/2. All axes go through it."""
    molecule = (volume * solvent_mask(volume)).clamp_min(0).cpu().numpy()
    return np.array(scipy.ndimage.center_of_mass(molecule))[::-1] - len(molecule) // 2


def symmetrised(volume: Tensor, symmetry: str, frame: Frame) -> Tensor:
    """The mean of a map (L, L, L), in this frame, over all rotations of a point group.

    Returns its transform (m³, 2) at the points of a grid of radius L/2.
    """
    radius = len(volume) // 2
    k = grid_frequencies(radius, volume.device)
    inside = k.norm(dim=-1) < radius
    field = from_real_map(centred(volume, frame.centre), radius)
    turns = torch.from_numpy(frame.rotation @ group(symmetry)).to(k)
    mean = sum(torch.view_as_real(grid_values(field, radius, k[inside] @ turn.T)) for turn in turns) / len(turns)
    values = torch.zeros(len(k), 2, device=k.device)
    values[inside] = mean
    return values


def centred(volume: Tensor, centre: np.ndarray) -> Tensor:
    """The map (L, L, L), shifted so that its point `centre` (3,), (x, y, z) voxels from voxel L/2, is at voxel L/2."""
    moved = scipy.ndimage.fourier_shift(np.fft.fftn(volume.cpu().numpy()), -centre[::-1])
    return torch.from_numpy(np.fft.ifftn(moved).real.astype(np.float32)).to(volume.device)


def find_axes(volume: Tensor, symmetry: str, shells: float, other: Tensor | None = None) -> Frame:
    """The frame in which a map (L, L, L) fits the point group best, judged by the shells below `shells`.

    `other` may be a second map of the same molecule in the same frame. Then the turned first map is compared with the
    second one, since two half-maps share no noise, by the shells in which both agree.
    """
    middle = centre_of(volume)
    if other is not None:
        shells = _agreed(volume, other, shells)
    compared = _Compared(centred(volume, middle), None if other is None else centred(other, middle), shells)
    order_axis, *second = generators(symmetry)
    first = order_axis[None]
    axis = Rotation.from_matrix(order_axis).as_rotvec()
    frames = _frames(half_sphere(DIRECTIONS), axis / np.linalg.norm(axis))
    frames = frames[np.argsort(-compared.correlation(frames, first, FEW))[:KEPT]]
    if second:
        spins = Rotation.from_rotvec(np.outer(2 * np.pi / SPINS * np.arange(SPINS), axis / np.linalg.norm(axis)))
        frames = (frames[:, None] @ spins.as_matrix()).reshape(-1, 3, 3)
        frames = frames[np.argsort(-compared.correlation(frames, second[0][None], FEW))[:KEPT]]
    climbed = [_climb(compared, frame, np.stack(generators(symmetry))) for frame in frames]
    best, step, _ = max(climbed, key=lambda found: found[2])
    step -= best @ group(symmetry).mean(0) @ best.T @ step  # along the axis of Cn, any centre will do
    mates, others, alone = (
        float(compared.correlation(best[None], turns, POINTS, step[None])[0])
        for turns in (group(symmetry)[1:], ANY_TURNS, ALONE)
    )
    alone = max(alone, UNLIKE)
    return Frame(best, middle + step, min(1.0, mates / alone), others / alone)


def detect(volume: Tensor, shells: float, other: Tensor | None = None) -> dict[str, Frame]:
    """The frame and correlation of every point group that is tried on a map (L, L, L), as `find_axes` has them.

    All Cn of `CYCLIC` are tried. A group of several axes is tried only if the map has each of these axes, or nearly.
    """
    frames: dict[str, Frame] = {}
    orders, untried = set[int](), [*CYCLIC]
    for order in untried:  # grows while it is read
        if (name := f"C{order}") not in frames:
            frames[name] = find_axes(volume, name, shells, other)
            if frames[name].nearly:
                orders.add(order)
                untried += [times * order for times in (2, 3) if times * order <= HIGHEST]
    further = [f"D{order}" for order in sorted(orders)] if 2 in orders else []
    further += [name for name, needed in MORE_AXES.items() if needed <= orders]
    return frames | {name: find_axes(volume, name, shells, other) for name in further}


def detected(frames: dict[str, Frame]) -> str:
    """The largest group that the map has, among those that `detect` tried; C1 if it has none."""
    having = [name for name, frame in frames.items() if frame.found]
    return max(having, key=lambda name: len(group(name)), default="C1")


class _Compared:
    """Whitened transforms of one or two maps, and the frequencies at which they are compared."""

    def __init__(self, volume: Tensor, other: Tensor | None, shells: float) -> None:
        self.radius = len(volume) // 2
        self.first = whitened(volume)
        self.second = self.first if other is None else whitened(other)
        rng = np.random.default_rng(0)
        directions = rng.normal(size=(POINTS, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        lengths = rng.uniform(LOWEST, min(shells, self.radius - 1), POINTS)  # shells weigh alike
        self.k = torch.from_numpy(directions * lengths[:, None]).float().to(volume.device)

    def correlation(
        self, frames: np.ndarray, rotations: np.ndarray, points: int, centres: np.ndarray | None = None
    ) -> np.ndarray:
        """Mean correlation (q,) of values at Q k and at Q S k, for frames Q (q, 3, 3) and rotations S (s, 3, 3).

        `centres` (q, 3) are those of the frames, in voxels, by default 0.
        """
        centres = np.zeros((len(frames), 3)) if centres is None else centres
        found, k, parts = [], self.k[:points], math.ceil(len(frames) / 100)
        for some, middles in zip(np.array_split(frames, parts), np.array_split(centres, parts), strict=True):
            plain = self._values(self.second, some, k, middles)
            turned = [self._values(self.first, some @ rotation, k, middles) for rotation in rotations]
            products = [(a * plain.conj()).real.sum(-1) / (a.norm(dim=-1) * plain.norm(dim=-1)) for a in turned]
            found.append(torch.stack(products).mean(0))
        return torch.cat(found).cpu().numpy()

    def _values(self, field: Tensor, matrices: np.ndarray, k: Tensor, centres: np.ndarray) -> Tensor:
        at = k @ torch.from_numpy(matrices).to(k).mT  # (q, points, 3)
        values = grid_values(field, self.radius, at)
        if not centres.any():
            return values
        return values * torch.exp(
            1j * math.pi / self.radius * (at @ torch.from_numpy(centres).to(k)[..., None])[..., 0]
        )


def _agreed(one: Tensor, other: Tensor, shells: float) -> float:
    """The shells below `shells` in which two maps (L, L, L) agree, and at least a few."""
    curve = fourier_shell_correlation(one.cpu().numpy(), other.cpu().numpy())
    below = np.flatnonzero(curve[LOWEST:] < AGREED)
    return float(min(shells, max(LOWEST + below[0], FEWEST))) if len(below) else shells


def whitened(volume: Tensor) -> Tensor:
    """Values (m³, 2) of a map's transform, those of each shell of the same mean square."""
    radius = len(volume) // 2
    field = from_real_map(volume, radius)
    shell = grid_frequencies(radius, volume.device).norm(dim=-1).round().long()
    zeros = torch.zeros(int(shell.max()) + 1, device=volume.device)
    power = zeros.index_add(0, shell, field.square().sum(-1)) / zeros.index_add(0, shell, torch.ones_like(field[:, 0]))
    return field / power.clamp_min(1e-30).sqrt()[shell, None]


def _frames(directions: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """For each of the directions (n, 3), a rotation that turns `axis` (3,), a unit vector, to it: (n, 3, 3)."""
    across, along = np.cross(axis, directions), directions @ axis
    sines = np.linalg.norm(across, axis=1)
    return Rotation.from_rotvec(across * (np.arctan2(sines, along) / np.maximum(sines, 1e-12))[:, None]).as_matrix()


def _climb(compared: _Compared, frame: np.ndarray, rotations: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """The frame (3, 3) and the step (3,) of its centre after moves that raise its correlation, and this correlation."""
    step = np.zeros(3)
    best = float(compared.correlation(frame[None], rotations, FEW)[0])
    both_ways = np.concatenate([np.eye(3), -np.eye(3)])
    for degrees, voxels in MOVES:
        turns = Rotation.from_rotvec(np.concatenate([np.radians(degrees) * both_ways, 0 * both_ways])).as_matrix()
        steps = np.concatenate([0 * both_ways, voxels * both_ways])
        while True:
            tried = turns @ frame, step + steps
            found = compared.correlation(tried[0], rotations, FEW, tried[1])
            if found.max() <= best + RISE:
                break
            frame, step, best = tried[0][found.argmax()], tried[1][found.argmax()], float(found.max())
    return frame, step, best
