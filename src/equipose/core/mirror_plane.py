"""Spurious planar symmetry: the mirror plane of a map, and the mirror plane that its poses imply (paper, Apx. G).

While half of the images sit in each hand, their map is a mixture of the molecule and its mirror image, and has a plane
of symmetry: V(H x) = V(x) for H = 1 - 2 n nᵀ. Such a map gives the same image for a pose R and for its *twin* F R H,
F = diag(1, 1, -1). The twin's viewing direction is -H times R's: on the projective plane, the reflected point.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage, optimize

from equipose.core.point_groups import ALONE
from equipose.core.pose_metrics import HANDS, Alignment, hand_alignments, hand_shares
from equipose.core.resizing import resized
from equipose.core.rotations import HAND_FLIP

DIRECTIONS = 400
"""Planes tried at first, some 8° apart."""

SEARCH_BOX = 32
"""Voxels a side that a larger map is brought down to for the search."""


@dataclass(frozen=True)
class MirrorPlane:
    """A plane with unit `normal` (3,), (x, y, z), at a distance of `offset` voxels from the box's centre.

    `correlation` is that of the map with its mirror image.
    """

    normal: np.ndarray
    offset: float
    correlation: float


def reflection(normal: np.ndarray) -> np.ndarray:
    """H = 1 - 2 n nᵀ (3, 3)."""
    return np.eye(3) - 2 * np.outer(normal, normal)


def degrees_between(a: np.ndarray, b: np.ndarray) -> float:
    """The angle in degrees between two axes (3,) without a sense."""
    return float(np.degrees(np.arccos(min(1.0, abs(float(a @ b))))))


def twin(rotation: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """The pose (3, 3) that shows a map with this mirror plane as `rotation` does."""
    return HAND_FLIP @ rotation @ reflection(normal)


def frame_with_first_axis(normal: np.ndarray) -> np.ndarray:
    """A rotation (3, 3) that takes `normal` (3,) to the x axis."""
    frame = np.linalg.svd(normal[None])[2]
    frame[0] = normal
    frame[2] *= np.sign(np.linalg.det(frame))
    return frame


def moved_volume(volume: np.ndarray, motion: np.ndarray, offset: np.ndarray | None = None) -> np.ndarray:
    """V(A x + o) on the same grid: `motion` A (3, 3) in (x, y, z), about voxel L/2, and `offset` o (3,) in voxels."""
    matrix = motion[::-1, ::-1]  # axes are (z, y, x)
    centre = np.full(3, len(volume) // 2)
    shift = np.zeros(3) if offset is None else np.asarray(offset)[::-1]
    return ndimage.affine_transform(volume, matrix, centre - matrix @ centre + shift, order=1)


def projection(volume: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """The image (L, L) of a volume (z, y, x) in a pose: the sum over z of V(Rᵀ x)."""
    return moved_volume(volume, rotation.T).sum(0)


def mirror_plane(volume: np.ndarray) -> MirrorPlane:
    """The plane, at any offset, that mirrors a volume (L, L, L) best onto itself."""
    small = resized(volume.astype(np.float64), min(SEARCH_BOX, len(volume)))
    small = small - small.mean()
    best = max(_hemisphere(DIRECTIONS), key=lambda normal: _reflected(small, normal)[0])
    tangent = np.linalg.svd(best[None])[2][1:]  # two directions at right angles to it

    def near(angles: np.ndarray) -> np.ndarray:
        moved = best + angles @ tangent
        return moved / np.linalg.norm(moved)

    found = optimize.minimize(
        lambda angles: -_reflected(small, near(angles))[0],
        np.zeros(2),
        method="Nelder-Mead",
        options={"initial_simplex": [[0, 0], [0.1, 0], [0, 0.1]], "xatol": 1e-3, "fatol": 1e-6},
    )
    normal = near(found.x)
    correlation, offset = _reflected(small, normal)
    return MirrorPlane(normal, offset * len(volume) / len(small), correlation)


def alignment_of_most(predicted: np.ndarray, true: np.ndarray, group: np.ndarray = ALONE) -> Alignment:
    """The rotation and hand with which most of the predicted rotations (n, 3, 3) agree; no translation.

    Here and below, rotations are compared modulo the `group` (g, 3, 3).
    """
    shares = hand_shares(predicted, true, group)
    hand = max(HANDS, key=shares.__getitem__)
    return Alignment(hand_alignments(predicted, true, group)[hand], hand, np.zeros(3))


def mirror_of_poses(predicted: np.ndarray, true: np.ndarray, group: np.ndarray = ALONE) -> tuple[np.ndarray, float]:
    """The plane between the images of both hands: its normal (3,), in the truth's frame, and a twist in degrees.

    After alignment by the hand of most images, the other images have the poses F R_true M with M = G_otherᵀ F G_most.
    M reflects in a plane and turns about its normal by the twist, which is 0 for a pure reflection.
    """
    most = alignment_of_most(predicted, true, group)
    other = next(hand for hand in HANDS if hand != most.hand)
    motion = hand_alignments(predicted, true, group)[other].T @ HAND_FLIP @ most.rotation
    normal = np.linalg.eigh((motion + motion.T) / 2)[1][:, 0]  # of the eigenvalue -1
    return normal, float(np.degrees(np.arccos(np.clip((np.trace(motion) + 1) / 2, -1, 1))))


def _reflected(volume: np.ndarray, normal: np.ndarray) -> tuple[float, float]:
    """Correlation of a volume of mean 0 with its mirror image at the best offset along the normal, and that offset."""
    mirrored = moved_volume(volume, reflection(normal))
    spectra = np.fft.rfftn(volume), np.fft.rfftn(mirrored)
    agreement = np.fft.irfftn(spectra[0] * spectra[1].conj(), s=volume.shape, axes=(0, 1, 2))
    reach = len(volume) // 4
    steps = np.linspace(-reach, reach, 4 * reach + 1)
    places = steps * normal[::-1, None]  # along the normal, (3, steps); the plane lies half as far
    along = ndimage.map_coordinates(agreement, places, order=1, mode="grid-wrap")
    scale = np.sqrt((volume**2).sum() * (mirrored**2).sum())
    return float(along.max() / scale), float(steps[along.argmax()] / 2)


def _hemisphere(count: int) -> np.ndarray:
    """Directions (count, 3) spread evenly over z ≥ 0 (Fibonacci's spiral)."""
    index = np.arange(count) + 0.5
    z, angle = 1 - index / count, np.pi * (1 + 5**0.5) * index
    radius = np.sqrt(1 - z**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=1)
