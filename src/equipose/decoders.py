"""FourierNet: the volume as a neural field in Fourier space (paper, Apx. B; Levy et al. 2022)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from equipose.config import DecoderPair


class Siren(nn.Module):
    """A perceptron (n, 3) → (n, 2) with sine activations: sin(ω (W x + b)) layers, then a linear one.

    `hidden` sine layers follow the first. Initialised as cryoAI's: first layer U(±1/fan_in), others
    U(±sqrt(6/fan_in)/ω).
    """

    def __init__(self, width: int, hidden: int, omega: float) -> None:
        super().__init__()
        self.omega = omega
        sizes = [3] + [width] * (hidden + 1) + [2]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True))
        for index, layer in enumerate(self.layers):
            bound = 1 / layer.in_features if index == 0 else math.sqrt(6 / layer.in_features) / omega
            nn.init.uniform_(layer.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            # ω goes into the small weights, not the large activations.
            x = torch.sin(functional.linear(x, self.omega * layer.weight, self.omega * layer.bias))
        return self.layers[-1](x)


class FourierNet(nn.Module):
    """V̂(k) = exp(envelope(k)) · modulant(k), element-wise on (re, im), with V̂(-k) = V̂(k)* by definition (Eq. 10).

    The values are those of slices in unitary units: the transform of a projection of `box` pixels as
    `fourier.to_half_disc` gives it, which is 1/box times the volume's transform about voxel box/2.
    """

    def __init__(self, box: int, width: int, layers: DecoderPair, omega: DecoderPair) -> None:
        super().__init__()
        self.box = box
        self.envelope = Siren(width, int(layers.envelope), omega.envelope)
        self.modulant = Siren(width, int(layers.modulant), omega.modulant)

    def forward(self, k: Tensor) -> Tensor:
        """Values (...), complex, at frequencies `k` (..., 3) in cycles per box."""
        flip = torch.where(k[..., :1] < 0, -1.0, 1.0)
        x = (flip * k * (2 / self.box)).reshape(-1, 3)  # [-1, 1] at Nyquist
        values = torch.exp(self.envelope(x)) * self.modulant(x)
        real, imaginary = values.view(*k.shape[:-1], 2).unbind(-1)
        conjugate = torch.where((k == 0).all(-1), 0.0, flip[..., 0])  # V̂(0) is its own conjugate: real
        return torch.complex(real, imaginary * conjugate)
