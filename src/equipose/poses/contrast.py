"""The contrast of each image: the factor by which its signal is stronger or weaker than the projection of the map.

Ice, dose and defocus make it vary from image to image. A strong image that is taken for an average one seems to fit
every pose badly, and a weak one fits the poses of little signal.
"""

from torch import Tensor

PRIOR = 4.0
"""The inverse variance of contrasts that are not known yet: they are 1 ± 0.5."""

LEAST, MOST = 0.2, 5.0
"""Contrasts beyond these are none of a molecule."""


def evidence(target: Tensor, predicted: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """What images tell of their contrasts: ⟨Î, CTF P⟩ and ‖CTF P‖², each (b,), in units of the noise.

    `target` and `predicted` (b, n) are coefficients of images and predictions, and `weights` (n,) the inverse of their
    noise.
    """
    return (target.conj() * predicted).real @ weights, predicted.abs().square() @ weights


def likeliest(before: Tensor, product: Tensor, power: Tensor) -> Tensor:
    """The likeliest contrasts (b,), by the `evidence` of predictions that were made with the contrasts `before`.

    Their mean is 1: the scale of all contrasts is that of the map, and would drift from step to step.
    """
    found = ((product / before + PRIOR) / (power / before**2 + PRIOR)).clamp(LEAST, MOST)
    return found / found.mean()
