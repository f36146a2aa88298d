"""Local resolution: the FSC of two half-maps in a window around every voxel.

About a point, the FSC at a frequency is the correlation of the half-maps, filtered to a band about that frequency,
under a Gaussian window, Σ g a b / √(Σ g a² Σ g b²): one number for each voxel and band. A window blurs frequencies by
the width of its own transform. Bands have this width, and half of it is the distance between them.
"""

import numpy as np
import scipy.fft
import scipy.ndimage

LOCAL_THRESHOLD = 0.5
"""Few coefficients lie in a window: a lower threshold would often be passed by chance."""

WAVELENGTHS = 5.0
"""Width of the window at half its height, in wavelengths of the map's resolution."""


def local_resolution(first: np.ndarray, second: np.ndarray, voxel_size: float, resolution: float) -> np.ndarray:
    """Resolution (L, L, L) in Å at which the local FSC of two half-maps first falls below 0.5.

    `resolution`, Å, of the whole map sets the window. Between bands the curve is interpolated. A curve that stays above
    0.5 gives the last shell's resolution; a curve that starts below gives one cycle a box.
    """
    box = len(first)
    deviation = WAVELENGTHS * resolution / voxel_size / np.sqrt(8 * np.log(2))  # of the window, voxels
    width = box / (2 * np.pi * deviation)  # of the bands, shells
    frequency = [np.fft.fftfreq(box, 1 / box)] * 2 + [np.arange(box // 2 + 1)]
    radius = np.sqrt(sum(axis**2 for axis in np.meshgrid(*frequency, indexing="ij", sparse=True)))
    spectra = [scipy.fft.rfftn(volume.astype(np.float32)) for volume in (first, second)]

    crossing = np.full(first.shape, box / 2 - 1)
    above, before, last = np.ones(first.shape, bool), np.ones(first.shape), 0.0
    for shell in np.append(np.arange(1, box / 2 - 1, width / 2), box / 2 - 1):
        band = np.exp(-((radius - shell) ** 2) / (2 * width**2)) * (radius > 0)
        a, b = (scipy.fft.irfftn(spectrum * band, s=first.shape) for spectrum in spectra)
        cross, *powers = (scipy.ndimage.gaussian_filter(x, deviation, mode="wrap") for x in (a * b, a * a, b * b))
        size = np.sqrt(np.clip(powers[0] * powers[1], 0, None))
        now = np.divide(cross, size, out=np.zeros_like(cross), where=size > 0)
        falls = above & (now < LOCAL_THRESHOLD)
        part = (before - LOCAL_THRESHOLD)[falls] / (before - now)[falls]
        crossing[falls] = last + part * (shell - last)
        above &= ~falls
        if not above.any():
            break
        before, last = now, shell
    return (box * voxel_size / np.maximum(crossing, 1)).astype(np.float32)
