"""The noise of a dataset: its power spectrum in the background, and the filter that makes it white.

The filter depends on the shell alone and is the same for all images. Whitened images show the filtered volume, at the
same poses and with the same CTF, so training and search need no change. Only the final map is divided by the filter.
Turns and flips leave the filter as it is, so encoders stay equivariant.
"""

import numpy as np
import scipy.fft

LOWEST = 2
"""Lower shells get this shell's value: the subtracted mean of the background is part of them."""

FLOOR = 0.01
"""Part of the median power. Shells with less hold no noise (images were filtered) and are not raised any further."""


def shells(box: int) -> np.ndarray:
    """Shell of each coefficient of a real transform, (L, L/2 + 1), in cycles per box."""
    row, column = np.fft.fftfreq(box, 1 / box), np.arange(box // 2 + 1)
    return np.rint(np.hypot(row[:, None], column)).astype(int)


def noise_power(images: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Mean noise power a pixel, by shell, of images (n, L, L) with mean 0, in a `window` (L, L) on the background."""
    box = images.shape[-1]
    power = (np.abs(scipy.fft.rfft2(images * window, norm="ortho")) ** 2).mean(axis=0) * box**2 / (window**2).sum()
    shell, paired = shells(box), np.ones_like(power, bool)
    paired[box // 2], paired[:, box // 2] = False, False  # cropping leaves them out
    counts = np.bincount(shell[paired], minlength=shell.max() + 1)
    sums = np.bincount(shell[paired], power[paired], minlength=len(counts))
    known = np.flatnonzero(counts)
    spectrum = np.interp(np.arange(len(counts)), known, sums[known] / counts[known])
    spectrum[:LOWEST] = spectrum[LOWEST]
    return spectrum


def whitening(spectrum: np.ndarray) -> np.ndarray:
    """The filter's values by shell, about 1, for a noise power `spectrum` by shell."""
    return np.sqrt(np.median(spectrum) / np.maximum(spectrum, FLOOR * np.median(spectrum)))


def filtered(images: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Images (n, L, L) with coefficients multiplied by real `factors`, (L, L/2 + 1) or (n, L, L/2 + 1)."""
    spectrum = scipy.fft.rfft2(images) * factors
    return scipy.fft.irfft2(spectrum, s=images.shape[1:]).astype(np.float32)
