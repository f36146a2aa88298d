"""Two half-set runs, each in a frame and hand of its own, joined into one map, its half-maps and one set of poses."""

import dataclasses
import json
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import GAUGE, OFFSET, VOXEL, in_other_frame

from equipose import fsc, reconstruct
from equipose.config import PreparationConfig
from equipose.metrics import Alignment, paper_scores
from equipose.noise import filtered, shells
from equipose.particles import ANGLES, chosen_rows, read_particles, read_tables, write_star
from equipose.rotations import from_relion_angles, random_rotations
from equipose.structures import read_map


def test_the_second_half_is_moved_into_the_frame_and_hand_of_the_first(halves: Path, joined: Path) -> None:
    summary = json.loads((joined / "reconstruction.json").read_text())
    assert summary["second_half_was_in_hand"] == "mirror" and summary["halves_agree"] == 1.0
    true = read_particles(halves / "particles.star")
    write_star(halves / "check.star", *read_tables(joined / "poses.star"))
    posed = read_particles(halves / "check.star")
    assert paper_scores(posed.rotations, true.rotations).mse < 1e-6
    np.testing.assert_allclose(posed.shifts, true.shifts, atol=0.05)


def test_the_star_file_keeps_what_was_the_users_and_says_each_particles_half(halves: Path, joined: Path) -> None:
    (optics, table), (new_optics, new_table) = (
        read_tables(path) for path in (halves / "particles.star", joined / "poses.star")
    )
    pd.testing.assert_frame_equal(new_optics, optics)
    kept = ["rlnImageName", "rlnDefocusU", "rlnTheirs", "rlnRandomSubset"]
    pd.testing.assert_frame_equal(new_table[kept], table[kept])


def test_map_and_half_maps_are_the_truth_and_the_map_is_the_best(halves: Path, joined: Path) -> None:
    truth = read_map(halves / "truth.mrc")[0]
    curves = {
        name: fsc.fourier_shell_correlation(read_map(joined / f"{name}.mrc")[0], truth)
        for name in ("volume", "half1", "half2")
    }
    for name in curves:
        assert (curves[name][1:12] > 0.9).all()
    assert curves["volume"][8:15].mean() > max(curves["half1"][8:15].mean(), curves["half2"][8:15].mean())
    with mrcfile.open(joined / "volume.mrc") as mrc:
        assert float(mrc.voxel_size.x) == VOXEL


def test_whitened_images_give_the_map_of_the_images_as_they_were(halves: Path) -> None:
    particles = read_particles(halves / "half1/particles.star")
    plain = reconstruct.Half(particles, particles.rotations, particles.shifts, None)
    factors = 1 / (1 + np.arange(24) / 8)
    images = filtered(np.array(particles.images), factors[shells(32)])
    white = dataclasses.replace(plain, particles=dataclasses.replace(particles, images=images), whitening=list(factors))
    sums = [reconstruct.back_project(half) for half in (plain, white)]
    torch.testing.assert_close(sums[1].signal, sums[0].signal, rtol=0, atol=1e-3 * float(sums[0].signal.abs().max()))
    assert torch.equal(sums[1].power, sums[0].power)


def test_rows_that_were_left_out_have_no_pose_and_the_others_keep_their_order(halves: Path) -> None:
    star = halves / "scored.star"
    optics, table = read_tables(halves / "particles.star")
    write_star(star, optics, table.assign(rlnMaxValueProbDistribution=np.arange(len(table)) % 3 / 2))
    settings = {key: None for key in PreparationConfig.__dataclass_fields__}
    settings |= {"star": str(star), "select": {"rlnMaxValueProbDistribution": [0.1, None]}}
    config, kept = PreparationConfig(**settings), np.flatnonzero(np.arange(len(table)) % 3)
    whole = read_particles(halves / "particles.star")
    rows = [chosen_rows(star, read_tables(star)[1], number, config.limits) for number in (1, 2)]
    own = [reconstruct.Half(whole, whole.rotations[part], whole.shifts[part], None) for part in rows]
    _, posed = reconstruct.pose_tables(config, *own)
    assert list(posed["rlnImageName"]) == list(table["rlnImageName"].iloc[kept])
    np.testing.assert_allclose(from_relion_angles(posed[list(ANGLES)]), whole.rotations[kept], atol=1e-6)


def test_halves_of_different_star_files_are_refused(halves: Path) -> None:
    with pytest.raises(reconstruct.ConfigError, match="two datasets of one star file"):
        reconstruct.reconstruct([halves / "run1"] * 2, [halves / "half1"] * 2, halves / "none", lambda _: None)


def test_a_tight_mask_alone_makes_masked_fsc_high_and_corrected_fsc_not() -> None:
    """Half-maps of pure noise: whatever correlates beyond the first shells is the mask's doing."""
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 48, 48, 48))
    z, y, x = np.indices((48, 48, 48)) - 24
    shared = np.exp(-(x**2 + y**2 + z**2) / 50) * 20
    mask = (np.sqrt(x**2 + y**2 + z**2) < 6).astype(float)
    curves = fsc.corrected_fsc(first + shared, second + shared, mask)
    assert abs(curves["corrected"][12:].mean()) < 0.2
    np.testing.assert_allclose(curves["unmasked"][12:].mean(), 0, atol=0.02)


def test_equal_half_maps_correlate_at_every_shell() -> None:
    volume = np.random.default_rng(0).standard_normal((32, 32, 32))
    for name, curve in fsc.corrected_fsc(volume, volume, np.ones_like(volume)).items():
        if name != "randomised":
            np.testing.assert_allclose(curve[1:], 1, atol=1e-6)


def test_the_mask_holds_the_molecule_and_little_else(halves: Path) -> None:
    truth = read_map(halves / "truth.mrc")[0]
    noisy = truth + 0.02 * truth.max() * np.random.default_rng(0).standard_normal(truth.shape)
    mask = reconstruct.solvent_mask(noisy)
    assert (truth * mask).sum() > 0.97 * truth.sum() and mask.mean() < 0.5


def test_an_alignment_is_as_a_run_in_another_frame_defines_it() -> None:
    """The frame of these tests is the one that `metrics` undoes."""
    rotations, shifts = random_rotations(5, np.random.default_rng(1)), np.zeros((5, 2))
    turned, moved = in_other_frame(rotations, shifts)
    alignment = Alignment(GAUGE, "mirror", OFFSET)
    np.testing.assert_allclose(alignment.rotations(turned), rotations, atol=1e-12)
    np.testing.assert_allclose(alignment.shifts(turned, moved), shifts, atol=1e-12)
