"""Volumes and their Fourier transforms on voxel grids, centred on voxel box/2."""

from collections.abc import Callable

import numpy as np
import scipy.ndimage
import torch
from torch import Tensor

from equipose.core.pose_metrics import Alignment


@torch.no_grad()
def real_volume(
    transform: Callable[[Tensor], Tensor], box: int, motion: np.ndarray | None = None, chunk: int = 200_000
) -> np.ndarray:
    """The volume (z, y, x), box³ voxels, origin at voxel box/2, whose slices are values of `transform` (n, 3) → (n,).

    With `motion` A (3, 3), orthogonal, it is V(A x). Frequencies outside of the ball |k| < box/2 are zero: no image has
    them.
    """
    axis = torch.arange(box // 2 + 1)
    full = torch.fft.fftfreq(box, 1 / box).long()
    kz, ky, kx = torch.meshgrid(full, full, axis, indexing="ij")
    inside = kx**2 + ky**2 + kz**2 < (box / 2) ** 2
    k = torch.stack([kx[inside], ky[inside], kz[inside]], dim=-1).float()
    sign = (1 - 2 * (k.sum(-1) % 2)).to(k)  # moves the origin from voxel 0 to voxel box/2
    matrix = torch.eye(3) if motion is None else torch.as_tensor(motion, dtype=torch.float32)
    values = torch.cat([transform(part @ matrix.T) for part in k.split(chunk)])
    spectrum = torch.zeros(inside.shape, dtype=values.dtype)
    spectrum[inside] = values * sign * box
    return torch.fft.irfftn(spectrum, s=(box, box, box)).numpy()


def aligned_volume(
    transform: Callable[[Tensor], Tensor], box: int, voxel_size: float, alignment: Alignment
) -> np.ndarray:
    """`real_volume` moved into the truth's frame by an alignment, box³ voxels of `voxel_size` Å.

    V_aligned(x) = V(A (x - u)) has the transform V̂(A k) e^{-2πi k·u}: the shift is a phase, exact below Nyquist.
    """
    volume = real_volume(transform, box, alignment.volume_map())
    shift = alignment.translation[::-1] / voxel_size  # voxels along z, y, x
    return np.fft.ifftn(scipy.ndimage.fourier_shift(np.fft.fftn(volume), shift)).real
