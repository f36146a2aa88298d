"""Encoders: image → pose. cryoAI's CNN and the paper's steerable CNNs, registered by name in `ENCODERS`.

An encoder is built as `Encoder(config, box)` and maps images (b, L, L) to rotations (b, 3, 3) and shifts (b, 2) in Å,
measured about the array's centre (L - 1)/2, the point that quarter turns and flips of the array leave in place. An
encoder may give several hypotheses of a pose: rotations (b, h, 3, 3), and one shift (b, 2).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from equipose.config.settings import ModelConfig, Precision
from equipose.core.groups import FieldType, Group, kernel_basis, motions, moved_kernels
from equipose.model import rotation_tensors


class GaussianPyramid(nn.Module):
    """Images (b, L, L) through cryoAI's five fixed low-pass filters, (b, 5, L, L), each channel normalised.

    11×11 Gaussians of variance 0.01·10^i px², each summing to one, with mirrored borders; every filtered image is
    scaled to mean 0.45 and standard deviation 0.226 (the loss's target is not).
    """

    channels = 5
    profile: Tensor

    def __init__(self, precision: Precision) -> None:
        super().__init__()
        self.precision = precision
        offset = torch.arange(-5.0, 6.0)
        variance = 0.01 * 10.0 ** torch.arange(self.channels)
        profile = torch.exp(-(offset**2) / (2 * variance[:, None]))
        self.register_buffer("profile", profile / profile.sum(1, keepdim=True), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        # A Gaussian filters rows and columns apart: two matrix products, in a fiftieth of the convolution's time.
        identity = torch.eye(images.shape[-1], dtype=images.dtype, device=images.device)
        borders = functional.pad(identity, (5, 5), mode="reflect").unfold(1, self.profile.shape[1], 1)
        smooth = torch.einsum("pyd,id->iyp", borders, self.profile)
        filtered = torch.einsum("iyp,bpq,ixq->biyx", smooth, images, smooth)
        deviation, mean = torch.std_mean(filtered, dim=(2, 3), keepdim=True)
        normalised = 0.45 + 0.226 * (filtered - mean) / (deviation + 1e-6)
        if self.training and self.precision == "bfloat16":
            normalised = normalised.bfloat16()
        return normalised.contiguous(memory_format=torch.channels_last)


@contextmanager
def training_precision(encoder: nn.Module) -> Iterator[None]:
    """Inside of the block, features are computed in training's precision: faster, and equivariant but for rounding."""
    pyramids = [module for module in encoder.modules() if isinstance(module, GaussianPyramid)]
    for pyramid in pyramids:
        pyramid.train()  # training mode changes only the precision of it
    try:
        yield
    finally:
        for pyramid in pyramids:
            pyramid.train(encoder.training)


def _one_or_all(hypotheses: Tensor) -> Tensor:
    """Rotations (b, h, 3, 3), or (b, 3, 3) if there is one an image."""
    return hypotheses[:, 0] if hypotheses.shape[1] == 1 else hypotheses


def block_widths(widths: tuple[int, ...], box: int) -> list[int]:
    """Channels of the log2(box) - 2 blocks that bring `box` pixels down to 4; the last width repeats if need be."""
    return [widths[min(block, len(widths) - 1)] for block in range(int(math.log2(box)) - 2)]


class Conv(nn.Conv2d):
    """A convolution in the precision of its input."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        return functional.conv2d(x, self.weight.to(x), self.bias.to(x), padding=self.padding)


class StandardEncoder(nn.Module):
    """cryoAI's encoder (Levy et al. 2022, Apx. B): VGG-like blocks, two heads, Gram-Schmidt."""

    def __init__(self, config: ModelConfig, box: int) -> None:
        super().__init__()
        widths = block_widths(config.widths, box)
        layers: list[nn.Module] = [GaussianPyramid(config.precision)]
        for block, (before, after) in enumerate(pairwise([GaussianPyramid.channels, *widths])):
            convolutions = 3 if block == 2 else 2  # the published third block has three
            for source in [before] + [after] * (convolutions - 1):
                layers += [Conv(source, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
            layers.append(nn.MaxPool2d(2) if block < 3 else nn.AvgPool2d(2))
        features = nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten())
        self.features = features.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # not in its hints
        self.rotation_head = self._head(4 * widths[-1], config.head_widths, 6 * config.hypotheses)
        self.shift_head = self._head(4 * widths[-1], config.head_widths, 2)
        self.shift_scale = config.shift_scale

    @staticmethod
    def _head(source: int, hidden: tuple[int, ...], target: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for before, after in pairwise([source, *hidden]):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.BatchNorm1d(after)]
        return nn.Sequential(*layers, nn.Linear(([source, *hidden])[-1], target))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(images).to(images)
        v1, v2 = self.rotation_head(features).unflatten(1, (-1, 2, 3)).unbind(2)  # (b, h, 3) each
        return _one_or_all(rotation_tensors.gram_schmidt(v1, v2)), self.shift_scale * self.shift_head(features)


class GroupConv(nn.Module):
    """Steerable convolution to regular fields: kernels are escnn's basis times weights, applied by one convolution.

    Maps (b, c · fields_in, h, w) to (b, |G| · fields_out, h', w'), c = |G| for regular source fields and 1 for scalars.
    A channel is element · fields + field, so that in channels-last memory the fields lie side by side.
    """

    basis: Tensor
    rows: Tensor

    def __init__(self, group: Group, source: FieldType, fields_in: int, fields_out: int, size: int) -> None:
        super().__init__()
        basis = kernel_basis(group, source, size)
        self.padding = (size - 1) // 2
        self.block_shape = basis.shape[1:]  # (|G|, c, size, size): the kernel between one pair of fields
        # The kernels to the identity's channel hold all numbers; those to the other elements' are the same, moved.
        # They are saved with the weights, which mean nothing in another basis: escnn's hangs on its linear algebra.
        self.register_buffer("basis", basis[:, 0].flatten(1))
        values = self.basis.shape[1]
        moved = moved_kernels(group, source, size).permute(0, 2, 3, 1).flatten(1)  # (|G|, size · size · c)
        rows = values * torch.arange(fields_out)[:, None] + moved[:, None]  # (|G|, fields_out, size · size · c)
        self.register_buffer("rows", rows.flatten(), persistent=False)
        # He's rule for the expanded kernel: mean square of its entries = 2 / fan-in.
        fan_in = fields_in * self.block_shape[1:].numel()
        deviation = math.sqrt(2 / fan_in * self.block_shape.numel() / basis.square().sum().item())
        self.weight = nn.Parameter(torch.randn(fields_out, fields_in, len(basis)) * deviation)
        self.bias = nn.Parameter(torch.zeros(fields_out))

    def kernel(self) -> Tensor:
        """The expanded kernel (|G| · fields_out, c · fields_in, size, size), channels last in memory."""
        order, channels, size, _ = self.block_shape
        fields_out, fields_in, _ = self.weight.shape
        values = (self.basis.T @ self.weight.mT).reshape(-1, fields_in)  # (fields_out · values, fields_in)
        kernel = values.index_select(0, self.rows)
        return kernel.view(order * fields_out, size, size, channels * fields_in).permute(0, 3, 1, 2)

    def forward(self, fields: Tensor) -> Tensor:
        bias = self.bias.repeat(self.block_shape[0])
        return functional.conv2d(fields, self.kernel().to(fields), bias.to(fields), padding=self.padding)


class InnerBatchNorm(nn.Module):
    """Batch normalisation with one mean and variance for all |G| channels of a regular field."""

    def __init__(self, fields: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(fields)  # holds weights and running statistics

    def forward(self, fields: Tensor) -> Tensor:
        norm, order = self.norm, fields.shape[1] // self.norm.num_features
        assert norm.running_mean is not None and norm.running_var is not None  # as in every norm with statistics
        assert norm.momentum is not None and norm.num_batches_tracked is not None
        if not self.training:
            parameters = norm.running_mean, norm.running_var, norm.weight, norm.bias
            mean, variance, weight, bias = (value.repeat(order) for value in parameters)
            return functional.batch_norm(fields, mean, variance, weight, bias, eps=norm.eps)
        normalised, mean, variance = NormaliseFields.apply(fields, norm.weight, norm.bias, norm.eps)
        count = fields.numel() / norm.num_features
        with torch.no_grad():
            norm.running_mean.lerp_(mean, norm.momentum)
            norm.running_var.lerp_(variance * (count / (count - 1)), norm.momentum)
            norm.num_batches_tracked += 1
        return normalised


class NormaliseFields(torch.autograd.Function):
    """Fields (b, |G| · fields, h, w) normalised over all but `fields`, with their means and variances (fields,).

    PyTorch's kernels work on all |G| · fields channels, three times as fast as on `fields` of them; only their sums are
    joined over the group here.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        unused = weight.new_zeros(2, x.shape[1])  # running statistics of channels; they set the results' precision
        statistics = torch.batch_norm_update_stats(x, unused[0], unused[1], 0.0)
        means, variances = (value.view(-1, len(weight)) for value in statistics)
        between, mean = torch.var_mean(means, 0, correction=0)
        variance = variances.mean(0) + between
        every_mean, every_variance, scale, offset = torch.stack([mean, variance, weight, bias]).repeat(1, len(means))
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        return functional.batch_norm(x, every_mean, every_variance, scale, offset, eps=eps), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, variance = ctx.saved_tensors
        order = x.shape[1] // len(weight)
        rate = (variance + ctx.eps).rsqrt()
        means, rates, weights = torch.stack([mean, rate, weight]).repeat(1, order)
        sums = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weights, None, None, means, rates, True, ctx.eps, [False, True, True]
        )[1:]
        d_weight, d_bias = torch.stack(sums).view(2, order, -1).sum(1)
        # d_x = scale · (gradient - mean of gradient - normalised x · mean of gradient · normalised x)
        scale, count = weight * rate, x.numel() / len(weight)
        slope = -scale * rate * d_weight / count
        offset = -scale * d_bias / count - slope * mean
        scale, slope, offset = torch.stack([scale, slope, offset]).repeat(1, order)
        # Scaled and moved in one pass. (Not by an addcmul: with the small tensor first it is thirty times slower.)
        moved = functional.batch_norm(gradient, torch.zeros_like(scale), torch.ones_like(scale), scale, offset, eps=0)
        return moved.addcmul_(x, slope.to(x)[:, None, None]), d_weight, d_bias, None


class VectorHead(nn.Module):
    """Regular fields (b, |G| · fields, 1, 1) → vectors (b, n, d) that move by `action` (|G|, d, d): Σ_g φ(g) W f(g).

    Equivariant by construction, and every equivariant linear map from regular fields is of this form.
    """

    action: Tensor

    def __init__(self, action: Tensor, fields: int, vectors: int) -> None:
        super().__init__()
        order, dimension, _ = action.shape
        self.register_buffer("action", action, persistent=False)
        self.weight = nn.Parameter(torch.randn(vectors, dimension, fields) / math.sqrt(fields * order))

    def forward(self, fields: Tensor) -> Tensor:
        values = fields.reshape(len(fields), -1, self.weight.shape[2])  # (b, |G|, fields)
        return torch.einsum("gde,nef,bgf->bnd", self.action, self.weight, values)


class EquivariantEncoder(nn.Module):
    """The paper's steerable CNN (Apx. E, Fig. 6): E(L_g I) = (φ_r(g) R, g t) for every g of the group.

    Widths count channels over all elements, so that every group costs what the plain CNN costs.
    """

    def __init__(self, group: Group, config: ModelConfig, box: int) -> None:
        super().__init__()
        elements = motions(group)
        order = len(elements)
        fields = [width // order for width in block_widths(config.widths, box)]
        head_fields = [width // order for width in config.head_widths]
        layers: list[nn.Module] = [GaussianPyramid(config.precision)]
        source: FieldType = "scalar"
        for before, after in pairwise([GaussianPyramid.channels, *fields]):
            for width in (before, after):
                layers += [GroupConv(group, source, width, after, 3), nn.ReLU(inplace=True), InnerBatchNorm(after)]
                source = "regular"
            layers.append(nn.MaxPool2d(2))
        # As many features as cryoAI's 2 × 2 × width.
        features = 4 * fields[-1]
        self.features = nn.Sequential(*layers, nn.MaxPool2d(2), GroupConv(group, "regular", fields[-1], features, 2))
        self.rotation_head = self._head(
            group, [features, *head_fields], rotation_tensors.pose_action(elements), 2 * config.hypotheses
        )
        self.shift_head = self._head(group, [features, *head_fields], elements, 1)
        self.shift_scale = config.shift_scale

    @staticmethod
    def _head(group: Group, fields: list[int], action: Tensor, vectors: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for before, after in pairwise(fields):
            layers += [GroupConv(group, "regular", before, after, 1), nn.ReLU(inplace=True), InnerBatchNorm(after)]
        return nn.Sequential(*layers, VectorHead(action, fields[-1], vectors))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(images).to(images)
        v1, v2 = self.rotation_head(features).unflatten(1, (-1, 2)).unbind(2)  # (b, h, 3) each
        hypotheses = rotation_tensors.nearest_rotation(v1, v2)
        return _one_or_all(hypotheses), self.shift_scale * self.shift_head(features).squeeze(1)


def c4(config: ModelConfig, box: int) -> nn.Module:
    """The paper's C4-equivariant encoder."""
    return EquivariantEncoder("c4", config, box)


def d4(config: ModelConfig, box: int) -> nn.Module:
    """The paper's D4-equivariant encoder."""
    return EquivariantEncoder("d4", config, box)


ENCODERS = {"standard": StandardEncoder, "c4": c4, "d4": d4}
"""Encoders by the name that config.yaml gives them: `encoder: NAME` builds ENCODERS[NAME](config, box)."""
