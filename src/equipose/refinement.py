"""Poses improved image by image once the networks have settled, and the map back-projected from them.

An encoder answers for all images at once and errs a little for each (semi-amortised inference corrects that). In each
pass, Gauss-Newton steps lead from the pose that an image has, and from the best matches of a search, to the nearest
optima, the best of which goes on; all images then make the next volume, CTF-weighted, which the next pass compares
with. Where noise is strong, the first volumes leave many images in a wrong pose, and later ones find them.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from equipose import search
from equipose.autoencoder import Autoencoder
from equipose.fourier import HalfDisc, half_disc, to_half_disc
from equipose.grid import empty_grid, grid_volume, insert_images, sampled, with_slopes
from equipose.metrics import CONSISTENT
from equipose.optics import ctf
from equipose.particles import Particles

BATCH = 200
"""Images refined at once."""

FIRST_PASS = 0.75
"""Of the last pass's shells, the first of several passes sees this part: its volume, and so its poses, are vague."""

JUDGED = 1000
"""Images by which a run is judged without a truth."""


@torch.no_grad()
def refine(
    model: Autoencoder, particles: Particles, rotations: np.ndarray, shifts: np.ndarray, say: Callable[[str], None]
) -> tuple[np.ndarray, np.ndarray, Tensor]:
    """Poses of all particles after the model's `refine_passes`, and the volume at the points of a grid of radius L/2.

    `rotations` (n, 3, 3) and `shifts` (n, 2), Å of the content from pixel L/2, are where the first pass starts, and of
    the same kind as what is returned.
    """
    device, radius = model.frequencies.device, model.box // 2
    generator, passes = torch.Generator(device).manual_seed(model.config.seed), model.config.model.refine_passes
    turned = torch.tensor(rotations, dtype=torch.float32, device=device)
    moved = torch.tensor(shifts / model.voxel_size, dtype=torch.float32, device=device)
    volume = sampled(model.decoder, radius, device)
    for refine_pass in range(passes):
        started, following = time.perf_counter(), empty_grid(radius, device)
        part = refine_pass / (passes - 1) if passes > 1 else 1.0
        resolution = FIRST_PASS + part * (1 - FIRST_PASS)
        field = with_slopes(volume, radius)
        for number, rows in enumerate(torch.arange(len(turned), device=device).split(BATCH), start=1):
            batch = _read(model, particles, rows)
            turned[rows], moved[rows] = _best_pose(
                model, volume, field, resolution, batch, turned[rows], moved[rows], generator
            )
            target, transfer, _ = _measured(batch, model.disc)
            insert_images(following, turned[rows], moved[rows], model.disc, target, transfer)
            if number % 10 == 0:
                left = (time.perf_counter() - started) * (len(turned) / (int(rows[-1]) + 1) - 1)
                say(f"refinement {refine_pass + 1}/{passes}: {int(rows[-1]) + 1} images, {left:.0f} s left")
        volume = grid_volume(following)
    return turned.double().cpu().numpy(), moved.double().cpu().numpy() * model.voxel_size, volume


@torch.no_grad()
def confirmed_share(model: Autoencoder, particles: Particles, rotations: np.ndarray, shifts: np.ndarray) -> float:
    """Part of the first images whose poses (as for `refine`) a search against the model's own volume confirms.

    Needs no truth. Where the images of a volume are split over both hands, each of them has two poses that explain it
    alike; where it has not formed, the search finds any other pose as good.
    """
    device, radius, kept = model.frequencies.device, model.box // 2, 0
    generator = torch.Generator(device).manual_seed(model.config.seed)
    volume = sampled(model.decoder, radius, device)
    field = with_slopes(volume, radius)
    images = min(JUDGED, len(rotations))
    for rows in torch.arange(images, device=device).split(BATCH):
        part = rows.cpu().numpy()
        own = torch.tensor(rotations[part], dtype=torch.float32, device=device)
        moved = torch.tensor(shifts[part] / model.voxel_size, dtype=torch.float32, device=device)
        best, _ = _best_pose(model, volume, field, 1.0, _read(model, particles, rows), own, moved, generator)
        kept += int(((best - own).square().sum((1, 2)) < CONSISTENT).sum())
    return kept / images


Batch = tuple[Tensor, Tensor, float]
"""Images (b, L, L) in the model's scale, CTF parameters (b, 7), and the box's side in Å."""


def _read(model: Autoencoder, particles: Particles, rows: Tensor) -> Batch:
    part = slice(int(rows[0]), int(rows[-1]) + 1)
    images = torch.from_numpy(np.array(particles.images[part], np.float32)).to(rows.device) * model.image_scale
    parameters = torch.from_numpy(np.array(particles.ctf[part], np.float32)).to(rows.device)
    return images, parameters, model.box * model.voxel_size


def _measured(batch: Batch, disc: HalfDisc) -> tuple[Tensor, Tensor, HalfDisc]:
    """Coefficients and CTFs (b, n) at the disc's frequencies, and the disc."""
    images, parameters, side = batch
    return to_half_disc(images, disc), ctf(parameters, disc.k, side), disc


def _best_pose(
    model: Autoencoder,
    volume: Tensor,
    field: Tensor,
    resolution: float,
    batch: Batch,
    rotations: Tensor,
    shifts: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """The given poses and the best matches of some thousand spread ones, all refined: the best of each image.

    `field` (m³, 8) is the `volume` with its slopes. A `resolution` below 1 takes that part of the configured shells,
    which fewer orientations tell apart.
    """
    config, radius, device = model.config.model.search, model.box // 2, rotations.device
    radii = [resolution * shells for shells in config.refine_radii]
    measured = [_measured(batch, half_disc(model.box, shells).to(device)) for shells in radii]
    orientations = search.spread_rotations(round(config.refine_orientations * resolution**3), generator)
    trial_shifts = search.trial_shifts(model.config, radii[0], device)
    _, best, moved = search.match(volume, radius, *measured[0], orientations, trial_shifts, config.candidates)
    candidates = torch.cat([rotations[:, None], orientations[best]], 1), torch.cat([shifts[:, None], moved], 1)
    return search.best_refined(field, radius, measured, *candidates, config.refine_iterations)
