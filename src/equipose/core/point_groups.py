"""Point groups of rotations: C1, Cn, Dn, T, O and I, with RELION's axes.

A molecule with a point group looks the same after each of its rotations S, V(S x) = V(x). Poses R and R S then show the
same image: they are *mates*, and no image tells them apart. Mates differ by a factor on the right, since a rotation of
the volume acts there (`rotations`).

Axes are those of RELION 3.1 (`relion_refine --sym NAME --print_symmetry_ops`): the n-fold axis of Cn and Dn lies on z,
the twofold axis of Dn on x. T has a threefold axis on z, O a fourfold one on z and a threefold one along (1, 1, 1). I
is I2: twofold axes on x, y and z, and a fivefold one in the xz plane.
"""

import functools
import re

import numpy as np
from scipy.spatial.transform import Rotation

from equipose.errors import ConfigError

Axis = tuple[int, tuple[float, float, float]]
"""The order of an axis, and its direction."""

GOLDEN = (1 + 5**0.5) / 2

POLYHEDRAL: dict[str, tuple[Axis, ...]] = {
    "T": ((3, (0, 0, 1)), (2, (0, 2**0.5, 1))),
    "O": ((4, (0, 0, 1)), (3, (1, 1, 1))),
    "I": ((2, (0, 0, 1)), (5, (1, 0, GOLDEN))),
}
"""Two axes that generate each of these groups."""

ALONE = np.eye(3)[None]
"""C1, the group of a molecule without symmetry: the identity alone, (1, 3, 3)."""

LARGEST = 60
"""The highest n of Cn and Dn."""


def check_symmetry(name: str) -> None:
    """Raises ConfigError unless `name` is a point group that is known here."""
    known = re.fullmatch(r"[CD]([1-9][0-9]?)|[TOI]", name.upper())
    if not known or int(known[1] or 1) > LARGEST:
        raise ConfigError(
            f"symmetry {name} is not known: it is C1, Cn or Dn (n from 2 to {LARGEST}), T, O or I, such as C4 or D7"
        )


@functools.lru_cache(maxsize=8)
def group(name: str) -> np.ndarray:
    """The rotations (g, 3, 3) of a point group; the first one is the identity. Raises ConfigError for other names."""
    found = ALONE
    for turn in generators(name):
        found = _closed(found, turn)
    return found


def generators(name: str) -> list[np.ndarray]:
    """One or two rotations (3, 3) from which all others of a point group follow; that of the highest order comes first
    in Cn and Dn. Raises ConfigError for a name that is no group's.
    """
    check_symmetry(name)
    letter, order = name[0].upper(), int(name[1:] or 1)
    axes: tuple[Axis, ...] = POLYHEDRAL.get(letter, ((order, (0, 0, 1)),))
    return [turn_about(*axis) for axis in (*axes, *([(2, (1, 0, 0))] if letter == "D" else []))]


def turn_about(order: int, axis: tuple[float, float, float] | np.ndarray) -> np.ndarray:
    """The rotation (3, 3) by 360°/`order` about an axis of any length."""
    return Rotation.from_rotvec(2 * np.pi / order * np.asarray(axis, float) / np.linalg.norm(axis)).as_matrix()


def mates(rotations: np.ndarray, group: np.ndarray) -> np.ndarray:
    """All poses R S (n, g, 3, 3) with the same images as the poses (n, 3, 3), for the point `group` (g, 3, 3)."""
    return rotations[:, None] @ group


def nearest_mates(rotations: np.ndarray, to: np.ndarray, group: np.ndarray) -> np.ndarray:
    """For each pose (n, 3, 3), its mate nearest to the pose `to` (n, 3, 3)."""
    if len(group) == 1:
        return rotations
    every = mates(rotations, group)
    return every[np.arange(len(every)), np.einsum("ngij,nij->ng", every, to).argmax(1)]


def _closed(found: np.ndarray, generator: np.ndarray) -> np.ndarray:
    """The smallest group with all rotations of the group `found` (g, 3, 3) and the `generator`."""
    generators, known = [*found, generator], list(found)
    for rotation in known:  # grows while it is read
        for other in generators:
            product = rotation @ other
            if np.max([np.trace(product.T @ each) for each in known]) < 3 - 1e-6:
                known.append(product)
    return np.stack(known)
