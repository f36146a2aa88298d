"""Image → pose → image: the paper's pipeline (Sec. 4.2) in Fourier space, from encoder to CTF."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from equipose.config.settings import Precision, RunConfig
from equipose.core import point_groups
from equipose.core.ctf import ctf
from equipose.core.fourier import HalfDisc, half_disc, shift_phase, to_half_disc
from equipose.core.volumes import real_volume
from equipose.io.files import whole_file
from equipose.model.decoders import FourierNet
from equipose.model.devices import usable_precision
from equipose.model.encoders import ENCODERS

CPU_POINTS, CPU_VALUES, GPU_POINTS = 2**14, 2**21, 2**18
"""Values of the decoder's activations (points, width) that it computes at once on a CPU: they fit into a cache."""


class Autoencoder(nn.Module):
    """Encoder and decoder of one run. Images are multiplied by `image_scale` before both.

    `precision` is the run's precision in training, if it is not the configuration's. `dtype` is the type of
    computations that need few digits.
    """

    group: Tensor
    frequencies: Tensor
    weights: Tensor

    def __init__(self, config: RunConfig, image_scale: float, precision: Precision | None = None) -> None:
        super().__init__()
        self.config = config
        self.image_scale = image_scale
        self.found: Tensor | None = None  # map (L, L, L), (z, y, x), that the search ended with, in the images' scale
        self.box = config.dataset.box
        self.voxel_size = config.dataset.voxel_size
        model = dataclasses.replace(config.model, precision=precision or config.model.precision)
        self.precision = model.precision
        self.dtype = getattr(torch, model.precision)
        self.encoder = ENCODERS[model.encoder](model, self.box)
        self.decoder = FourierNet(
            self.box, model.decoder_width, model.decoder_layers, model.decoder_omega, model.precision
        )
        group = torch.from_numpy(point_groups.group(config.dataset.symmetry)).float()
        self.register_buffer("group", group, persistent=False)  # (g, 3, 3) of the particle
        disc = half_disc(self.box)
        self.register_buffer("frequencies", disc.k, persistent=False)
        self.register_buffer("weights", disc.weights, persistent=False)

    @property
    def disc(self) -> HalfDisc:
        return HalfDisc(self.box, self.frequencies, self.weights)

    def answers(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The encoder's poses of images (b, L, L), for each hypothesis: rotations (b, 3, 3) and shifts (b, 2) in Å."""
        rotations, shifts = self.encoder(images)
        return [(each, shifts) for each in (rotations.unbind(1) if rotations.dim() == 4 else [rotations])]

    def best_poses(
        self, answers: list[tuple[Tensor, Tensor]], ctf_parameters: Tensor, images: Tensor
    ) -> tuple[Tensor, Tensor]:
        """For each of `images` (b, L, L), the pose of several that reconstructs it best."""
        if len(answers) == 1:
            return answers[0]
        with torch.no_grad():
            target = self.target(images)
            errors = [self.errors(*poses, ctf_parameters, target) for poses in answers]
            best = torch.stack(errors).argmin(0)
        rows = torch.arange(len(best), device=best.device)
        rotations, shifts = (torch.stack(parts)[best, rows] for parts in zip(*answers, strict=True))
        return rotations, shifts

    @property
    def points(self) -> int:
        """Number of points that the decoder computes at once."""
        on_cpu = self.frequencies.device.type == "cpu"
        return min(CPU_POINTS, CPU_VALUES // self.config.model.decoder_width) if on_cpu else GPU_POINTS

    def march(self, step: int) -> None:
        """Limit the loss at this training step by `training.marching`: to |k| below a radius that grows to L/2."""
        marching = self.config.model.marching
        if step <= marching.steps and marching.steps:
            radius = marching.first_radius + (self.box / 2 - marching.first_radius) * step / marching.steps
            disc = half_disc(self.box, radius).to(self.frequencies.device)
            self.frequencies, self.weights = disc.k, disc.weights

    def slices(self, rotations: Tensor, disc: HalfDisc | None = None) -> Tensor:
        """Central slices V̂(Rᵀ(kx, ky, 0)), (b, n), for rotations (b, 3, 3) (Eq. 8)."""
        return self.decoder((disc or self.disc).k @ rotations[:, :2])

    def decode(
        self,
        rotations: Tensor,
        shifts: Tensor,
        ctf_parameters: Tensor,
        motion: Tensor | None = None,
        disc: HalfDisc | None = None,
    ) -> Tensor:
        """Predicted coefficients (b, n) of images with these poses (Eq. 11), on all of the half disc or a part `disc`.

        Shifts (b, 2) are in Å about the array's centre (L - 1)/2, half a pixel before the transform's origin L/2. The
        images may have been moved by `motion` (2, 2) or (b, 2, 2), and then their (astigmatic) CTF has moved with them.
        """
        disc = disc or self.disc
        k = disc.k if motion is None else disc.k @ motion  # CTF of L_g I at k: that of I at gᵀk
        transfer = ctf(ctf_parameters, k, self.box * self.voxel_size)
        phase = shift_phase(shifts / self.voxel_size - 0.5, disc)
        return transfer * phase * self.slices(rotations, disc)

    def target(self, images: Tensor) -> Tensor:
        """Coefficients (b, n) of images (b, L, L), for the loss."""
        return to_half_disc(images, self.disc)

    def errors(
        self,
        rotations: Tensor,
        shifts: Tensor,
        ctf_parameters: Tensor,
        target: Tensor,
        motion: Tensor | None = None,
        disc: HalfDisc | None = None,
    ) -> Tensor:
        """Squared error per pixel and image, (b,), of the images decoded from these poses, against `target` (b, n).

        By Parseval it is the error of the images without their corners, or, with a smaller `disc`, of its frequencies.
        """
        part_errors = self._part_errors(rotations, shifts, ctf_parameters, target, motion, disc or self.disc)
        return torch.stack(list(part_errors)).sum(0)

    def mean_error(
        self, rotations: Tensor, shifts: Tensor, ctf_parameters: Tensor, target: Tensor, motion: Tensor | None = None
    ) -> Tensor:
        """The mean of `errors` with gradients; it needs the memory of one part of the disc only."""
        if not torch.is_grad_enabled():
            return self.errors(rotations, shifts, ctf_parameters, target, motion).mean()
        weights = list(self.decoder.parameters())
        return MeanError.apply(self, ctf_parameters, target, motion, rotations, shifts, *weights)

    def _part_errors(
        self,
        rotations: Tensor,
        shifts: Tensor,
        ctf_parameters: Tensor,
        target: Tensor,
        motion: Tensor | None,
        whole: HalfDisc,
    ) -> Iterator[Tensor]:
        """The errors (b,) of each part of the disc; a part's activations (points, width) stay in the cache."""
        size = max(1, self.points // len(target))
        for disc, coefficients in zip(whole.split(size), target.split(size, 1), strict=True):
            predicted = self.decode(rotations, shifts, ctf_parameters, motion, disc)
            difference = torch.view_as_real(predicted - coefficients).square().sum(-1)
            yield difference @ disc.weights / self.box**2


class MeanError(torch.autograd.Function):
    """`Autoencoder.mean_error`. The gradients of a sum over frequencies are sums, too. The forward pass decodes each
    part of the disc, differentiates it and forgets it; the backward pass only returns the sums.
    """

    @staticmethod
    def forward(
        ctx: Any,
        model: Autoencoder,
        ctf_parameters: Tensor,
        target: Tensor,
        motion: Tensor | None,
        rotations: Tensor,
        shifts: Tensor,
        *weights: Tensor,
    ) -> Tensor:
        inputs = [rotations.detach().requires_grad_(), shifts.detach().requires_grad_(), *weights]
        gradients = [torch.zeros_like(value) for value in inputs]
        total = target.new_zeros((), dtype=shifts.dtype)
        with torch.enable_grad():
            for errors in model._part_errors(inputs[0], inputs[1], ctf_parameters, target, motion, model.disc):
                mean = errors.mean()
                total += mean.detach()
                torch._foreach_add_(gradients, torch.autograd.grad(mean, inputs))  # on a GPU one launch, not 40
        ctx.gradients = gradients
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, None, *torch._foreach_mul(ctx.gradients, gradient)


@contextmanager
def mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Inside of the block, the model is in training mode, or in evaluation mode."""
    before = model.training
    model.train(training)  # even if it is in that mode: new escnn layers are in neither
    try:
        yield
    finally:
        if before != training:
            model.train(before)


def state(model: nn.Module) -> dict[str, Tensor]:
    """Weights and statistics by name, in training mode: they are saved and loaded only in this mode.

    Some layers have more names in evaluation mode: escnn's layers keep their expanded filters there.
    """
    with mode(model, training=True):
        return model.state_dict()


def load_state(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put what `state` gave into a model."""
    with mode(model, training=True):
        model.load_state_dict(weights)


def save_model(model: Autoencoder, path: Path) -> None:
    """Write weights, configuration, image scale, precision and the search's map; nothing half-written stays."""
    content = {"config": model.config.to_json(), "image_scale": model.image_scale, "weights": state(model)}
    content |= {"precision": model.precision, "found": model.found}
    with whole_file(path) as partial, open(partial, "wb") as file:
        torch.save(content, file)


def load_model(path: Path) -> Autoencoder:
    """The trained model of a run, on the CPU and in evaluation mode, with the precision that it was trained in.

    Files of the first version do not record it: then it is the precision that this machine would choose.

    Examples:
        >>> model = load_model(folder / "model.pt")
        >>> model.box, model.voxel_size
        (32, 17.0)
    """
    content = torch.load(path, map_location="cpu", weights_only=True)
    config = RunConfig.from_json(content["config"], path)
    precision = content.get("precision") or usable_precision(config.model.precision)
    model = Autoencoder(config, content["image_scale"], precision)
    load_state(model, content["weights"])
    model.found = content.get("found")
    return model.eval()


def decoder_volume(model: Autoencoder, motion: np.ndarray | None = None) -> np.ndarray:
    """The decoder's volume: `real_volume` of a continuous function, so nothing is interpolated."""
    device = next(model.parameters()).device
    return real_volume(lambda k: model.decoder(k.to(device)).cpu(), model.box, motion)
