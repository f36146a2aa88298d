"""The package's loss and gradients are those of the published formulation, which tests/benchmarks/reference.py writes
out: all L² frequencies, inverse FFT, pixels compared, both copies decoded with gradients."""

import pytest
import torch
from benchmarks import reference
from torch import Tensor

from equipose.core.fourier import from_half_disc, half_disc, to_half_disc
from equipose.model import rotation_tensors
from equipose.model.autoencoder import Autoencoder
from equipose.model.losses import LOSSES

BOX = 32


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Images with nothing outside the disc, and astigmatic CTFs with a phase plate."""
    torch.manual_seed(0)
    images = torch.randn(6, BOX, BOX, dtype=torch.float64)
    parameters = torch.tensor([24000.0, 16000.0, 25.0, 300.0, 2.7, 0.1, 10.0], dtype=torch.float64).repeat(6, 1)
    parameters[:, 0] += 500 * torch.arange(6)
    return from_half_disc(to_half_disc(images, half_disc(BOX)), half_disc(BOX)), parameters


def pair(small_run, orthogonalize: str, **choices: object) -> tuple[Autoencoder, reference.Published]:
    """Our standard model and the published one with the same weights and filters, in float64."""
    torch.manual_seed(1)
    ours = Autoencoder(small_run("standard_sym", BOX), image_scale=1.0).double().train()
    published = reference.Published(ours, getattr(reference, orthogonalize), **choices).double().train()
    # Both make the filters in float32, and a rounding there would show in the comparison below.
    profile = ours.encoder.features[0].profile
    filters = (profile[:, :, None] * profile[:, None])[:, None]
    assert torch.allclose(filters, published.encoder.filters, atol=1e-7)
    published.encoder.filters.copy_(filters)
    return ours, published


@pytest.mark.parametrize("orthogonalize", ["gram_schmidt", "svd"])
def test_loss_and_gradients_are_those_of_the_published_step(small_run, batch, monkeypatch, orthogonalize):
    """L_sym of the standard model, over the same disc and about the same centre."""
    if orthogonalize == "svd":  # the equivariant encoders' closed form against the decomposition
        monkeypatch.setattr(rotation_tensors, "gram_schmidt", rotation_tensors.nearest_rotation)
    ours, published = pair(small_run, orthogonalize, disc=True, centre=-0.5)
    loss, expected = LOSSES["sym"](ours, *batch), published.loss(*batch)
    loss.backward()
    expected.backward()
    assert torch.allclose(loss, expected, rtol=1e-12, atol=0)
    for own, their in zip(ours.parameters(), published.parameters(), strict=True):
        assert (own.grad - their.grad).norm() <= 1e-8 * their.grad.norm() + 1e-12


@pytest.mark.parametrize("choices", [{"disc": True, "centre": 0.0}, {"disc": False, "centre": -0.5}])
def test_it_is_the_disc_and_the_centre_that_set_the_two_apart(small_run, batch, choices):
    ours, published = pair(small_run, "gram_schmidt", **choices)
    with torch.no_grad():
        assert abs(LOSSES["sym"](ours, *batch) / published.loss(*batch) - 1) > 1e-6
