"""The package's one convention for SO(3) and poses.

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

from typing import overload

import numpy as np
from scipy.spatial.transform import Rotation

HAND_FLIP = np.diag([1.0, 1.0, -1.0])
"""F: the reflection in the image plane that, with an improper M, turns a pose into the other hand's."""


def random_rotations(count: int, rng: np.random.Generator) -> np.ndarray:
    """Rotations drawn uniformly from SO(3), (count, 3, 3). `poses.search.random_rotations` draws tensors on a GPU."""
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


def of_inverted(rotations: np.ndarray) -> np.ndarray:
    """Poses (..., 3, 3) of the inverted volume V(-x) that show the same images at the same shifts: diag(-1, -1, 1) R.

    An inversion keeps the axes of every point group. The mirror F moves those of T, whose threefold axis is z.
    """
    return np.diag([-1.0, -1.0, 1.0]) @ rotations


@overload
def degrees_from_squared_frobenius(squared: np.ndarray) -> np.ndarray: ...
@overload
def degrees_from_squared_frobenius(squared: float) -> float: ...
def degrees_from_squared_frobenius(squared: np.ndarray | float) -> np.ndarray | float:
    """Angle in degrees of the rotation between two poses with ‖R - R'‖² = `squared`."""
    return np.degrees(2 * np.arcsin(np.sqrt(np.clip(np.asarray(squared) / 8, 0, 1))))


def half_sphere(count: int) -> np.ndarray:
    """Directions (count, 3) spread evenly over z ≥ 0: a Fibonacci spiral."""
    z = (np.arange(count) + 0.5) / count
    turn = np.pi * (3 - 5**0.5) * np.arange(count)
    return np.stack([np.sqrt(1 - z**2) * np.cos(turn), np.sqrt(1 - z**2) * np.sin(turn), z], axis=1)
