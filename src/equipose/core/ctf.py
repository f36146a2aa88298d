"""The contrast transfer function, positive at low frequency (protein bright).

The parameters are one array or tensor (..., 7) in the order of `CTF_COLUMNS`, so they are stored, indexed and moved to
a device like any other data. The formula stands here once, for NumPy and for PyTorch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Values = TypeVar("Values", np.ndarray, "Tensor")

CTF_COLUMNS = (
    "defocus_u",  # Å, underfocus positive
    "defocus_v",  # Å
    "defocus_angle",  # degrees from x (columns) to the axis of defocus_u
    "voltage",  # kV
    "spherical_aberration",  # mm
    "amplitude_contrast",  # fraction
    "phase_shift",  # degrees
)


ENVELOPE_COLUMNS = (
    "b_factor",  # Å², of the amplitude exp(-B/4 s²)
    "scale",  # of the amplitude
)
"""Two more columns, for particles whose file has them."""


def electron_wavelength(voltage: Values) -> Values:
    """Relativistic wavelength in Å at `voltage` kV."""
    volts = voltage * 1e3
    return 12.2643247 / _library(voltage).sqrt(volts * (1 + volts * 0.978466e-6))


def ctf(parameters: Values, k: Values, box_angstrom: float) -> Values:
    """CTF (..., n) at frequencies `k`, (..., n, 2) cycles per box, of images `box_angstrom` Å wide.

    CTF = sin(πλ Δf(θ) s² - (π/2) Cs λ³ s⁴ + phase shift + asin(amplitude contrast)),
    Δf(θ) = ½ (U + V + (U - V) cos 2(θ - angle)).
    With nine parameters it is multiplied by scale · exp(-B/4 s²), as in RELION (ctf.h).
    """
    library = _library(parameters)
    u, v, angle, voltage, cs, contrast, phase, *envelope = library.moveaxis(parameters[..., None, :], -1, 0)
    wavelength = electron_wavelength(voltage)
    x, y = library.moveaxis(k / box_angstrom, -1, 0)
    s2 = x * x + y * y
    double_angle = 2 * library.deg2rad(angle)
    # s² cos 2(θ - a) = (x² - y²) cos 2a + 2xy sin 2a: no arctangent, and exact at k = 0.
    astigmatic = (x * x - y * y) * library.cos(double_angle) + 2 * x * y * library.sin(double_angle)
    defocus_term = math.pi * wavelength * 0.5 * ((u + v) * s2 + (u - v) * astigmatic)
    aberration_term = 0.5 * math.pi * (cs * 1e7) * wavelength**3 * s2 * s2
    wave = library.sin(defocus_term - aberration_term + library.deg2rad(phase) + library.arcsin(contrast))
    if envelope:
        b_factor, scale = envelope
        wave = wave * scale * library.exp(-0.25 * b_factor * s2)
    return wave


def _library(values: np.ndarray | Tensor) -> Any:
    """NumPy or PyTorch, whichever the values are of. PyTorch takes seconds to load: only its own tensors load it."""
    if isinstance(values, np.ndarray):
        return np
    import torch

    return torch
