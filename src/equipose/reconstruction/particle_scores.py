"""How well a map explains each image: its projection at the image's pose, through the image's CTF.

Every image is compared with the map of the *other* half-set, which has not seen it, over the resolved shells. The score
of an image is its correlation with its projection: 1 at best, 0 if they have nothing in common. Noise lowers the score,
so compare images of one dataset only with one another.
"""

import numpy as np
import torch
from torch import Tensor

from equipose.core.fourier import HalfDisc, from_half_disc, half_disc, shift_phase
from equipose.core.fourier_grid import grid_slices
from equipose.reconstruction.halves import Half

EXAMPLES = 6
"""Particles shown beside their projections, from the worst to the best."""


@torch.no_grad()
def correlations(half: Half, volume: Tensor, shells: float) -> np.ndarray:
    """Correlation (n,) of each image with its projection of `volume`, a Fourier grid, below the shell `shells`."""
    disc = _without_mean(half_disc(half.box, shells))
    found = []
    for rotations, shifts, images, transfer in half.batches(disc):
        projections = transfer * shift_phase(shifts, disc) * grid_slices(volume, half.box // 2, rotations, disc)
        size = (_dot(images, images, disc) * _dot(projections, projections, disc)).sqrt()
        found.append(_dot(images, projections, disc) / size.clamp_min(1e-12))
    return torch.cat(found).numpy()


@torch.no_grad()
def examples(half: Half, volume: Tensor, shells: float, scores: np.ndarray) -> dict[str, np.ndarray]:
    """Some images and their projections, (m, L, L), in the order of their scores (m,), with `row` (m,) in the half-set.

    They are spread evenly over all images by score. Images and projections are cut to `shells`. Each projection is
    scaled to leave the smallest residual.
    """
    rows = np.argsort(scores)[np.linspace(0, len(scores) - 1, min(EXAMPLES, len(scores))).round().astype(int)]
    disc = half_disc(half.box, shells)
    weighed = _without_mean(disc)
    ((rotations, shifts, images, transfer),) = half.some(rows).batches(disc)
    projections = transfer * shift_phase(shifts, disc) * grid_slices(volume, half.box // 2, rotations, disc)
    scale = _dot(images, projections, weighed) / _dot(projections, projections, weighed).clamp_min(1e-12)
    shown = [from_half_disc(part, disc).numpy() for part in (images, scale[:, None] * projections)]
    return {"images": shown[0], "projections": shown[1], "scores": scores[rows], "row": rows}


def _dot(a: Tensor, b: Tensor, disc: HalfDisc) -> Tensor:
    """Products (b,) of real images with coefficients (b, n), summed over their pixels."""
    return (a * b.conj()).real @ disc.weights


def _without_mean(disc: HalfDisc) -> HalfDisc:
    """The disc with no weight at k = 0: the level of the background does not count."""
    return HalfDisc(disc.box, disc.k, disc.weights * (disc.k != 0).any(-1))
