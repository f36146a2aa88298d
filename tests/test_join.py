"""Two half-set runs, each in a frame and hand of its own, joined into one map, its half-maps and one set of poses."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import mrcfile
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import GAUGE, IMAGES, OFFSET, VOXEL, in_other_frame

from equipose.config.settings import PreparationConfig
from equipose.core.fourier_grid import grid_volume
from equipose.core.fsc import fourier_shell_correlation
from equipose.core.noise import filtered, shells
from equipose.core.pose_metrics import Alignment, paper_scores
from equipose.core.rotations import from_relion_angles, other_hand, random_rotations
from equipose.io.half_sets import SUBSET, half_of
from equipose.io.maps import read_map
from equipose.io.particle_tables import ANGLES, ORIGINS, chosen_rows, read_tables, write_star
from equipose.io.particles import read_particles
from equipose.reconstruction import join
from equipose.reconstruction.halves import Half, ask_each_other, back_project, bring_together, compared, read_half
from equipose.reconstruction.handback import PROBABILITY, SCORE, write_poses
from equipose.reconstruction.names import AGREES
from equipose.reconstruction.particle_scores import correlations
from equipose.reconstruction.verdict import verdict
from equipose.training.evaluate import RelionPoses


def test_the_second_half_is_moved_into_the_frame_and_hand_of_the_first(halves: Path, joined: Path) -> None:
    summary = json.loads((joined / "reconstruction.json").read_text())
    assert summary["second_half_was_in_hand"] == "mirror" and min(summary["halves_agree"]) > 0.995
    true = read_particles(halves / "particles.star")
    write_star(halves / "check.star", *read_tables(joined / "poses.star"))
    posed = read_particles(halves / "check.star")
    assert paper_scores(posed.rotations, true.rotations).mse < 1e-4
    np.testing.assert_allclose(posed.shifts, true.shifts, atol=0.3)


def test_the_star_file_keeps_what_was_the_users_to_the_letter(halves: Path, joined: Path) -> None:
    """Names that look like numbers, numbers with more than six decimals, and text."""
    ours = {*ANGLES, *ORIGINS, SUBSET, SCORE, PROBABILITY}
    before, after = ((path / name).read_text() for path, name in ((halves, "particles.star"), (joined, "poses.star")))
    before, after = (_columns(text) for text in (before, after))
    assert list(before) == [label for label in after if label not in (SCORE, PROBABILITY)], "columns keep their order"
    for label in before.keys() - ours:
        assert after[label] == before[label], label
    assert after["rlnTheirs"][:3] == ["0071", "None", "1.25e-09"]


def test_a_star_file_without_halves_gets_them_in_a_fixed_way(halves: Path, tmp_path: Path) -> None:
    optics, table = read_tables(halves / "particles.star")
    write_star(tmp_path / "particles.star", optics, table.drop(columns=SUBSET))
    number = half_of(*read_tables(tmp_path / "particles.star")[::-1])
    true = read_particles(halves / "particles.star")
    parts = [Half(true, true.rotations, true.shifts, "C1").some(np.flatnonzero(number == half)) for half in (1, 2)]
    scores = [np.full(len(part.shifts), 0.5) for part in parts]
    written = poses_written(tmp_path / "particles.star", halves, parts, scores)
    np.testing.assert_array_equal(written[SUBSET], number)
    assert list(written["rlnImageName"]) == list(table["rlnImageName"])
    np.testing.assert_allclose(from_relion_angles(written[list(ANGLES)].to_numpy(float)), true.rotations, atol=1e-6)


def poses_written(
    star: Path, datadir: Path, parts: list[Half], scores: list, select: dict | None = None
) -> pd.DataFrame:
    """data_particles of poses.star with the poses of two halves."""
    config = PreparationConfig(name="x", star=str(star), datadir=str(datadir), select=select or {})
    rotations, shifts = ([getattr(part, name) for part in parts] for name in ("rotations", "shifts"))
    write_poses(star.parent, config, rotations, shifts, scores)
    return read_tables(star.parent / "poses.star")[1]


def test_each_image_has_the_correlation_that_its_noise_allows(halves: Path, joined: Path) -> None:
    """At SNR 1 half of an image's variance is noise, so the correlation is √½. With a wrong pose it is almost 0."""
    scores = read_tables(joined / "poses.star")[1][SCORE]
    assert scores.median() == pytest.approx(0.5**0.5, abs=0.04) and scores.min() > 0.5
    half = read_half(halves / "run1", halves / "half1")
    volume = grid_volume(back_project(half))
    lost = Half(half.particles, random_rotations(len(half.shifts), np.random.default_rng(0)), half.shifts, "C1")
    right, wrong = (correlations(part, volume, 16) for part in (half, lost))
    assert np.median(right) > np.median(wrong) + 0.1
    np.testing.assert_allclose(correlations(half.some(slice(5, 9)), volume, 16), right[5:9], atol=1e-6)


def test_each_image_has_a_probability_and_where_all_show_the_molecule_none_is_called_junk(joined: Path) -> None:
    probabilities = read_tables(joined / "poses.star")[1][PROBABILITY]
    summary = json.loads((joined / "reconstruction.json").read_text())["junk"]
    assert (probabilities < 0.5).sum() == summary["below"] <= 0.01 * IMAGES and summary["of"] == IMAGES + 1
    table = pd.read_csv(joined / "detail_scores.csv").groupby("of")["score"]
    assert table.size().to_dict() == {"decoy": 400, "half 1": 601, "half 2": 600}
    assert table.median()["half 1"] == pytest.approx(1, abs=0.05) and table.median()["decoy"] < 0.6


def test_examples_go_from_the_worst_to_the_best_and_leave_noise(joined: Path) -> None:
    shown = np.load(joined / "examples.npz")
    assert (np.diff(shown["scores"]) > 0).all()
    residual = shown["images"] - shown["projections"]
    assert (residual.var(axis=(1, 2)) < shown["images"].var(axis=(1, 2))).all()
    np.testing.assert_allclose(np.corrcoef(residual[-1].ravel(), shown["projections"][-1].ravel())[0, 1], 0, atol=0.02)


def test_the_summary_says_how_far_the_runs_agree_and_how_sure_that_is(joined: Path) -> None:
    summary = json.loads((joined / "reconstruction.json").read_text())
    assert summary["halves_compared"] == [601, 600] and max(summary["halves_median_degrees"]) < 1.5
    assert summary["hand"] == "undetermined" and summary["fsc"].startswith("gold standard: two runs")
    table = pd.read_csv(joined / "agreement.csv")
    assert list(table.groupby("half").size()) == [601, 600]


@pytest.mark.parametrize("split", [{2}, {1, 2}])
def test_halves_whose_poses_are_split_over_both_hands_do_not_agree(halves: Path, asking: Callable, split: set) -> None:
    """The map of such a half has a mirror plane. So each image of the other half has two equally good poses in it."""
    own = [read_half(halves / f"run{half}", halves / f"half{half}") for half in (1, 2)]
    for half in split:
        poses = own[half - 1]
        flipped = np.random.default_rng(half).random((len(poses.rotations), 1, 1)) < 0.5
        rotations = np.where(flipped, other_hand(poses.rotations), poses.rotations)
        own[half - 1] = dataclasses.replace(poses, rotations=rotations)
    with asking():
        asked = ask_each_other(own, [halves / "run1", halves / "run2"])
        _, _, degrees = bring_together(own, asked, np.eye(3)[None])
    agree = [np.mean(apart < AGREES) for apart in degrees]
    assert all(agree[half - 1] < 0.6 for half in split)
    found = {"halves_agree": agree, "halves_compared": [len(apart) for apart in degrees]}
    resolved = {"agree_within_degrees": AGREES, "resolution_angstrom": {"corrected": 36.0}}
    assert verdict(found | resolved).state == "not converged"


def test_images_of_the_whole_file_are_compared() -> None:
    """The first session's images are good, and half of all are of a bad one: their poses are random."""
    rng, shifts = np.random.default_rng(0), np.zeros((4000, 2))
    true, bad = random_rotations(4000, rng), np.arange(4000)[:, None, None] >= 2000
    found = [np.where(bad, random_rotations(4000, rng), true) for _ in range(2)]
    own = [Half(None, rotations, shifts, "C1") for rotations in found]  # type: ignore[arg-type]
    answers = RelionPoses(true[compared(4000)], shifts[:1000])
    _, _, degrees = bring_together(own, [answers, answers], np.eye(3)[None])
    assert [np.mean(apart < AGREES) for apart in degrees] == pytest.approx([0.5, 0.5], abs=0.01)


def test_map_and_half_maps_are_the_truth_and_the_map_is_the_best(halves: Path, joined: Path) -> None:
    truth = read_map(halves / "truth.mrc")[0]
    curves = {
        name: fourier_shell_correlation(read_map(joined / f"{name}.mrc")[0], truth)
        for name in ("volume", "half1", "half2")
    }
    for name in curves:
        assert (curves[name][1:12] > 0.9).all()
    assert curves["volume"][8:15].mean() > max(curves["half1"][8:15].mean(), curves["half2"][8:15].mean())
    with mrcfile.open(joined / "volume.mrc") as mrc:
        assert float(mrc.voxel_size.x) == VOXEL


def test_whitened_images_give_the_map_of_the_images_as_they_were(halves: Path) -> None:
    plain = read_half(halves / "run1", halves / "half1")
    factors = 1 / (1 + np.arange(24) / 8)
    images = filtered(np.array(plain.particles.images), factors[shells(32)])
    particles = dataclasses.replace(plain.particles, images=images)
    sums = [
        back_project(half) for half in (plain, Half(particles, plain.rotations, plain.shifts, "C1", tuple(factors)))
    ]
    torch.testing.assert_close(sums[1].signal, sums[0].signal, rtol=0, atol=1e-3 * float(sums[0].signal.abs().max()))
    assert torch.equal(sums[1].power, sums[0].power)


def test_rows_that_were_left_out_have_no_pose_and_the_others_keep_their_order(halves: Path, tmp_path: Path) -> None:
    star, select = tmp_path / "scored.star", (("rlnMaxValueProbDistribution", 0.1, None),)
    optics, table = read_tables(halves / "particles.star")
    write_star(star, optics, table.assign(rlnMaxValueProbDistribution=np.arange(len(table)) % 3 / 2))
    true, kept = read_particles(halves / "particles.star"), np.flatnonzero(np.arange(len(table)) % 3)
    rows = [chosen_rows(star, read_tables(star), number, select) for number in (1, 2)]  # as prepare reads it
    parts = [Half(true, true.rotations, true.shifts, "C1").some(part) for part in rows]
    posed = poses_written(star, halves, parts, rows, {"rlnMaxValueProbDistribution": [0.1, None]})
    assert list(posed["rlnImageName"]) == list(table["rlnImageName"].iloc[kept])
    assert list(posed[SCORE]) == list(kept)
    np.testing.assert_allclose(from_relion_angles(posed[list(ANGLES)]), true.rotations[kept], atol=1e-6)


def test_runs_that_agree_modulo_a_group_that_is_nearly_there_are_refined_further(halves, monkeypatch, tmp_path) -> None:
    """And compared again: by what each run, refined further, says of the other's images and their mates."""
    compared, asked = [], []

    def compare_once(own: list[Half], _: object) -> SimpleNamespace:
        compared.append([half.shifts[0, 0] for half in own])
        if len(compared) == 2:
            raise InterruptedError
        return SimpleNamespace(nearly=True, symmetry="D7")

    monkeypatch.setattr(join, "compare", compare_once)
    monkeypatch.setattr(join, "mates", lambda half, name: (name, half.shifts[0, 0]))
    monkeypatch.setattr(join, "ask_each_other", lambda own, runs, mates=None: asked.append(mates))
    monkeypatch.setattr(
        join, "refined_further", lambda run, half, *_: dataclasses.replace(half, shifts=half.shifts + 1)
    )
    with pytest.raises(InterruptedError):
        join.reconstruct(*([halves / f"{kind}{half}" for half in (1, 2)] for kind in ("run", "half")), tmp_path, print)
    before, after = compared
    assert after == [each + 1 for each in before] and asked == [None, [("D7", each) for each in after]]


def test_halves_of_different_star_files_are_refused(halves: Path) -> None:
    with pytest.raises(join.ConfigError, match="two datasets of the same star file"):
        join.reconstruct([halves / "run1"] * 2, [halves / "half1"] * 2, halves / "none", lambda _: None)


def test_an_alignment_is_as_a_run_in_another_frame_defines_it() -> None:
    """`pose_metrics` finds the frame of these tests."""
    rotations, shifts = random_rotations(5, np.random.default_rng(1)), np.zeros((5, 2))
    turned, moved = in_other_frame(rotations, shifts)
    alignment = Alignment(GAUGE, "mirror", OFFSET)
    np.testing.assert_allclose(alignment.rotations(turned), rotations, atol=1e-12)
    np.testing.assert_allclose(alignment.shifts(turned, moved), shifts, atol=1e-12)


def _columns(star: str) -> dict[str, list[str]]:
    """The columns of the last table of a star file, as they are written there."""
    lines = star[star.index("data_particles") :].splitlines()
    labels = [line.split()[0][1:] for line in lines if line.startswith("_")]
    rows = [line.split() for line in lines if line.strip() and not line.startswith(("_", "data_", "loop_"))]
    return dict(zip(labels, map(list, zip(*rows, strict=True)), strict=True))


def test_shifts_beyond_three_deviations_are_counted() -> None:
    normal = np.random.default_rng(0).normal(0, 5.0, (20_000, 2))
    assert join.far_shifts(normal, 5.0, 4.0) == pytest.approx(np.exp(-4.5), abs=0.003)
    assert join.far_shifts(normal, 2.5, 4.0) == pytest.approx(np.exp(-4.5 / 4), abs=0.01)
    assert join.far_shifts(normal / 20, 0.0, 4.0) == 0, "poses are off by parts of a voxel, whatever is assumed"


def test_shifts_of_images_that_the_search_has_lost_do_not_count() -> None:
    """The true standard deviation is 20 Å and 16 are assumed. Lost images lie at the edge of the search, at 64 Å."""
    rng, halves, degrees = np.random.default_rng(0), [], []
    for _ in range(2):
        shifts = rng.normal(0, 20.0, (1200, 2))
        lost = (np.hypot(*shifts.T) > 64) | (rng.random(1200) < 0.2)
        shifts[lost] *= 64 / np.hypot(*shifts[lost].T)[:, None]
        halves.append(Half(None, np.zeros((1200, 3, 3)), shifts, "C1"))  # type: ignore[arg-type]
        degrees.append(np.where(lost, 90.0, 3.0)[compared(1200)])
    agreed = join.agreed_shifts(halves, degrees, AGREES)
    assert join.found_shift_std(agreed) == pytest.approx(20, rel=0.05)
    assert join.far_shifts(agreed, 16.0, 17.0) == pytest.approx(np.exp(-(48**2) / 800), abs=0.02)
    everywhere = join.agreed_shifts(halves, [np.zeros(1000)] * 2, AGREES)
    assert join.found_shift_std(everywhere) > 25 and join.far_shifts(everywhere, 16.0, 17.0) > 0.2


def test_a_search_is_to_reach_images_that_lie_farther_than_a_normal_distribution_has_them() -> None:
    rng = np.random.default_rng(0)
    shifts = np.concatenate([rng.normal(0, 5.0, (1900, 2)), rng.normal(0, 30.0, (100, 2))])
    found = join.found_shift_std(shifts)
    assert found is not None and np.mean(np.hypot(*shifts.T) > 3 * found) == pytest.approx(0.01, abs=0.001)
    assert join.found_shift_std(np.empty((0, 2))) is None
