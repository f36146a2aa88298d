"""poses.star: the user's own file, ready for RELION and cryoDRGN, without any column of former poses."""

from pathlib import Path

import mrcfile
import numpy as np
import pytest
from test_cryosparc import BLOB, CTF, PLACE, cs

from equipose.config.settings import PreparationConfig
from equipose.core.rotations import from_relion_angles, of_inverted, random_rotations
from equipose.errors import ConfigError
from equipose.io.half_sets import half_of
from equipose.io.particle_tables import ANGLES, ORIGINS, read_tables
from equipose.io.particles import read_particles
from equipose.io.starfiles import read_star
from equipose.reconstruction import handback
from equipose.reconstruction.handback import in_other_hand, write_poses

NUMBER, BOX = 8, 16


def stack(path: Path, box: int = BOX, number: int = NUMBER, pixel: float = 2.5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with mrcfile.new(path, overwrite=True) as mrc:
        mrc.set_data(np.random.default_rng(0).normal(size=(number, box, box)).astype(np.float32))
        mrc.set_image_stack()
        mrc.voxel_size = pixel


def star(path: Path, columns: dict, optics: dict | None = None, stacks: str = "stack.mrcs") -> Path:
    """A file of RELION 3.1 with `optics`, or of 3.0 without; a value of `columns` is text for all rows or a list."""
    old = {
        "rlnVoltage": "300.00",
        "rlnSphericalAberration": "2.70",
        "rlnAmplitudeContrast": "0.1",
        "rlnPixelSize": "2.5",
    }
    columns = {
        "rlnImageName": [f"{row + 1:06d}@{stacks}" for row in range(NUMBER)],
        "rlnDefocusU": "15000.12345678",
    } | columns
    columns |= {"rlnOpticsGroup": "1"} if optics else old
    rows = [[value if isinstance(value, str) else value[row] for value in columns.values()] for row in range(NUMBER)]
    text = "" if optics is None else table("optics", list(optics), [list(optics.values())])
    path.write_text(text + table("particles" if optics else "", list(columns), rows))
    return path


def table(name: str, labels: list[str], rows: list) -> str:
    head = f"\ndata_{name}\n\nloop_\n" + "".join(f"_{label} #{number}\n" for number, label in enumerate(labels, 1))
    return head + "".join("  ".join(row) + "\n" for row in rows) + "\n"


OPTICS = {"rlnOpticsGroup": "1", "rlnOpticsGroupName": '"my group"', "rlnVoltage": "300.000000"}
OPTICS |= {"rlnSphericalAberration": "2.700000", "rlnAmplitudeContrast": "0.1000", "rlnImagePixelSize": "2.5000000"}


def hand_back(path: Path, repeats: int = 0, **told: object) -> tuple:
    """Tables of poses.star, and the poses in it in the file's order."""
    config = PreparationConfig(name="x", star=str(path), **told)
    number = half_of(*read_tables(path)[::-1])
    rng = np.random.default_rng(1)
    rotations, shifts = random_rotations(NUMBER, rng), rng.normal(size=(NUMBER, 2))
    parts = [np.flatnonzero(number == half) for half in (1, 2)]
    halves = ([values[part] for part in parts] for values in (rotations, shifts, np.arange(NUMBER) / 10))
    counted = write_poses(path.parent, config, *halves)
    assert counted == {"left_out": 0, "repeats": repeats}
    return *read_star(path.parent / "poses.star", as_text=True).values(), rotations, shifts


@pytest.mark.parametrize("optics", [None, OPTICS])
def test_optics_have_what_relion_refuses_to_start_without(tmp_path: Path, optics: dict | None) -> None:
    stack(tmp_path / "stack.mrcs")
    made, table, rotations, shifts = hand_back(star(tmp_path / "a.star", {}, optics))
    assert list(made["rlnImageSize"]) == [str(BOX)] and list(made["rlnImageDimensionality"]) == ["2"]
    assert set(table["rlnPhaseShift"]) == {"0.000000"} and set(table["rlnDefocusU"]) == {"15000.12345678"}
    if optics:
        assert made["rlnOpticsGroupName"][0] == "my group" and made["rlnAmplitudeContrast"][0] == "0.1000"
    np.testing.assert_allclose(from_relion_angles(table[list(ANGLES)].to_numpy(float)), rotations, atol=1e-6)
    np.testing.assert_allclose(table[list(ORIGINS)].to_numpy(float), -shifts, rtol=1e-6)


def test_every_column_that_speaks_of_a_pose_is_new_or_gone(tmp_path: Path) -> None:
    stack(tmp_path / "stack.mrcs")
    old = [
        "rlnOriginX",
        "rlnOriginY",
        "rlnAngleRotPrior",
        "rlnAngleTiltPrior",
        "rlnAnglePsiPrior",
        "rlnAnglePsiFlipRatio",
    ]
    old += ["rlnOriginXPriorAngst", "rlnAngleRot", "rlnOriginYAngst", "rlnAngleTiltFlipRatio"]
    kept = {"rlnAutopickFigureOfMerit": "0.5", "rlnClassNumber": "3", "rlnMicrographName": "Bob's#mic.mrc"}
    _, table, rotations, shifts = hand_back(star(tmp_path / "a.star", dict.fromkeys(old, "77.0") | kept, OPTICS))
    assert not [label for label in table if "Prior" in label or "Flip" in label] and "rlnOriginX" not in table
    assert "77.0" not in set(table.to_numpy().ravel())
    for label, value in kept.items():
        assert set(table[label]) == {value}


@pytest.mark.parametrize("name", ["J1/stack.mrc", "J1/stack.mrc:mrcs", "stack.st"])
def test_stacks_are_named_so_that_relion_reads_them(tmp_path: Path, name: str) -> None:
    stack(tmp_path / name.removesuffix(":mrcs"))
    path = star(tmp_path / "a.star", {}, OPTICS, name)
    assert read_particles(path).images.shape == (NUMBER, BOX, BOX)
    _, table, *_ = hand_back(path)
    assert table["rlnImageName"][1] == f"000002@{name.removesuffix(':mrcs')}:mrcs"
    assert read_particles(tmp_path / "poses.star").images.shape == (NUMBER, BOX, BOX)


def test_boxes_of_several_sizes_in_one_old_table_become_optics_groups(tmp_path: Path) -> None:
    stack(tmp_path / "stack.mrcs")
    stack(tmp_path / "wide.mrcs", 20)
    names = [f"{row + 1}@{'wide' if row > 4 else 'stack'}.mrcs" for row in range(NUMBER)]
    optics, table, *_ = hand_back(star(tmp_path / "a.star", {"rlnImageName": names}))
    assert list(optics["rlnOpticsGroup"]) == ["1", "2"] and list(optics["rlnImageSize"]) == ["16", "20"]
    assert list(table["rlnOpticsGroup"]) == ["1"] * 5 + ["2"] * 3


def test_another_pixel_size_stands_in_the_file_too(tmp_path: Path) -> None:
    stack(tmp_path / "stack.mrcs")
    optics, *_ = hand_back(star(tmp_path / "a.star", {}, OPTICS), pixel_size=2.6)
    assert float(optics["rlnImagePixelSize"][0]) == 2.6


def test_shifts_are_those_of_images_with_their_magnification(tmp_path: Path) -> None:
    stack(tmp_path / "stack.mrcs")
    matrix = {"rlnMagMat00": "1.02", "rlnMagMat01": "0.01", "rlnMagMat10": "0.03", "rlnMagMat11": "0.97"}
    optics, table, _, shifts = hand_back(star(tmp_path / "a.star", {}, OPTICS | matrix))
    assert optics["rlnMagMat10"][0] == "0.03"
    np.testing.assert_allclose(
        table[list(ORIGINS)].to_numpy(float), -shifts @ np.array([[1.02, 0.01], [0.03, 0.97]]), rtol=1e-6
    )


def test_poses_of_a_cs_file_are_in_both_files_and_flip_together(tmp_path: Path) -> None:
    fields = BLOB | CTF | PLACE | {"blob/path": b">stack.mrcs", "blob/shape": np.full((6, 2), BOX, np.uint32)}
    wide = {name: np.resize(value, (NUMBER, *np.shape(value)[1:])) for name, value in fields.items()}
    wide["blob/idx"] = np.arange(NUMBER, dtype=np.uint32)
    stack(tmp_path / "stack.mrcs")
    _, table, rotations, shifts = hand_back(cs(tmp_path / "a.cs", wide, np.arange(NUMBER) + 7))
    assert list(table["ucsfUid"]) == [str(uid) for uid in range(7, 7 + NUMBER)]
    written = read_particles(tmp_path / "poses.cs")
    np.testing.assert_allclose(written.rotations, rotations, atol=1e-6)
    np.testing.assert_allclose(written.shifts, shifts, atol=1e-5)
    assert list(written.particle_table["rlnRandomSubset"]) == list(
        read_tables(tmp_path / "poses.star")[1]["rlnRandomSubset"]
    )
    in_other_hand(tmp_path / "poses.star", tmp_path / "flipped")
    for name in ("poses.star", "poses.cs"):
        (tmp_path / "flipped/stack.mrcs").unlink(missing_ok=True)
        (tmp_path / "flipped/stack.mrcs").symlink_to(tmp_path / "stack.mrcs")
        flipped = read_particles(tmp_path / "flipped" / name)
        np.testing.assert_allclose(flipped.rotations, of_inverted(rotations), atol=1e-6)
        np.testing.assert_allclose(flipped.shifts, shifts, atol=1e-5)


def test_rows_that_repeat_an_image_are_counted_and_stay(tmp_path: Path) -> None:
    stack(tmp_path / "stack.mrcs")
    names = [f"{1 + row // 2}@stack.mrcs" for row in range(NUMBER)]
    _, table, *_ = hand_back(star(tmp_path / "a.star", {"rlnImageName": names}, OPTICS), repeats=NUMBER // 2)
    assert list(table["rlnImageName"]) == names


def test_a_star_file_gets_a_cs_file_that_says_the_same(tmp_path: Path) -> None:
    """Also through our own reader of .cs files: stacks, CTFs, poses, half-sets, and a uid for each row."""
    stack(tmp_path / "stack.mrcs")
    columns = {"rlnDefocusV": "14000.5", "rlnDefocusAngle": "30.0", "rlnRandomSubset": ["1", "2"] * (NUMBER // 2)}
    hand_back(star(tmp_path / "a.star", columns, OPTICS))
    (tmp_path / "poses.cs").rename(tmp_path / "theirs.cs")
    ours, theirs = read_particles(tmp_path / "poses.star"), read_particles(tmp_path / "theirs.cs")
    np.testing.assert_allclose(theirs.rotations, ours.rotations, atol=1e-5)
    np.testing.assert_allclose(theirs.shifts, ours.shifts, atol=1e-5)
    np.testing.assert_allclose(theirs.ctf, ours.ctf, rtol=1e-5)
    np.testing.assert_array_equal(theirs.images, ours.images)
    assert theirs.voxel_size == pytest.approx(2.5)
    table = theirs.particle_table
    assert list(table["rlnRandomSubset"]) == [1, 2] * (NUMBER // 2)
    assert table["ucsfUid"].nunique() == NUMBER
    assert list(table["rlnImageName"]) == list(ours.particle_table["rlnImageName"])


@pytest.mark.parametrize("twice", [False, True])
def test_a_star_file_with_cryosparc_s_uids_keeps_them_unless_two_rows_share_one(tmp_path: Path, twice: bool) -> None:
    """By them cryoSPARC joins particles with their micrographs. They have 64 bits, more than a float holds."""
    stack(tmp_path / "stack.mrcs")
    uids = [2**63 + 3 * row for row in range(NUMBER)]
    uids[1] = uids[0] if twice else uids[1]
    hand_back(star(tmp_path / "a.star", {"ucsfUid": list(map(str, uids))}, OPTICS))
    written = [int(uid) for uid in read_particles(tmp_path / "poses.cs").particle_table["ucsfUid"]]
    assert (written == uids) != twice and len(set(written)) == NUMBER


def test_clean_projections_have_no_cs_file(tmp_path: Path) -> None:
    stack(tmp_path / "stack.mrcs")
    path = star(tmp_path / "a.star", {}, OPTICS)
    path.write_text(path.read_text().replace("_rlnDefocusU", "_rlnTheirs"))
    (tmp_path / "poses.cs").touch()  # of a former command, for other particles
    hand_back(path, no_ctf=True)
    assert (tmp_path / "poses.star").exists() and not (tmp_path / "poses.cs").exists()


@pytest.mark.parametrize("label", ["rlnCtfDataArePhaseFlipped", "rlnCtfDataAreCtfPremultiplied"])
def test_images_that_were_changed_with_their_ctf_have_no_cs_file_which_could_not_say_so(
    tmp_path: Path, label: str
) -> None:
    stack(tmp_path / "stack.mrcs")
    optics, *_ = hand_back(star(tmp_path / "a.star", {}, OPTICS | {label: "1"}))
    assert optics[label][0] == "1" and not (tmp_path / "poses.cs").exists()
    hand_back(star(tmp_path / "a.star", {}, OPTICS | {label: "0"}))
    assert (tmp_path / "poses.cs").exists()


def test_what_a_reconstruction_does_not_need_cannot_fail_at_its_end(tmp_path: Path) -> None:
    """CTFFIND's resolution of a fit that has failed, and an unused optics group without numbers."""
    stack(tmp_path / "stack.mrcs")
    columns = {"rlnCtfMaxResolution": ["4.5", "inf", "nan", "None", "5.0", "6.0", "7.0", "8.0"]}
    path = star(tmp_path / "a.star", columns, OPTICS)
    group = " ".join(OPTICS.values())
    path.write_text(path.read_text().replace("  ".join(OPTICS.values()), f"{group}\n{group.replace('1', 'None', 1)}"))
    _, table, *_ = hand_back(path)
    assert list(table["rlnCtfMaxResolution"]) == columns["rlnCtfMaxResolution"]
    found = np.load(tmp_path / "poses.cs")["ctf/ctf_fit_to_A"]
    np.testing.assert_allclose(found, [4.5, 0, 0, 0, 5, 6, 7, 8])


def test_poses_star_is_the_last_file_so_that_poses_cs_is_there_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack(tmp_path / "stack.mrcs")
    path = star(tmp_path / "a.star", {}, OPTICS)

    def full(*_: object) -> None:
        raise ConfigError("no room")

    with monkeypatch.context() as patch, pytest.raises(ConfigError, match="no room"):
        patch.setattr(handback, "write_cryosparc", full)
        hand_back(path)
    assert not (tmp_path / "poses.star").exists()
    hand_back(path)
    assert (tmp_path / "poses.star").exists() and (tmp_path / "poses.cs").exists()
