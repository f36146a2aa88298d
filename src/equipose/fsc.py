"""Fourier shell correlation of two volumes, and the resolution read from it (paper, Apx. F, Eq. 31).

Shell k holds the frequencies of |k| cycles per box, gathered by the rule named in `ShellRule`; box · voxel size / k is
its resolution in Å. Programs differ in the rule, and so by several hundredths in the curve: RELION rounds, cryoDRGN
takes the floor and prints floor-shell i - 1 in its row i.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.fft

ShellRule = Literal["rint", "floor"]

THRESHOLDS = (0.5, 0.143)


@dataclass(frozen=True)
class Crossings:
    """Resolutions in Å where a curve falls below a threshold the first and the last time; None if never above it."""

    first: float | None
    last: float | None


def fourier_shell_correlation(a: np.ndarray, b: np.ndarray, shells: ShellRule = "rint") -> np.ndarray:
    """FSC (L/2,) of shells 0 to L/2 - 1 of two volumes (L, L, L), unmasked.

    Shell L/2 is left out: the Fourier transform of a reconstruction ends there. An empty or constant volume has no
    signal to correlate and gives 0.
    """
    box = a.shape[0]
    shell, weight = _shells(box, shells)
    fa, fb = scipy.fft.rfftn(a.astype(np.float64)), scipy.fft.rfftn(b.astype(np.float64))

    def shell_sum(values: np.ndarray) -> np.ndarray:
        return np.bincount(shell, (weight * values).ravel(), minlength=box // 2)[: box // 2]

    cross = shell_sum(fa.real * fb.real + fa.imag * fb.imag)
    power = shell_sum(fa.real**2 + fa.imag**2) * shell_sum(fb.real**2 + fb.imag**2)
    return np.divide(cross, np.sqrt(power), out=np.zeros(box // 2), where=power > 0)


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


def _shells(box: int, rule: ShellRule) -> tuple[np.ndarray, np.ndarray]:
    """Shell number (flat) of every coefficient of `rfftn`, and how many of the full transform it stands for."""
    full = np.fft.fftfreq(box, 1 / box)
    half = np.arange(box // 2 + 1)
    radius = np.sqrt(full[:, None, None] ** 2 + full[:, None] ** 2 + half**2)
    shell = (np.rint(radius) if rule == "rint" else np.floor(radius)).astype(np.int64)
    weight = np.where((half == 0) | (half == box // 2), 1.0, 2.0)
    return shell.ravel(), np.broadcast_to(weight, radius.shape)
