"""Losses: how well a batch is reconstructed, registered by name in `LOSSES` (paper, Sec. 4.4).

A loss is a function (model, images (b, L, L), CTF parameters (b, 7)) → scalar.
"""

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor

from equipose.core.groups import move_images
from equipose.model.autoencoder import Autoencoder

HALF_TURN = ((-1.0, 0.0), (0.0, -1.0))
MIRROR = ((1.0, 0.0), (0.0, -1.0))
IDENTITY = ((1.0, 0.0), (0.0, 1.0))


def l2(model: Autoencoder, images: Tensor, ctf_parameters: Tensor) -> Tensor:
    """Mean squared error of the reconstruction, with the best of the encoder's hypotheses."""
    poses = model.best_poses(model.answers(images), ctf_parameters, images)
    return model.mean_error(*poses, ctf_parameters, model.target(images))


def best_path(
    model: Autoencoder, images: Tensor, ctf_parameters: Tensor, *, motions: tuple[tuple[tuple[float, ...], ...], ...]
) -> Tensor:
    """Each image and its moved copies are encoded; the loss is that of the copy with the best reconstruction (Eq. 6).

    The errors of all copies are found without gradients, and the best copy is decoded again with gradients. This is the
    published gradient, without a backward pass through the decoding of the other copies.
    """
    g = _matrices(motions, images.device).to(images.dtype)  # (p, 2, 2)
    paths, batch = len(motions), len(images)
    copies = torch.cat([move_images(torch.tensor(motion), images) for motion in motions])
    rotations, shifts = model.encoder(copies)
    target = model.target(copies)
    every = ctf_parameters.repeat(paths, 1)
    with torch.no_grad():
        errors = model.errors(rotations, shifts, every, target, g.repeat_interleave(batch, 0))
        winner = errors.view(paths, batch).argmin(0)  # (b,)
    chosen = winner * batch + torch.arange(batch, device=winner.device)
    return model.mean_error(rotations[chosen], shifts[chosen], ctf_parameters, target[chosen], g[winner])


@cache
def _matrices(motions: tuple[tuple[tuple[float, ...], ...], ...], device: torch.device) -> Tensor:
    """Motions (p, 2, 2) on a device, brought there once: a GPU's copy would make every step wait."""
    return torch.tensor(motions, device=device)


PATHS = {"l2": (IDENTITY,), "sym": (IDENTITY, HALF_TURN), "mir": (IDENTITY, MIRROR)}
"""The in-plane motions of each loss that trains the best copy, the identity first; `best_path` scores use them, too. A
loss that is not listed has the identity alone.
"""

LOSSES: dict[str, Callable[[Autoencoder, Tensor, Tensor], Tensor]] = {
    "l2": l2,
    "sym": partial(best_path, motions=PATHS["sym"]),
    "mir": partial(best_path, motions=PATHS["mir"]),
}
"""Losses by the name that config.yaml gives them."""
