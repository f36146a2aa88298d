"""A soft mask, made from a map itself, that removes the solvent and its noise around the molecule.

A back-projected volume has noise all over a box of twice the images' size, and a molecule fills a fiftieth or so of it.
Each slice through the volume has all of that noise. With the mask, the map of 10,000 images of SNR 0.1 gives their
poses as well as the true map does.
"""

import numpy as np
import scipy.ndimage
import torch
from torch import Tensor

from equipose.core.fourier_grid import FourierGrid, from_real_map, grid_map

SMOOTH, MOLECULE = 1.5, 0.15
"""Voxels by which the map is smoothed, and the part of its highest density above which a voxel is molecule."""

WIDER, SOFT = 2, 3
"""Voxels by which the mask is wider than the molecule, and voxels over which it then falls to 0."""


def masked_volume(grid: FourierGrid, mask: Tensor | None = None) -> Tensor:
    """The volume (m³, 2) at the grid's points, inside of the `mask` (L, L, L); by default its `solvent_mask`.

    Its slices are as strong at the map's rim as at its centre; those of `grid_volume` are dimmed at the rim.
    """
    volume = grid_map(grid)
    return from_real_map(volume * (solvent_mask(volume) if mask is None else mask), grid.radius)


def solvent_mask(volume: Tensor) -> Tensor:
    """A soft mask (L, L, L), 0 to 1, of the largest connected density of the smoothed map, two voxels wider."""
    smooth = scipy.ndimage.gaussian_filter(volume.cpu().numpy(), SMOOTH)
    parts, count = scipy.ndimage.label(smooth > MOLECULE * np.quantile(smooth, 0.9995))
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    inside = parts == 1 + int(np.argmax(sizes)) if count else np.ones_like(smooth, bool)
    distance = scipy.ndimage.distance_transform_edt(~inside)
    mask = 0.5 + 0.5 * np.cos(np.pi * np.clip((distance - WIDER) / SOFT, 0, 1))
    return torch.from_numpy(mask.astype(np.float32)).to(volume.device)
