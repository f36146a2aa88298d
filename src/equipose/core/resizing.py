"""A volume on a coarser or finer grid of the same extent."""

import numpy as np


def resized(volume: np.ndarray, box: int) -> np.ndarray:
    """A volume (L, L, L) on a grid (box, box, box) of the same extent.

    A coarser grid keeps the low frequencies; a finer one gets zeros beyond those that the volume has.
    """
    size = len(volume)
    if box == size:
        return volume
    spectrum = np.fft.fftshift(np.fft.fftn(volume))
    before = box // 2 - size // 2  # of the new grid's frequencies: those that the volume lacks, or has too many of
    if box > size:
        spectrum = np.pad(spectrum, [(before, box - size - before)] * 3)
    else:
        inner = slice(-before, box - before)
        spectrum = spectrum[inner, inner, inner]
    return np.fft.ifftn(np.fft.ifftshift(spectrum)).real * (box / size) ** 3
