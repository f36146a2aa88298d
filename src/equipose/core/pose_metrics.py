"""How well predicted poses match the true ones, once the gauge that no image can fix is removed (paper, Apx. F).

A reconstruction is determined up to a rotation, the hand, and a translation of the volume. With F = diag(1, 1, -1),

    R_aligned = R G          (same hand)         V_aligned(x) = V(G (x - u))
    R_aligned = F R F G      (mirror)            V_aligned(x) = V(F G (x - u))
    t_aligned = t - (R_aligned u)_xy             (either hand)

so G acts on the *right*; the paper's Eq. 28 aligns on the left, where a perfect solution scores 5.27. All distances are
squared Frobenius norms, d² = ‖R_aligned - R_true‖² = 6 - 2 tr(Gᵀ R_predᵀ R_true). Their mean over the images,
6 - 2 tr(Gᵀ C) with C = mean(R_predᵀ R_true), costs the same for any number of images, and no N × N table is made.

`paper_scores` is the paper's definition, `exact_scores` the one with a single, best alignment for all images.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

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


def paper_scores(predicted: np.ndarray, true: np.ndarray) -> PaperScores:
    """MSE and MedSE of rotations (n, 3, 3), each minimised by itself over relative rotations, in both hands (Apx. F).

    The MSE tries the relative rotation of every image, the MedSE that of 1,000 images spread evenly over the data.
    """
    mse, medse = {}, {}
    for hand in HANDS:
        relative = _relative(predicted, true, hand)
        mse[hand] = 6 - 2 * (relative @ relative.mean(0)).max()
        medse[hand] = 6 - 2 * _search(relative)[0].max()
    best = min(HANDS, key=mse.__getitem__)
    return PaperScores(_distance(mse[best]), _distance(min(medse.values())), best)


def hand_shares(predicted: np.ndarray, true: np.ndarray) -> dict[Hand, float]:
    """Fraction of the images that agree with the best alignment in each hand.

    A perfect run has 1 in its hand; the plateau of Fig. 2 has 0.5 in each. Chance gives about 0.03.
    """
    return {hand: float(_search(_relative(predicted, true, hand))[1].max()) for hand in HANDS}


def hand_alignments(predicted: np.ndarray, true: np.ndarray) -> dict[Hand, np.ndarray]:
    """In each hand, the rotation G (3, 3) that most images agree with, fitted to the closer half of these."""
    found = {}
    for hand in HANDS:
        relative = _relative(predicted, true, hand)
        candidate = _candidates(relative)[_search(relative)[1].argmax()]
        agreeing = relative[6 - 2 * relative @ candidate < CONSISTENT]
        found[hand] = _concentrate(candidate, agreeing)[0].reshape(3, 3)
    return found


def align(
    predicted: np.ndarray, true: np.ndarray, shifts: np.ndarray | None = None, true_shifts: np.ndarray | None = None
) -> Alignment:
    """The one alignment of predicted rotations (n, 3, 3) and shifts (n, 2) Å with the true ones.

    The hand is that of the smaller mean squared error, the rotation the robust one of `_robust_rotation`, the
    translation the least-squares solution of (R_aligned u)_xy = t - t_true (0 without shifts).
    """
    relative = {hand: _relative(predicted, true, hand) for hand in HANDS}
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
) -> tuple[ExactScores, Alignment]:
    """Scores of rotations (n, 3, 3) and shifts (n, 2) Å under one alignment, and that alignment.

    The MSE is the smallest that any rotation of this hand reaches (Procrustes); the median, the angle, the shifts
    and the volume use the robust rotation. The shift error is the root mean square length of t_aligned - t_true.
    """
    alignment = align(predicted, true, shifts, true_shifts)
    medse = _distance(float(np.median(squared_distances(alignment.rotations(predicted), true))))
    rmse = mean_shift = None
    if shifts is not None and true_shifts is not None:
        residual = alignment.shifts(predicted, shifts) - true_shifts
        rmse = float(np.sqrt((residual**2).sum(-1).mean()))
        mean_shift = (residual.mean(0) / voxel_size).tolist()
    shares = hand_shares(predicted, true)
    scores = ExactScores(
        mse=_distance(_procrustes(_relative(predicted, true, alignment.hand))[1]),
        medse=medse,
        median_degrees=float(degrees_from_squared_frobenius(medse)),
        hand=alignment.hand,
        shift_rmse_angstrom=rmse,
        mean_residual_shift_pixels=mean_shift,
        share_same=shares["same"],
        share_mirror=shares["mirror"],
    )
    return scores, alignment


def subset_sizes(predicted: np.ndarray, true: np.ndarray, hand: Hand, within: float) -> np.ndarray:
    """|S_i| (n,) of Eq. 32: how many images image i's relative rotation aligns to a squared distance < `within`."""
    relative = _relative(predicted, true, hand)
    counts = [(6 - 2 * traces < within).sum(1) for traces in _trace_blocks(relative, relative)]
    return np.concatenate(counts)


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared Frobenius distances (n,) of rotations (n, 3, 3)."""
    return ((a - b) ** 2).sum((-2, -1))


def in_hand(rotations: np.ndarray, hand: Hand) -> np.ndarray:
    """The rotations (n, 3, 3) themselves, or those of the mirrored volume that show the same images."""
    return rotations if hand == "same" else other_hand(rotations)


def _relative(predicted: np.ndarray, true: np.ndarray, hand: Hand) -> np.ndarray:
    """Flattened relative rotations R_predᵀ R_true, (n, 9): each is the G that aligns its own image."""
    predicted, true = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    return (in_hand(predicted, hand).swapaxes(-1, -2) @ true).reshape(-1, 9)


def _trace_blocks(candidates: np.ndarray, relative: np.ndarray) -> Iterator[np.ndarray]:
    """tr(Gᵀ R_predᵀ R_true) for candidates G (m, 9) and images (n, 9), as consecutive blocks of rows (m', n)."""
    rows = max(1, CHUNK_NUMBERS // len(relative))
    for start in range(0, len(candidates), rows):
        yield candidates[start : start + rows] @ relative.T


def _candidates(relative: np.ndarray) -> np.ndarray:
    """At most `CANDIDATES` of the relative rotations (n, 9), always the same ones, spread over the data."""
    picks = np.linspace(0, len(relative) - 1, min(CANDIDATES, len(relative))).round().astype(int)
    return relative[picks]


def _search(relative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every candidate (m,): the median trace over the images, and the share of images consistent with it."""
    medians, shares = [], []
    for traces in _trace_blocks(_candidates(relative), relative):
        medians.append(np.median(traces, axis=1))
        shares.append((6 - 2 * traces < CONSISTENT).mean(1))
    return np.concatenate(medians), np.concatenate(shares)


def _procrustes(relative: np.ndarray) -> tuple[np.ndarray, float]:
    """The rotation G (3, 3) of smallest mean squared distance, and that distance."""
    u, s, vt = np.linalg.svd(relative.mean(0).reshape(3, 3))
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    return (u * signs) @ vt, float(6 - 2 * (s * signs).sum())


def _robust_rotation(relative: np.ndarray) -> np.ndarray:
    """The rotation (3, 3) of small median distance, which images with quite another pose do not pull aside.

    From the Procrustes solution and from the candidate of the best median, the closest half of the images is
    realigned by itself until the median stops falling.
    """
    medians, _ = _search(relative)
    starts = (_procrustes(relative)[0].ravel(), _candidates(relative)[medians.argmax()])
    return max((_concentrate(start, relative) for start in starts), key=lambda found: found[1])[0].reshape(3, 3)


def _concentrate(rotation: np.ndarray, relative: np.ndarray) -> tuple[np.ndarray, float]:
    """The rotation (9,) realigned to its closest half of the images, and its median trace."""
    traces = relative @ rotation
    median = float(np.median(traces))
    while True:
        closer = _procrustes(relative[traces >= median])[0].ravel()
        closer_traces = relative @ closer
        closer_median = float(np.median(closer_traces))
        if closer_median <= median:
            return rotation, median
        rotation, traces, median = closer, closer_traces, closer_median


def _distance(squared: float) -> float:
    """A squared distance as a plain number; rounding in 6 - 2 tr may take a perfect one below zero."""
    return max(float(squared), 0.0)
