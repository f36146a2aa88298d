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


def asking(small_run, turns: int) -> Autoencoder:
    torch.manual_seed(0)
    run = small_run("d4_l2")
    run = dataclasses.replace(run, model=dataclasses.replace(run.model, turns=turns))
    return Autoencoder(run, image_scale=1.0).double().eval()


def round_ctf(count: int) -> torch.Tensor:
    """Parameters of a CTF without astigmatism, which no motion changes."""
    return torch.tensor([[15000.0, 15000.0, 0.0, 300.0, 2.7, 0.1, 0.0]], dtype=torch.float64).repeat(count, 1)


def test_one_turn_is_the_encoder_itself(small_run):
    model, images = asking(small_run, 1), torch.randn(3, 32, 32, dtype=torch.float64)
    found, expected = model.poses(images, round_ctf(3)), model.encoder(images)
    assert all(torch.equal(*parts) for parts in zip(found, expected, strict=True))


def test_poses_of_several_turns_commute_with_every_motion_of_d4(small_run):
    model, images = asking(small_run, 3), torch.randn(3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        rotation, shift = model.poses(images, round_ctf(3))
        for g in motions("d4").double():
            moved_rotation, moved_shift = model.poses(move_images(g, images), round_ctf(3))
            assert torch.allclose(moved_rotation, rotations.pose_action(g) @ rotation, atol=1e-9)
            assert torch.allclose(moved_shift, shift @ g.T, atol=1e-9)


def test_an_answer_is_turned_back_onto_the_image(small_run):
    """Of an encoder that is equivariant under all turns every answer is the same, whichever counts."""

    class Centroid(torch.nn.Module):
        """Reads the content's centre and the angle at which it lies."""

        def forward(self, images):
            axis = torch.arange(32, dtype=images.dtype) - 15.5
            mass = images.sum((1, 2))
            x, y = (images.sum(1) @ axis) / mass, (images.sum(2) @ axis) / mass
            c, s = x / torch.hypot(x, y), y / torch.hypot(x, y)
            zero, one = torch.zeros_like(x), torch.ones_like(x)
            rows = [c, -s, zero, s, c, zero, zero, zero, one]
            return torch.stack(rows, 1).view(-1, 3, 3), torch.stack([x, y], 1)

    once, often = asking(small_run, 1), asking(small_run, 6)
    once.encoder = often.encoder = Centroid()
    y, x = torch.meshgrid(*[torch.arange(32, dtype=torch.float64) - 15.5] * 2, indexing="ij")
    images = torch.stack([torch.exp(-((x - a) ** 2 + (y - b) ** 2) / 12) for a, b in ((5, 1), (-3, 4), (2, -6))])
    with torch.no_grad():
        for found, expected in zip(often.poses(images, round_ctf(3)), once.poses(images, round_ctf(3)), strict=True):
            assert torch.allclose(found, expected, atol=0.01)


def test_the_turn_that_reconstructs_an_image_best_gives_its_pose(small_run):
    """An encoder that knows the pose of one turned copy only is right all the same."""

    class KnowsTheSecondTurn(torch.nn.Module):
        calls = 0

        def forward(self, images):
            self.calls += 1
            angle = torch.tensor(torch.pi / 4, dtype=images.dtype)
            turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).view(2, 2)
            known = rotations.pose_action(turn) @ true if self.calls == 2 else true.flip(0)
            return known, torch.zeros(3, 2, dtype=images.dtype)

    model = asking(small_run, 2)
    true = torch.linalg.qr(torch.randn(3, 3, 3, dtype=torch.float64))[0]
    true = true * torch.linalg.det(true)[:, None, None]
    with torch.no_grad():
        unmoved = torch.zeros(3, 2, dtype=torch.float64)
        images = from_half_disc(model.decode(true, unmoved, round_ctf(3)), model.disc)
        model.encoder = KnowsTheSecondTurn()
        assert torch.allclose(model.poses(images, round_ctf(3))[0], true)


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
