"""Seeds agree if their poses do, in any frame and hand."""

from pathlib import Path

import numpy as np
import pytest
from test_tables import write_poses

from equipose.core.rotations import other_hand, random_rotations
from equipose.study.seed_agreement import agreeing_share, best_agreement

RNG = np.random.default_rng(0)
POSES = random_rotations(1000, RNG)
FRAME = random_rotations(1, RNG)


@pytest.mark.parametrize("moved", [POSES, POSES @ FRAME, other_hand(POSES), other_hand(POSES @ FRAME)])
def test_the_same_poses_in_another_frame_or_hand_agree(moved: np.ndarray) -> None:
    assert agreeing_share(moved, POSES) == 1


def test_a_part_of_the_poses_agrees() -> None:
    half = np.where(np.arange(1000)[:, None, None] < 500, POSES @ FRAME, random_rotations(1000, RNG))
    assert agreeing_share(half, POSES) == pytest.approx(0.5, abs=0.02)


def test_of_random_poses_hardly_any_agree() -> None:
    assert agreeing_share(random_rotations(1000, RNG), POSES) < 0.05


def test_of_several_seeds_the_one_that_agrees_best_counts_and_one_alone_has_none(tmp_path: Path) -> None:
    runs = [tmp_path / f"seed{seed}" for seed in range(3)]
    for run, poses in zip(runs, [POSES, random_rotations(1000, RNG), POSES @ FRAME], strict=True):
        run.mkdir()
        write_poses(run, poses)
    first, second, third = best_agreement(runs, "C1")
    assert first == third == 1 and second < 0.05
    assert np.isnan(best_agreement(runs[:1], "C1")).all()
