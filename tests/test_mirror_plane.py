"""Mirror planes: found where they were put, in maps and in poses, and twins that show the same image."""

import numpy as np
import pytest

from equipose.core.mirror_plane import (
    alignment_of_most,
    degrees_between,
    mirror_of_poses,
    mirror_plane,
    moved_volume,
    projection,
    reflection,
    twin,
)
from equipose.core.point_groups import group
from equipose.core.pose_metrics import HANDS, squared_distances, subset_sizes
from equipose.core.rotations import HAND_FLIP, random_rotations, viewing_directions

NORMAL = np.array([2.0, -1.0, 3.0]) / np.sqrt(14)


def blobs(points: np.ndarray, box: int = 32, width: float = 1.6) -> np.ndarray:
    """Gaussians at points (n, 3), (x, y, z) voxels from voxel L/2, with unequal weights."""
    z, y, x = np.indices((box, box, box)) - box // 2
    return sum(
        (1 + 0.2 * i) * np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / (2 * width**2))
        for i, (a, b, c) in enumerate(points)
    )


@pytest.fixture
def lopsided() -> np.ndarray:
    """Points of a molecule that no plane mirrors onto itself."""
    return np.random.default_rng(3).uniform(-6, 6, (7, 3))


def symmetric(points: np.ndarray, offset: float, normal: np.ndarray = NORMAL, **shape: float) -> np.ndarray:
    """The molecule and its mirror image in the plane at `offset` voxels from the centre."""
    mirrored = points @ reflection(normal).T + 2 * offset * normal
    return blobs(points, **shape) + blobs(mirrored, **shape)


@pytest.mark.parametrize("offset", [0.0, 2.0])
def test_the_plane_of_a_symmetric_map_is_found(lopsided: np.ndarray, offset: float) -> None:
    plane = mirror_plane(symmetric(lopsided, offset))
    assert degrees_between(plane.normal, NORMAL) < 2
    assert plane.offset * np.sign(plane.normal @ NORMAL) == pytest.approx(offset, abs=0.3)
    assert plane.correlation > 0.97


def test_a_larger_box_changes_only_the_offset(lopsided: np.ndarray) -> None:
    plane = mirror_plane(symmetric(2 * lopsided, 3.0, box=64, width=3.2))
    assert degrees_between(plane.normal, NORMAL) < 2
    assert abs(plane.offset) == pytest.approx(3.0, abs=0.6)


def test_a_map_without_a_plane_correlates_less_with_its_mirror_image(lopsided: np.ndarray) -> None:
    assert mirror_plane(blobs(lopsided)).correlation < 0.9


def test_twins_show_a_symmetric_map_alike_and_others_not(lopsided: np.ndarray) -> None:
    def agreement(volume: np.ndarray) -> np.ndarray:
        images = [[projection(volume, pose).ravel() for pose in (r, twin(r, NORMAL))] for r in rotations]
        return np.array([np.corrcoef(*pair)[0, 1] for pair in images])

    rotations = random_rotations(8, np.random.default_rng(0))
    assert agreement(symmetric(lopsided, 0.0)).min() > 0.99
    assert np.median(agreement(blobs(lopsided))) < 0.9


def test_a_twins_viewing_direction_is_the_reflected_one_from_behind() -> None:
    rotations = random_rotations(5, np.random.default_rng(1))
    twins = np.stack([twin(rotation, NORMAL) for rotation in rotations])
    assert np.allclose(viewing_directions(twins), -viewing_directions(rotations) @ reflection(NORMAL))


@pytest.mark.parametrize("hand", HANDS)
def test_poses_of_two_hands_give_the_plane_between_them(hand: str) -> None:
    rng = np.random.default_rng(2)
    true, gauge = random_rotations(600, rng), random_rotations(1, rng)[0]
    mixed = true.copy()
    mixed[:250] = HAND_FLIP @ true[:250] @ reflection(NORMAL)
    predicted = mixed @ gauge if hand == "same" else HAND_FLIP @ mixed @ gauge @ HAND_FLIP
    normal, twist = mirror_of_poses(predicted, true)
    assert degrees_between(normal, NORMAL) < 0.1 and twist < 0.1
    most = alignment_of_most(predicted, true)
    assert most.hand == hand
    assert np.allclose(most.rotations(predicted)[250:], true[250:], atol=1e-8)


def test_poses_of_a_symmetric_molecule_are_aligned_modulo_its_group() -> None:
    rng = np.random.default_rng(3)
    true, gauge, same = random_rotations(300, rng), random_rotations(1, rng)[0], group("D7")
    predicted = true @ same[rng.integers(len(same), size=300)] @ gauge
    aligned = alignment_of_most(predicted, true, same).rotations(predicted)
    assert squared_distances(aligned, true, same).max() < 1e-10 < squared_distances(aligned, true).max()
    assert subset_sizes(predicted, true, "same", 0.5, same).min() == 300
    assert subset_sizes(predicted, true, "same", 0.5).max() < 100


def test_a_quarter_turn_moves_a_volume_as_its_matrix_says() -> None:
    volume = blobs(np.array([[5.0, 0, 0]]))
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # x to y
    assert np.allclose(moved_volume(volume, turn), blobs(np.array([turn.T @ [5.0, 0, 0]])), atol=1e-6)
