"""A reconstruction brought onto RELION's axes: map and poses still show the same images."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.transform import Rotation
from test_symmetry_axes import BOX, blobs

from equipose.core.fourier import half_disc, shift_phase
from equipose.core.fourier_grid import from_real_map, grid_slices
from equipose.core.rotations import from_relion_angles, random_rotations, to_relion_angles
from equipose.core.symmetry_axes import Frame
from equipose.errors import ConfigError
from equipose.io.cryosparc import INDEX, PIXEL, STACK, UID, read_cryosparc, write_cryosparc
from equipose.io.maps import read_map, write_map
from equipose.io.particle_tables import ANGLES, MAGNIFICATION, ORIGINS, read_tables, write_star
from equipose.reconstruction.symmetrise import symmetrise
from equipose.reconstruction.verdict import with_verdict

VOXEL = 8.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A reconstruction of a C3 molecule as C1, in an arbitrary frame and with an arbitrary centre."""
    rng, made = np.random.default_rng(0), tmp_path / "abinitio"
    made.mkdir()
    volume = blobs("C3", Rotation.random(random_state=7).as_matrix(), np.array([0.6, -0.3, 0.4])).numpy()
    for name in ("volume", "half1", "half2"):
        write_map(made / f"{name}.mrc", volume, VOXEL)
    write_map(made / "mask.mrc", np.ones_like(volume), VOXEL)
    optics = {"rlnOpticsGroup": [1], "rlnImagePixelSize": [VOXEL], "rlnImageSize": [BOX], "rlnVoltage": [300.0]}
    table = pd.DataFrame({"rlnImageName": [f"{i + 1}@particles.mrcs" for i in range(20)], "rlnOpticsGroup": 1})
    table[list(ANGLES)] = to_relion_angles(random_rotations(20, rng))
    table[list(ORIGINS)] = rng.normal(0, 10, (20, 2))
    write_star(made / "poses.star", pd.DataFrame(optics), table)
    return made


def shown(folder: Path) -> torch.Tensor:
    """Coefficients (n, m) of the projections of a folder's map at its poses."""
    _, table = read_tables(folder / "poses.star")
    volume = from_real_map(torch.from_numpy(read_map(folder / "volume.mrc")[0]), BOX // 2)
    rotations = torch.from_numpy(from_relion_angles(table[list(ANGLES)].to_numpy(float))).float()
    shifts = torch.from_numpy(-table[list(ORIGINS)].to_numpy(float) / VOXEL).float()
    disc = half_disc(BOX, 10)
    return shift_phase(shifts, disc) * grid_slices(volume, BOX // 2, rotations, disc)


def test_a_mask_stays_between_zero_and_one(folder: Path, tmp_path: Path) -> None:
    """RELION refuses another. Cut at Nyquist, the transform of one with a sharp edge overshoots by several percent."""
    axis = np.arange(BOX) - BOX // 2
    inside = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 < (BOX // 2 - 2) ** 2).astype(np.float32)
    write_map(folder / "mask.mrc", inside, VOXEL)
    symmetrise(folder, "C3", tmp_path / "symmetric")
    mask = read_map(tmp_path / "symmetric/mask.mrc")[0]
    assert mask.min() == 0 and mask.max() == 1 and 0.9 < mask.sum() / inside.sum() < 1.1


def test_map_and_poses_move_together_and_the_axis_comes_to_z(folder: Path, tmp_path: Path) -> None:
    frame = symmetrise(folder, "C3", tmp_path / "symmetric")
    assert frame.correlation > 0.95
    before, after = shown(folder), shown(tmp_path / "symmetric")
    assert (after - before).abs().square().sum() < 0.01 * before.abs().square().sum()
    volume = from_real_map(torch.from_numpy(read_map(tmp_path / "symmetric/volume.mrc")[0]), BOX // 2)
    turn = torch.from_numpy(Rotation.from_rotvec([0, 0, 2 * np.pi / 3]).as_matrix()).float()
    looks = torch.from_numpy(random_rotations(10, np.random.default_rng(1))).float()
    disc = half_disc(BOX, 10)
    plain, turned = (grid_slices(volume, BOX // 2, poses, disc) for poses in (looks, looks @ turn))
    assert (turned - plain).abs().square().sum() < 0.01 * plain.abs().square().sum()


def test_poses_of_cryosparc_move_with_those_of_relion(folder: Path, tmp_path: Path) -> None:
    optics, table = read_tables(folder / "poses.star")
    table = table.assign(rlnRandomSubset=[1, 2] * 10)
    write_star(folder / "poses.star", optics, table)
    rotations, shifts = from_relion_angles(table[list(ANGLES)].to_numpy()), -table[list(ORIGINS)].to_numpy()
    records = {UID: np.arange(20) + 7, STACK: np.full(20, b"particles.mrcs"), INDEX: np.arange(20)}
    records[PIXEL] = np.full(20, VOXEL)
    halves = table["rlnRandomSubset"].to_numpy()
    write_cryosparc(folder / "poses.cs", records, np.arange(20), rotations, shifts, halves)
    symmetrise(folder, "C3", tmp_path / "symmetric")
    ours = read_tables(tmp_path / "symmetric/poses.star")[1]
    theirs = read_cryosparc(tmp_path / "symmetric/poses.cs", no_ctf=True)
    poses = [from_relion_angles(each[list(ANGLES)].to_numpy(float)) for each in (theirs, ours)]
    np.testing.assert_allclose(*poses, atol=1e-5)
    np.testing.assert_allclose(theirs[list(ORIGINS)], ours[list(ORIGINS)], atol=1e-4)
    assert list(theirs["ucsfUid"]) == list(range(7, 27)) and list(theirs["rlnRandomSubset"]) == [1, 2] * 10


def test_origins_move_as_far_as_the_magnification_of_their_group_takes_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = Frame(Rotation.random(random_state=1).as_matrix(), np.array([3.0, -2.0, 1.0]), 0.99)
    monkeypatch.setattr("equipose.reconstruction.symmetrise.find_axes", lambda *_: frame)
    symmetrise(folder, "C3", tmp_path / "plain")
    optics, table = read_tables(folder / "poses.star")
    matrix = np.array([[1.1, 0.02], [-0.03, 0.95]])
    table[list(ORIGINS)] = table[list(ORIGINS)].to_numpy(float) @ matrix  # the same particles, seen through it
    write_star(folder / "poses.star", optics.assign(**dict(zip(MAGNIFICATION, matrix.ravel(), strict=True))), table)
    symmetrise(folder, "C3", tmp_path / "magnified")
    plain, magnified = (
        read_tables(tmp_path / name / "poses.star")[1][list(ORIGINS)].to_numpy(float) for name in ("plain", "magnified")
    )
    np.testing.assert_allclose(magnified, plain @ matrix, atol=1e-5)


def test_a_symmetry_that_the_map_does_not_have_is_refused_and_nothing_written(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not have the symmetry C4: its best axes correlate by 0"):
        symmetrise(folder, "C4", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_the_next_steps_are_written_anew_for_the_place_where_the_maps_will_lie(folder: Path, tmp_path: Path) -> None:
    measured = {"halves_compared": [600] * 2, "halves_agree": [0.99] * 2, "agree_within_degrees": 15.0}
    former = with_verdict(measured | {"resolution_angstrom": {"corrected": 40.0}})
    (folder / "reconstruction.json").write_text(json.dumps(former | {"datasets": [], "star": "a.star"}))
    (folder / "next.md").touch()
    symmetrise(folder, "C3", tmp_path / "symmetric")
    text = (tmp_path / "symmetric/next.md").read_text()
    assert str(tmp_path / "symmetric/poses.star") in text and "partial" not in text
    assert (tmp_path / "symmetric/filtered.mrc").is_file()


@pytest.mark.parametrize(("agree", "state"), [(0.99, "converged"), (0.1, "not_converged")])
def test_a_resolution_is_claimed_where_the_runs_agree_and_nothing_is_said_of_the_former_frame(
    folder: Path, tmp_path: Path, agree: float, state: str
) -> None:
    local = {"local_resolution_angstrom": {"median": 40.0}, "resolved_to_the_last_shell": False}
    along = {"directional_fsc": {"worst_angstrom": 40.0, "worst_along": [0, 1, 0], "best_angstrom": 30.0}}
    along |= {"fsc_off_centre": 0.0}
    measured = {"halves_compared": [600] * 2, "halves_agree": [agree] * 2, "agree_within_degrees": 15.0}
    former = with_verdict(measured | local | along | {"resolution_angstrom": {"corrected": 40.0, "unmasked": 50.0}})
    (folder / "reconstruction.json").write_text(json.dumps(former))
    symmetrise(folder, "C3", tmp_path / "symmetric")
    found = json.loads((tmp_path / "symmetric/reconstruction.json").read_text())
    assert found["verdict"]["state"] == state and found["symmetry"] == "C3"
    assert (found["resolution_angstrom"]["corrected"] is None) == (state == "not_converged")
    crosses = found["fsc_crosses_at_angstrom"]["corrected"]
    assert crosses != 40.0 and crosses == pytest.approx(BOX * VOXEL / (BOX / 2 - 1)), "the half-maps here are the same"
    assert found["fsc_off_centre"] > 0.9 and found["directional_fsc"]["worst_along"] != [0, 1, 0]
    assert found["resolved_to_the_last_shell"] == (state == "converged")
    local = read_map(tmp_path / "symmetric/local_resolution.mrc")[0]
    if state == "converged":
        inside = read_map(tmp_path / "symmetric/mask.mrc")[0] > 0.5
        assert found["local_resolution_angstrom"]["median"] == pytest.approx(np.median(local[inside]), rel=1e-5)
