"""Losses: Fourier-space errors are real-space ones, and the symmetric losses are the paper's Eq. 6."""

import pytest
import torch

from equipose.config.settings import MarchingConfig
from equipose.core.fourier import from_half_disc, half_disc, to_half_disc
from equipose.core.groups import move_images
from equipose.model.autoencoder import Autoencoder
from equipose.model.losses import LOSSES

BOX = 32


def ctf_parameters(count: int, astigmatism: float = 4000.0) -> torch.Tensor:
    rows = torch.tensor([20000 + astigmatism, 20000 - astigmatism, 30.0, 300.0, 2.7, 0.1, 0.0]).double()
    return rows.expand(count, -1)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(4, BOX, BOX, dtype=torch.float64)


def model_of(small_run, name: str) -> Autoencoder:
    torch.manual_seed(1)
    return Autoencoder(small_run(name), image_scale=1.0).double().train()


def test_l2_is_the_mean_squared_error_of_band_limited_images(small_run, images):
    model = model_of(small_run, "standard_sym")
    smooth = from_half_disc(to_half_disc(images, model.disc), model.disc)
    with torch.no_grad():
        reconstruction = from_half_disc(model.decode(*model.encoder(smooth), ctf_parameters(4)), model.disc)
        expected = (reconstruction - smooth).square().mean()
        assert torch.allclose(LOSSES["l2"](model, smooth, ctf_parameters(4)), expected)


def published_symmetric_loss(model, images, parameters, motion):
    """Eq. 6 as written: both copies through the whole pipeline, gradients through both, images compared."""
    copies = torch.cat([images, move_images(motion, images)])
    rotations, shifts = model.encoder(copies)
    motions = torch.stack([torch.eye(2), motion]).double().repeat_interleave(len(images), 0)
    predicted = from_half_disc(model.decode(rotations, shifts, parameters.repeat(2, 1), motions), model.disc)
    target = from_half_disc(model.target(copies), model.disc)
    errors = (predicted - target).square().mean((1, 2)).view(2, -1)
    return errors.min(0).values.mean(), errors


@pytest.mark.parametrize("name", ["sym", "mir"])
def test_symmetric_losses_and_their_gradients_are_the_published_ones(small_run, images, name):
    model = model_of(small_run, "standard_sym")
    motion = torch.diag(torch.tensor({"sym": (-1.0, -1.0), "mir": (1.0, -1.0)}[name]))
    expected, errors = published_symmetric_loss(model, images, ctf_parameters(4), motion)
    assert 0 < (errors[0] < errors[1]).sum() < 4, "both paths win for some image"
    expected.backward()
    published = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    loss = LOSSES[name](model, images, ctf_parameters(4))
    loss.backward()
    assert torch.allclose(loss, expected)
    for ours, theirs in zip(model.parameters(), published, strict=True):
        assert torch.allclose(ours.grad, theirs, atol=1e-10)


@pytest.mark.parametrize(("model_name", "loss"), [("c4_l2", "sym"), ("d4_l2", "sym"), ("d4_l2", "mir")])
def test_a_symmetric_loss_is_trivial_for_a_group_that_holds_its_motion(small_run, images, model_name, loss):
    model = model_of(small_run, model_name)
    with torch.no_grad():
        both = LOSSES[loss](model, images, ctf_parameters(4))
        assert torch.allclose(both, LOSSES["l2"](model, images, ctf_parameters(4)))


def test_the_mirror_loss_is_not_trivial_for_c4(small_run, images):
    model = model_of(small_run, "c4_mir").eval()
    with torch.no_grad():
        assert LOSSES["mir"](model, images, ctf_parameters(4)) < LOSSES["l2"](model, images, ctf_parameters(4)) - 1e-4


def test_an_astigmatic_ctf_moves_with_its_image(small_run):
    """A perfect reconstruction of an image is a perfect reconstruction of its mirror image, astigmatism included."""
    from equipose.core.groups import motions
    from equipose.model.rotation_tensors import nearest_rotation, pose_action

    model = model_of(small_run, "d4_l2")
    rotations = nearest_rotation(torch.randn(4, 3).double(), torch.randn(4, 3).double())
    shifts = torch.randn(4, 2, dtype=torch.float64) * 10
    with torch.no_grad():
        image = from_half_disc(model.decode(rotations, shifts, ctf_parameters(4)), model.disc)
        for g in motions("d4").double():
            moved = model.decode(pose_action(g) @ rotations, shifts @ g.T, ctf_parameters(4), g)
            assert torch.allclose(from_half_disc(moved, model.disc), move_images(g, image), atol=1e-10)


def marching_model(small_run, steps: int) -> Autoencoder:
    torch.manual_seed(1)
    return Autoencoder(small_run("d4_l2", marching=MarchingConfig(first_radius=4.0, steps=steps)), image_scale=1.0)


@pytest.mark.parametrize(("step", "radius"), [(0, 4), (50, 10), (100, 16), (150, 16)])
def test_marching_shows_the_loss_a_disc_that_grows_evenly_to_all_of_it(small_run, step, radius):
    model = marching_model(small_run, steps=100)
    for done in range(0, step + 1, 50):
        model.march(done)
    expected = half_disc(BOX, radius)
    assert torch.equal(model.disc.k, expected.k)
    assert torch.equal(model.disc.weights, expected.weights)
    loss = LOSSES["l2"](model.train(), torch.randn(4, BOX, BOX), ctf_parameters(4).float())
    assert loss.isfinite()


def test_without_marching_steps_the_loss_sees_everything_from_the_start(small_run):
    model = marching_model(small_run, steps=0)
    whole = model.disc.k
    model.march(0)
    assert model.disc.k is whole
