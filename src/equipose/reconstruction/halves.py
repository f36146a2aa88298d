"""The two half-sets of a user's particles, each with the poses of its own run: aligned to one frame, back-projected."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from equipose.config.settings import PreparationConfig
from equipose.core.ctf import ctf
from equipose.core.evenly import evenly
from equipose.core.fourier import HalfDisc, half_disc, on_disc, to_half_disc
from equipose.core.fourier_grid import (
    FourierGrid,
    at_mates,
    empty_grid,
    from_real_map,
    insert_images,
    real_map,
    split_group,
)
from equipose.core.mask import masked_volume
from equipose.core.point_groups import group
from equipose.core.pose_metrics import Alignment, align, squared_distances
from equipose.core.rotations import degrees_from_squared_frobenius, to_relion_angles
from equipose.io.particle_tables import ANGLES, ORIGINS, read_tables, write_star
from equipose.io.particles import Particles, read_particles
from equipose.io.progress import reporter
from equipose.model.autoencoder import Autoencoder, load_model
from equipose.poses.refinement import Mates, poses_against, refine_further
from equipose.training.evaluate import RelionPoses, predict, unknown_poses
from equipose.training.run_progress import networks_trained

BATCH = 500
"""Images read at once."""

COMPARED = 1000
"""Images of each half-set for which the run of the other half-set finds poses, too. It searches a pose for each."""


def compared(count: int) -> np.ndarray:
    """The rows of these images among the `count` of a half-set."""
    return evenly(count, COMPARED)


@dataclass(frozen=True)
class Half:
    """One run's particles with its poses: rotations (n, 3, 3), shifts (n, 2) in Å about pixel L/2."""

    particles: Particles
    rotations: np.ndarray
    shifts: np.ndarray
    symmetry: str
    """The particle's point group; the back-projection is averaged over it."""
    whitening: tuple[float, ...] | None = None
    """The whitening filter by shell that was applied to the images, if any."""

    @property
    def box(self) -> int:
        return self.particles.images.shape[-1]

    def some(self, rows: np.ndarray | slice) -> "Half":
        """Some of the particles, in the order of `rows`."""
        particles = self.particles
        particles = dataclasses.replace(particles, images=particles.images[rows], ctf=particles.ctf[rows])
        return dataclasses.replace(self, particles=particles, rotations=self.rotations[rows], shifts=self.shifts[rows])

    def centred(self, centre: np.ndarray) -> "Half":
        """The same particles, their poses those of the map moved so that `centre` (3,), in Å, comes to voxel L/2."""
        return dataclasses.replace(self, shifts=centred(RelionPoses(self.rotations, self.shifts), centre).shifts)

    def moved(self, alignment: Alignment) -> "Half":
        """The same particles, with their poses in another frame."""
        rotations, shifts = alignment.rotations(self.rotations), alignment.shifts(self.rotations, self.shifts)
        return dataclasses.replace(self, rotations=rotations, shifts=shifts)

    def batches(self, disc: HalfDisc) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Rotations (b, 3, 3), shifts (b, 2) in pixels, coefficients and CTFs (b, n) of all images, in order.

        Whitening is undone in the coefficients, so that maps show the molecule.
        """
        voxel_size = self.particles.voxel_size
        filtered = 1.0 if self.whitening is None else on_disc(self.whitening, disc)
        for rows in torch.arange(len(self.rotations)).split(BATCH):
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            images = torch.from_numpy(np.array(self.particles.images[part], np.float32))
            transfer = ctf(torch.from_numpy(self.particles.ctf[part]), disc.k, self.box * voxel_size)
            rotations = torch.from_numpy(self.rotations[part]).float()
            shifts = torch.from_numpy(self.shifts[part] / voxel_size).float()
            yield rotations, shifts, to_half_disc(images, disc) / filtered, transfer


FURTHER = "further.star"
"""File in a run's folder: its poses after further passes, if there were any."""


def read_half(run: Path, dataset: Path, poses: str = "poses.star") -> Half:
    """The particles of `dataset` with the poses that the file `poses` in the folder of their `run` has."""
    particles, posed = (read_particles(path) for path in (dataset / "particles.star", run / poses))
    assert posed.rotations is not None and posed.shifts is not None
    factors = json.loads((dataset / "preparation.json").read_text())["whitening"]
    symmetry = PreparationConfig.load(dataset / "config.json").symmetry.upper()
    return Half(particles, posed.rotations, posed.shifts, symmetry, factors and tuple(factors))


def centred(poses: RelionPoses, centre: np.ndarray) -> RelionPoses:
    """The poses in a map moved so that `centre` (3,), Å from voxel L/2, comes to L/2."""
    return dataclasses.replace(poses, shifts=poses.shifts + poses.rotations[:, :2] @ centre)


def ask_each_other(
    halves: list[Half], runs: list[Path], mates: Sequence[Mates | None] = (None, None)
) -> list[RelionPoses]:
    """For each half-set, the poses of its `compared` images that the run of the other one finds, which never saw them.

    Where the maps of the halves look nearly the same after some rotations, `mates` has these of each.
    """
    return [_asked(runs[1], halves[1], halves[0], mates[1]), _asked(runs[0], halves[0], halves[1], mates[0])]


def bring_together(
    halves: list[Half], asked: list[RelionPoses], same: np.ndarray
) -> tuple[list[Half], Alignment, list[np.ndarray]]:
    """Both half-sets in the frame of the first, the alignment that moved the second, and how well the two runs agree.

    Poses are compared modulo the rotations `same` (g, 3, 3), in the first half-set's frame, about voxel L/2. `asked`
    are the poses of `ask_each_other`. Those of the first half-set's images give the rotation, hand and translation
    between the runs. The third result is, for each half-set, the angle (m,) in degrees between the two runs' poses of
    each `compared` image after this alignment.
    """
    first, second = halves
    theirs, rows = asked[0], compared(len(first.rotations))
    alignment = align(theirs.rotations, first.rotations[rows], theirs.shifts, first.shifts[rows], same)
    moved = second.moved(alignment)
    answers = alignment.rotations(theirs.rotations), asked[1].rotations
    apart = [
        degrees_from_squared_frobenius(squared_distances(answer, half.rotations[compared(len(half.rotations))], same))
        for answer, half in zip(answers, (first, moved), strict=True)
    ]
    return [first, moved], alignment, apart


@torch.no_grad()
def back_project(half: Half) -> FourierGrid:
    """The sums over all images, Σ CTF Î and Σ CTF², of a CTF-weighted back-projection."""
    disc, grid = half_disc(half.box), empty_grid(half.box // 2, torch.device("cpu"))
    some, onto_points = split_group(torch.from_numpy(group(half.symmetry)).float())
    for rotations, shifts, coefficients, transfer in half.batches(disc):
        insert_images(grid, rotations, shifts, disc, coefficients, transfer, some)
    return at_mates(grid, onto_points)


@torch.no_grad()
def _asked(run: Path, own: Half, other: Half, mates: Mates | None) -> RelionPoses:
    """Poses that `run` finds for the `compared` images of the other half-set: from its encoder and from a search,
    refined against the map of its own half-set. It uses nothing of the other half-set's run.
    """
    model, asked = load_model(run / "model.pt"), other.some(compared(len(other.rotations))).particles
    known = networks_trained(run, model.config)
    answers = predict(model, asked, reporter())[0] if known else unknown_poses(asked)
    return RelionPoses(*poses_against(model, as_seen(model, own), asked, answers.rotations, answers.shifts, mates))


def refined_further(run: Path, half: Half, say: Callable[[str], None], kept: Path) -> Half:
    """The same particles after further passes of the refinement of their `run`; its state is kept in a file.

    The run's folder gets their poses, too, in the run's own frame: `equipose pose` needs them.
    """
    model = load_model(run / "model.pt")
    rotations, shifts = refine_further(model, half.particles, half.rotations, half.shifts, say, kept)
    optics, table = read_tables(run / "poses.star")
    found = zip((*ANGLES, *ORIGINS), np.hstack([to_relion_angles(rotations), -shifts]).T, strict=True)
    write_star(run / FURTHER, optics, table.assign(**dict(found)))
    return dataclasses.replace(half, rotations=rotations, shifts=shifts)


def posed_against(run: Path, half: Half, volume: Tensor) -> Half:
    """The same particles at the poses that the search of their `run` finds against a map (L, L, L) of `seen_by`."""
    model = load_model(run / "model.pt")
    field = from_real_map(volume, half.box // 2)
    rotations, shifts = poses_against(model, field, half.particles, half.rotations, half.shifts)
    return dataclasses.replace(half, rotations=rotations, shifts=shifts)


def seen_by(run: Path, own: Half) -> Tensor:
    """The masked map (L, L, L) of a half-set, as the model of its run compares it."""
    return real_map(as_seen(load_model(run / "model.pt"), own), own.box // 2)


def as_seen(model: Autoencoder, own: Half) -> Tensor:
    """The masked map (m³, 2) of a half-set, as the model of its run compares it: with whitened and scaled images."""
    return model.image_scale * masked_volume(back_project(dataclasses.replace(own, whitening=None)))
