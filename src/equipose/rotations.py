"""SO(3) as the whole package uses it: one convention, stated once.

Axes are x = column, y = row (MRC order). A pose R maps volume coordinates to image coordinates,

    P_R[V](x, y) = ∫ V(Rᵀ (x, y, z)) dz          (paper, Eq. 1)

which is RELION's ZYZ matrix A. From it follow

* the Fourier slice  V̂(Rᵀ (kx, ky, 0))           (Eq. 8);
* the **viewing direction** Rᵀ e_z, the third *row* of R (the paper says column; the column moves
  under an in-plane rotation of the image, the row does not);
* in-plane motions act on the left, (L_g I)(x) = I(g⁻¹ x)  ⇒  R' = φ_r(g) R,  t' = g t,
  with φ_r(g) = g ⊕ det g (the paper prints diag(-1, 1, -1) for f = diag(1, -1) in Eq. 4, which
  belongs to f = diag(-1, 1));
* a global rotation of the volume acts on the right, V'(x) = V(G x)  ⇒  R' = R G;
* the other hand, V'(x) = V(M x) with det M = -1, shows the same images under R' = F R M.
"""

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

HAND_FLIP = np.diag([1.0, 1.0, -1.0])
"""F: the reflection in the image plane that, with an improper M, turns a pose into the other hand's."""


def random_rotations(count: int, rng: np.random.Generator) -> np.ndarray:
    """Rotations drawn uniformly from SO(3), (count, 3, 3)."""
    return Rotation.random(count, random_state=rng).as_matrix()


def from_relion_angles(angles: np.ndarray) -> np.ndarray:
    """Poses (n, 3, 3) from RELION's (rot, tilt, psi) in degrees, (n, 3)."""
    return Rotation.from_euler("ZYZ", np.reshape(angles, (-1, 3)), degrees=True).inv().as_matrix()


def to_relion_angles(rotations: np.ndarray) -> np.ndarray:
    """RELION's (rot, tilt, psi) in degrees, (n, 3), of poses (n, 3, 3)."""
    inverse = Rotation.from_matrix(np.reshape(rotations, (-1, 3, 3))).inv()
    return inverse.as_euler("ZYZ", degrees=True, suppress_warnings=True)


def viewing_directions(rotations: np.ndarray) -> np.ndarray:
    """Unit vectors (..., 3) in the volume's frame along which (..., 3, 3) poses project."""
    return rotations[..., 2, :]


def other_hand(rotations: np.ndarray) -> np.ndarray:
    """Poses (..., 3, 3) of the mirrored volume V(F x) that show the same images: F R F."""
    return HAND_FLIP @ rotations @ HAND_FLIP


def degrees_from_squared_frobenius(squared: np.ndarray | float) -> np.ndarray | float:
    """Angle in degrees of the rotation between two poses with ‖R - R'‖² = `squared`."""
    return np.degrees(2 * np.arcsin(np.sqrt(np.clip(np.asarray(squared) / 8, 0, 1))))


def pose_action(g: Tensor) -> Tensor:
    """φ_r(g) = g ⊕ det g, (..., 3, 3), of in-plane motions g in O(2), (..., 2, 2)."""
    action = g.new_zeros(*g.shape[:-2], 3, 3)
    action[..., :2, :2] = g
    action[..., 2, 2] = torch.linalg.det(g)
    return action


NO_POSE = 1e-5
"""Size of an encoder's two vectors below which they say nothing: an image whose features are all the same in every
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
