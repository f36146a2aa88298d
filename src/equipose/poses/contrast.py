"""The contrast of each image: the factor by which its signal is stronger or weaker than the projection of the map.

Ice, dose and defocus make it vary from image to image. A strong image that is taken for an average one seems to fit
every pose badly, and a weak one fits the poses of little signal.
"""

import torch
from torch import Tensor

from equipose.core.ctf import CTF_COLUMNS

PRIOR = 4.0
"""The inverse variance of contrasts that are not known yet: they are 1 ± 0.5."""

FEW = 2.0
"""If so many images look from around a direction, half of the difference between their mean contrast and that of all
images counts.
"""

LEAST, MOST = 0.2, 5.0
"""The contrast of a molecule lies between these."""


def scaled(parameters: Tensor, contrast: Tensor) -> Tensor:
    """CTF parameters (b, 9) of images whose CTF is that of `parameters`, (b, 7) or (b, 9), times `contrast` (b,)."""
    if parameters.shape[-1] == len(CTF_COLUMNS):
        without_envelope = torch.tensor([0.0, 1.0]).to(parameters).expand(len(parameters), -1)
        parameters = torch.cat([parameters, without_envelope], dim=-1)
    return torch.cat([parameters[:, :-1], parameters[:, -1:] * contrast[:, None]], dim=-1)


def evidence(target: Tensor, predicted: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """What images tell of their contrasts: ⟨Î, CTF P⟩ and ‖CTF P‖², each (b,), in units of the noise.

    `target` and `predicted` (b, n) are coefficients of images and predictions, and `weights` (n,) the inverse of their
    noise.
    """
    return (target.conj() * predicted).real @ weights, predicted.abs().square() @ weights


def likeliest(before: Tensor, product: Tensor, power: Tensor, rotations: Tensor) -> Tensor:
    """The likeliest contrasts (b,), by the `evidence` of predictions that were made with the contrasts `before`.

    Their mean is 1, since the map has a scale of its own, and the two would drift from step to step. The mean around
    each viewing direction of the poses `rotations` (b, 3, 3) is 1, too. A map is damped along directions from which few
    images look. Without this rule these images would be taken for strong ones, and their map would be damped more.
    """
    found = ((product / before + PRIOR) / (power / before**2 + PRIOR)).clamp(LEAST, MOST)
    found = found / usual(found, rotations[:, 2])
    return found / found.mean()


def usual(contrasts: Tensor, directions: Tensor) -> Tensor:
    """The mean (b,) of `contrasts` (b,) around each of the viewing directions (b, 3).

    It is a quadratic form of the direction, fitted to the contrasts. So opposite directions have the same mean, and few
    images hardly change it.
    """
    first, second = torch.triu_indices(3, 3, device=directions.device)
    products = directions[:, first] * directions[:, second]  # (b, 6)
    mean = contrasts.mean()
    apart = products.T @ (contrasts - mean)
    curvature = products.T @ products + FEW * torch.eye(6, device=directions.device)
    return (mean + products @ torch.linalg.solve(curvature, apart)).clamp_min(LEAST)
