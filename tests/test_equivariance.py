"""The test that matters: the whole pipeline commutes with in-plane motions, CTF and shifts included."""

import dataclasses

import pytest
import torch

from equipose import rotations
from equipose.autoencoder import Autoencoder
from equipose.encoders import EquivariantEncoder, VectorHead
from equipose.fourier import from_half_disc
from equipose.groups import motions, move_images

ASTIGMATIC = torch.tensor([[24000.0, 16000.0, 25.0, 300.0, 2.7, 0.1, 10.0]], dtype=torch.float64)


def pipeline(model: Autoencoder, images: torch.Tensor, motion: torch.Tensor) -> torch.Tensor:
    """Reconstructed images; their CTFs have been moved by `motion` with the images."""
    parameters = ASTIGMATIC.expand(len(images), -1)
    return from_half_disc(model.decode(*model.encoder(images), parameters, motion), model.disc)


def equivariance_error(model: Autoencoder, group: str) -> float:
    """Largest ‖pipeline(L_g I) - L_g pipeline(I)‖ / ‖pipeline(I)‖ over the group."""
    images = torch.randn(3, 32, 32, dtype=torch.float64)
    elements = motions(group).double()
    with torch.no_grad():
        still = pipeline(model, images, elements[0])
        return max(
            float((pipeline(model, move_images(g, images), g) - move_images(g, still)).norm() / still.norm())
            for g in elements
        )


@pytest.mark.parametrize("group", ["c4", "d4"])
@pytest.mark.parametrize("training", [True, False])
def test_the_pipeline_commutes_with_every_motion_of_the_group(small_run, group, training):
    torch.manual_seed(0)
    model = Autoencoder(small_run(f"{group}_l2"), image_scale=1.0).double().train(training)
    assert equivariance_error(model, group) < 1e-9


def averaging(small_run, turns: int) -> Autoencoder:
    torch.manual_seed(0)
    run = small_run("d4_l2")
    run = dataclasses.replace(run, model=dataclasses.replace(run.model, turns=turns))
    return Autoencoder(run, image_scale=1.0).double().eval()


def test_one_turn_is_the_encoder_itself(small_run):
    model, images = averaging(small_run, 1), torch.randn(3, 32, 32, dtype=torch.float64)
    assert all(torch.equal(*parts) for parts in zip(model.poses(images), model.encoder(images), strict=True))


def test_averaged_poses_commute_with_every_motion_of_d4(small_run):
    model, images = averaging(small_run, 3), torch.randn(3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        rotation, shift = model.poses(images)
        for g in motions("d4").double():
            moved_rotation, moved_shift = model.poses(move_images(g, images))
            assert torch.allclose(moved_rotation, rotations.pose_action(g) @ rotation, atol=1e-9)
            assert torch.allclose(moved_shift, shift @ g.T, atol=1e-9)


def test_averaging_leaves_the_poses_of_an_encoder_that_is_equivariant_under_all_turns(small_run):
    """One that reads the content's centre and the angle at which it lies."""

    class Centroid(torch.nn.Module):
        def forward(self, images):
            axis = torch.arange(32, dtype=images.dtype) - 15.5
            mass = images.sum((1, 2))
            x, y = (images.sum(1) @ axis) / mass, (images.sum(2) @ axis) / mass
            c, s = x / torch.hypot(x, y), y / torch.hypot(x, y)
            zero, one = torch.zeros_like(x), torch.ones_like(x)
            rows = [c, -s, zero, s, c, zero, zero, zero, one]
            return torch.stack(rows, 1).view(-1, 3, 3), torch.stack([x, y], 1)

    once, often = averaging(small_run, 1), averaging(small_run, 6)
    once.encoder = often.encoder = Centroid()
    y, x = torch.meshgrid(*[torch.arange(32, dtype=torch.float64) - 15.5] * 2, indexing="ij")
    images = torch.stack([torch.exp(-((x - a) ** 2 + (y - b) ** 2) / 12) for a, b in ((5, 1), (-3, 4), (2, -6))])
    for found, expected in zip(often.poses(images), once.poses(images), strict=True):
        assert torch.allclose(found, expected, atol=0.01)


def test_the_standard_encoder_does_not_commute(small_run):
    torch.manual_seed(0)
    model = Autoencoder(small_run("standard_sym"), image_scale=1.0).double().eval()
    assert equivariance_error(model, "d4") > 0.1


def test_the_representation_printed_in_eq_4_breaks_it(small_run):
    """diag(-1, 1, -1) belongs to f = diag(-1, 1); with Eq. 3's f = diag(1, -1) the pipeline is not equivariant."""
    f, printed_f = torch.diag(torch.tensor([1.0, -1.0])), torch.diag(torch.tensor([-1.0, 1.0, -1.0]))

    def printed(g: torch.Tensor) -> torch.Tensor:
        """Eq. 4 of g = f^c r, literally."""
        return rotations.pose_action(g) if torch.linalg.det(g) > 0 else printed_f @ rotations.pose_action(f @ g)

    class Printed(EquivariantEncoder):
        @staticmethod
        def _head(group, fields, action, vectors):
            if vectors == 2:
                action = torch.stack([printed(g) for g in motions(group)])
            return EquivariantEncoder._head(group, fields, action, vectors)

    torch.manual_seed(0)
    config = small_run("d4_l2")
    model = Autoencoder(config, image_scale=1.0)
    model.encoder = Printed("d4", config.model, 32)
    assert isinstance(model.encoder.rotation_head[-1], VectorHead)
    assert equivariance_error(model.double().eval(), "d4") > 0.1


def test_only_the_half_pixel_makes_it_so(small_run):
    """Decoding about the transform's origin L/2 instead of the array's centre (L - 1)/2 breaks equivariance."""
    torch.manual_seed(0)
    model = Autoencoder(small_run("d4_l2"), image_scale=1.0).double().eval()
    half_pixel = 0.5 * model.voxel_size
    encode = model.encoder.forward
    model.encoder.forward = lambda images: (encode(images)[0], encode(images)[1] + half_pixel)
    assert equivariance_error(model, "d4") > 0.01
