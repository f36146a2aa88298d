"""FourierNet: Hermitian by definition, initialised as published, and the slice of a volume that projections see."""

import numpy as np
import pytest
import torch

from equipose.config.settings import DecoderLayers, DecoderOmega
from equipose.core.fourier import from_half_disc, shift_phase
from equipose.core.volumes import real_volume
from equipose.model.autoencoder import Autoencoder, decoder_volume
from equipose.model.decoders import TILE, FourierNet


@pytest.fixture
def net() -> FourierNet:
    torch.manual_seed(0)
    return FourierNet(32, 16, DecoderLayers(), DecoderOmega(), "float32")


def test_opposite_frequencies_have_conjugate_values(net):
    k = torch.randn(50, 3) * 10
    on_planes = torch.cartesian_prod(*[torch.arange(-2.0, 3.0)] * 3)
    for frequencies in (k, on_planes):
        assert torch.allclose(net(-frequencies), net(frequencies).conj())
    assert net(torch.zeros(3)).imag == 0
    elsewhere = on_planes[(on_planes != 0).any(1)]
    assert (net(elsewhere).imag != 0).all()


def test_the_networks_see_the_half_space_of_positive_x_scaled_to_1_at_nyquist(net):
    k = torch.randn(TILE**2, 3) * 10
    k[:, 0] = k[:, 0].abs() + 1
    seen = (k / 16).view(1, TILE, TILE, 3)
    expected = (torch.exp(net.envelope(seen)) * net.modulant(seen)).view(-1, 2)
    assert torch.allclose(torch.view_as_real(net(k)), expected)


def test_the_published_size_multiplies_330240_times_a_point():
    net = FourierNet(128, 256, DecoderLayers(), DecoderOmega(), "float32")
    assert sum(p.numel() for name, p in net.named_parameters() if "weight" in name) == 330_240


def test_omega_scales_the_argument_of_the_sine():
    """One hidden layer written out: W2 sin(ω (W1 sin(ω (W0 x + b0)) + b1)) + b2."""
    from equipose.model.decoders import Siren

    siren = Siren(width=8, hidden=1, omega=30.0, precision="float32")
    first, second, last = siren.layers
    x = torch.randn(5, TILE, TILE, 3)
    expected = last(torch.sin(30 * second(torch.sin(30 * first(x)))))
    assert torch.allclose(siren(x), expected, atol=1e-4)
    assert first.weight.abs().max() <= 1 / 3
    assert second.weight.abs().max() <= np.sqrt(6 / 8) / 30


class GaussianBlobs(torch.nn.Module):
    """The exact transform of three Gaussians in a box, in FourierNet's place."""

    def __init__(self, box: int) -> None:
        super().__init__()
        self.box, self.sigma = box, 1.6
        self.register_buffer("centres", torch.tensor([[3.0, 1.0, -2.0], [-4.0, 2.0, 1.0], [0.0, -3.0, 4.0]]))

    def forward(self, k: torch.Tensor) -> torch.Tensor:
        frequency = k / self.box
        decay = torch.exp(-2 * (torch.pi * self.sigma) ** 2 * frequency.square().sum(-1))
        phase = -2 * torch.pi * (frequency @ self.centres.T)
        return (decay[..., None] * torch.polar(torch.ones_like(phase), phase)).sum(-1) / self.box


def blob_model(small_run) -> Autoencoder:
    model = Autoencoder(small_run(), image_scale=1.0)
    model.decoder = GaussianBlobs(32)
    return model


def gaussian(distance_squared: torch.Tensor, sigma: float, dimensions: int) -> torch.Tensor:
    return torch.exp(-distance_squared / (2 * sigma**2)) / (2 * torch.pi * sigma**2) ** (dimensions / 2)


def test_a_slice_is_the_projection_of_the_rotated_blobs_about_the_array_centre(small_run):
    """Analytic: blob c lands at (R c)_xy + shift from (L - 1)/2, x along columns (Eq. 1, 8)."""
    from equipose.core.rotations import random_rotations

    model = blob_model(small_run)
    rotation = torch.from_numpy(random_rotations(1, np.random.default_rng(3))).float()
    shift = torch.tensor([[2.25, -1.5]])
    coefficients = model.slices(rotation) * shift_phase(shift - 0.5, model.disc)
    image = from_half_disc(coefficients, model.disc)[0]
    row, column = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    expected = torch.zeros(32, 32)
    for centre in model.decoder.centres:
        x, y, _ = rotation[0] @ centre
        distance = (column - 15.5 - x - shift[0, 0]) ** 2 + (row - 15.5 - y - shift[0, 1]) ** 2
        expected += gaussian(distance, model.decoder.sigma, 2)
    assert torch.allclose(image, expected, atol=2e-4 * float(expected.max()))


def test_the_decoder_s_volume_is_centred_on_voxel_half_box(small_run):
    model = blob_model(small_run)
    volume = torch.from_numpy(decoder_volume(model))
    z, y, x = torch.meshgrid(*3 * [torch.arange(32.0) - 16], indexing="ij")
    expected = sum(
        gaussian((x - c[0]) ** 2 + (y - c[1]) ** 2 + (z - c[2]) ** 2, model.decoder.sigma, 3)
        for c in model.decoder.centres
    )
    assert torch.allclose(volume, expected, atol=1e-3 * float(expected.max()))


def test_a_moved_volume_is_evaluated_not_interpolated(small_run):
    """V(A x) has its blobs at Aᵀ c, for rotations and reflections."""
    model = blob_model(small_run)
    centres = model.decoder.centres.clone()
    rng = np.random.default_rng(0)
    motion = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    moved = decoder_volume(model, motion)
    model.decoder.centres.copy_(centres @ torch.from_numpy(motion).float())
    assert np.allclose(moved, decoder_volume(model), atol=1e-6)


def test_the_volume_of_a_transform_is_what_it_is_the_transform_of_below_nyquist() -> None:
    """Of white noise, whose highest frequencies show."""
    box = 12
    whole = torch.randn(box, box, box, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    axis = torch.fft.fftfreq(box, 1 / box)
    kz, ky, kx = torch.meshgrid(axis, axis, axis, indexing="ij")
    spectrum = torch.fft.fftn(torch.roll(whole, (-box // 2,) * 3, (0, 1, 2)))  # about voxel box/2
    inside = kx**2 + ky**2 + kz**2 < (box / 2) ** 2

    def transform(k: torch.Tensor) -> torch.Tensor:
        x, y, z = k.long().T
        return spectrum[z, y, x] / box

    expected = torch.roll(torch.fft.ifftn(spectrum * inside).real, (box // 2,) * 3, (0, 1, 2))
    assert np.allclose(real_volume(transform, box, chunk=100), expected)
