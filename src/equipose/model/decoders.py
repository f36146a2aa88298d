"""FourierNet: the volume as a neural field in Fourier space (paper, Apx. B; Levy et al. 2022)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from equipose.config.settings import DecoderLayers, DecoderOmega, Precision

TILE = 8
"""Points are arranged in TILE × TILE tiles, (tiles, TILE, TILE, channels): see `affine`."""


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """weight x + bias for tiles of points (tiles, TILE, TILE, channels).

    On a CPU as a 1×1 convolution, oneDNN's: twice the speed of MKL's matrix product on AMD processors, where MKL keeps
    to AVX2 (tests/benchmarks/README.md), and the same speed elsewhere.
    """
    if x.device.type != "cpu":
        return functional.linear(x, weight, bias)
    return functional.conv2d(x.permute(0, 3, 1, 2), weight[:, :, None, None], bias).permute(0, 2, 3, 1)


class Siren(nn.Module):
    """A perceptron from 3 to 2 channels with sine activations, for tiles of points: sin(ω (W x + b)) layers, then a
    linear one.

    `hidden` sine layers follow the first. Initialised as cryoAI's: first layer U(±1/fan_in), others
    U(±sqrt(6/fan_in)/ω). With `precision` bfloat16 the hidden layers train in it; the first layer, whose phases are
    the largest, and the last stay as they are.
    """

    def __init__(self, width: int, hidden: int, omega: float, precision: Precision) -> None:
        super().__init__()
        self.omega, self.precision = omega, precision
        sizes = [3] + [width] * (hidden + 1) + [2]
        layers = [nn.Linear(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True)]
        self.layers = nn.ModuleList(layers)
        for index, layer in enumerate(layers):
            bound = 1 / layer.in_features if index == 0 else math.sqrt(6 / layer.in_features) / omega
            nn.init.uniform_(layer.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        first, *hidden, last = (layer for layer in self.layers if isinstance(layer, nn.Linear))  # all of them
        # ω goes into the small weights, not the large activations.
        x = torch.sin(affine(x, self.omega * first.weight, self.omega * first.bias))
        if self.training and self.precision == "bfloat16":
            x = x.bfloat16()
        for layer in hidden:
            x = torch.sin(affine(x, (self.omega * layer.weight).to(x), (self.omega * layer.bias).to(x)))
        return affine(x.to(last.weight), last.weight, last.bias)


class FourierNet(nn.Module):
    """V̂(k) = exp(envelope(k)) · modulant(k), element-wise on (re, im), with V̂(-k) = V̂(k)* by definition (Eq. 10).

    The values are those of slices in unitary units: the transform of a projection of `box` pixels as
    `fourier.to_half_disc` gives it, which is 1/box times the volume's transform about voxel box/2.
    """

    def __init__(self, box: int, width: int, layers: DecoderLayers, omega: DecoderOmega, precision: Precision) -> None:
        super().__init__()
        self.box = box
        self.envelope = Siren(width, layers.envelope, omega.envelope, precision)
        self.modulant = Siren(width, layers.modulant, omega.modulant, precision)

    def forward(self, k: Tensor) -> Tensor:
        """Values (...), complex, at frequencies `k` (..., 3) in cycles per box."""
        kx, ky, kz = k.split(1, -1)
        side = torch.where(kx == 0, torch.where(ky == 0, kz, ky), kx)  # a grid's points may lie on the plane between
        flip = torch.where(side < 0, -1.0, 1.0)
        x = (flip * k * (2 / self.box)).reshape(-1, 3)  # [-1, 1] at Nyquist
        points = len(x)
        x = functional.pad(x, (0, 0, 0, -points % TILE**2)).view(-1, TILE, TILE, 3)
        values = torch.exp(self.envelope(x)) * self.modulant(x)
        real, imaginary = values.reshape(-1, 2)[:points].view(*k.shape[:-1], 2).unbind(-1)
        conjugate = torch.where((k == 0).all(-1), 0.0, flip[..., 0])  # V̂(0) is its own conjugate: real
        return torch.complex(real, imaginary * conjugate)
