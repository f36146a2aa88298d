"""Errors of predicted poses after removal of the gauge, which no image can fix (paper, Apx. F).

The gauge of a reconstruction is a rotation, the hand, and a translation of the volume. With F = diag(1, 1, -1),

    R_aligned = R G          (same hand)         V_aligned(x) = V(G (x - u))
    R_aligned = F R F G      (mirror)            V_aligned(x) = V(F G (x - u))
    t_aligned = t - (R_aligned u)_xy             (either hand)

so G acts on the *right*. The paper's Eq. 28 aligns on the left, where a perfect solution scores 5.27. All distances are
squared Frobenius norms, d² = ‖R_aligned - R_true‖² = 6 - 2 tr(Gᵀ R_predᵀ R_true). Their mean over the images is
6 - 2 tr(Gᵀ C) with C = mean(R_predᵀ R_true): it costs the same for any number of images and needs no N × N table.

`paper_scores` has the paper's definition; `exact_scores` uses a single, best alignment for all images.

A molecule with a point group shows each image at as many poses as the group has rotations S (`point_groups.py`). Given
the `group` (g, 3, 3), in the axes of the true poses, every function counts the mate R_true S that lies nearest.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from equipose.core.point_groups import ALONE, nearest_mates
from equipose.core.rotations import HAND_FLIP, degrees_from_squared_frobenius, other_hand

Hand = Literal["same", "mirror"]
HANDS: tuple[Hand, ...] = ("same", "mirror")

CANDIDATES = 1000
"""Relative rotations tried for a median or an inlier count (cryoAI's number)."""

CONSISTENT = 0.5
"""Squared Frobenius distance (29°) below which an image agrees with an alignment."""

CHUNK_NUMBERS = 4_000_000
"""Size of a block of the images × candidates table: 32 MB, whatever the number of images."""


@dataclass(frozen=True)
class Alignment:
    """The motion of a predicted volume into the truth's frame: `rotation` G, `hand`, `translation` u (3,) in Å."""

    rotation: np.ndarray
    hand: Hand
    translation: np.ndarray

    def volume_map(self) -> np.ndarray:
        """The orthogonal A (3, 3) of V_aligned(x) = V(A (x - u)): G, or F G. In Fourier space, V̂(A k) e^{-2πi k·u}."""
        return self.rotation if self.hand == "same" else HAND_FLIP @ self.rotation

    def rotations(self, predicted: np.ndarray) -> np.ndarray:
        """Predicted rotations (n, 3, 3) in the truth's frame."""
        return in_hand(predicted, self.hand) @ self.rotation

    def shifts(self, predicted: np.ndarray, shifts: np.ndarray) -> np.ndarray:
        """Predicted shifts (n, 2) Å in the truth's frame, for predicted rotations (n, 3, 3)."""
        return shifts - self.rotations(predicted)[:, :2] @ self.translation


IDENTITY = Alignment(np.eye(3), "same", np.zeros(3))


@dataclass(frozen=True)
class PaperScores:
    """MSE and MedSE as the paper defines them; `hand` is the MSE's."""

    mse: float
    medse: float
    hand: Hand


@dataclass(frozen=True)
class ExactScores:
    """Scores under one alignment; shift errors are None where shifts were not given."""

    mse: float
    medse: float
    median_degrees: float
    hand: Hand
    shift_rmse_angstrom: float | None
    mean_residual_shift_pixels: list[float] | None  # x, y
    share_same: float
    share_mirror: float


def paper_scores(predicted: np.ndarray, true: np.ndarray, group: np.ndarray = ALONE) -> PaperScores:
    """MSE and MedSE of rotations (n, 3, 3), each minimised separately over relative rotations, in both hands (Apx. F).

    The MSE tries the relative rotation of every image, the MedSE that of 1,000 images spread evenly over the data. With
    a `group` the MSE, too, tries 1,000.
    """
    mse, medse = {}, {}
    for hand in HANDS:
        relative = _relative(predicted, true, hand, group)
        mse[hand] = 6 - 2 * _best_mean_trace(relative)
        medse[hand] = 6 - 2 * _search(relative)[0].max()
    best = min(HANDS, key=mse.__getitem__)
    return PaperScores(_distance(mse[best]), _distance(min(medse.values())), best)


def hand_shares(predicted: np.ndarray, true: np.ndarray, group: np.ndarray = ALONE) -> dict[Hand, float]:
    """Fraction of the images that agree with the best alignment in each hand.

    A perfect run has 1 in its hand; the plateau of Fig. 2 has 0.5 in each. Chance gives about 0.03.
    """
    return {hand: float(_search(_relative(predicted, true, hand, group))[1].max()) for hand in HANDS}


def hand_alignments(predicted: np.ndarray, true: np.ndarray, group: np.ndarray = ALONE) -> dict[Hand, np.ndarray]:
    """For each hand, the rotation G (3, 3) with which most images agree, fitted to the closer half of these images."""
    found = {}
    for hand in HANDS:
        relative = _relative(predicted, true, hand, group)
        candidate = _candidates(relative)[_search(relative)[1].argmax()]
        agreeing = relative[:, 6 - 2 * _traces(relative, candidate) < CONSISTENT]
        found[hand] = _concentrate(candidate, agreeing)[0].reshape(3, 3)
    return found


def align(
    predicted: np.ndarray,
    true: np.ndarray,
    shifts: np.ndarray | None = None,
    true_shifts: np.ndarray | None = None,
    group: np.ndarray = ALONE,
) -> Alignment:
    """The one alignment of predicted rotations (n, 3, 3) and shifts (n, 2) Å with the true ones.

    The hand is that of the smaller mean squared error, the rotation the robust one of `_robust_rotation`, the
    translation the least-squares solution of (R_aligned u)_xy = t - t_true (0 without shifts).
    """
    relative = {hand: _relative(predicted, true, hand, group) for hand in HANDS}
    hand = min(HANDS, key=lambda name: _procrustes(relative[name])[1])
    rotation = _robust_rotation(relative[hand])
    if shifts is None or true_shifts is None:
        return Alignment(rotation, hand, np.zeros(3))
    plane = (in_hand(predicted, hand) @ rotation)[:, :2]
    normal = np.einsum("nij,nik->jk", plane, plane)
    translation = np.linalg.lstsq(normal, np.einsum("nij,ni->j", plane, shifts - true_shifts), rcond=None)[0]
    return Alignment(rotation, hand, translation)


def exact_scores(
    predicted: np.ndarray,
    true: np.ndarray,
    shifts: np.ndarray | None = None,
    true_shifts: np.ndarray | None = None,
    voxel_size: float | None = None,
    group: np.ndarray = ALONE,
) -> tuple[ExactScores, Alignment]:
    """Scores of rotations (n, 3, 3) and shifts (n, 2) Å under one alignment, and that alignment.

    The MSE is the smallest that any rotation of this hand reaches (Procrustes); the median, the angle, the shifts
    and the volume use the robust rotation. The shift error is the root mean square length of t_aligned - t_true.

    Examples:
        >>> true = particles.rotations
        >>> turned = true @ true[0].T
        >>> scores, alignment = compare_poses(turned, true)
        >>> scores.hand, scores.median_degrees < 1e-3
        ('same', True)
    """
    alignment = align(predicted, true, shifts, true_shifts, group)
    medse = _distance(float(np.median(squared_distances(alignment.rotations(predicted), true, group))))
    rmse = mean_shift = None
    if shifts is not None and true_shifts is not None:
        residual = alignment.shifts(predicted, shifts) - true_shifts
        rmse = float(np.sqrt((residual**2).sum(-1).mean()))
        mean_shift = (residual.mean(0) / voxel_size).tolist()
    shares = hand_shares(predicted, true, group)
    scores = ExactScores(
        mse=_distance(_procrustes(_relative(predicted, true, alignment.hand, group))[1]),
        medse=medse,
        median_degrees=float(degrees_from_squared_frobenius(medse)),
        hand=alignment.hand,
        shift_rmse_angstrom=rmse,
        mean_residual_shift_pixels=mean_shift,
        share_same=shares["same"],
        share_mirror=shares["mirror"],
    )
    return scores, alignment


def subset_sizes(
    predicted: np.ndarray, true: np.ndarray, hand: Hand, within: float, group: np.ndarray = ALONE
) -> np.ndarray:
    """|S_i| (n,) of Eq. 32: the number of images that image i's relative rotation aligns to a squared distance <
    `within`, modulo the `group` (g, 3, 3).
    """
    relative = _relative(predicted, true, hand, group)
    counts = [(6 - 2 * traces < within).sum(1) for traces in _trace_blocks(relative[0], relative)]
    return np.concatenate(counts)


def squared_distances(a: np.ndarray, b: np.ndarray, group: np.ndarray = ALONE) -> np.ndarray:
    """Squared Frobenius distances (n,) of rotations (n, 3, 3), each from the nearest mate of the other."""
    return ((a - nearest_mates(b, a, group)) ** 2).sum((-2, -1))


def in_hand(rotations: np.ndarray, hand: Hand) -> np.ndarray:
    """The rotations (n, 3, 3) themselves, or those of the mirrored volume that show the same images."""
    return rotations if hand == "same" else other_hand(rotations)


def _relative(predicted: np.ndarray, true: np.ndarray, hand: Hand, group: np.ndarray) -> np.ndarray:
    """Flattened relative rotations R_predᵀ R_true S, (g, n, 9): each is a G that aligns its own image."""
    predicted, true = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    relative = in_hand(predicted, hand).swapaxes(-1, -2) @ true
    return (relative @ group[:, None]).reshape(len(group), -1, 9)


def _traces(relative: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """tr(Gᵀ R_predᵀ R_true S) (n,) for one candidate G (9,), each image by its nearest mate."""
    return (relative @ rotation).max(0)


def _of_nearest_mates(relative: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """For each image, the relative rotation of (g, n, 9) nearest to `rotation` (9,): (n, 9)."""
    return relative[(relative @ rotation).argmax(0), np.arange(relative.shape[1])]


def _trace_blocks(candidates: np.ndarray, relative: np.ndarray) -> Iterator[np.ndarray]:
    """`_traces` for candidates G (m, 9) and relative rotations (g, n, 9), as consecutive blocks of rows (m', n)."""
    rows = max(1, CHUNK_NUMBERS // relative.shape[1])
    for start in range(0, len(candidates), rows):
        block = candidates[start : start + rows] @ relative[0].T
        for others in relative[1:]:
            np.maximum(block, candidates[start : start + rows] @ others.T, out=block)
        yield block


def _candidates(relative: np.ndarray) -> np.ndarray:
    """At most `CANDIDATES` of the relative rotations, (m, 9), always the same ones, spread over the data."""
    count = relative.shape[1]
    return relative[0, np.linspace(0, count - 1, min(CANDIDATES, count)).round().astype(int)]


def _search(relative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every candidate (m,): the median trace over the images, and the share of images consistent with it."""
    medians, shares = [], []
    for traces in _trace_blocks(_candidates(relative), relative):
        medians.append(np.median(traces, axis=1))
        shares.append((6 - 2 * traces < CONSISTENT).mean(1))
    return np.concatenate(medians), np.concatenate(shares)


def _best_mean_trace(relative: np.ndarray) -> float:
    """The highest mean trace that the relative rotation of any image reaches; with a group, of any candidate."""
    if len(relative) == 1:  # a mean of traces is the trace of a mean: all images cost no more than one
        return float((relative[0] @ relative[0].mean(0)).max())
    return max(float(traces.mean(1).max()) for traces in _trace_blocks(_candidates(relative), relative))


def _procrustes(relative: np.ndarray) -> tuple[np.ndarray, float]:
    """The rotation G (3, 3) of smallest mean squared distance, and that distance.

    With a group, G is sought from the candidate that most images agree with, and mates are chosen anew until the
    distance stops falling.
    """
    if len(relative) == 1:
        return _nearest_to_mean(relative[0])
    rotation, distance = _candidates(relative)[_search(relative)[1].argmax()].reshape(3, 3), np.inf
    while True:
        closer, smaller = _nearest_to_mean(_of_nearest_mates(relative, rotation.ravel()))
        if smaller >= distance - 1e-9:
            return rotation, min(smaller, distance)
        rotation, distance = closer, smaller


def _nearest_to_mean(relative: np.ndarray) -> tuple[np.ndarray, float]:
    """The rotation (3, 3) of smallest mean squared distance from rotations (n, 9), and that distance."""
    u, s, vt = np.linalg.svd(relative.mean(0).reshape(3, 3))
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    return (u * signs) @ vt, float(6 - 2 * (s * signs).sum())


def _robust_rotation(relative: np.ndarray) -> np.ndarray:
    """The rotation (3, 3) of small median distance; images with a very different pose do not change it.

    It starts from the Procrustes solution and from the candidate of the best median. Then the closest half of the
    images is realigned until the median stops falling.
    """
    medians, _ = _search(relative)
    starts = (_procrustes(relative)[0].ravel(), _candidates(relative)[medians.argmax()])
    return max((_concentrate(start, relative) for start in starts), key=lambda found: found[1])[0].reshape(3, 3)


def _concentrate(rotation: np.ndarray, relative: np.ndarray) -> tuple[np.ndarray, float]:
    """The rotation (9,) realigned to its closest half of the images, and its median trace."""
    traces = _traces(relative, rotation)
    median = float(np.median(traces))
    while True:
        closest = _of_nearest_mates(relative[:, traces >= median], rotation)
        closer = _nearest_to_mean(closest)[0].ravel()
        closer_traces = _traces(relative, closer)
        closer_median = float(np.median(closer_traces))
        if closer_median <= median:
            return rotation, median
        rotation, traces, median = closer, closer_traces, closer_median


def _distance(squared: float) -> float:
    """A squared distance as a plain number; rounding in 6 - 2 tr may take a perfect one below zero."""
    return max(float(squared), 0.0)
