"""Fourier shell correlation of two volumes, and the resolution read from it (paper, Apx. F, Eq. 31).

Shell k holds the frequencies of k - ½ to k + ½ cycles per box; box · voxel size / k is its resolution in Å. RELION
rounds as well. cryoDRGN takes the floor, and its curves differ from ours by several hundredths.
"""

from dataclasses import dataclass

import numpy as np
import scipy.fft

THRESHOLDS = (0.5, 0.143)

CENTRE, SOFT = 0.25, 3.0
"""The part of a mask's volume that a peak may fill, and voxels over which it is cut out."""

RANDOM_BELOW = 0.8
"""Phases are randomised from the shell at which the unmasked FSC falls below this (Chen et al. 2013)."""


@dataclass(frozen=True)
class Crossings:
    """Resolutions in Å at which a curve falls below a threshold the first and the last time; None if never above it."""

    first: float | None
    last: float | None


def fourier_shell_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """FSC (L/2,) of shells 0 to L/2 - 1 of two volumes (L, L, L), unmasked.

    Shell L/2 is left out: the Fourier transform of a reconstruction ends there. An empty or constant volume has no
    signal to correlate and gives 0.

    Examples:
        >>> curve = fsc(volume, 3 * volume)
        >>> curve.shape, bool((curve[1:] > 0.999).all())
        ((16,), True)
    """
    box = a.shape[0]
    shell, weight = _shells(box)
    fa, fb = scipy.fft.rfftn(a.astype(np.float64)), scipy.fft.rfftn(b.astype(np.float64))

    def shell_sum(values: np.ndarray) -> np.ndarray:
        return np.bincount(shell, (weight * values).ravel(), minlength=box // 2)[: box // 2]

    cross = shell_sum(fa.real * fb.real + fa.imag * fb.imag)
    power = shell_sum(fa.real**2 + fa.imag**2) * shell_sum(fb.real**2 + fb.imag**2)
    return np.divide(cross, np.sqrt(power), out=np.zeros(box // 2), where=power > 0)


def corrected_fsc(first: np.ndarray, second: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """FSC curves (L/2,) of two half-maps: `unmasked`, `masked`, and `corrected` for the correlation of the mask itself.

    The mask's part is `randomised`: the FSC of masked maps with random phases, from the shell at which the unmasked
    curve falls below 0.8. corrected = (masked - randomised) / (1 - randomised) (Chen et al. 2013).

    Examples:
        >>> curves = corrected_fsc(volume, volume, mask)
        >>> list(curves)
        ['unmasked', 'masked', 'randomised', 'corrected']
    """
    unmasked = fourier_shell_correlation(first, second)
    masked = fourier_shell_correlation(first * mask, second * mask)
    below = np.flatnonzero(unmasked[1:] < RANDOM_BELOW)
    start = int(below[0]) + 1 if len(below) else len(unmasked)
    random = [_random_phases(volume, start, seed) * mask for seed, volume in enumerate((first, second))]
    randomised = fourier_shell_correlation(*random)
    corrected = masked.copy()
    beyond = np.arange(len(masked)) >= start + 2  # the cut itself leaks into its neighbours
    corrected[beyond] = ((masked - randomised) / np.maximum(1 - randomised, 1e-6))[beyond]
    return {"unmasked": unmasked, "masked": masked, "randomised": randomised, "corrected": corrected}


def off_centre(first: np.ndarray, second: np.ndarray, mask: np.ndarray, last: int) -> float:
    """Mean corrected FSC, shells 1 to `last`, of two half-maps outside of the middle `CENTRE` of the mask's volume.

    Noise that is aligned to its own map gets a peak at the centre of both half-maps, since each image's brightest spot
    is shifted there. These maps correlate at the centre only. A molecule correlates outside too.
    """
    axis = np.arange(len(mask)) - len(mask) // 2
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    order = np.argsort(radius, axis=None)
    volume = np.cumsum(mask.ravel()[order])
    inner = radius.ravel()[order][np.searchsorted(volume, CENTRE * volume[-1])]
    outside = mask * np.clip((radius - inner) / SOFT + 0.5, 0, 1)
    return float(corrected_fsc(first, second, outside)["corrected"][1 : max(last, 1) + 1].mean())


def shell_resolution(shell: float | np.ndarray, box: int, voxel_size: float) -> float | np.ndarray:
    """Resolution in Å of shell(s) 1, 2, …: box · voxel size / shell."""
    return box * voxel_size / shell


def paper_resolution(curve: np.ndarray, threshold: float, voxel_size: float) -> float | None:
    """Resolution in Å of the last whole shell before the curve (L/2,) first falls below `threshold`.

    Every resolution of the paper's Table 1 is (a mean of three) 128 · voxel size / k for whole k. None if shell 1 is
    already below: no shell is resolved. Shell 0, the mean density, tells nothing.
    """
    below = np.flatnonzero(curve[1:] < threshold)
    last_above = below[0] if len(below) else len(curve) - 1
    return float(shell_resolution(last_above, 2 * len(curve), voxel_size)) if last_above else None


def exact_resolution(curve: np.ndarray, threshold: float, voxel_size: float) -> Crossings:
    """Resolutions in Å at the first and last downward crossing of the curve (L/2,), by linear interpolation.

    A curve that ends above the threshold has its last crossing at its last shell, L/2 - 1 (see `nyquist_reached`).

    Examples:
        >>> resolution(np.array([1.0, 0.9, 0.4, 0.1]), threshold=0.5, voxel_size=2.0).first
        8.88888888888889
    """
    above = curve >= threshold
    falls = np.flatnonzero(above[1:-1] & ~above[2:]) + 1
    crossings = [shell + (curve[shell] - threshold) / (curve[shell] - curve[shell + 1]) for shell in falls]
    if above[-1]:
        crossings.append(len(curve) - 1)
    if not crossings:
        return Crossings(None, None)
    resolutions = [float(shell_resolution(shell, 2 * len(curve), voxel_size)) for shell in crossings]
    return Crossings(first=resolutions[0] if above[1] else None, last=resolutions[-1])


def nyquist_reached(curve: np.ndarray) -> bool:
    """Whether FSC ≥ 0.5 at every shell from 1 to L/2 - 1."""
    return bool((curve[1:] >= 0.5).all())


def radii(box: int) -> np.ndarray:
    """Cycles per box of the coefficients of `rfftn` of a volume, (L, L, L/2 + 1)."""
    axis, half = np.fft.fftfreq(box, 1 / box), np.arange(box // 2 + 1)
    return np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + half**2)


def _shells(box: int) -> tuple[np.ndarray, np.ndarray]:
    """Shell number (flat) of every coefficient of `rfftn`, and the number of coefficients of the full transform that it
    stands for.
    """
    radius, half = radii(box), np.arange(box // 2 + 1)
    shell = np.rint(radius).astype(np.int64)
    weight = np.where((half == 0) | (half == box // 2), 1.0, 2.0)
    return shell.ravel(), np.broadcast_to(weight, radius.shape)


def _random_phases(volume: np.ndarray, start: int, seed: int) -> np.ndarray:
    """The volume with random phases at the shells from `start` on."""
    spectrum = np.fft.rfftn(volume)
    shell = _shells(len(volume))[0].reshape(spectrum.shape)
    noise = np.fft.rfftn(np.random.default_rng(seed).standard_normal(volume.shape))  # phases with the right symmetry
    turned = np.abs(spectrum) * noise / np.maximum(np.abs(noise), 1e-12)
    return np.fft.irfftn(np.where(shell >= start, turned, spectrum), s=volume.shape, axes=(0, 1, 2)).astype(np.float32)
