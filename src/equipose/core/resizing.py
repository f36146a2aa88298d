"""A volume on a coarser or finer grid of the same extent."""

import numpy as np


def resized(volume: np.ndarray, box: int) -> np.ndarray:
    """A volume (L, L, L) on a grid (box, box, box) of the same extent.

    A coarser grid drops the high frequencies. On a finer grid, the frequencies that the volume lacks are zero.
    """
    size = len(volume)
    if box == size:
        return volume
    spectrum = np.fft.fftshift(np.fft.fftn(volume))
    before = box // 2 - size // 2  # frequencies to add before the first one, or to drop if negative
    if box > size:
        spectrum = np.pad(spectrum, [(before, box - size - before)] * 3)
    else:
        inner = slice(-before, box - before)
        spectrum = spectrum[inner, inner, inner]
    return np.fft.ifftn(np.fft.ifftshift(spectrum)).real * (box / size) ** 3
