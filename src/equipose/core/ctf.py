"""The contrast transfer function, positive at low frequency (protein bright).

The parameters are one tensor (..., 7) in the order of `CTF_COLUMNS`, so they are stored, indexed and moved to a device
like any other data.
"""

import math

import torch
from torch import Tensor

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


def electron_wavelength(voltage: Tensor) -> Tensor:
    """Relativistic wavelength in Å at `voltage` kV."""
    volts = voltage * 1e3
    return 12.2643247 / torch.sqrt(volts * (1 + volts * 0.978466e-6))


def scaled(parameters: Tensor, contrast: Tensor) -> Tensor:
    """CTF parameters (b, 9) of images whose CTF is that of `parameters`, (b, 7) or (b, 9), times `contrast` (b,)."""
    if parameters.shape[-1] == len(CTF_COLUMNS):
        without_envelope = torch.tensor([0.0, 1.0]).to(parameters).expand(len(parameters), -1)
        parameters = torch.cat([parameters, without_envelope], dim=-1)
    return torch.cat([parameters[:, :-1], parameters[:, -1:] * contrast[:, None]], dim=-1)


def ctf(parameters: Tensor, k: Tensor, box_angstrom: float) -> Tensor:
    """CTF (..., n) at frequencies `k`, (..., n, 2) cycles per box, of images `box_angstrom` Å wide.

    CTF = sin(πλ Δf(θ) s² - (π/2) Cs λ³ s⁴ + phase shift + asin(amplitude contrast)),
    Δf(θ) = ½ (U + V + (U - V) cos 2(θ - angle)).
    With nine parameters it is multiplied by scale · exp(-B/4 s²), as in RELION (ctf.h).
    """
    u, v, angle, voltage, cs, contrast, phase, *envelope = parameters.unsqueeze(-2).unbind(-1)
    wavelength = electron_wavelength(voltage)
    x, y = (k / box_angstrom).unbind(-1)
    s2 = x * x + y * y
    double_angle = 2 * torch.deg2rad(angle)
    # s² cos 2(θ - a) = (x² - y²) cos 2a + 2xy sin 2a: no arctangent, and exact at k = 0.
    astigmatic = (x * x - y * y) * torch.cos(double_angle) + 2 * x * y * torch.sin(double_angle)
    defocus_term = math.pi * wavelength * 0.5 * ((u + v) * s2 + (u - v) * astigmatic)
    aberration_term = 0.5 * math.pi * (cs * 1e7) * wavelength**3 * s2 * s2
    wave = torch.sin(defocus_term - aberration_term + torch.deg2rad(phase) + torch.asin(contrast))
    if envelope:
        b_factor, scale = envelope
        wave = wave * scale * torch.exp(-0.25 * b_factor * s2)
    return wave
