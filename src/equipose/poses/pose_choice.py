"""A trained model's poses: it may give several for each image, and one of them is chosen.

A loss with several paths (L_sym, L_mir) trains the moved copy of an image that is reconstructed best, and no other. So
the model's pose is that of the best copy, moved back onto the image, as in cryoAI. The encoder's own pose of the other
copies stays wrong where nothing has corrected it.

With test-time augmentation, `turns` above 1, the encoder sees an image at so many angles between 0 and 90°. It is
equivariant under quarter turns only; in between, its errors differ, and it often gives the right pose at one angle and
a wrong one at another. With `hypotheses` above 1, the encoder gives several poses each time.

A pose that is some degrees off the right one may explain an image no better than a pose from elsewhere. So each pose is
refined on the model's own volume. The encoder's pose nearest to the best refined pose is chosen, and it is returned as
the encoder gave it, without refinement.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from equipose.core.ctf import ctf
from equipose.core.fourier import half_disc, to_half_disc
from equipose.core.fourier_grid import sampled, with_slopes
from equipose.core.groups import move_images, turn_images
from equipose.model.autoencoder import Autoencoder
from equipose.model.encoders import training_precision
from equipose.model.losses import PATHS
from equipose.model.rotation_tensors import pose_action
from equipose.poses.search import refine_poses

EncoderPoses = tuple[Tensor, Tensor]
"""Rotations (b, 3, 3) and shifts (b, 2) in Å about the array's centre, (L - 1)/2, as the encoder gives them."""

SHELLS = 10
"""Largest radius, in shells, for the choice of poses. Of 16, the first 10 do as well as all, with 39 % of the points.
"""

ITERATIONS = 4
"""Gauss-Newton steps from each of the encoder's poses. On 1,000 images of the ribosome at SNR 1 with 16 poses each, the
mean squared error is 0.12. Without refinement it is 0.21; that of the best poses is 0.08.
"""


PoseFinder = Callable[[Tensor, Tensor], EncoderPoses]
"""From images (b, L, L), in the model's scale, and CTF parameters (b, 7) to their poses."""


def pose_finder(model: Autoencoder) -> PoseFinder:
    """The model's poses: those of the best path if its loss has several, else the encoder's own.

    The function holds for the model's present weights.
    """
    return best_path_finder(model) or own_pose_finder(model)


def best_path_finder(model: Autoencoder) -> PoseFinder | None:
    """For each image, the pose of its moved copy with the best reconstruction; None if the loss has one path.

    Moving image, CTF and pose together does not change the error, so all paths are compared on the image itself.
    """
    motions = PATHS.get(model.config.model.loss, PATHS["l2"])
    if len(motions) == 1:
        return None
    paths = torch.tensor(motions, device=model.frequencies.device)

    @torch.no_grad()
    def find(images: Tensor, parameters: Tensor) -> EncoderPoses:
        answers = [_move_back(g, *model.encoder(move_images(g, images))) for g in paths]
        return model.best_poses(answers, parameters, images)

    return find


@torch.no_grad()
def own_pose_finder(model: Autoencoder) -> PoseFinder:
    """The encoder's own poses of the images as they are, chosen among `turns` and `hypotheses` if there are several.

    The function samples the model's volume once to choose among poses.
    """
    turns = model.config.model.turns
    if turns * model.config.model.hypotheses == 1:
        return torch.no_grad()(lambda images, parameters: model.encoder(images))
    device = model.frequencies.device
    radius = min(SHELLS, model.box // 2)
    disc = half_disc(model.box, radius).to(model.frequencies)
    field = with_slopes(sampled(lambda k: model.decoder(k.to(model.frequencies)), radius, device), radius)

    @torch.no_grad()
    def find(images: Tensor, parameters: Tensor) -> EncoderPoses:
        rotations, shifts = turned_answers(model, images, turns)
        count = rotations.shape[1]
        target = to_half_disc(images, disc).repeat_interleave(count, 0)
        transfer = ctf(parameters, disc.k, model.box * model.voxel_size).repeat_interleave(count, 0)
        centred = shifts / model.voxel_size - 0.5  # pixels about the transform's origin
        poses = rotations.flatten(0, 1), centred.flatten(0, 1)
        refined, _, errors = refine_poses(field, radius, target, transfer, disc, *poses, ITERATIONS)
        rows = torch.arange(len(images), device=device)
        best = refined.unflatten(0, (-1, count))[rows, errors.view(-1, count).argmin(1)]
        nearest = (rotations - best[:, None]).square().sum((2, 3)).argmin(1)
        return rotations[rows, nearest], shifts[rows, nearest]

    return find


def turned_answers(model: Autoencoder, images: Tensor, turns: int) -> EncoderPoses:
    """The encoder's poses of images (b, L, L) at all turns: rotations (b, c, 3, 3) and shifts (b, c, 2) in Å.

    They are computed in the precision of training: bfloat16 is twice as fast at 64 px, with the same mean squared error
    of 3.5e-4.
    """
    rotations, shifts = [], []
    with training_precision(model.encoder):
        for angle in torch.arange(turns).to(images) * (torch.pi / 2 / turns):
            turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).view(2, 2)
            for found, moved in model.answers(images if angle == 0 else turn_images(turn, images)):
                rotations.append(torch.cat([turn.T @ found[:, :2], found[:, 2:]], 1))
                shifts.append(moved @ turn)
    return torch.stack(rotations, 1), torch.stack(shifts, 1)


def _move_back(g: Tensor, rotations: Tensor, shifts: Tensor) -> EncoderPoses:
    """The pose of an image, from the pose of its copy moved by g (2, 2): φ_r(g)ᵀ R, gᵀ t, about the array's centre."""
    return pose_action(g).T @ rotations, shifts @ g
