"""Poses improved image by image once the networks have settled, and the map back-projected from them.

An encoder answers for all images at once and errs a little for each (semi-amortised inference corrects that): from
its pose, and from the best matches of a search for images where it is far off, Gauss-Newton steps lead to the nearest
optimum; all images then make the next volume, CTF-weighted, and the next pass refines against that.
"""

import numpy as np
import torch
from torch import Tensor

from equipose import search
from equipose.autoencoder import Autoencoder
from equipose.fourier import HalfDisc, half_disc, shift_phase, to_half_disc
from equipose.grid import empty_grid, grid_frequencies, grid_volume, insert_slices
from equipose.optics import ctf
from equipose.particles import Particles

BATCH = 200
"""Images refined at once."""


@torch.no_grad()
def refine(
    model: Autoencoder, particles: Particles, rotations: np.ndarray, shifts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, Tensor]:
    """Poses of all particles after the model's `refine_passes`, and the volume at the points of a grid of radius L/2.

    `rotations` (n, 3, 3) and `shifts` (n, 2), Å of the content from pixel L/2, are where the first pass starts, and of
    the same kind as what is returned.
    """
    device, radius = model.frequencies.device, model.box // 2
    config = model.config.model.search
    turned = torch.tensor(rotations, dtype=torch.float32, device=device)
    moved = torch.tensor(shifts / model.voxel_size, dtype=torch.float32, device=device)
    generator = torch.Generator(device).manual_seed(model.config.seed)
    orientations = search.random_rotations(config.orientations, generator)
    volume = decoder_grid(model)
    near = half_disc(model.box, config.refine_radii[0]).to(device)
    for refine_pass in range(model.config.model.refine_passes):
        following = empty_grid(radius, device)
        for rows in torch.arange(len(turned), device=device).split(BATCH):
            batch = _read(model, particles, rows)
            if refine_pass == 0:
                turned[rows], moved[rows] = _best_of_candidates(
                    model, volume, *_measured(batch, near), near, orientations, turned[rows], moved[rows]
                )
            for shells in config.refine_radii[1:] if refine_pass == 0 else config.refine_radii[-1:]:
                disc = half_disc(model.box, shells).to(device)
                turned[rows], moved[rows], _ = search.refine_poses(
                    volume, radius, *_measured(batch, disc), disc, turned[rows], moved[rows], config.refine_iterations
                )
            target, transfer = _measured(batch, model.disc)
            centred = target * shift_phase(-moved[rows], model.disc)
            insert_slices(following, turned[rows], model.disc, transfer * centred, transfer**2)
        volume = grid_volume(following)
    return turned.double().cpu().numpy(), moved.double().cpu().numpy() * model.voxel_size, volume


def decoder_grid(model: Autoencoder) -> Tensor:
    """The decoder's values (m³, 2) at the points of a grid of radius L/2; none beyond, where no image taught it."""
    k = grid_frequencies(model.box // 2, model.frequencies.device)
    inside = k.norm(dim=-1) < model.box / 2
    volume = torch.zeros(len(k), 2, device=k.device)
    volume[inside] = torch.cat([torch.view_as_real(model.decoder(part)) for part in k[inside].split(100_000)])
    return volume


Batch = tuple[Tensor, Tensor, float]
"""Images (b, L, L) in the model's scale, CTF parameters (b, 7), and the box's side in Å."""


def _read(model: Autoencoder, particles: Particles, rows: Tensor) -> Batch:
    part = slice(int(rows[0]), int(rows[-1]) + 1)
    images = torch.from_numpy(np.array(particles.images[part], np.float32)).to(rows.device) * model.image_scale
    parameters = torch.from_numpy(np.array(particles.ctf[part], np.float32)).to(rows.device)
    return images, parameters, model.box * model.voxel_size


def _measured(batch: Batch, disc: HalfDisc) -> tuple[Tensor, Tensor]:
    """Coefficients and CTFs (b, n) at the disc's frequencies."""
    images, parameters, side = batch
    return to_half_disc(images, disc), ctf(parameters, disc.k, side)


def _best_of_candidates(
    model: Autoencoder,
    volume: Tensor,
    target: Tensor,
    transfer: Tensor,
    disc: HalfDisc,
    orientations: Tensor,
    rotations: Tensor,
    shifts: Tensor,
) -> tuple[Tensor, Tensor]:
    """The given poses and the best matches of some thousand random ones, all refined: the best for each image."""
    config, radius = model.config.model.search, model.box // 2
    trial_shifts = search.trial_shifts(model.config, config.refine_radii[0], disc.k.device)
    _, best, moved = search.match(volume, radius, target, transfer, disc, orientations, trial_shifts, config.candidates)
    candidates = torch.cat([rotations[:, None], orientations[best]], 1), torch.cat([shifts[:, None], moved], 1)
    return search.best_refined(volume, radius, target, transfer, disc, *candidates, config.refine_iterations)[:2]
