"""The command `equipose`: what it says of sound particles and of broken ones, and the other hand."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import torch
from test_symmetry_axes import blobs

from equipose import __version__, cli
from equipose.core.fourier import half_disc
from equipose.core.fourier_grid import from_real_map, grid_slices
from equipose.core.point_groups import group
from equipose.core.rotations import from_relion_angles, of_inverted, random_rotations, to_relion_angles
from equipose.core.surface import molecule_fraction
from equipose.figures.reconstruction import plot_reconstruction
from equipose.io.maps import read_map, write_map
from equipose.io.particle_tables import ANGLES, read_tables, write_star
from equipose.pages.page import mesh
from equipose.pages.reconstruction_report import build
from equipose.reconstruction.verdict import with_verdict


def equipose(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The exit code of `equipose ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["equipose", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def test_info_says_what_the_particles_are(monkeypatch, capsys, simulated_dataset) -> None:
    assert equipose(monkeypatch, "info", simulated_dataset.folder / "particles.star") == 0
    printed = capsys.readouterr().out
    assert "particles      50, in 1 optics group\n" in printed
    assert "32 pixels of 17 Å, 544 Å" in printed and "bright" in printed
    assert "halves         25 and 25, drawn at random\n" in printed
    assert "optics         300 kV, Cs 2.7 mm, amplitude contrast 0.1\n" in printed
    assert "poses          in the file; reconstruct does not use them\n" in printed
    assert "phase shift" not in printed and "checked" not in printed
    monkeypatch.setattr("equipose.io.particles.SAMPLE_BYTES", 10 * 4 * 32**2)
    assert equipose(monkeypatch, "info", simulated_dataset.folder / "particles.star") == 0
    assert "checked        10 images, evenly spread; `equipose validate` checks all\n" in capsys.readouterr().out


def test_info_says_what_the_star_file_says_of_halves_and_optics(
    monkeypatch, capsys, simulated_dataset, tmp_path: Path
) -> None:
    optics, table = read_tables(simulated_dataset.folder / "particles.star")
    table = table.assign(
        rlnRandomSubset=[1] * 20 + [2] * 30, rlnDefocusU=21000.0, rlnDefocusV=20000.0, rlnPhaseShift=90.0
    ).drop(columns="rlnAnglePsi")
    (tmp_path / "particles.mrcs").symlink_to(simulated_dataset.folder / "particles.mrcs")
    optics = pd.concat([optics, optics.assign(rlnOpticsGroup=2, rlnVoltage=200.0)], ignore_index=True)
    table.loc[0, "rlnOpticsGroup"] = 2
    write_star(tmp_path / "particles.star", optics, table)
    assert equipose(monkeypatch, "info", tmp_path / "particles.star") == 0
    printed = capsys.readouterr().out
    assert "halves         20 and 30, rlnRandomSubset in the file\n" in printed
    assert "optics         200, 300 kV, " in printed
    assert "defocus        20000 to 21000 Å\nastigmatism    up to 1000 Å\nphase shift    90 to 90°\n" in printed
    assert "poses          none\n" in printed


def test_info_says_why_it_draws_halves_where_all_particles_have_one(
    monkeypatch, capsys, simulated_dataset, tmp_path: Path
) -> None:
    optics, table = read_tables(simulated_dataset.folder / "particles.star")
    (tmp_path / "particles.mrcs").symlink_to(simulated_dataset.folder / "particles.mrcs")
    write_star(tmp_path / "particles.star", optics, table.assign(rlnRandomSubset=1))
    assert equipose(monkeypatch, "info", tmp_path / "particles.star") == 0
    assert "25 and 25, drawn at random: rlnRandomSubset in the file is not 1 and 2\n" in capsys.readouterr().out


def test_what_select_leaves_out_need_not_be_sound(monkeypatch, capsys, simulated_dataset, tmp_path: Path) -> None:
    optics, table = read_tables(simulated_dataset.folder / "particles.star")
    (tmp_path / "particles.mrcs").symlink_to(simulated_dataset.folder / "particles.mrcs")
    table.loc[7, ["rlnImageName", "rlnDefocusU"]] = ["1@../gone.mrcs", -5.0]
    write_star(tmp_path / "a.star", optics, table.assign(rlnScore=np.arange(50) != 7))
    assert equipose(monkeypatch, "validate", tmp_path / "a.star") == 2
    assert equipose(monkeypatch, "validate", tmp_path / "a.star", "--select", "rlnScore", 1, "-") == 0
    assert "49 particles of 32 pixels are sound" in capsys.readouterr().out


def test_a_missing_stack_is_found_missing_in_the_project_and_may_be_left_out(
    monkeypatch, capsys, simulated_dataset, tmp_path: Path
) -> None:
    """The first row tells nothing of where the others are: its stack is gone."""
    optics, table = read_tables(simulated_dataset.folder / "particles.star")
    (tmp_path / "job").mkdir()
    (tmp_path / "particles.mrcs").symlink_to(simulated_dataset.folder / "particles.mrcs")
    table.loc[0, "rlnImageName"] = "1@gone.mrcs"
    write_star(tmp_path / "job/a.star", optics, table.assign(rlnScore=np.arange(50) != 0))
    monkeypatch.chdir("/")
    assert equipose(monkeypatch, "validate", tmp_path / "job/a.star") == 2
    said = capsys.readouterr().err
    assert f"row 1: image stack {tmp_path}/gone.mrcs does not exist" in said and "rows are" not in said
    assert equipose(monkeypatch, "validate", tmp_path / "job/a.star", "--select", "rlnScore", 1, "-") == 0


@pytest.mark.parametrize("link", [False, True])
def test_an_image_that_is_named_from_the_folder_and_from_the_root_is_refused(
    monkeypatch, capsys, simulated_dataset, tmp_path: Path, link: bool
) -> None:
    """It would count as two images, which half-sets may share. Different images of a stack may be named so."""
    optics, table = read_tables(simulated_dataset.folder / "particles.star")
    (tmp_path / "project").mkdir()
    (tmp_path / "project/particles.mrcs").symlink_to(simulated_dataset.folder / "particles.mrcs")
    (tmp_path / "way").symlink_to(tmp_path / "project")
    whole = tmp_path / "project" / ("other.mrcs" if link else "particles.mrcs")
    if link:
        whole.symlink_to(tmp_path / "way/particles.mrcs")
    star = tmp_path / "project/a.star"
    names = table["rlnImageName"].copy()
    table.loc[4:6, "rlnImageName"] = [f"{row + 1:06d}@{whole}" for row in range(4, 7)]
    write_star(star, optics, table)
    assert equipose(monkeypatch, "validate", star) == 0
    capsys.readouterr()
    table.loc[5, "rlnImageName"] = f"3@{whole}"
    write_star(star, optics, table)
    assert equipose(monkeypatch, "info", star) == 2
    said = capsys.readouterr().err
    assert f"particles 6 and 3 are one image, whose stack has two names ({whole} and particles.mrcs)" in said
    assert said.count("\n") == 1
    write_star(star, optics, table.assign(rlnImageName=names))
    assert equipose(monkeypatch, "info", star) == 0


@pytest.mark.parametrize("name", ["a.txt", "a.STAR", "a"])
def test_a_star_file_of_another_name_is_refused_with_what_to_do(
    monkeypatch, capsys, simulated_dataset, tmp_path: Path, name: str
) -> None:
    (tmp_path / "particles.mrcs").symlink_to(simulated_dataset.folder / "particles.mrcs")
    shutil.copy(simulated_dataset.folder / "particles.star", tmp_path / name)
    for command in (["info"], ["validate"], ["reconstruct", "--out", tmp_path / "out"]):
        assert equipose(monkeypatch, command[0], tmp_path / name, *command[1:]) == 2
        said = capsys.readouterr().err
        assert f"{tmp_path}/{name} must have a name that ends in .star or .cs: rename it" in said
        assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("shares", [True, False])
def test_halves_that_are_drawn_anew_for_rows_that_select_leaves_out_are_a_warning(
    monkeypatch, capsys, simulated_dataset, tmp_path: Path, shares: bool
) -> None:
    optics, table = read_tables(simulated_dataset.folder / "particles.star")
    (tmp_path / "particles.mrcs").symlink_to(simulated_dataset.folder / "particles.mrcs")
    table = table.assign(rlnRandomSubset=[1, 2] * 25, rlnScore=np.arange(50) > 3)
    left_out = {"rlnImageName": table["rlnImageName"][2]} if shares else {"rlnRandomSubset": 0}
    table.loc[3, left_out.keys()] = left_out.values()
    write_star(tmp_path / "a.star", optics, table)
    assert equipose(monkeypatch, "info", tmp_path / "a.star", "--select", "rlnScore", 1, "-") == 0
    said = capsys.readouterr()
    assert "drawn anew: those of rlnRandomSubset are not sound in all rows of the file\n" in said.out
    assert "half-sets are drawn anew, since rlnRandomSubset is not sound in all rows: with those that" in said.err
    write_star(tmp_path / "a.star", optics, table[table["rlnScore"]])
    assert equipose(monkeypatch, "info", tmp_path / "a.star", "--select", "rlnScore", 1, "-") == 0
    said = capsys.readouterr()
    assert ", rlnRandomSubset in the file\n" in said.out and "warning" not in said.err


def test_warnings_are_a_line_each_on_stderr(monkeypatch, capsys, simulated_dataset, tmp_path: Path) -> None:
    optics, table = read_tables(simulated_dataset.folder / "particles.star")
    (tmp_path / "particles.mrcs").symlink_to(simulated_dataset.folder / "particles.mrcs")
    write_star(tmp_path / "a.star", optics.assign(rlnImagePixelSize=17.5), table)
    assert equipose(monkeypatch, "info", tmp_path / "a.star") == 0
    said = capsys.readouterr()
    assert "box            32 pixels of 17.5 Å" in said.out
    assert said.err.startswith("warning: ") and said.err.count("\n") == 1 and "17 Å by its header" in said.err
    assert equipose(monkeypatch, "info", tmp_path / "a.star", "--pixel-size", 17) == 0
    said = capsys.readouterr()
    assert "32 pixels of 17 Å" in said.out and not said.err


def test_validate_says_that_sound_particles_are_sound(monkeypatch, capsys, simulated_dataset) -> None:
    assert equipose(monkeypatch, "validate", simulated_dataset.folder / "particles.star") == 0
    assert "50 particles of 32 pixels are sound" in capsys.readouterr().out


def test_images_are_found_from_the_working_folder_as_relion_names_them(
    monkeypatch, capsys, simulated_dataset, tmp_path: Path
) -> None:
    (tmp_path / "Extract").mkdir()
    optics, table = read_tables(simulated_dataset.folder / "particles.star")
    table["rlnImageName"] = [name.replace("@", "@Extract/") for name in table["rlnImageName"]]
    (tmp_path / "Extract/particles.mrcs").symlink_to(simulated_dataset.folder / "particles.mrcs")
    write_star(tmp_path / "Extract/particles.star", optics, table)
    monkeypatch.chdir(tmp_path)
    assert equipose(monkeypatch, "validate", "Extract/particles.star") == 0


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no such file": (lambda star: star.unlink(), "does not exist"),
    "empty": (lambda star: star.write_text(""), "particles.star"),
    "bad UTF-8": (
        lambda star: star.write_bytes(star.read_bytes().replace(b"@particles", b"@\xff\xfe")),
        "cannot be read",
    ),
    "no stack": (lambda star: star.with_name("particles.mrcs").unlink(), "image stack .* does not exist"),
    "truncated stack": (lambda star: _cut(star.with_name("particles.mrcs"), 9000), "cut short"),
    "a stack that is text": (
        lambda star: star.with_name("particles.mrcs").write_text("hello " * 400),
        "particles.mrcs",
    ),
    "missing defocus": (lambda star: _drop(star, "rlnDefocusU"), "lacks the column rlnDefocusU"),
    "wrong optics group": (lambda star: _set(star, rlnOpticsGroup=3), "optics group 3"),
    "NaN defocus": (lambda star: _set(star, rlnDefocusU="nan"), "rlnDefocusU of row 1 is nan"),
    "micrometres for defocus": (lambda star: _set(star, rlnDefocusU=1.8, rlnDefocusV=1.8), "micrometres"),
    "negative defocus": (lambda star: _set(star, rlnDefocusU=-18000.0, rlnDefocusV=-18000.0), "overfocus"),
    "an image beyond the stack": (lambda star: _set(star, rlnImageName="000099@particles.mrcs"), "image 99"),
    "a NaN image": (lambda star: _image(star.with_name("particles.mrcs"), np.nan), "of particle 3 has .* not finite"),
    "a constant image": (lambda star: _image(star.with_name("particles.mrcs"), 1.0), "of particle 3 is constant"),
    "another box than the star file's": (lambda star: _set_optics(star, rlnImageSize=[64]), "rlnImageSize is 64"),
    "a path that leaves the folder": (
        lambda star: _set(star, rlnImageName="000001@../particles.mrcs"),
        "outside of the folder",
    ),
    "an absolute path": (lambda star: _set(star, rlnImageName="000001@/dev/zero"), "outside of the folder"),
    "a column twice": (
        lambda star: star.write_text(star.read_text().replace("_rlnDefocusV", "_rlnDefocusU")),
        "rlnDefocusU twice",
    ),
    "volts for kilovolts": (lambda star: _set_optics(star, rlnVoltage=[3e5]), "particle 1 has rlnVoltage 300000"),
    "a huge header": (lambda star: _header(star.with_name("particles.mrcs"), nsymbt=2**31 - 1), "cut short"),
    "a negative header": (lambda star: _header(star.with_name("particles.mrcs"), nsymbt=-4096), "particles.mrcs"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_message_with_exit_code_2(
    monkeypatch, capsys, simulated_dataset, tmp_path: Path, name: str
) -> None:
    for file in ("particles.star", "particles.mrcs"):
        (tmp_path / file).write_bytes((simulated_dataset.folder / file).read_bytes())
    break_it, message = BROKEN[name]
    break_it(tmp_path / "particles.star")
    before = sorted(tmp_path.iterdir())
    assert equipose(monkeypatch, "validate", tmp_path / "particles.star") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    assert str(tmp_path) in said
    assert re.search(message, said), said
    assert equipose(monkeypatch, "reconstruct", tmp_path / "particles.star", "--out", tmp_path / "abinitio") == 2
    assert capsys.readouterr().err == said
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images, _: np.random.default_rng(0).standard_normal(images.shape), "cannot be seen"),
        (lambda images, outside: np.where(outside, 0, images), "is constant outside of the particle: it has a mask"),
    ],
)
def test_what_the_preparation_refuses_is_refused_before_anything_is_written(
    monkeypatch, capsys, simulated_dataset, tmp_path: Path, change: Callable, message: str
) -> None:
    for file in ("particles.star", "particles.mrcs"):
        (tmp_path / file).write_bytes((simulated_dataset.folder / file).read_bytes())
    axis = np.arange(32) - 16
    with mrcfile.open(tmp_path / "particles.mrcs", "r+") as mrc:
        mrc.data[:] = change(mrc.data, np.hypot(axis[:, None], axis) > 14)
    monkeypatch.setattr(cli, "FEWEST", 5)
    assert equipose(monkeypatch, "reconstruct", tmp_path / "particles.star", "--out", tmp_path / "abinitio") == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "abinitio").exists()
    code = equipose(monkeypatch, "validate", tmp_path / "particles.star")  # which takes no contrast
    assert (code, capsys.readouterr().err) == ((0, "") if "seen" in message else (2, said))


def test_validate_refuses_the_optics_that_reconstruct_refuses(
    monkeypatch, capsys, simulated_dataset, tmp_path: Path
) -> None:
    for file in ("particles.star", "particles.mrcs"):
        (tmp_path / file).write_bytes((simulated_dataset.folder / file).read_bytes())
    _set_optics(tmp_path / "particles.star", rlnBeamTiltX=["nan"], rlnBeamTiltY=[0.0])
    assert equipose(monkeypatch, "validate", tmp_path / "particles.star") == 2
    assert "rlnBeamTiltX of optics group 1 is nan" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("label", "line"),
    [
        ("rlnCtfDataArePhaseFlipped", "CTF            flipped in 50 images; reconstruct undoes it\n"),
        ("rlnCtfDataAreCtfPremultiplied", "CTF            multiplied in 50 images; reconstruct undoes it\n"),
        ("rlnBeamTiltY", "beam tilt      up to 1 mrad; reconstruct takes it out\n"),
    ],
)
def test_info_says_what_reconstruct_undoes(
    monkeypatch, capsys, simulated_dataset, tmp_path: Path, label: str, line: str
) -> None:
    optics, table = read_tables(simulated_dataset.folder / "particles.star")
    (tmp_path / "particles.mrcs").symlink_to(simulated_dataset.folder / "particles.mrcs")
    write_star(tmp_path / "a.star", optics.drop(columns=label, errors="ignore"), table)
    assert equipose(monkeypatch, "info", tmp_path / "a.star") == 0
    assert line[:14] not in capsys.readouterr().out
    write_star(tmp_path / "a.star", optics.assign(**{label: 1}), table)
    assert equipose(monkeypatch, "info", tmp_path / "a.star") == 0
    assert line in capsys.readouterr().out


def test_info_warns_of_phases_that_seem_to_be_flipped_where_the_file_does_not_say_so(
    monkeypatch, capsys, simulated_dataset
) -> None:
    star = simulated_dataset.folder / "particles.star"
    assert equipose(monkeypatch, "info", star) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("equipose.data.prepare.looks_flipped", lambda *_: True)  # as test_prepare.py has it of images
    assert equipose(monkeypatch, "info", star) == 0
    assert "phases seem to be flipped already" in capsys.readouterr().err
    assert equipose(monkeypatch, "info", star, "--phase-flipped") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"rlnBeamTiltX": [300.0]}, "a beam tilt of 300 is too large: rlnBeamTiltX, rlnBeamTiltY are mrad"),
        ({"rlnBeamTiltX": ["nan"]}, "rlnBeamTiltX of optics group 1 is nan"),
        ({"rlnCtfDataArePhaseFlipped": [2]}, "rlnCtfDataArePhaseFlipped is 2; it is 0 or 1"),
    ],
)
def test_info_refuses_the_optics_that_reconstruct_refuses(
    monkeypatch, capsys, simulated_dataset, tmp_path: Path, column: dict, message: str
) -> None:
    for file in ("particles.star", "particles.mrcs"):
        (tmp_path / file).write_bytes((simulated_dataset.folder / file).read_bytes())
    _set_optics(tmp_path / "particles.star", **column)
    assert equipose(monkeypatch, "info", tmp_path / "particles.star") == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and not said.out


def test_info_gives_the_range_of_the_optics_of_hundreds_of_groups(
    monkeypatch, capsys, simulated_dataset, tmp_path: Path
) -> None:
    optics, table = read_tables(simulated_dataset.folder / "particles.star")
    (tmp_path / "particles.mrcs").symlink_to(simulated_dataset.folder / "particles.mrcs")
    groups = np.arange(1, 51)
    many = pd.concat([optics] * 50, ignore_index=True).assign(
        rlnOpticsGroup=groups, rlnSphericalAberration=2.7 + 1e-3 * groups, rlnVoltage=np.where(groups > 45, 300, 200.0)
    )
    write_star(tmp_path / "a.star", many, table.assign(rlnOpticsGroup=groups))
    assert equipose(monkeypatch, "info", tmp_path / "a.star") == 0
    printed = capsys.readouterr().out
    assert "optics         200, 300 kV, Cs 2.701 to 2.75 mm (50 values), amplitude contrast 0.1\n" in printed


def test_symmetry_is_refused_plainly(monkeypatch, capsys, simulated_dataset, tmp_path: Path) -> None:
    star = simulated_dataset.folder / "particles.star"
    assert equipose(monkeypatch, "reconstruct", star, "--out", tmp_path / "out", "--symmetry", "X2") == 2
    assert "symmetry X2 is not known" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (("rlnNothing", 0, "-"), "lacks the column rlnNothing"),
        (("rlnDefocusU", "much", "-"), "much is no number"),
        (("rlnDefocusU", "1e6", "-"), "--select leaves no particle"),
    ],
)
def test_a_selection_that_cannot_be_made_is_refused(
    monkeypatch, capsys, simulated_dataset, tmp_path: Path, limits: tuple, message: str
) -> None:
    star = simulated_dataset.folder / "particles.star"
    assert equipose(monkeypatch, "reconstruct", star, "--out", tmp_path / "out", "--select", *limits) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_column_that_is_selected_by_twice_is_refused_since_a_run_would_know_the_last_limits_alone(
    monkeypatch, capsys, simulated_dataset, tmp_path: Path
) -> None:
    words = ["--select", "rlnDefocusU", "1", "-", "--select", "rlnDefocusU", "-", "1e6"]
    star = simulated_dataset.folder / "particles.star"
    assert equipose(monkeypatch, "reconstruct", star, "--out", tmp_path / "out", *words) == 2
    assert "--select names rlnDefocusU twice: give its lowest and highest value at once" in capsys.readouterr().err


def test_a_reconstruction_does_not_overwrite_the_star_file_that_it_is_made_from(
    monkeypatch, capsys, simulated_dataset, tmp_path: Path
) -> None:
    star = shutil.copy2(simulated_dataset.folder / "particles.star", tmp_path / "poses.star")
    shutil.copy2(simulated_dataset.folder / "particles.mrcs", tmp_path)
    monkeypatch.setattr(cli, "FEWEST", 5)
    monkeypatch.setattr(cli, "run_stoppable", lambda *_: (1, 0))
    assert equipose(monkeypatch, "reconstruct", star, "--out", tmp_path, "--contrast", "bright") == 2
    assert "--out: " in (said := capsys.readouterr().err) and "would be overwritten by the new poses" in said
    assert {path.name for path in tmp_path.iterdir()} == {"poses.star", "particles.mrcs"}


@pytest.mark.parametrize(
    ("option", "value", "wanted"),
    [
        ("--mask-radius", "wide", "argument --mask-radius: wide is no number above 0"),
        ("--cores", "0", "argument --cores: 0 is no whole number of 1 or more"),
        ("--cores", "1.5", "argument --cores: 1.5 is no whole number of 1 or more"),
    ],
)
def test_a_number_that_cannot_be_is_refused_by_the_name_of_its_option(
    monkeypatch, capsys, option: str, value: str, wanted: str
) -> None:
    assert equipose(monkeypatch, "reconstruct", "particles.star", "--out", "abinitio", option, value) == 2
    assert wanted in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"--shift-std": -3}, "argument --shift-std: -3 is no number of 0 or more"),
        ({"--shift-std": "nan"}, "argument --shift-std: nan is no number of 0 or more"),
        ({"--shift-std": "inf"}, "argument --shift-std: inf is no number of 0 or more"),
        ({"--fit-steps": -1}, "argument --fit-steps: -1 is no whole number of 0 or more"),
        ({"--mask-radius": 272.1}, "--mask-radius 272.1 is more than half of the images' 544 Å: give 272 or less"),
        (
            {"--mask-radius": 0.01},
            "--mask-radius 0.01 is a radius in Å, and a pixel of the cropped images has 17 Å: give 34 or",
        ),
        (
            {"--shift-std": 1e12},
            "--shift-std 1e+12 Å puts many particles outside of their images of 544 Å: give 136 or less",
        ),
        ({"--out": ""}, "argument --out: it is empty: name a place for the results"),
        ({"--out": "project"}, "--out: {tmp_path}/project has maps or poses of something else: name another folder"),
        ({"--contrast": "grey"}, "argument --contrast: invalid choice: 'grey'"),
        ({"--box": 33}, "argument --box: invalid choice: 33"),
        ({"--datadir": "nowhere"}, "--datadir: nowhere is no folder"),
        ({"--symmetry": "X2"}, "X2"),
        ({"--select": ("rlnDefocusU", "nan", "-")}, "--select: nan is no number"),
        ({"--select": ("rlnDefocusU", 2, 1)}, "--select rlnDefocusU 2 1: give the lower value first"),
        ({"--out": "file"}, "--out: {tmp_path}/file is no folder: name another one"),
        ({"--out": "file/abinitio"}, "--out: {tmp_path}/file is no folder: name another one"),
        ({"--out": "link"}, "--out: {tmp_path}/link is no folder: name another one"),
        ({"--out": "/proc/abinitio"}, "--out: /proc/abinitio cannot be written ("),
        ({"--out": "abinitio" * 40}, "cannot be written (File name too long): name another folder"),
    ],
    ids=lambda value: "-".join(map(str, *value.items()))[:40] if isinstance(value, dict) else "",
)
def test_each_option_is_checked_by_name_before_anything_is_written(
    monkeypatch, capsys, simulated_dataset, tmp_path: Path, options: dict, wanted: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("gone")
    (tmp_path / "project").mkdir()
    (tmp_path / "project/volume.mrc").touch()
    monkeypatch.setattr(cli, "FEWEST", 5)
    before = sorted(tmp_path.iterdir())
    words = [word for option, values in ({"--out": "abinitio"} | options).items() for word in (option, *_words(values))]
    assert equipose(monkeypatch, "reconstruct", simulated_dataset.folder / "particles.star", *words) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert wanted.format(tmp_path=tmp_path) in said
    assert sorted(tmp_path.iterdir()) == before


def _words(values: object) -> tuple:
    return values if isinstance(values, tuple) else (values,)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["status", ".", "--silent-minutes", "-1"], "argument --silent-minutes: -1 is no number of 0 or more"),
        (["status", "."], ". has no runs: name a preset's results folder"),
        (["flip-hand", "."], "has no poses.star and volume.mrc"),
        (["flip-hand", "JOINED", "--out", "/proc/flipped"], "--out: /proc/flipped cannot be written ("),
        (
            ["symmetrise", "JOINED", "C1", "--out", "round"],
            "symmetry C1 is none, and there is nothing to make symmetric",
        ),
        (["symmetrise", "C4", "abinitio/"], "symmetry ABINITIO/ is not known"),
        (
            ["pose", "JOINED", "more", "--watch", "--out", "JOINED"],
            "has a reconstruction, whose maps would be overwritten",
        ),
    ],
)
def test_the_other_commands_check_their_options_too(
    monkeypatch, capsys, joined: Path, tmp_path: Path, words: list[str], wanted: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more").mkdir()
    assert equipose(monkeypatch, *(joined if word == "JOINED" else word for word in words)) == 2
    assert wanted in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["more"]


def test_the_version_is_said(monkeypatch, capsys) -> None:
    assert equipose(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"equipose {__version__}\n"


def test_a_box_larger_than_the_images_is_refused(monkeypatch, capsys, simulated_dataset, tmp_path: Path) -> None:
    star = simulated_dataset.folder / "particles.star"
    assert equipose(monkeypatch, "reconstruct", star, "--out", tmp_path / "out", "--box", 64) == 2
    assert "images of 32 pixels are too small; 64 are needed" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_too_few_particles_are_refused_before_anything_is_made(
    monkeypatch, capsys, simulated_dataset, tmp_path: Path
) -> None:
    assert (
        equipose(monkeypatch, "reconstruct", simulated_dataset.folder / "particles.star", "--out", tmp_path / "o") == 2
    )
    assert "too few" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(("agree", "said", "code"), [(0.99, "Converged.", 0), (0.002, "Not converged.", 3)])
def test_the_last_words_and_the_exit_code_are_the_verdict_s(
    monkeypatch, capsys, simulated_dataset, joined: Path, tmp_path: Path, agree: float, said: str, code: int
) -> None:
    found = json.loads((joined / "reconstruction.json").read_text())
    resolution = {"resolution_angstrom": found["fsc_crosses_at_angstrom"] | {"corrected": 36.0}}
    measured = {key: value for key, value in found.items() if key not in ("verdict", "fsc_crosses_at_angstrom")}
    measured |= resolution | {"halves_agree": [agree] * 2, "halves_compared": [1000] * 2, "nearly_symmetric": []}
    measured |= {"fsc_off_centre": 0.9, "junk": None}

    def workflow(command: list[str], *_) -> tuple[int, int]:
        shutil.copytree(joined, tmp_path / "out/work/maps/particles")
        summary = json.dumps(with_verdict(measured))
        (tmp_path / "out/work/maps/particles/reconstruction.json").write_text(summary)
        (tmp_path / "out/work/maps/particles/poses.cs").unlink(missing_ok=True)
        return 0, 0

    (tmp_path / "out/class1").mkdir(parents=True)  # of a former command with several classes and other particles
    for name in ("class1/particles.yaml", "poses.cs"):
        (tmp_path / "out" / name).touch()

    monkeypatch.setattr(cli, "run_stoppable", workflow)
    monkeypatch.setattr(cli, "FEWEST", 5)
    star = simulated_dataset.folder / "particles.star"
    assert equipose(monkeypatch, "reconstruct", star, "--out", tmp_path / "out", "--contrast", "bright") == code
    warning, verdict, files = capsys.readouterr().out.splitlines()[-3:]
    assert warning.startswith(f"warning: {tmp_path / 'out/class1'}: a class of a former command")
    assert (tmp_path / "out/class1").is_dir() and not (tmp_path / "out/poses.cs").exists()
    assert verdict.startswith(said) and ("Å" in verdict) == (not code)
    assert files.endswith("report.html in a browser") and (tmp_path / "out/poses.star").is_file()


@pytest.mark.parametrize(("fewest", "warned"), [(12, ""), (13, "has enough for 1 of 2 classes at most")])
def test_more_classes_than_the_particles_are_enough_for_are_named_before_the_sorting(
    monkeypatch, capsys, simulated_dataset, tmp_path: Path, fewest: int, warned: str
) -> None:
    monkeypatch.setattr(cli, "run_stoppable", lambda *_: (1, 0))  # the workflow fails at once
    monkeypatch.setattr(cli, "FEWEST", fewest)
    asked = "--out", tmp_path / "out", "--contrast", "bright", "--classes", 2
    assert equipose(monkeypatch, "reconstruct", simulated_dataset.folder / "particles.star", *asked) == 1
    said = capsys.readouterr().err
    assert warned in said and said.count("\n") == bool(warned)


def test_the_other_hand_is_the_mirrored_map_and_the_poses_that_project_it_alike(monkeypatch, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rotations = random_rotations(4, rng)
    volume = rng.standard_normal((32, 32, 32)).astype(np.float32)
    folder = tmp_path / "abinitio"
    write_map(folder / "volume.mrc", volume, 4.0)
    angles = dict(zip(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), to_relion_angles(rotations).T, strict=True))
    table = pd.DataFrame(angles | {"rlnOpticsGroup": 1, "rlnImageName": "1@x.mrcs", "rlnOriginXAngst": 1.5})
    write_star(folder / "poses.star", pd.DataFrame({"rlnOpticsGroup": [1], "rlnVoltage": [300.0]}), table)
    assert equipose(monkeypatch, "flip-hand", folder) == 0
    flipped = read_tables(tmp_path / "abinitio_flipped/poses.star")[1]
    np.testing.assert_allclose(
        from_relion_angles(flipped.iloc[:, :3].to_numpy(float)), of_inverted(rotations), atol=1e-5
    )
    assert list(flipped["rlnOriginXAngst"]) == [1.5] * 4
    other = read_map(tmp_path / "abinitio_flipped/volume.mrc")[0]
    np.testing.assert_array_equal(other[16 + 5, 16 - 3, 16 + 2], volume[16 - 5, 16 + 3, 16 - 2])  # about voxel L/2


@pytest.mark.parametrize("name", ["C3", "D2", "D7", "T", "O", "I"])
def test_the_other_hand_of_a_symmetric_map_has_its_axes(name: str) -> None:
    """RELION takes them from the group's name. A mirror along z turns two of those of T by 60°."""
    volume = blobs(name, np.eye(3), np.zeros(3))
    flipped = torch.from_numpy(cli.inverted(volume.numpy()).copy())
    rotations = random_rotations(3, np.random.default_rng(0))

    def seen(map_: torch.Tensor, poses: np.ndarray) -> torch.Tensor:
        field = from_real_map(map_, len(map_) // 2)
        return grid_slices(field, len(map_) // 2, torch.from_numpy(poses).float(), half_disc(len(map_), 8))

    before = seen(volume, rotations)
    for mate in group(name):
        difference = seen(flipped, of_inverted(rotations) @ mate) - before
        assert difference.abs().square().sum() < 0.01 * before.abs().square().sum()


def test_flipping_twice_gives_the_same_files_and_nothing_that_has_a_hand_is_left_out(
    monkeypatch, joined: Path, tmp_path: Path
) -> None:
    assert equipose(monkeypatch, "flip-hand", joined, "--out", tmp_path / "once") == 0
    assert equipose(monkeypatch, "flip-hand", tmp_path / "once", "--out", tmp_path / "twice") == 0
    assert {path.name for path in (tmp_path / "once").iterdir()} == {path.name for path in joined.iterdir()}
    for name in cli.MAPS:
        once, twice, before = (read_map(folder / name)[0] for folder in (tmp_path / "once", tmp_path / "twice", joined))
        assert not np.array_equal(once, before)
        np.testing.assert_array_equal(twice, before)
    for name in cli.EITHER_HAND:
        assert (tmp_path / "twice" / name).read_bytes() == (joined / name).read_bytes()
    assert "directional_fsc" in json.loads((tmp_path / "once/reconstruction.json").read_text()), "an axis has no sign"
    (_, twice), (_, before) = (read_tables(folder / "poses.star") for folder in (tmp_path / "twice", joined))
    poses = [from_relion_angles(table[list(ANGLES)].to_numpy(float)) for table in (twice, before)]
    np.testing.assert_allclose(*poses, atol=1e-7)
    pd.testing.assert_frame_equal(twice.drop(columns=list(ANGLES)), before.drop(columns=list(ANGLES)))


def test_a_flipped_report_shows_the_flipped_map(monkeypatch, joined: Path, tmp_path: Path) -> None:
    shown = shutil.copytree(joined, tmp_path / "shown")
    plot_reconstruction(shown, shown / "reconstruction.png")
    (shown / "report.html").write_text(build(shown, shown / cli.WORK, cli.REPORT, "shown"))
    assert equipose(monkeypatch, "flip-hand", shown) == 0
    flipped = tmp_path / "shown_flipped"
    assert {path.name for path in flipped.iterdir()} == {path.name for path in shown.iterdir()}
    maps = [re.findall('data-corners="(.*?)"', (folder / "report.html").read_text()) for folder in (shown, flipped)]
    assert len(maps[0]) == len(maps[1]) == 3 and not set(maps[0]) & set(maps[1])
    volume = read_map(flipped / "volume.mrc")[0]
    assert mesh(volume, molecule_fraction(volume))["corners"] == maps[1][0]
    assert "equipose · shown_flipped" in (flipped / "report.html").read_text()
    assert f"--i {flipped}/poses.star" in (flipped / "report.html").read_text(), "not the other hand's"
    pictures = [(folder / "reconstruction.png").read_bytes() for folder in (shown, flipped)]
    assert pictures[0] != pictures[1]


def test_a_folder_without_poses_has_no_other_hand(monkeypatch, capsys, joined: Path, tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    shutil.copy2(joined / "volume.mrc", tmp_path / "ours")
    optics, table = read_tables(joined / "poses.star")
    write_star(tmp_path / "ours/poses.star", optics, table.drop(columns="rlnAngleRot"))
    assert equipose(monkeypatch, "flip-hand", tmp_path / "ours") == 2
    assert "ours/poses.star has no rlnAngleRot" in capsys.readouterr().err
    assert not (tmp_path / "ours_flipped").exists()


FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "an angle that is no number": (
        lambda d: _set(d / "poses.star", rlnAngleTilt="lost"),
        "rlnAngleTilt of row 1 is lost",
    ),
    "poses.cs of other particles": (
        lambda d: _fewer(d / "poses.star"),
        r"poses.cs has other particles than poses.star \(",
    ),
    "poses.cs in another order": (lambda d: _fewer(d / "poses.star", -1), "or others in their order: move it away"),
    "poses.cs and no half-sets": (
        lambda d: _drop(d / "poses.star", "rlnRandomSubset"),
        "lacks the column rlnRandomSubset",
    ),
    "a map of another size": (
        lambda d: write_map(d / "mask.mrc", np.ones((8, 8, 8)), 4.0),
        "mask.mrc has 8 × 8 × 8 vox",
    ),
    "a volume that is no cube": (
        lambda d: write_map(d / "volume.mrc", np.ones((8, 16, 16)), 4.0),
        "8 × 16 × 16 voxels",
    ),
    "a broken summary": (lambda d: (d / "reconstruction.json").write_text("{"), "reconstruction.json cannot be read"),
    "another summary": (lambda d: (d / "reconstruction.json").write_text("{}"), "is not that of a reconstruction"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_folder_that_was_changed_is_one_message_and_nothing_is_written(
    monkeypatch, capsys, joined: Path, tmp_path: Path, name: str
) -> None:
    change, message = FOREIGN[name]
    folder = shutil.copytree(joined, tmp_path / "changed")
    change(folder)
    assert equipose(monkeypatch, "flip-hand", folder) == 2
    assert re.search(message, said := capsys.readouterr().err) and said.count("\n") == 1, said
    assert not (tmp_path / "changed_flipped").exists()


def _fewer(star: Path, step: int = 2) -> None:
    optics, table = read_tables(star)
    write_star(star, optics, table.iloc[::step])


def test_a_flip_that_is_interrupted_leaves_nothing_and_one_that_is_done_is_not_overwritten(
    monkeypatch, capsys, joined: Path, tmp_path: Path
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("equipose.reconstruction.handback.in_other_hand", interrupted)
        with pytest.raises(KeyboardInterrupt):
            equipose(monkeypatch, "flip-hand", joined, "--out", tmp_path / "flipped")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".partial-flipped").mkdir()  # of one that was killed
    (tmp_path / ".partial-flipped/volume.mrc").write_text("half")
    assert equipose(monkeypatch, "flip-hand", joined, "--out", tmp_path / "flipped") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["flipped"]
    assert equipose(monkeypatch, "flip-hand", joined, "--out", tmp_path / "flipped") == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["reconstruct", "validate", "info", "flip-hand", "status"])
def test_every_command_helps_with_examples(monkeypatch, capsys, name: str) -> None:
    assert equipose(monkeypatch, name, "--help") == 0
    shown = capsys.readouterr().out
    assert f"examples:\n  equipose {name} " in shown
    for example in re.findall(r"^  equipose (.*)$", shown, re.MULTILINE):
        cli.parser().parse_args(example.split())  # as it stands there, it is understood


def _cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def _drop(star: Path, label: str) -> None:
    optics, table = read_tables(star)
    write_star(star, optics, table.drop(columns=label))


def _set(star: Path, **values: object) -> None:
    optics, table = read_tables(star)
    for label, value in values.items():
        table[label] = [value] * len(table)
    write_star(star, optics, table)


def _set_optics(star: Path, **values: list) -> None:
    optics, table = read_tables(star)
    rows = max(map(len, values.values()))
    write_star(star, pd.concat([optics] * rows, ignore_index=True).assign(**values), table)


def _image(path: Path, value: float) -> None:
    """The third image, all of this value."""
    with mrcfile.open(path, "r+") as mrc:
        mrc.data[2] = value


def _header(path: Path, **values: int) -> None:
    with mrcfile.open(path, "r+", permissive=True) as mrc:
        for name, value in values.items():
            mrc.header[name] = value


def test_select_writes_the_particles_that_probably_show_the_molecule(
    monkeypatch, capsys, simulated_dataset, tmp_path: Path
) -> None:
    optics, table = read_tables(simulated_dataset.folder / "particles.star", as_written=True)
    (tmp_path / "abinitio").mkdir()
    stack = simulated_dataset.folder / "particles.mrcs"
    table["rlnImageName"] = [f"{name.split('@')[0]}@{stack}" for name in table["rlnImageName"]]
    chance = np.where(np.arange(len(table)) % 5, "0.9", "0.1")
    write_star(tmp_path / "abinitio/poses.star", optics, table.assign(equiposeProbability=chance))
    assert equipose(monkeypatch, "select", tmp_path / "abinitio") == 0
    assert "40 of 50 particles" in capsys.readouterr().out
    selected = read_tables(tmp_path / "abinitio/selected.star")[1]
    assert selected["rlnImageName"].tolist() == table["rlnImageName"][chance == "0.9"].tolist()
    for out, what in ((tmp_path, "a folder"), (tmp_path / "abinitio/poses.star", "the input")):
        assert equipose(monkeypatch, "select", tmp_path / "abinitio", "--out", out) == 2
        assert f"--out: {out} is {what}: name another star file" in capsys.readouterr().err
    assert len(read_tables(tmp_path / "abinitio/poses.star")[1]) == 50
    (tmp_path / "mine.star").write_text("mine")
    for out, what in (("mine.star", "exists already"), ("abinitio/volume.mrc", "has no name of a star file")):
        assert equipose(monkeypatch, "select", tmp_path / "abinitio", "--out", tmp_path / out) == 2
        assert f"--out: {tmp_path / out} {what}" in capsys.readouterr().err
    assert (tmp_path / "mine.star").read_text() == "mine" and not (tmp_path / "abinitio/volume.mrc").exists()

    assert equipose(monkeypatch, "select", tmp_path / "abinitio", "--least", "0.95") == 2
    assert "no particle has an equiposeProbability of 0.95: give a lower --least" in capsys.readouterr().err
    write_star(tmp_path / "abinitio/poses.star", optics, table)
    assert equipose(monkeypatch, "select", tmp_path / "abinitio") == 2
    assert "has no equiposeProbability" in capsys.readouterr().err
