"""C4 and D4: in-plane motions of the pixel grid, and the convolutions that commute with them.

A motion g in O(2) acts on images as (L_g I)(x) = I(g⁻¹ x), about the array's centre (L - 1)/2, with x = column and
y = row. escnn's y axis points the other way, so its matrices are conjugated by diag(1, -1): its first C4 element,
array `rot90(+1)`, is -90° here.

A regular feature field has one channel for each group element and moves as
[g f](x, h) = f(g⁻¹x, g⁻¹h). The order of the elements and the basis of kernels are escnn's.
"""

import functools
import warnings
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Group = Literal["c4", "d4"]
FieldType = Literal["scalar", "regular"]


@functools.cache
def motions(group: Group) -> Tensor:
    """The group's elements as matrices (|G|, 2, 2) acting on (x, y) = (column, row), in escnn's order."""
    space = _escnn_space(group)
    y_up = torch.tensor(np.stack([space.basespace_action(g) for g in space.fibergroup.elements])).round()
    flip_y = torch.diag(torch.tensor([1.0, -1.0], dtype=y_up.dtype))
    return (flip_y @ y_up @ flip_y).float()


def move_images(g: Tensor, images: Tensor) -> Tensor:
    """L_g of images (..., L, L), for g (2, 2) one of D4's matrices: exact, a transposition and flips."""
    (a, b), (c, d) = g.round().int().tolist()
    if a:  # the axes keep their places: pixel (x, y) is read from gᵀ(x, y) = (a x, d y)
        flipped = [axis for axis, sign in ((-1, a), (-2, d)) if sign < 0]
    else:  # they change places: read from (c y, b x)
        images = images.transpose(-1, -2)
        flipped = [axis for axis, sign in ((-1, b), (-2, c)) if sign < 0]
    return images.flip(flipped)


def turn_images(turn: Tensor, images: Tensor) -> Tensor:
    """L_g of images (b, L, L), for any rotation g (2, 2) about the array's centre, by cubic interpolation."""
    matrix = torch.cat([turn.T, turn.new_zeros(2, 1)], 1).expand(len(images), 2, 3)
    points = functional.affine_grid(matrix, [len(images), 1, *images.shape[1:]], align_corners=False)
    return functional.grid_sample(images[:, None], points, mode="bicubic", align_corners=False)[:, 0]


@functools.cache
def kernel_basis(group: Group, source: FieldType, size: int) -> Tensor:
    """escnn's basis (n, |G|, c, size, size) of kernels from one `source` field (c channels) to one regular field."""
    space = _escnn_space(group)
    from escnn.nn import FieldType as EscnnType
    from escnn.nn import R2Conv

    source_type = EscnnType(space, [space.trivial_repr if source == "scalar" else space.regular_repr])
    target_type = EscnnType(space, [space.regular_repr])
    # escnn's defaults give an empty basis for 2×2 kernels; these rings span all of it.
    even = {"rings": [0.5], "sigma": [0.6], "frequencies_cutoff": 4.0} if size == 2 else {}
    layer = R2Conv(source_type, target_type, size, bias=False, initialize=False, **even)
    one_hot = torch.eye(layer.weights.numel())
    kernels = torch.stack([layer.basisexpansion(weights) for weights in one_hot]).double()
    kernels = kernels.view(len(one_hot), target_type.size, source_type.size, size, size)
    # escnn's numbers are symmetric to 1e-7; their mean over the group is so to the last bit.
    moved = [_move_kernels(group, index, kernels) for index in range(len(motions(group)))]
    return torch.stack(moved).mean(0).float()


@functools.cache
def moved_kernels(group: Group, source: FieldType, size: int) -> Tensor:
    """Indices (|G|, c, size, size) of the values of the kernel to element h's channel in the kernel to the identity's.

    K(x, h, h') = K(h⁻¹x, 1, h⁻¹h'): the indices run over the flattened (c, size, size) of h = 1.
    """
    order, channels = kernel_basis(group, source, size).shape[1:3]
    labels = torch.arange(channels * size**2).view(1, 1, channels, size, size).expand(1, order, -1, -1, -1)
    return torch.stack([_move_kernels(group, h, labels)[0, h] for h in range(order)])


def _move_kernels(group: Group, index: int, kernels: Tensor) -> Tensor:
    """Kernels (n, |G|, |G| or 1, size, size) under element g: K(x, h, h') → K(g⁻¹x, g⁻¹h, g⁻¹h')."""
    elements = motions(group)
    g = elements[index]
    from_element = (g.T @ elements).flatten(1)[:, None] == elements.flatten(1)
    order = from_element.all(-1).int().argmax(1)  # order[h] = index of g⁻¹h
    kernels = kernels[:, order]
    return move_images(g, kernels[:, :, order] if kernels.shape[2] > 1 else kernels)


@functools.cache
def _escnn_space(group: Group) -> Any:
    with warnings.catch_warnings():  # escnn warns that py3nj is missing, which only SO(3) needs
        warnings.simplefilter("ignore")
        from escnn import gspaces
    return {"c4": gspaces.rot2dOnR2, "d4": gspaces.flipRot2dOnR2}[group](4)
