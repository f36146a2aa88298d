"""Images as the Fourier coefficients that carry signal: the half disc 0 ≤ |k| < L/2.

Conventions: arrays are (..., y, x); frequencies are (kx, ky) in cycles per box; the transform is unitary
(`norm="ortho"`) and its origin is pixel L/2, the centre of a RELION box:

    Î(k) = (1/L) Σ_p I(p) exp(-2πi k·(p - L/2) / L)

A real image is determined by half of its plane (Î(-k) = Î(k)*), and a band-limited one by the disc: 39 % of the L²
points. By Parseval ‖I‖² = Σ w |Î|² over the half disc, w = 1 at k = 0 and 2 elsewhere. The Nyquist row and column
have no partner under a quarter turn, and are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class HalfDisc:
    """The frequencies of a half disc: `k` (n, 2) in cycles per box, `weights` (n,), for images of `box` pixels."""

    box: int
    k: Tensor
    weights: Tensor

    @property
    def shells(self) -> Tensor:
        """The whole shell that each frequency lies nearest to, (n,)."""
        return self.k.norm(dim=-1).round().long()

    def to(self, place: torch.device | Tensor) -> "HalfDisc":
        """The same on a device, or on a tensor's device and in its precision."""
        return HalfDisc(self.box, self.k.to(place), self.weights.to(place))

    def split(self, size: int) -> list["HalfDisc"]:
        """Parts of at most `size` frequencies, in order."""
        parts = zip(self.k.split(size), self.weights.split(size), strict=True)
        return [HalfDisc(self.box, k, weights) for k, weights in parts]


def half_disc(box: int, radius: float | None = None) -> HalfDisc:
    """Frequencies with |k| < `radius` (default L/2), one of each pair ±k: kx > 0, or kx = 0 and ky ≥ 0."""
    radius = box / 2 if radius is None else min(radius, box / 2)
    kx, ky = torch.meshgrid(torch.arange(box // 2), torch.arange(-(box // 2) + 1, box // 2), indexing="ij")
    keep = (kx**2 + ky**2 < radius**2) & ((kx > 0) | (ky >= 0))
    k = torch.stack([kx[keep], ky[keep]], dim=-1)
    weights = torch.where((k == 0).all(-1), 1.0, 2.0)
    return HalfDisc(box, k.float(), weights)


def on_disc(values: Sequence[float], disc: HalfDisc) -> Tensor:
    """Values by shell at the frequencies of a disc, (n,)."""
    return torch.tensor(values, dtype=torch.float32)[disc.shells]


def to_half_disc(images: Tensor, disc: HalfDisc) -> Tensor:
    """Coefficients (..., n), complex, of real images (..., L, L)."""
    column, row = disc.k.long().unbind(-1)
    return torch.fft.rfft2(images, norm="ortho")[..., row, column] * _centre_sign(column, row)


def from_half_disc(coefficients: Tensor, disc: HalfDisc) -> Tensor:
    """Real images (..., L, L) with the given coefficients (..., n) and none outside the disc."""
    column, row = disc.k.long().unbind(-1)
    spectrum = coefficients.new_zeros(*coefficients.shape[:-1], disc.box, disc.box // 2 + 1)
    signed = coefficients * _centre_sign(column, row)
    spectrum[..., row, column] = signed
    on_axis = column == 0  # where -k is in the spectrum too; elsewhere the same value is written again
    spectrum[..., torch.where(on_axis, -row, row), column] = torch.where(on_axis, signed.conj(), signed)
    return torch.fft.irfft2(spectrum, s=(disc.box, disc.box), norm="ortho")


def shift_phase(shifts: Tensor, disc: HalfDisc) -> Tensor:
    """Factors (..., n) that move an image's content by +`shifts`, (..., 2) pixels along (x, y)."""
    angle = (-2 * torch.pi / disc.box) * (shifts @ disc.k.T)
    return torch.polar(torch.ones_like(angle), angle)


def _centre_sign(column: Tensor, row: Tensor) -> Tensor:
    return (1 - 2 * ((column + row) % 2)).float()
