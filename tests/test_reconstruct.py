"""Two half-set runs, each in a frame and hand of its own, joined into one map, its half-maps and one set of poses."""

import json
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest

from equipose import fsc, reconstruct
from equipose.config import PreparationConfig, merge, simulation_config
from equipose.evaluate import Poses
from equipose.metrics import Alignment, paper_scores
from equipose.particles import read_particles, read_tables, write_star
from equipose.rotations import other_hand, random_rotations, to_relion_angles
from equipose.simulate import simulate
from equipose.structures import density, read_map, write_map

ROOT = Path(__file__).parents[1]
BOX, VOXEL, IMAGES = 32, 17.0, 1200
GAUGE = random_rotations(1, np.random.default_rng(3))[0]
OFFSET = np.array([20.0, -10.0, 5.0])  # Å


def in_other_frame(rotations: np.ndarray, shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True poses as a run would find them that is in the mirror hand, turned by GAUGE and moved by OFFSET."""
    turned = other_hand(rotations @ GAUGE.T)
    return turned, shifts + rotations[:, :2] @ OFFSET


@pytest.fixture(scope="module")
def halves(paper_config: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the user's star file, two datasets, and two runs whose poses are true, each in its own frame."""
    folder = tmp_path_factory.mktemp("halves")
    line = {"box": BOX, "voxel_size": VOXEL, "images": IMAGES, "held_out": 1, "snr": 1.0}
    config = simulation_config(merge(paper_config, {"datasets": {"80s_snr1": line}}), "80s_snr1")
    atoms = ROOT / "workflow/resources/structures/5nrl.npz"
    write_map(folder / "truth.mrc", density(atoms, BOX, VOXEL, 2.0), VOXEL)
    simulate(config, folder / "truth.mrc", folder, threads=1, progress=lambda *_: None)
    optics, table = read_tables(folder / "particles.star")
    table = table.assign(rlnRandomSubset=1 + np.arange(len(table)) % 2, rlnTheirs="kept")
    write_star(folder / "particles.star", optics, table)
    for half in (1, 2):
        dataset, run = folder / f"half{half}", folder / f"run{half}"
        part = table[table["rlnRandomSubset"] == half].copy()
        part["rlnImageName"] = [name.replace("@", "@../") for name in part["rlnImageName"]]
        write_star(dataset / "particles.star", optics, part)
        settings = {key: None for key in PreparationConfig.__dataclass_fields__}
        asked = PreparationConfig(**(settings | {"name": "x", "star": str(folder / "particles.star"), "subset": half}))
        (dataset / "config.json").write_text(asked.to_json())
        true = read_particles(dataset / "particles.star")
        rotations, shifts = true.rotations, true.shifts
        if half == 2:
            rotations, shifts = in_other_frame(rotations, shifts)
        part[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]] = to_relion_angles(rotations)
        part[["rlnOriginXAngst", "rlnOriginYAngst"]] = -shifts
        write_star(run / "poses.star", optics, part)
        (run / "metrics.json").write_text(json.dumps({"confirmed_share": 1.0}))
    return folder


@pytest.fixture(scope="module")
def joined(halves: Path) -> Path:
    """What `reconstruct` makes of them; the second run's encoder knows the first half's poses, in its own frame."""
    true = read_particles(halves / "half1/particles.star")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reconstruct, "load_model", lambda path: None)
        patch.setattr(reconstruct, "predict", lambda *_: (Poses(*in_other_frame(true.rotations, true.shifts)), None))
        runs, datasets = [halves / "run1", halves / "run2"], [halves / "half1", halves / "half2"]
        reconstruct.reconstruct(runs, datasets, halves / "out", lambda _: None)
    return halves / "out"


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
    curves = reconstruct.corrected_fsc(first + shared, second + shared, mask)
    assert abs(curves["corrected"][12:].mean()) < 0.2
    np.testing.assert_allclose(curves["unmasked"][12:].mean(), 0, atol=0.02)


def test_equal_half_maps_correlate_at_every_shell() -> None:
    volume = np.random.default_rng(0).standard_normal((32, 32, 32))
    for name, curve in reconstruct.corrected_fsc(volume, volume, np.ones_like(volume)).items():
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
