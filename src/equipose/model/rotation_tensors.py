"""Rotations for the networks: functions of tensors with gradients, in the convention of `rotations`.

They stand apart from `rotations` so that tables, plans and the command line need not load PyTorch.
"""

import torch
from torch import Tensor


def pose_action(g: Tensor) -> Tensor:
    """φ_r(g) = g ⊕ det g, (..., 3, 3), of in-plane motions g in O(2), (..., 2, 2)."""
    action = g.new_zeros(*g.shape[:-2], 3, 3)
    action[..., :2, :2] = g
    action[..., 2, 2] = torch.linalg.det(g)
    return action


NO_POSE = 1e-5
"""Two vectors of an encoder that are smaller than this give no pose: the image's features are the same in every
direction. One such image, read as a degenerate matrix, once had 5,000 times the loss of any other.
"""


def nearest_rotation(v1: Tensor, v2: Tensor) -> Tensor:
    """The rotation nearest to M = [v1, v2, v1 × v2], (..., 3, 3), for v1, v2 of shape (..., 3) (Eq. 19, 20).

    v1 × v2 is orthogonal to both, so MᵀM is block diagonal and the polar factor M (MᵀM)^(-1/2) has a
    closed form: no SVD, and a gradient that stays finite where singular values coincide. However small v1 and v2
    are, the result is a rotation; below `NO_POSE` they hold rounding errors, and no gradient flows into them.
    """
    poses = (v1.square().sum(-1, True) + v2.square().sum(-1, True)).detach() > NO_POSE**2
    v1, v2 = torch.where(poses, v1, v1.detach()), torch.where(poses, v2, v2.detach())
    size = (v1.square().sum(-1, True) + v2.square().sum(-1, True)).clamp_min(torch.finfo(v1.dtype).tiny).sqrt()
    v1, v2 = v1 / size, v2 / size
    cross = torch.linalg.cross(v1, v2)
    a, b, c = (v1 * v1).sum(-1, True), (v1 * v2).sum(-1, True), (v2 * v2).sum(-1, True)
    s = torch.linalg.vector_norm(cross, dim=-1, keepdim=True).clamp_min(torch.finfo(v1.dtype).tiny ** 0.25)
    scale = 1 / (s * torch.sqrt(a + c + 2 * s))
    column1 = ((c + s) * v1 - b * v2) * scale
    column2 = ((a + s) * v2 - b * v1) * scale
    return torch.stack([column1, column2, cross / s], dim=-1)


def gram_schmidt(v1: Tensor, v2: Tensor) -> Tensor:
    """cryoAI's map of v1, v2, (..., 3), to a rotation (..., 3, 3): v1 keeps its direction, v2 gives way."""
    column1 = torch.nn.functional.normalize(v1, dim=-1)
    column2 = torch.nn.functional.normalize(v2 - (column1 * v2).sum(-1, True) * column1, dim=-1)
    return torch.stack([column1, column2, torch.linalg.cross(column1, column2)], dim=-1)
