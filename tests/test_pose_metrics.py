"""Pose metrics: reference values, gauges, invariances (paper, Apx. F)."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from equipose.core import pose_metrics
from equipose.core.pose_metrics import (
    Alignment,
    align,
    exact_scores,
    hand_alignments,
    hand_shares,
    paper_scores,
    squared_distances,
    subset_sizes,
)
from equipose.core.rotations import HAND_FLIP, degrees_from_squared_frobenius, other_hand, random_rotations

N = 1000


@pytest.fixture(scope="module")
def true() -> np.ndarray:
    return random_rotations(N, np.random.default_rng(0))


@pytest.fixture(scope="module")
def gauge() -> np.ndarray:
    return random_rotations(1, np.random.default_rng(1))[0]


def in_gauge(true: np.ndarray, gauge: np.ndarray, hand: str) -> np.ndarray:
    """Perfect predictions in a frame turned by `gauge`, in either hand."""
    return true @ gauge if hand == "same" else other_hand(true @ gauge)


def plane_mirror(seed: int) -> np.ndarray:
    normal = np.random.default_rng(seed).normal(size=3)
    normal /= np.linalg.norm(normal)
    return np.eye(3) - 2 * np.outer(normal, normal)


@pytest.mark.parametrize("hand", ["same", "mirror"])
def test_a_perfect_solution_scores_zero_in_any_frame_and_hand(true, gauge, hand):
    predicted = in_gauge(true, gauge, hand)
    paper = paper_scores(predicted, true)
    exact, alignment = exact_scores(predicted, true)
    assert paper.mse == pytest.approx(0, abs=1e-12)
    assert paper.medse == pytest.approx(0, abs=1e-12)
    assert exact.mse == pytest.approx(0, abs=1e-12)
    assert exact.medse == pytest.approx(0, abs=1e-12)
    assert paper.hand == exact.hand == alignment.hand == hand
    assert np.allclose(alignment.rotations(predicted), true, atol=1e-10)


def test_the_rotation_found_is_the_inverse_of_the_gauge(true, gauge):
    assert np.allclose(align(true @ gauge, true).rotation, gauge.T, atol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_any_improper_map_of_the_volume_gives_a_perfect_solution_of_the_other_hand(true, seed):
    improper = -random_rotations(1, np.random.default_rng(seed))[0]
    predicted = HAND_FLIP @ true @ improper
    assert paper_scores(predicted, true).mse == pytest.approx(0, abs=1e-12)
    assert paper_scores(predicted, true).hand == "mirror"


def test_a_mirrored_solution_held_to_the_wrong_hand_scores_16_thirds():
    many = random_rotations(50_000, np.random.default_rng(12))
    relative = pose_metrics._relative(other_hand(many), many, "same", pose_metrics.ALONE)
    assert pose_metrics._procrustes(relative)[1] == pytest.approx(16 / 3, abs=0.03)


def test_random_poses_score_about_5_9(true):
    predicted = random_rotations(300, np.random.default_rng(2))
    assert paper_scores(predicted, true[:300]).mse == pytest.approx(5.8, abs=0.15)
    assert exact_scores(predicted, true[:300])[0].share_same < 0.06


@pytest.mark.parametrize("seed", range(3))
def test_half_of_the_images_in_each_hand_is_the_plateau_at_8_thirds_with_no_median_error(true, gauge, seed):
    minority = np.arange(N) % 20 < 9  # 45 %: a median needs a majority
    predicted = np.where(minority[:, None, None], HAND_FLIP @ true @ plane_mirror(seed), true) @ gauge
    paper, (exact, alignment) = paper_scores(predicted, true), exact_scores(predicted, true)
    assert exact.mse == pytest.approx(2 * 0.45 * 8 / 3, abs=0.15)
    assert paper.mse == pytest.approx(exact.mse, abs=0.05)
    assert paper.medse == pytest.approx(0, abs=1e-12)
    assert exact.medse == pytest.approx(0, abs=1e-12)
    assert np.allclose(alignment.rotation, gauge.T, atol=1e-10)


def test_shares_of_the_two_hands_are_one_half_each_on_the_plateau(true, gauge):
    half = np.arange(N) % 2 == 0
    predicted = np.where(half[:, None, None], HAND_FLIP @ true @ plane_mirror(5), true) @ gauge
    shares = hand_shares(predicted, true)
    # A few images near the mirror plane agree with both.
    assert 0.5 <= shares["same"] < 0.54
    assert 0.5 <= shares["mirror"] < 0.54


def test_shares_of_a_perfect_run_are_one_and_chance(true, gauge):
    assert hand_shares(true @ gauge, true)["same"] == 1
    assert hand_shares(true @ gauge, true)["mirror"] < 0.06
    assert hand_shares(other_hand(true) @ gauge, true)["mirror"] == 1


def test_each_hand_s_alignment_is_that_of_the_images_in_it(true, gauge):
    noise = Rotation.from_rotvec(0.02 * np.random.default_rng(13).normal(size=(N, 3))).as_matrix()
    half, mirror = np.arange(N) % 2 == 0, plane_mirror(5)
    predicted = noise @ np.where(half[:, None, None], HAND_FLIP @ true @ mirror, true) @ gauge
    found = hand_alignments(predicted, true)
    assert np.allclose(found["same"], gauge.T, atol=0.01)
    assert np.allclose(found["mirror"], HAND_FLIP @ gauge.T @ mirror, atol=0.01)


def test_outliers_move_the_mean_but_not_the_robust_rotation(true, gauge):
    predicted = true @ gauge
    predicted[:200] = random_rotations(200, np.random.default_rng(3))
    exact, alignment = exact_scores(predicted, true)
    assert np.allclose(alignment.rotation, gauge.T, atol=1e-10)
    assert exact.mse == pytest.approx(0.2 * 6, abs=0.15)
    assert exact.share_same == pytest.approx(0.8, abs=0.02)


def test_the_exact_mean_is_never_above_the_papers_and_the_closed_form_is_the_plain_mean(true, gauge):
    noise = Rotation.from_rotvec(0.2 * np.random.default_rng(4).normal(size=(N, 3))).as_matrix()
    predicted = noise @ true @ gauge
    paper, (exact, _) = paper_scores(predicted, true), exact_scores(predicted, true)
    candidates = predicted.swapaxes(-1, -2) @ true
    brute_force = [squared_distances(predicted @ g, true) for g in candidates]
    assert paper.mse == pytest.approx(min(d.mean() for d in brute_force), abs=1e-10)
    assert paper.medse == pytest.approx(min(np.median(d) for d in brute_force), abs=1e-10)
    assert exact.mse < paper.mse
    assert exact.medse < 1.02 * paper.medse


def test_the_literal_left_alignment_of_equation_28_fails_a_perfect_solution(true):
    # mean over uniform R of ‖L R G - R‖² is 6 - ⅔ tr(L) tr(G), and every L = R Gᵀ Rᵀ has the trace of G.
    trace = np.sqrt(1.5 * (6 - 5.27))
    gauge = Rotation.from_rotvec([0, 0, np.arccos((trace - 1) / 2)]).as_matrix()
    predicted = true @ gauge
    left = [squared_distances(r @ p.T @ predicted, true).mean() for r, p in zip(true[:50], predicted[:50], strict=True)]
    assert np.mean(left) == pytest.approx(5.27, abs=0.1)
    assert paper_scores(predicted, true).mse == pytest.approx(0, abs=1e-12)


def test_scores_do_not_depend_on_the_frames_of_either_volume(true, gauge):
    noise = Rotation.from_rotvec(0.3 * np.random.default_rng(6).normal(size=(N, 3))).as_matrix()
    predicted = noise @ true
    reference = exact_scores(predicted, true)[0]
    for moved in (exact_scores(predicted @ gauge, true)[0], exact_scores(predicted, true @ gauge)[0]):
        assert moved.mse == pytest.approx(reference.mse, abs=1e-10)
        assert moved.medse == pytest.approx(reference.medse, abs=1e-10)
        assert moved.share_same == reference.share_same


def test_median_degrees_is_the_angle_of_the_pose_error(true):
    angle = Rotation.from_rotvec(np.radians(2.6) * np.array([0.0, 0.0, 1.0])).as_matrix()
    signs = np.where(np.arange(N) % 2, 1, -1)
    predicted = np.where(signs[:, None, None] > 0, angle @ true, angle.T @ true)
    exact, _ = exact_scores(predicted, true)
    assert exact.median_degrees == pytest.approx(2.6, abs=0.1)
    assert exact.mse == pytest.approx(0.0041, abs=0.0002)
    assert degrees_from_squared_frobenius(0.1) == pytest.approx(12.8, abs=0.05)


@pytest.mark.parametrize("hand", ["same", "mirror"])
def test_a_translation_of_the_volume_is_no_shift_error(true, gauge, hand):
    rng = np.random.default_rng(7)
    true_shifts = 20 * rng.normal(size=(N, 2))
    offset = np.array([7.0, -3.0, 11.0])  # Å, in the truth's frame
    predicted = in_gauge(true, gauge, hand)
    shifts = true_shifts + (true @ offset)[:, :2]
    exact, alignment = exact_scores(predicted, true, shifts, true_shifts, voxel_size=4.0)
    assert exact.shift_rmse_angstrom == pytest.approx(0, abs=1e-9)
    assert np.allclose(alignment.translation, offset, atol=1e-9)
    assert np.allclose(alignment.shifts(predicted, shifts), true_shifts, atol=1e-9)


def test_half_a_pixel_in_the_image_is_not_absorbed_by_the_translation_gauge(true):
    shifts = 20 * np.random.default_rng(8).normal(size=(N, 2))
    exact, _ = exact_scores(true, true, shifts + 0.5 * 4.0, shifts, voxel_size=4.0)
    assert np.allclose(exact.mean_residual_shift_pixels, [0.5, 0.5], atol=0.03)
    assert exact.shift_rmse_angstrom == pytest.approx(np.sqrt(2) * 2.0, rel=0.05)


def test_shift_error_is_the_root_mean_square_length_in_angstrom(true):
    noise = 3.0 * np.random.default_rng(9).normal(size=(N, 2))
    exact, _ = exact_scores(true, true, noise, np.zeros((N, 2)), voxel_size=4.0)
    assert exact.shift_rmse_angstrom == pytest.approx(3.0 * np.sqrt(2), rel=0.05)


def test_without_shifts_their_scores_are_none(true):
    exact, alignment = exact_scores(true, true)
    assert exact.shift_rmse_angstrom is None and exact.mean_residual_shift_pixels is None
    assert np.array_equal(alignment.translation, np.zeros(3))


def test_the_volume_map_and_the_pose_map_of_an_alignment_describe_the_same_images(gauge):
    # A point of the aligned volume, x, is the point A (x - u) of the predicted one; both fall on the same pixel.
    rng = np.random.default_rng(10)
    predicted, shift, x = random_rotations(1, rng), rng.normal(size=(1, 2)), rng.normal(size=3)
    for hand in ("same", "mirror"):
        alignment = Alignment(gauge, hand, rng.normal(size=3))
        in_prediction = (predicted @ alignment.volume_map() @ (x - alignment.translation))[:, :2] + shift
        in_truth = (alignment.rotations(predicted) @ x)[:, :2] + alignment.shifts(predicted, shift)
        assert np.allclose(in_prediction, in_truth)


def test_consistent_subsets_have_the_size_of_their_groups(true, gauge):
    predicted = true @ gauge
    predicted[:300] = true[:300] @ gauge @ gauge
    sizes = subset_sizes(predicted, true, "same", within=1e-6)
    assert (sizes[:300] == 300).all() and (sizes[300:] == 700).all()


def test_a_hundred_thousand_poses_use_no_table_of_all_pairs():
    import tracemalloc

    true = random_rotations(100_000, np.random.default_rng(11)).astype(np.float32)
    tracemalloc.start()
    sizes = paper_scores(true[:, [1, 2, 0]][:, :, [1, 2, 0]], true)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sizes.mse > 0
    assert peak < 200e6  # all pairs would take 80 GB
