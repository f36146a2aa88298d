"""Several molecules in one set of images: a search with a volume for each class, and the class of each image.

It is the search of `search.py` with several volumes. An image spreads its weight over poses in all of them. They start
from different images in random orientations, so the first step has no class in common with the truth. Since weights are
tempered, each volume draws the images that fit it a little better, and becomes more of what they show.
"""

from dataclasses import dataclass

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from equipose.config.settings import RunConfig
from equipose.core.ctf import ctf
from equipose.core.fourier import HalfDisc, half_disc, to_half_disc
from equipose.core.fourier_grid import enlarged, real_map, with_slopes
from equipose.core.likeness import likeness
from equipose.core.mask import masked_volume
from equipose.io.particles import Particles
from equipose.poses import contrast, search
from equipose.poses.search_stages import FITS, coarse_radius, tempering

BATCH = 200
"""Images that are compared with the classes' volumes at once, when classes are given."""

SCALED_BY = 1000
"""Images by whose standard deviation all are divided."""


@dataclass(frozen=True)
class Start:
    """What one search has found: volumes of the classes, contrasts of the images, and what both leave of them."""

    volumes: list[Tensor]
    """(m³, 2) each, at the points of a grid of radius L/2, masked"""
    spectrum: Tensor
    """(shells,) mean squared error a coefficient of the best matches"""
    contrasts: Tensor
    """(n,) of all images; 1 of those that no step has seen"""

    @property
    def maps(self) -> list[Tensor]:
        """(L, L, L) each"""
        return [real_map(volume, len(self.spectrum) - 1) for volume in self.volumes]


@torch.no_grad()
def search_classes(run: RunConfig, particles: Particles, classes: int, seed: int) -> Start:
    """One search for so many classes, by the settings of a run's search."""
    config, box = run.model.search, run.dataset.box
    rng, generator = np.random.default_rng([seed, classes]), torch.Generator().manual_seed(seed)
    batch = min(len(particles.ctf), max(config.batch, config.batch * classes // 2))
    temperature, contrasts = torch.ones(()), torch.ones(len(particles.ctf))
    for step in range(config.steps):
        rows = np.sort(rng.choice(len(particles.ctf), batch, replace=False))
        radius, orientations, hypotheses = tempering(config, step)
        disc = half_disc(box, radius)
        target, transfer = _measured(run, particles, rows, disc, contrasts)
        if step == 0:
            some = torch.from_numpy(rng.permutation(batch)).chunk(classes)
            begun = [
                search.random_start(coarse_radius(run), target[own], transfer[own], disc, generator) for own in some
            ]
            grids, spectrum = [grid for grid, _ in begun], begun[0][1]
            continue
        shifts = search.trial_shifts(run, radius, torch.device("cpu"))
        deviation = search.shift_deviation(run.dataset)
        moved = grids, spectrum, temperature
        _, told = search.search_step(
            *moved, target, transfer, disc, shifts, deviation, orientations, hypotheses, config.rate, generator
        )
        contrasts[rows] = contrast.likeliest(contrasts[rows], *told)
    return Start([enlarged(masked_volume(grid), grid.radius, box // 2) for grid in grids], spectrum, contrasts)


@torch.no_grad()
def misfits(run: RunConfig, particles: Particles, start: Start) -> np.ndarray:
    """Squared errors (n, classes) of all images at their best pose in each class, in units of the noise of a shell."""
    config, radius = run.model.search, run.dataset.box // 2
    generator, alone = torch.Generator().manual_seed(run.seed), torch.eye(3)[None]
    disc = half_disc(run.dataset.box, config.last_radius)
    white = search.whitened(disc, start.spectrum)
    orientations = search.spread_rotations(config.refine_orientations, generator, alone)
    shifts = search.trial_shifts(run, config.last_radius, torch.device("cpu"))
    weight = search.shift_weight(search.shift_deviation(run.dataset))
    dtype = torch.float32
    fields = [with_slopes(volume, radius) for volume in start.volumes]
    found = []
    for rows in np.array_split(np.arange(len(particles.ctf)), max(1, len(particles.ctf) // BATCH)):
        target, transfer = _measured(run, particles, rows, disc, start.contrasts)
        errors = []
        for volume, field in zip(start.volumes, fields, strict=True):
            matched = search.match(
                volume, radius, target, transfer, white, orientations, shifts, weight, config.candidates, dtype
            )
            poses = orientations[matched[1]], matched[2]
            iterations = config.refine_iterations
            best = search.best_refined(field, radius, [(target, transfer, white)], *poses, weight, iterations)
            errors.append(search.refine_poses(field, radius, target, transfer, white, *best, 0)[2])
        found.append(torch.stack(errors, 1))
    return torch.cat(found).double().numpy()


def likenesses(one: Start, other: Start, shells: float) -> np.ndarray:
    """The likeness (c, c) of each of the c classes of one search to each class of another."""
    rotations = search.spread_rotations(FITS, torch.Generator().manual_seed(0), torch.eye(3)[None])
    return np.array([[likeness(a, b, shells, rotations) for b in other.maps] for a in one.maps])


def matched(alike: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of the c classes of one search, its partner (c,) among the other search's, and their likeness (c,)."""
    _, partner = scipy.optimize.linear_sum_assignment(alike, maximize=True)
    return partner, alike[np.arange(len(alike)), partner]


def _measured(
    run: RunConfig, particles: Particles, rows: np.ndarray, disc: HalfDisc, contrasts: Tensor
) -> tuple[Tensor, Tensor]:
    """Coefficients and CTFs (b, n) of some images, with their `contrasts`, of all images (n,)."""
    scale = float(1 / np.std(particles.images[:SCALED_BY], dtype=np.float64))
    images = torch.from_numpy(np.array(particles.images[rows], np.float32))
    parameters = contrast.scaled(torch.from_numpy(np.array(particles.ctf[rows], np.float32)), contrasts[rows])
    return to_half_disc(images * scale, disc), ctf(parameters, disc.k, run.dataset.box * run.dataset.voxel_size)
