"""The published training step, as cryoAI and the paper compute it: the oracle of tests/test_reference.py, and what the
benchmarks divide our times by. It shares no code with the package.

All L² frequencies of the square go through the decoder, an inverse FFT makes images of them, and the squared error is
taken over pixels. Under L_sym an image and its copy turned by 180° both pass through encoder and decoder, and the
backward pass runs through both, though the loser's gradient is zero.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


def gram_schmidt(v1: Tensor, v2: Tensor) -> Tensor:
    """cryoAI's map of two vectors (b, 3) to a rotation (b, 3, 3)."""
    b1 = v1 / v1.norm(dim=-1, keepdim=True)
    b2 = v2 - (b1 * v2).sum(-1, keepdim=True) * b1
    b2 = b2 / b2.norm(dim=-1, keepdim=True)
    return torch.stack([b1, b2, torch.linalg.cross(b1, b2)], dim=-1)


def svd(v1: Tensor, v2: Tensor) -> Tensor:
    """The paper's map (Eq. 19, 20): the rotation nearest to [v1, v2, v1 × v2]."""
    u, _, vh = torch.linalg.svd(torch.stack([v1, v2, torch.linalg.cross(v1, v2)], dim=-1))
    sign = torch.ones_like(v1)
    sign[:, 2] = torch.linalg.det(u @ vh)
    return (u * sign[:, None]) @ vh


def contrast_transfer(parameters: Tensor, k: Tensor, box_angstrom: float) -> Tensor:
    """CTF (b, n) of parameters (b, 7) at k (n, 2) in cycles per box, positive at low frequency."""
    u, v, angle, voltage, cs, contrast, phase = parameters[:, :, None].unbind(1)
    wavelength = 12.2643247 / torch.sqrt(voltage * 1e3 + 0.978466e-6 * (voltage * 1e3) ** 2)
    s2 = k.square().sum(-1) / box_angstrom**2
    azimuth = torch.atan2(k[:, 1], k[:, 0])
    defocus = 0.5 * (u + v + (u - v) * torch.cos(2 * (azimuth - torch.deg2rad(angle))))
    aberration = 0.5 * math.pi * cs * 1e7 * wavelength**3 * s2**2
    return torch.sin(math.pi * wavelength * defocus * s2 - aberration + torch.deg2rad(phase) + torch.arcsin(contrast))


class Encoder(nn.Module):
    """cryoAI's CNN: images (b, L, L) → two vectors (b, 3) and a shift (b, 2) in Å, the filters inside."""

    def __init__(self, widths: list[int], head_widths: tuple[int, ...]) -> None:
        super().__init__()
        x = torch.arange(-5.0, 6.0)
        filters = [torch.exp(-(x[:, None] ** 2 + x**2) / (2 * 0.01 * 10.0**i)) for i in range(5)]
        self.register_buffer("filters", torch.stack([f / f.sum() for f in filters])[:, None])
        layers: list[nn.Module] = []
        for block, (before, after) in enumerate(pairwise([5, *widths])):
            for source in [before, after, after] if block == 2 else [before, after]:
                layers += [nn.Conv2d(source, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
            layers.append(nn.MaxPool2d(2) if block < 3 else nn.AvgPool2d(2))
        self.features = nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten())
        self.rotation_head = self.head([4 * widths[-1], *head_widths], 6)
        self.shift_head = self.head([4 * widths[-1], *head_widths], 2)

    @staticmethod
    def head(sizes: list[int], target: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.BatchNorm1d(after)]
        return nn.Sequential(*layers, nn.Linear(sizes[-1], target))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        filtered = functional.conv2d(functional.pad(images[:, None], (5, 5, 5, 5), mode="reflect"), self.filters)
        mean, deviation = filtered.mean((2, 3), keepdim=True), filtered.std((2, 3), keepdim=True)
        features = self.features((filtered - mean) / (deviation + 1e-6) * 0.226 + 0.45)
        vectors = self.rotation_head(features)
        return vectors[:, :3], vectors[:, 3:], self.shift_head(features)


class Siren(nn.Module):
    def __init__(self, width: int, hidden: int, omega: float) -> None:
        super().__init__()
        self.omega = omega
        sizes = [3] + [width] * (hidden + 1) + [2]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = torch.sin(self.omega * layer(x))
        return self.layers[-1](x)


class Published(nn.Module):
    """Standard encoder and FourierNet with the weights of `model`, an `equipose.model.autoencoder.Autoencoder`.

    `orthogonalize` is `gram_schmidt` or `svd`. `disc` leaves out the frequencies |k| ≥ L/2, as the package does, and
    `centre` is the point, in pixels from L/2, about which shifts are measured: -0.5 is the package's.
    """

    def __init__(
        self, model: nn.Module, orthogonalize: Callable = svd, disc: bool = False, centre: float = 0.0
    ) -> None:
        super().__init__()
        config = model.config.model
        self.box, self.voxel_size, self.shift_scale = model.box, model.voxel_size, config.shift_scale
        self.orthogonalize, self.disc, self.centre = orthogonalize, disc, centre
        self.gradient_clip = config.gradient_clip
        blocks = int(math.log2(self.box)) - 2
        widths = [config.widths[min(block, len(config.widths) - 1)] for block in range(blocks)]
        self.encoder = Encoder(widths, config.head_widths)
        layers, omega = config.decoder_layers, config.decoder_omega
        self.envelope = Siren(config.decoder_width, int(layers.envelope), omega.envelope)
        self.modulant = Siren(config.decoder_width, int(layers.modulant), omega.modulant)
        with torch.no_grad():
            for own, theirs in zip(self.parameters(), model.parameters(), strict=True):
                own.copy_(theirs)

    def decode(self, rotations: Tensor, shifts: Tensor, parameters: Tensor) -> Tensor:
        """Images (b, L, L) of poses (b, 3, 3), shifts (b, 2) in Å and CTF parameters (b, 7)."""
        axis = torch.arange(self.box, dtype=shifts.dtype) - self.box // 2
        ky, kx = torch.meshgrid(axis, axis, indexing="ij")
        k = torch.stack([kx, ky], dim=-1).reshape(-1, 2)
        x = torch.einsum("bji,nj->bni", rotations[:, :2], k) * (2 / self.box)
        flip = torch.where(x[..., :1] < 0, -1.0, 1.0).to(x)  # one half of space is learnt, the other is its conjugate
        values = torch.exp(self.envelope(flip * x)) * self.modulant(flip * x)
        volume = torch.complex(values[..., 0], values[..., 1] * flip[..., 0])
        pixels = shifts / self.voxel_size + self.centre
        phase = torch.exp(-2j * math.pi / self.box * (pixels @ k.T))
        coefficients = volume * contrast_transfer(parameters, k, self.box * self.voxel_size) * phase
        if self.disc:
            coefficients = coefficients * (k.square().sum(-1) < (self.box / 2) ** 2)
        spectrum = torch.fft.ifftshift(coefficients.view(-1, self.box, self.box), dim=(-2, -1))
        return torch.fft.fftshift(torch.fft.ifft2(spectrum, norm="ortho"), dim=(-2, -1)).real

    def loss(self, images: Tensor, parameters: Tensor) -> Tensor:
        """L_sym (Eq. 6) over images (b, L, L) with CTF parameters (b, 7)."""
        copies = torch.cat([images, images.flip((-2, -1))])
        v1, v2, shifts = self.encoder(copies)
        reconstructed = self.decode(self.orthogonalize(v1, v2), self.shift_scale * shifts, parameters.repeat(2, 1))
        errors = (reconstructed - copies).square().mean((1, 2)).view(2, -1)
        return errors.min(0).values.mean()


def training_step(model: Published, optimizer: torch.optim.Optimizer, images: Tensor, parameters: Tensor) -> Tensor:
    """One update, as cryoAI's trainer makes it; returns the loss."""
    loss = model.loss(images, parameters)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), model.gradient_clip)
    optimizer.step()
    return loss.detach()
