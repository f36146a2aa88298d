"""Optimisers of a run: `make_optimizers` builds those that config.yaml names."""

from collections.abc import Iterable

import torch
from torch import Tensor

from equipose.config.settings import OptimizerConfig
from equipose.model.autoencoder import Autoencoder

MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of a quintic that brings singular values near 1 in five rounds (Jordan et al. 2024)."""


class Muon(torch.optim.Optimizer):
    """Momentum whose update of each weight matrix is made orthogonal, so that all its directions learn alike.

    A tensor of more than two dimensions is one matrix, its first dimension the rows. Updates have the mean square that
    Adam's have, 0.2² of the rate (Liu et al. 2025). torch's own Muon takes matrices only, and works in bfloat16.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override] # no closure that finds the loss again: nobody gives one
        for group in self.param_groups:
            for weight in (weight for weight in group["params"] if weight.grad is not None):
                momentum = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                momentum.mul_(MOMENTUM).add_(weight.grad)
                direction = orthogonal((weight.grad + MOMENTUM * momentum).flatten(1))
                weight.sub_(direction.view_as(weight), alpha=0.2 * group["lr"] * max(direction.shape) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """Nearly U Vᵀ of a matrix U S Vᵀ: five Newton-Schulz rounds leave singular values between 0.7 and 1.2."""
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonal(matrix.T).T
    a, b, c = NEWTON_SCHULZ
    x = matrix / (matrix.norm() + 1e-12)
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def make_optimizers(model: Autoencoder, config: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """Adam for all of `model`, or with `muon` for all but its encoder's weight matrices, which Muon moves.

    Adam has two groups of weights, the decoder's and the encoder's; `rate` is the multiple of Adam's learning rate at
    which a group learns.
    """
    matrices = [weight for weight in model.encoder.parameters() if weight.ndim > 1 and config.name == "muon"]
    others = [weight for weight in model.encoder.parameters() if weight.ndim <= 1 or config.name != "muon"]
    groups = [
        {"params": list(model.decoder.parameters()), "rate": 1.0},
        {"params": others, "rate": config.encoder_rate, "lr": config.encoder_rate * config.learning_rate},
    ]
    adam = torch.optim.Adam(groups, lr=config.learning_rate, amsgrad=config.amsgrad)
    return [adam, Muon(matrices, lr=config.matrix_learning_rate)] if matrices else [adam]


def set_rates(optimizers: list[torch.optim.Optimizer], rates: dict[str, float]) -> None:
    """Give optimisers the learning rate of their kind, "Adam" or "Muon"; a group's `rate` multiplies it."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.get("rate", 1.0) * rates[type(optimizer).__name__]


def training_rates(config: OptimizerConfig, spent: float) -> dict[str, float]:
    """Learning rates by kind of optimiser when a part `spent` of the budget is: constant, then linearly to zero."""
    left = 1.0 if spent <= config.decay_from else (1 - spent) / (1 - config.decay_from)
    return {"Adam": left * config.learning_rate, "Muon": left * config.matrix_learning_rate}


def descend(model: Autoencoder, optimizers: list[torch.optim.Optimizer], loss: Tensor) -> None:
    """One update down the loss's gradient, which is clipped to the norm in the model's configuration."""
    model.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), model.config.model.gradient_clip)
    for optimizer in optimizers:
        optimizer.step()
