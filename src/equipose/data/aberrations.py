"""Beam tilt and anisotropic magnification of optics groups, by RELION 3.1.3's definition: removed from the images.

RELION's model of an image (obs_model.cpp, ctf.h, tilt_helper.cpp) is F(k) = [CTF · V](M k) exp(iφ(M k)), with the
matrix M of the group's magnification, a slice V of the volume, and the phase of a beam tilt t in mrad

    φ(k) = -2·10⁴ π Cs λ² |k|² (t · k), Cs in mm, λ in Å.

So an image without them is F(M⁻¹ k) exp(-iφ(k)). Its CTF is its group's, and its shift is M⁻ᵀ times the old shift.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.fft
import scipy.ndimage

from equipose.core.ctf import CTF_COLUMNS, electron_wavelength
from equipose.errors import ConfigError
from equipose.io.particle_tables import MAGNIFICATION, TILT, of_groups, warn
from equipose.io.particles import Particles

STRONGEST = 0.2
"""Part by which a magnification may differ from 1: a matrix further off has another meaning."""

LARGE_TILT, LARGEST_TILT = 10.0, 100.0
"""mrad. Microscopes have a few at most: a beam tilt above the first may be in another unit, one above the second is."""


@dataclass(frozen=True)
class Aberrations:
    """Beam tilts (n, 2) along (x, y) in mrad and magnification matrices (n, 2, 2) of n particles."""

    tilt: np.ndarray
    magnification: np.ndarray

    def taken_out(self, images: np.ndarray, ctf: np.ndarray, pixel_size: float, rows: np.ndarray) -> np.ndarray:
        """Images (m, L, L) of particles `rows` (m,), with CTF parameters (n, 7) and pixels in Å, without them."""
        tilt, matrix = self.tilt[rows], self.magnification[rows]
        if tilt.any():
            images = _without_tilt(images, tilt, matrix, ctf[rows], pixel_size)
        if (matrix != np.eye(2)).any():
            images = np.stack([_unmagnified(image, own) for image, own in zip(images, matrix, strict=True)])
        return images

    def shifts_in_images(self, shifts: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Shifts (m, 2) in the original images, from shifts in images without aberrations."""
        return np.einsum("nji,nj->ni", self.magnification[rows], shifts)

    def shifts_taken_out(self, shifts: np.ndarray) -> np.ndarray:
        """The inverse of `shifts_in_images`, of all particles."""
        return np.einsum("nji,nj->ni", np.linalg.inv(self.magnification), shifts)


def read_aberrations(star: Path, optics_table: pd.DataFrame, particle_table: pd.DataFrame) -> Aberrations | None:
    """The aberrations in the optics table; None if it has none that matter.

    Raises ConfigError for values that cannot be right, and warns of a beam tilt that may be in another unit.
    """
    tilt = np.stack([of_groups(star, label, optics_table, particle_table) for label in TILT], axis=1)
    if (large := tilt[np.abs(tilt) > LARGEST_TILT]).size:
        raise ConfigError(
            f"star file {star}: a beam tilt of {large[0]:g} is too large: {', '.join(TILT)} are mrad; correct or remove"
            " them (if they are µrad, divide them by 1,000)"
        )
    if (large := tilt[np.abs(tilt) > LARGE_TILT]).size:
        warn(
            f"star file {star}: a beam tilt of {large[0]:g} mrad is more than microscopes have: if {', '.join(TILT)}"
            " are µrad, divide them by 1,000"
        )
    identity = zip(MAGNIFICATION, np.eye(2).ravel(), strict=True)
    matrix = np.stack([of_groups(star, label, optics_table, particle_table, absent) for label, absent in identity], 1)
    matrix = matrix.reshape(-1, 2, 2)
    if (np.abs(matrix - np.eye(2)) > STRONGEST).any():
        raise ConfigError(
            f"star file {star}: {', '.join(MAGNIFICATION)} are further than {STRONGEST:g} from a matrix of one: correct"
            " or remove them"
        )
    if not tilt.any() and (matrix == np.eye(2)).all():
        return None
    return Aberrations(tilt, matrix)


def aberrations_of(star: Path, particles: Particles) -> Aberrations | None:
    return read_aberrations(star, particles.optics_table, particles.particle_table)


def _without_tilt(
    images: np.ndarray, tilt: np.ndarray, matrix: np.ndarray, ctf: np.ndarray, pixel_size: float
) -> np.ndarray:
    size = images.shape[-1]
    row, column = np.meshgrid(scipy.fft.fftfreq(size, pixel_size), scipy.fft.rfftfreq(size, pixel_size), indexing="ij")
    k = np.einsum("nij,jyx->niyx", matrix, np.stack([column, row]))
    voltage, cs = (ctf[:, CTF_COLUMNS.index(name)].astype(float) for name in ("voltage", "spherical_aberration"))
    strength = -2e4 * np.pi * cs * electron_wavelength(voltage) ** 2
    phase = strength[:, None, None] * (k**2).sum(axis=1) * np.einsum("ni,niyx->nyx", tilt, k)
    spectrum = scipy.fft.rfft2(images) * np.exp(-1j * phase)
    return scipy.fft.irfft2(spectrum, s=(size, size)).astype(np.float32)


def _unmagnified(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The image at Mᵀ x about pixel L/2: sampled twice as finely first, so that the spline is exact enough."""
    if (matrix == np.eye(2)).all():
        return image
    size = len(image)
    fine = scipy.fft.irfft2(_padded(scipy.fft.rfft2(image), size), s=(2 * size, 2 * size)) * 4
    rows_first = matrix.T[::-1, ::-1]
    centre = np.full(2, size // 2)
    offset = 2 * (centre - rows_first @ centre)
    moved = scipy.ndimage.affine_transform(fine, 2 * rows_first, offset, (size, size), order=3, mode="grid-wrap")
    return (moved * abs(np.linalg.det(matrix))).astype(np.float32)


def _padded(spectrum: np.ndarray, size: int) -> np.ndarray:
    """The real transform (size, size/2 + 1) with zeros beyond Nyquist, of an image twice as fine."""
    wide = np.zeros((2 * size, size + 1), spectrum.dtype)
    half = (size + 1) // 2
    wide[:half, : spectrum.shape[1]] = spectrum[:half]
    wide[-(size - half) :, : spectrum.shape[1]] = spectrum[half:]
    return wide
