"""Poses improved image by image once the networks have settled, and the map back-projected from them.

An encoder answers for all images at once and errs a little for each (semi-amortised inference corrects that). In each
pass, Gauss-Newton steps lead from the pose that an image has, and from the best matches of a search, to the nearest
optima, the best of which goes on; all images then make the next volume, CTF-weighted, which the next pass compares
with. Where noise is strong, the first volumes leave many images in a wrong pose, and later ones find them.

An image's own noise is in the map that it helped to make, at the pose that it had: compared with that map, it would
keep a wrong pose. So a part of the images at a time is compared with the map of all the others, of which the mask of
their molecule takes away the solvent's noise (`mask.py`).
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from equipose.core.ctf import ctf
from equipose.core.fourier import HalfDisc, half_disc, to_half_disc
from equipose.core.fourier_grid import (
    FourierGrid,
    empty_grid,
    from_real_map,
    grid_map,
    grid_volume,
    insert_images,
    sampled,
    with_slopes,
    without,
)
from equipose.core.mask import masked_volume, solvent_mask
from equipose.core.point_groups import group
from equipose.core.pose_metrics import CONSISTENT, squared_distances
from equipose.io.files import whole_file
from equipose.io.particles import Particles
from equipose.model.autoencoder import Autoencoder
from equipose.poses import search

BATCH = 200
"""Images refined at once."""

FIRST_PASS, RISING = 0.75, 3
"""Of all shells, the first of several passes sees this part, since its volume, and so its poses, are vague; so many
passes later, or with the last one, poses are told by all.
"""

SETTLED = 0.001
"""Share of the images that a pass with all shells finds in another place, below which no other pass follows."""

STILL = 0.998
"""Correlation of a pass's map with the one before, within the mask, above which no other pass follows. Of a symmetric
molecule that is refined as C1, images go from mate to mate, and the map stays: GroEL's had 0.9939 in its second pass,
0.9976 in its fifth, when 99.9 % of its poses were right modulo D7, and 0.9983 in its sixth.
"""

FAR = 4.0
"""Standard deviations within which shifts are tried. An image further out is lost: of 10,000 in three deviations 1.1 %,
which was half of all that refinement left in a wrong pose at SNR 0.1; in four 0.03 %.
"""

PARTS = 20
"""Of the images, each of which is compared with the map of the others. At SNR 0.1 one pass with it, and with the
shifts' distribution, took 1,000 images of the spliceosome from MSE 0.14 to 0.09, and without both to 0.13.
"""

JUDGED = 1000
"""Images by which a run is judged without a truth; at most half of them all."""


@torch.no_grad()
def refine(
    model: Autoencoder,
    particles: Particles,
    rotations: np.ndarray,
    shifts: np.ndarray,
    say: Callable[[str], None],
    kept: Path,
) -> tuple[np.ndarray, np.ndarray, Tensor]:
    """Poses of all particles after at most `refine_passes`, and the volume at the points of a grid of radius L/2.

    `rotations` (n, 3, 3) and `shifts` (n, 2), Å of the content from pixel L/2, are where the first pass starts, and of
    the same kind as what is returned. What is known after a pass is kept in a file, with which the same call goes on.
    """
    device, radius = model.frequencies.device, model.box // 2
    generator, passes = torch.Generator(device).manual_seed(model.config.seed), model.config.model.refine_passes
    turned, moved = _on_device(model, rotations, shifts)
    volume, grid, first, settled, start = None, None, 0, False, turned.clone()
    if known := _known(kept, start):
        first, settled, turned, moved = known["passes"], known["settled"], known["rotations"], known["shifts"]
        grid = FourierGrid(radius, known["signal"], known["power"])
        generator.set_state(known["generator"].cpu())
        say(f"refinement: continuing after pass {first} ({kept})")
    else:
        volume = _first_volume(model, particles, turned, moved)
    for refine_pass in range(first, first if settled else passes):
        started, following = time.perf_counter(), empty_grid(radius, device)
        part = min(1.0, refine_pass / min(passes - 1, RISING)) if passes > 1 else 1.0
        resolution, elsewhere = FIRST_PASS + part * (1 - FIRST_PASS), 0
        before = None if grid is None else grid_map(grid)
        mask = None if before is None else solvent_mask(before)
        for some in torch.arange(len(turned), device=device).chunk(PARTS):
            if grid is not None:
                volume = masked_volume(without(grid, _back_projected(model, particles, some, turned, moved)), mask)
            field = with_slopes(volume, radius)
            for rows in some.split(BATCH):
                batch = _read(model, particles, rows)
                poses = _best_pose(model, field, resolution, batch, turned[rows], moved[rows], generator)
                mates = turned[rows, None] @ model.group
                elsewhere += int(((poses[0][:, None] - mates).square().sum((2, 3)).amin(1) > CONSISTENT).sum())
                turned[rows], moved[rows] = poses
                insert_images(following, *poses, *_coefficients(batch, model.disc), model.group)
            done = int(some[-1]) + 1
            left = (time.perf_counter() - started) * (len(turned) / done - 1)
            say(f"refinement {refine_pass + 1}/{passes}: {done} images, {left:.0f} s left")
        alike = 0.0 if before is None else _correlation(before, grid_map(following), mask)
        say(f"refinement {refine_pass + 1}/{passes}: {elsewhere} poses changed, the map correlates by {alike:.4f}")
        grid, settled = following, part == 1 and (elsewhere < SETTLED * len(turned) or alike > STILL)
        known = {"passes": refine_pass + 1, "settled": settled, "generator": generator.get_state(), "start": start}
        known |= {"rotations": turned, "shifts": moved, "signal": grid.signal, "power": grid.power}
        with whole_file(kept) as partial:
            torch.save(known, partial)
        if settled:
            break
    return *_as_arrays(model, turned, moved), grid_volume(grid)


@torch.no_grad()
def poses_against(
    model: Autoencoder, volume: Tensor, particles: Particles, rotations: np.ndarray, shifts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Poses of the first n particles by `volume` (m³, 2), the points of a grid of radius L/2 in the model's scale.

    Of each image the best of its start, `rotations` (n, 3, 3) and `shifts` (n, 2) as for `refine`, and of a search,
    all refined. Wants a map that these images had no part in: their own noise would keep them where they were.
    """
    generator = torch.Generator(volume.device).manual_seed(model.config.seed)
    field = with_slopes(volume, model.box // 2)
    turned, moved = _on_device(model, rotations, shifts)
    for rows in torch.arange(len(turned), device=volume.device).split(BATCH):
        batch = _read(model, particles, rows)
        turned[rows], moved[rows] = _best_pose(model, field, 1.0, batch, turned[rows], moved[rows], generator)
    return _as_arrays(model, turned, moved)


@torch.no_grad()
def confirmed_share(model: Autoencoder, particles: Particles, rotations: np.ndarray, shifts: np.ndarray) -> float:
    """Part of the first images, a thousand at most, whose poses (as for `refine`) a search confirms.

    The search is against the model's own volume or, if the poses were refined, against the map of all other images at
    theirs. Needs no truth. Where the images of a volume are split over both hands, each of them has two poses that
    explain it alike; where it has not formed, the search finds any other pose as good.
    """
    judged = min(JUDGED, math.ceil(len(rotations) / 2))
    if model.config.model.refine_passes:
        turned, moved = _on_device(model, rotations, shifts)
        others = torch.arange(judged, len(turned), device=turned.device)
        volume = masked_volume(_back_projected(model, particles, others, turned, moved))
    else:
        volume = sampled(model.decoder, model.box // 2, model.frequencies.device)
    found, _ = poses_against(model, volume, particles, rotations[:judged], shifts[:judged])
    apart = squared_distances(found, rotations[:judged], group(model.config.dataset.symmetry))
    return float((apart < CONSISTENT).mean())


def _first_volume(model: Autoencoder, particles: Particles, rotations: Tensor, shifts: Tensor) -> Tensor:
    """The volume (m³, 2) that the first pass compares with: the decoder's, or the search's where that explains images
    better, as it does where the encoder could not learn the poses or was not asked to.

    The first images are compared with both, at the better of their given poses and of those that a search finds.
    """
    radius, device = model.box // 2, rotations.device
    volumes = [sampled(model.decoder, radius, device)]
    if model.found is not None:
        volumes.append(from_real_map(model.found.to(device), radius))
    rows, errors = torch.arange(min(BATCH, len(rotations)), device=device), []
    for volume in volumes if len(volumes) > 1 else []:
        field, batch = with_slopes(volume, radius), _read(model, particles, rows)
        generator = torch.Generator(device).manual_seed(model.config.seed)
        poses = _best_pose(model, field, FIRST_PASS, batch, rotations[rows], shifts[rows], generator)
        disc, target, transfer = _coefficients(batch, model.disc)
        errors.append(float(search.refine_poses(field, radius, target, transfer, disc, *poses, 0)[2].median()))
    return volumes[int(np.argmin(errors))] if errors else volumes[0]


def _correlation(one: Tensor, other: Tensor, mask: Tensor) -> float:
    """Of two maps (L, L, L) within a mask."""
    return float(torch.corrcoef(torch.stack([one[mask > 0.5], other[mask > 0.5]]))[0, 1])


def _known(kept: Path, start: Tensor) -> dict[str, Any] | None:
    """What an earlier call knew after its last pass, if it started from these rotations."""
    try:
        known = torch.load(kept, map_location=start.device, weights_only=True)
    except Exception:  # none yet, or broken: whatever a truncated file makes torch raise
        return None
    same = known["start"].shape == start.shape and torch.allclose(known["start"], start, atol=1e-3)
    return known if same else None


Batch = tuple[Tensor, Tensor, float]
"""Images (b, L, L) in the model's scale, CTF parameters (b, 7), and the box's side in Å."""


def _read(model: Autoencoder, particles: Particles, rows: Tensor) -> Batch:
    part = slice(int(rows[0]), int(rows[-1]) + 1)
    images = torch.from_numpy(np.array(particles.images[part], np.float32)).to(rows.device) * model.image_scale
    parameters = torch.from_numpy(np.array(particles.ctf[part], np.float32)).to(rows.device)
    return images, parameters, model.box * model.voxel_size


def growing_radii(radii: list[float], last: float) -> list[float]:
    """The radii, and after them as many as it takes to reach the `last`, each at most twice the one before.

    Half the radius tells a pose well enough to follow it from there.
    """
    while radii[-1] < last:
        radii = [*radii, min(2 * radii[-1], last)]
    return radii


def _on_device(model: Autoencoder, rotations: np.ndarray, shifts: np.ndarray) -> tuple[Tensor, Tensor]:
    """Rotations (n, 3, 3), and shifts (n, 2) given in Å, in pixels."""
    device = model.frequencies.device
    turned = torch.tensor(rotations, dtype=torch.float32, device=device)
    return turned, torch.tensor(shifts / model.voxel_size, dtype=torch.float32, device=device)


def _as_arrays(model: Autoencoder, rotations: Tensor, shifts: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The way back, to rotations that are orthogonal to all digits: small turns in float32 add up to a millionth."""
    orthogonal = Rotation.from_matrix(rotations.double().cpu().numpy()).as_matrix()
    return orthogonal, shifts.double().cpu().numpy() * model.voxel_size


def _back_projected(
    model: Autoencoder, particles: Particles, rows: Tensor, rotations: Tensor, shifts: Tensor
) -> FourierGrid:
    """The sums over these rows of the particles, at their poses of all."""
    grid = empty_grid(model.box // 2, rows.device)
    for part in rows.split(BATCH):
        images = _coefficients(_read(model, particles, part), model.disc)
        insert_images(grid, rotations[part], shifts[part], *images, model.group)
    return grid


def _coefficients(batch: Batch, disc: HalfDisc) -> tuple[HalfDisc, Tensor, Tensor]:
    """The disc, and coefficients and CTFs (b, n) at its frequencies."""
    images, parameters, side = batch
    return disc, to_half_disc(images, disc), ctf(parameters, disc.k, side)


def _best_pose(
    model: Autoencoder,
    field: Tensor,
    resolution: float,
    batch: Batch,
    rotations: Tensor,
    shifts: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """The given poses and the best matches of some thousand spread ones, all refined: the best of each image.

    `field` (m³, 8) is the volume with its slopes. A `resolution` below 1 takes that part of the shells, which fewer
    orientations tell apart.
    """
    config, radius, device = model.config.model.search, model.box // 2, rotations.device
    radii = growing_radii([resolution * shells for shells in config.refine_radii], resolution * radius)
    discs = [half_disc(model.box, shells).to(device) for shells in radii]
    measured = [(target, transfer, disc) for disc, target, transfer in (_coefficients(batch, disc) for disc in discs)]
    _, _, errors = search.refine_poses(field, radius, *measured[0], rotations, shifts, 0)
    noise = float(errors.median() / discs[0].weights.sum())
    weight = search.shift_weight(search.shift_deviation(model.config.dataset), noise)
    orientations = search.spread_rotations(round(config.refine_orientations * resolution**3), generator, model.group)
    trial_shifts = search.trial_shifts(model.config, radii[0], device, FAR)
    volume = field[:, :2].contiguous()
    _, best, found = search.match(
        volume, radius, *measured[0], orientations, trial_shifts, weight, config.candidates, model.dtype
    )
    candidates = torch.cat([rotations[:, None], orientations[best]], 1), torch.cat([shifts[:, None], found], 1)
    return search.best_refined(field, radius, measured, *candidates, weight, config.refine_iterations)
