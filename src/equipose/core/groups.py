"""C4 and D4: in-plane motions of the pixel grid, and the convolutions that commute with them.

A motion g in O(2) acts on images as (L_g I)(x) = I(g⁻¹ x), about the array's centre (L - 1)/2, with x = column and
y = row. escnn's y axis points the other way, so its matrices are conjugated by diag(1, -1): its first C4 element,
array `rot90(+1)`, is -90° here.

A regular feature field has one channel for each group element and moves as
[g f](x, h) = f(g⁻¹x, g⁻¹h). The order of the elements and the basis of kernels are escnn's.

kernels.npz holds the bases that the encoders here need, so that escnn itself is needed for others only.
`python -m equipose.core.groups` writes that file.
"""

import functools
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from equipose.errors import ConfigError

Group = Literal["c4", "d4"]
FieldType = Literal["scalar", "regular"]

STORE = Path(__file__).with_name("kernels.npz")
STORED: list[tuple[FieldType, int]] = [("scalar", 3), ("regular", 3), ("regular", 2), ("regular", 1)]
"""Source fields and kernel sizes of the encoders here, for either group."""


@functools.cache
def motions(group: Group) -> Tensor:
    """The group's elements as matrices (|G|, 2, 2) acting on (x, y) = (column, row), in escnn's order."""
    turn, flip_x = torch.tensor([[0.0, 1.0], [-1.0, 0.0]]), torch.diag(torch.tensor([-1.0, 1.0]))
    turns = [torch.linalg.matrix_power(turn, power) for power in range(4)]
    return torch.stack(turns if group == "c4" else [*turns, *(g @ flip_x for g in turns)])


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
    """escnn's basis (n, |G|, c, size, size) of kernels from one `source` field (c channels) to one regular field.

    Raises ConfigError if the basis is not stored and escnn is not installed.
    """
    stored = np.load(STORE)
    if (name := _name(group, source, size)) not in stored:
        return _escnn_basis(group, source, size)
    return torch.from_numpy(stored[name])[:, moved_kernels(group, source, size)]


@functools.cache
def moved_kernels(group: Group, source: FieldType, size: int) -> Tensor:
    """Indices (|G|, c, size, size) of the values of the kernel to element h's channel in the kernel to the identity's.

    K(x, h, h') = K(h⁻¹x, 1, h⁻¹h'): the indices run over the flattened (c, size, size) of h = 1.
    """
    order = len(motions(group))
    channels = 1 if source == "scalar" else order
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


def _escnn_basis(group: Group, source: FieldType, size: int) -> Tensor:
    try:
        with warnings.catch_warnings():  # escnn warns that py3nj is missing, which only SO(3) needs
            warnings.simplefilter("ignore")
            from escnn import gspaces
            from escnn.nn import FieldType as EscnnType
            from escnn.nn import R2Conv
    except ImportError as error:
        raise ConfigError(
            f"kernels of size {size} from {source} fields of {group} come from escnn, which is not installed ({error}):"
            " pip install 'equipose[escnn]'"
        ) from error
    space = {"c4": gspaces.rot2dOnR2, "d4": gspaces.flipRot2dOnR2}[group](4)
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


def _name(group: Group, source: FieldType, size: int) -> str:
    return f"{group}_{source}_{size}"


def main() -> None:
    """Write kernels.npz: of each basis the kernels (n, c · size · size) to the identity's channel."""
    groups: list[Group] = ["c4", "d4"]
    bases = {_name(g, source, size): _escnn_basis(g, source, size) for g in groups for source, size in STORED}
    np.savez_compressed(STORE, **{name: basis[:, 0].flatten(1).numpy() for name, basis in bases.items()})


if __name__ == "__main__":
    main()
