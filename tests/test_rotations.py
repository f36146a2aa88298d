"""The pose convention: RELION's matrix, what it does to a point cloud, and the reference values of the pose error."""

import numpy as np
import pytest
import torch

from equipose.core import rotations as rot
from equipose.model import rotation_tensors

RNG = np.random.default_rng(0)


def project(rotations: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(x, y) of points (p, 3) in the images of poses (n, 3, 3)."""
    return (points @ rotations.transpose(0, 2, 1))[..., :2]


def best_mean_squared_error(predicted: np.ndarray, true: np.ndarray) -> float:
    """Mean ‖R_pred G - R_true‖² for the best G in SO(3): Procrustes on C = mean(R_predᵀ R_true)."""
    u, _, vt = np.linalg.svd(np.mean(predicted.transpose(0, 2, 1) @ true, axis=0))
    g = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    return float(((predicted @ g - true) ** 2).sum((1, 2)).mean())


def test_the_matrix_is_relions_zyz_formula_written_out() -> None:
    angles = RNG.uniform([-180, 0, -180], [180, 180, 180], (50, 3))
    (ca, cb, cg), (sa, sb, sg) = np.cos(np.radians(angles.T)), np.sin(np.radians(angles.T))
    expected = np.array(
        [
            [cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb],
            [-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb],
            [sb * ca, sb * sa, cb],
        ]
    ).transpose(2, 0, 1)
    np.testing.assert_allclose(rot.from_relion_angles(angles), expected, atol=1e-12)


def test_relion_angles_survive_a_round_trip() -> None:
    angles = RNG.uniform([-180, 1, -180], [180, 179, 180], (50, 3))
    np.testing.assert_allclose(rot.to_relion_angles(rot.from_relion_angles(angles)), angles, atol=1e-9)


@pytest.mark.parametrize("tilt", [0.0, 180.0])
def test_matrices_survive_a_round_trip_through_angles_at_the_poles(tilt: float) -> None:
    matrices = rot.from_relion_angles(np.array([[30.0, tilt, 50.0]]))
    np.testing.assert_allclose(rot.from_relion_angles(rot.to_relion_angles(matrices)), matrices, atol=1e-9)


def test_random_rotations_are_proper_and_have_no_preferred_direction() -> None:
    matrices = rot.random_rotations(20_000, np.random.default_rng(0))
    np.testing.assert_allclose(
        matrices @ matrices.transpose(0, 2, 1), np.broadcast_to(np.eye(3), matrices.shape), atol=1e-9
    )
    np.testing.assert_allclose(np.linalg.det(matrices), 1, atol=1e-9)
    np.testing.assert_allclose(matrices.mean(0), 0, atol=0.02)  # standard error 0.004


def test_a_point_moved_along_the_viewing_direction_stays_in_its_pixel() -> None:
    matrices = rot.random_rotations(10, RNG)
    moved = 3.0 * rot.viewing_directions(matrices)
    np.testing.assert_allclose(np.einsum("nij,nj->ni", matrices, moved)[:, :2], 0, atol=1e-12)


def test_the_viewing_direction_stays_under_an_in_plane_rotation_and_turns_round_under_a_reflection() -> None:
    matrix = rot.random_rotations(1, RNG)
    angle = torch.tensor(0.7, dtype=torch.float64)
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    flip = torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64))
    turned, flipped = (rotation_tensors.pose_action(g).numpy() @ matrix for g in (turn, flip))
    np.testing.assert_allclose(rot.viewing_directions(turned), rot.viewing_directions(matrix), atol=1e-12)
    np.testing.assert_allclose(rot.viewing_directions(flipped), -rot.viewing_directions(matrix), atol=1e-12)


def test_in_plane_motions_of_the_image_act_on_the_pose_from_the_left() -> None:
    matrices, points = rot.random_rotations(5, RNG), RNG.normal(size=(20, 3))
    for g in ([[0.0, -1.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, -1.0]], [[0.0, 1.0], [1.0, 0.0]]):
        moved = rotation_tensors.pose_action(torch.tensor(g, dtype=torch.float64)).numpy() @ matrices
        np.testing.assert_allclose(project(moved, points), project(matrices, points) @ np.array(g).T, atol=1e-12)
        np.testing.assert_allclose(np.linalg.det(moved), 1, atol=1e-12)


def test_the_other_hand_shows_identical_projections_of_the_mirrored_point_cloud() -> None:
    matrices, points = rot.random_rotations(10, RNG), RNG.normal(size=(30, 3))
    mirrored = points @ rot.HAND_FLIP
    np.testing.assert_allclose(project(rot.other_hand(matrices), mirrored), project(matrices, points), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rot.other_hand(matrices)), 1, atol=1e-12)


def test_random_poses_have_mean_squared_error_6_and_5_9_once_aligned() -> None:
    rng = np.random.default_rng(1)
    true, predicted = rot.random_rotations(40_000, rng), rot.random_rotations(40_000, rng)
    assert ((predicted - true) ** 2).sum((1, 2)).mean() == pytest.approx(6, abs=0.05)
    sets = zip(np.split(predicted, 40), np.split(true, 40), strict=True)  # of 1000 images each
    assert np.mean([best_mean_squared_error(*pair) for pair in sets]) == pytest.approx(5.9, abs=0.05)


def test_perfect_poses_in_the_wrong_hand_score_16_thirds() -> None:
    true = rot.random_rotations(20_000, np.random.default_rng(2))
    assert best_mean_squared_error(rot.other_hand(true), true) == pytest.approx(16 / 3, abs=0.05)


def test_perfect_poses_with_half_the_images_in_each_hand_score_8_thirds() -> None:
    true = rot.random_rotations(20_000, np.random.default_rng(3))
    predicted = np.concatenate([true[:10_000], rot.other_hand(true[10_000:])])
    assert best_mean_squared_error(predicted, true) == pytest.approx(8 / 3, abs=0.05)


@pytest.mark.parametrize("squared, degrees", [(0.1, 12.8), (0.0041, 2.6), (0.0004, 0.81), (8.0, 180.0), (0.0, 0.0)])
def test_squared_frobenius_distances_in_degrees(squared: float, degrees: float) -> None:
    assert rot.degrees_from_squared_frobenius(squared) == pytest.approx(degrees, rel=0.01)


def test_the_angle_of_a_rotation_is_recovered_from_its_squared_frobenius_distance() -> None:
    a, b = rot.from_relion_angles(np.array([[20.0, 40.0, 60.0], [20.0, 40.0, 97.0]]))
    assert rot.degrees_from_squared_frobenius(((a - b) ** 2).sum()) == pytest.approx(37)


def test_the_nearest_rotation_is_the_polar_factor_found_by_svd() -> None:
    v1, v2 = (torch.from_numpy(RNG.normal(size=(100, 3))) for _ in range(2))
    matrix = torch.stack([v1, v2, torch.linalg.cross(v1, v2)], dim=-1)
    u, _, vh = torch.linalg.svd(matrix)
    torch.testing.assert_close(rotation_tensors.nearest_rotation(v1, v2), u @ vh, atol=1e-10, rtol=0)


@pytest.mark.parametrize("size", [1e4, 1e-3, 1e-8, 1e-12])
def test_the_nearest_rotation_is_one_whatever_the_size_of_the_vectors(size: float) -> None:
    """If an image's features cancel, rounding errors are left. Without scaling, their matrix would be no rotation."""
    v1, v2 = size * torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0))
    rotation = rotation_tensors.nearest_rotation(v1.requires_grad_(), v2)
    torch.testing.assert_close(rotation.mT @ rotation, torch.eye(3).expand(50, 3, 3), atol=1e-3, rtol=0)
    rotation.sum().backward()
    assert torch.isfinite(v1.grad).all()
    assert (v1.grad.abs().max() == 0) == (size < 1e-5), "what holds no pose must not be learned from"


def test_the_nearest_rotation_has_a_finite_gradient_where_singular_values_coincide() -> None:
    v1 = torch.tensor([1.0, 0, 0], requires_grad=True)
    rotation = rotation_tensors.nearest_rotation(v1, torch.tensor([0.0, 1, 0]))
    rotation[0, 1].backward()
    torch.testing.assert_close(rotation.detach(), torch.eye(3))
    assert torch.isfinite(v1.grad).all() and v1.grad[1] != 0


def test_gram_schmidt_gives_a_rotation_whose_first_column_is_the_first_vector() -> None:
    v1, v2 = (torch.from_numpy(RNG.normal(size=(20, 3))) for _ in range(2))
    rotation = rotation_tensors.gram_schmidt(v1, v2)
    torch.testing.assert_close(rotation.mT @ rotation, torch.eye(3, dtype=torch.float64).expand(20, 3, 3))
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(20, dtype=torch.float64))
    torch.testing.assert_close(rotation[..., 0], torch.nn.functional.normalize(v1, dim=-1))


def test_gram_schmidt_takes_vectors_in_any_arrangement() -> None:
    v1, v2 = (torch.from_numpy(RNG.normal(size=(2, 5, 3))) for _ in range(2))
    torch.testing.assert_close(
        rotation_tensors.gram_schmidt(v1, v2)[1, 4], rotation_tensors.gram_schmidt(v1[1, 4], v2[1, 4])
    )


def test_each_of_several_motions_has_its_own_action() -> None:
    motions = torch.tensor([[[0.0, -1.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, -1.0]]])
    turn, flip = rotation_tensors.pose_action(motions)
    torch.testing.assert_close(turn, torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    torch.testing.assert_close(flip, torch.diag(torch.tensor([1.0, -1.0, -1.0])))
