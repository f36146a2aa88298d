"""Half-maps in which no noise is averaged at the place that it has chosen itself.

A search moves each image to where it fits the map best. Of an image that is noise alone, a bright spot comes to the
map's centre, and the average of such images has a peak there in both half-maps, from nothing. So the frequencies of an
image are split at random into some parts, whose noise has nothing in common. Each part is averaged at the shift that
all other parts choose. The shift that the search has found is among the choices, and so are all those that lie a whole
number of pixels from it: nearly all images of a molecule choose the found one.
"""

import torch
from torch import Tensor

from equipose.core.fourier import HalfDisc, half_disc, shift_phase
from equipose.core.fourier_grid import (
    FourierGrid,
    at_mates,
    empty_grid,
    grid_map,
    grid_slices,
    insert_images,
    split_group,
    together,
)
from equipose.core.mask import masked_volume, solvent_mask
from equipose.core.point_groups import group
from equipose.reconstruction.halves import Half

FAR = 4.0
"""Shifts within so many standard deviations may be chosen, as in refinement."""


PARTS = 8
"""Parts of an image's frequencies."""


def independent_sums(halves: list[Half], found: list[FourierGrid], shift_std: float) -> list[FourierGrid]:
    """The sums of both half-sets for their half-maps; `found` are those of `back_project`, `shift_std` is in Å.

    Each half-set's images are compared with the map of the other one, within the mask of both together.
    """
    molecule = solvent_mask(grid_map(together(*found)))
    others = [masked_volume(grid, molecule) for grid in reversed(found)]
    return [back_project_apart(half, other, shift_std) for half, other in zip(halves, others, strict=True)]


@torch.no_grad()
def back_project_apart(half: Half, volume: Tensor, shift_std: float) -> FourierGrid:
    """The sums of `back_project`, with each part of an image's frequencies at the shift that the other parts choose.

    Projections are those of `volume` (m³, 2), the points of a grid of radius L/2: the map of the other half-set, which
    has not seen these images. `shift_std` in Å is the standard deviation of the shifts.
    """
    disc, grid = half_disc(half.box), empty_grid(half.box // 2, torch.device("cpu"))
    parts = torch.randperm(len(disc.k), generator=torch.Generator().manual_seed(0)).chunk(PARTS)
    few, onto_points = split_group(torch.from_numpy(group(half.symmetry)).float())
    deviation = shift_std / half.particles.voxel_size
    for rotations, shifts, coefficients, transfer in half.batches(disc):
        expected = transfer * shift_phase(shifts, disc) * grid_slices(volume, grid.radius, rotations, disc)
        steps = _chosen(coefficients, expected, disc, parts, shifts, deviation)
        for part, step in zip(parts, steps, strict=True):
            some = HalfDisc(disc.box, disc.k[part], disc.weights[part])
            insert_images(grid, rotations, shifts + step, some, coefficients[:, part], transfer[:, part], few)
    return at_mates(grid, onto_points)


def _chosen(
    coefficients: Tensor, expected: Tensor, disc: HalfDisc, parts: tuple[Tensor, ...], shifts: Tensor, deviation: float
) -> list[Tensor]:
    """For each of the parts, the steps (b, 2) in whole pixels from `shifts` (b, 2) that all other parts choose.

    They are the steps at which images (b, n) fit best what is expected of them, (b, n). The likelihood of a shift is
    that of white noise, times a normal distribution with this standard `deviation`, in pixels.
    """
    reach = max(FAR * deviation, 1.0)
    axis = torch.arange(-int(2 * reach), int(2 * reach) + 1, dtype=torch.float32)
    steps = torch.cartesian_prod(axis, axis)
    steps = steps[steps.norm(dim=-1) <= 2 * reach]
    fits = disc.weights * coefficients * expected.conj()
    overlaps = []  # (b, s) each: Re⟨Î, T P⟩. Of all parts at once, the phases of 256 px would take 5 GB.
    for part in parts:
        moves = shift_phase(steps, HalfDisc(disc.box, disc.k[part], disc.weights[part]))
        overlaps.append(_real(fits[:, part]) @ _real(moves).T)
    noise = (coefficients.abs().square() @ disc.weights).mean() / disc.weights.sum()
    distance = (shifts[:, None] + steps).square().sum(-1)
    whole = sum(overlaps) - noise * distance / (2 * max(deviation, 0.1) ** 2)
    whole[(distance > reach**2) & (steps.square().sum(-1) > 0)] = -torch.inf
    return [steps[(whole - overlap).argmax(1)] for overlap in overlaps]


def _real(values: Tensor) -> Tensor:
    """Complex values (..., n) as real ones (..., 2n)."""
    return torch.view_as_real(values).flatten(-2)
