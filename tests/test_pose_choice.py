"""Test-time augmentation: of the poses at several turns of an image, the nearest to the best refined one is taken."""

import dataclasses

import torch

from equipose.core.fourier import from_half_disc
from equipose.core.groups import motions, move_images
from equipose.model import rotation_tensors
from equipose.model.autoencoder import Autoencoder
from equipose.poses.pose_choice import pose_finder
from equipose.poses.search import _generators, random_rotations


def asking(small_run, turns: int, hypotheses: int = 1) -> Autoencoder:
    torch.manual_seed(0)
    run = small_run("d4_l2")
    run = dataclasses.replace(run, model=dataclasses.replace(run.model, turns=turns, hypotheses=hypotheses))
    return Autoencoder(run, image_scale=1.0).double().eval()


def round_ctf(count: int) -> torch.Tensor:
    """Parameters of a CTF without astigmatism, which no motion changes."""
    return torch.tensor([[15000.0, 15000.0, 0.0, 300.0, 2.7, 0.1, 0.0]], dtype=torch.float64).repeat(count, 1)


def test_one_turn_is_the_encoder_itself(small_run):
    model, images = asking(small_run, 1), torch.randn(3, 32, 32, dtype=torch.float64)
    found, expected = pose_finder(model)(images, round_ctf(3)), model.encoder(images)
    assert all(torch.equal(*parts) for parts in zip(found, expected, strict=True))
    assert not any(part.requires_grad for part in found), "all images' intermediate values would stay in memory"


def test_poses_of_several_turns_commute_with_every_motion_of_d4(small_run):
    model, images = asking(small_run, 3), torch.randn(3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        rotation, shift = pose_finder(model)(images, round_ctf(3))
        for g in motions("d4").double():
            moved_rotation, moved_shift = pose_finder(model)(move_images(g, images), round_ctf(3))
            assert torch.allclose(moved_rotation, rotation_tensors.pose_action(g) @ rotation, atol=1e-9)
            assert torch.allclose(moved_shift, shift @ g.T, atol=1e-9)


def test_an_answer_is_turned_back_onto_the_image(small_run):
    """An encoder that is equivariant under all turns gives the same pose at each turn."""

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
        for found, expected in zip(
            pose_finder(often)(images, round_ctf(3)), pose_finder(once)(images, round_ctf(3)), strict=True
        ):
            assert torch.allclose(found, expected, atol=0.01)


def test_the_turn_that_reconstructs_an_image_best_gives_its_pose(small_run):
    """The choice is right even if the encoder knows the pose of only one turned copy."""

    class KnowsTheSecondTurn(torch.nn.Module):
        calls = 0

        def forward(self, images):
            self.calls += 1
            angle = torch.tensor(torch.pi / 4, dtype=images.dtype)
            turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).view(2, 2)
            known = rotation_tensors.pose_action(turn) @ true if self.calls == 2 else true.flip(0)
            return known, torch.zeros(3, 2, dtype=images.dtype)

    model = asking(small_run, 2)
    true = torch.linalg.qr(torch.randn(3, 3, 3, dtype=torch.float64))[0]
    true = true * torch.linalg.det(true)[:, None, None]
    with torch.no_grad():
        unmoved = torch.zeros(3, 2, dtype=torch.float64)
        images = from_half_disc(model.decode(true, unmoved, round_ctf(3)), model.disc)
        model.encoder = KnowsTheSecondTurn()
        assert torch.allclose(pose_finder(model)(images, round_ctf(3))[0], true)


def test_an_answer_in_the_right_place_counts_before_one_that_looks_better(small_run):
    """A pose 20° from the right one explains less of an image than the best of many wrong poses."""
    blobs = torch.tensor([[4.0, 1, 0], [-3, 5, 1], [-1, -4, 3], [2, 1, -6]])
    weights = torch.tensor([1.0, 1.5, 1.2, 0.8])

    class Blobs(torch.nn.Module):
        def forward(self, k):
            phases = torch.exp(-2j * torch.pi / 32 * (k @ blobs.to(k).T))
            envelope = torch.exp(-0.5 * (2 * torch.pi / 32 * 1.5) ** 2 * k.square().sum(-1, keepdim=True))
            return (envelope * phases * weights.to(k)).sum(-1)

    class TwoAnswers(torch.nn.Module):
        def forward(self, images):
            return torch.stack([wrong, off], 1), torch.zeros(len(images), 2).to(images)

    model = asking(small_run, 1, hypotheses=2)
    model.decoder, model.encoder = Blobs(), TwoAnswers()
    generator = torch.Generator().manual_seed(1)
    true = random_rotations(20, generator).double()
    axis = torch.nn.functional.normalize(torch.randn(20, 3, generator=generator, dtype=torch.float64), dim=1)
    off = torch.matrix_exp(torch.einsum("bi,ijk->bjk", axis * torch.pi / 9, _generators(axis))) @ true
    unmoved = torch.zeros(20, 2, dtype=torch.float64)
    with torch.no_grad():
        target = model.decode(true, unmoved, round_ctf(20))
        others = random_rotations(2000, generator).double()
        errors = torch.stack([model.errors(each.expand(20, 3, 3), unmoved, round_ctf(20), target) for each in others])
        errors[(others[:, None] - true).square().sum((2, 3)) < 2] = torch.inf
        wrong = others[errors.argmin(0)]
        images = from_half_disc(target, model.disc)
        looks_better = errors.amin(0) < model.errors(off, unmoved, round_ctf(20), target)
        found, _ = pose_finder(model)(images, round_ctf(20))
    right = (found - off).square().sum((1, 2)) == 0
    assert looks_better.sum() >= 5
    assert right.sum() >= 19
