"""RELION 3.1.3 reads poses.star of every kind of file that we read, and agrees about what its columns mean."""

import shutil
import subprocess
import sys
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import torch

from equipose.core import fsc
from equipose.core.ctf import ctf
from equipose.core.fourier import from_half_disc, half_disc, to_half_disc
from equipose.io.maps import read_map
from equipose.io.particle_tables import read_tables, write_star
from equipose.io.particles import read_particles
from equipose.io.starfiles import read_star

sys.path.insert(0, str(Path(__file__).parents[1]))

from test_aberrations import MATRIX, PIXEL, TILT, images_of
from test_cryosparc import BLOB, CTF, PLACE, cs
from test_handback import NUMBER, OPTICS, hand_back, stack, star

pytestmark = pytest.mark.skipif(shutil.which("relion_reconstruct") is None, reason="relion is not installed")

REFINE = "--iter 1 --ctf --particle_diameter 30 --healpix_order 0 --offset_range 2 --offset_step 2 --K 1 --j 1 --pad 1"


def relion(command: str, cwd: Path) -> str:
    done = subprocess.run(f"relion_{command}", shell=True, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def cryosparc(folder: Path, name: bytes) -> Path:
    fields = BLOB | CTF | PLACE | {"blob/path": name, "blob/shape": np.full((6, 2), 16, np.uint32)}
    wide = {key: np.resize(value, (NUMBER, *np.shape(value)[1:])) for key, value in fields.items()}
    wide["blob/idx"] = np.arange(NUMBER, dtype=np.uint32)
    return cs(folder / "particles.cs", wide, np.arange(NUMBER) + 7)


QUOTED = {"rlnMicrographName": '"Bob\'s grid/mic#1.mrc"'}
KINDS = {
    "RELION 3.0": lambda folder: star(folder / "a.star", {}),
    "RELION 3.1": lambda folder: star(folder / "a.star", {}, OPTICS),
    "a stack with an apostrophe": lambda folder: star(folder / "a.star", {}, OPTICS, "Bob's/stack.mrcs"),
    "a stack called .mrc": lambda folder: star(folder / "a.star", {}, OPTICS, "J1/stack.mrc"),
    "a stack with a suffix": lambda folder: star(folder / "a.star", {}, OPTICS, "J1/stack.mrc:mrcs"),
    "quotes and number signs": lambda folder: star(folder / "a.star", QUOTED, OPTICS),
    "priors and old origins": lambda folder: star(
        folder / "a.star", {"rlnAngleRotPrior": "9.0", "rlnOriginX": "1.0"}, OPTICS
    ),
    "line ends of DOS": lambda folder: _dos(star(folder / "a.star", {}, OPTICS)),
    "unused optics groups": lambda folder: _unused(star(folder / "a.star", {}, OPTICS)),
    "pixel size in a single table": lambda folder: _single(star(folder / "a.star", {})),
    "cryoSPARC": lambda folder: cryosparc(folder, b">J1/stack.mrc"),
}


def _dos(path: Path) -> Path:
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    return path


def _unused(path: Path) -> Path:
    optics, table = read_tables(path)
    other = optics.assign(rlnOpticsGroup=2, rlnImagePixelSize=3.5)
    write_star(path, pd.concat([optics, other]), table)
    return path


def _single(path: Path) -> Path:
    path.write_text(path.read_text().replace("rlnPixelSize", "rlnImagePixelSize"))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_relion_refines_from_poses_of_every_kind_of_file(tmp_path: Path, kind: str) -> None:
    for name in ("stack.mrcs", "J1/stack.mrc", "Bob's/stack.mrcs"):
        stack(tmp_path / name)
    path = KINDS[kind](tmp_path)
    *_, rotations, _ = hand_back(path)
    (tmp_path / "refined").mkdir()
    relion("reconstruct --i poses.star --ctf --o map.mrc", tmp_path)
    relion(f"refine --i poses.star --ref map.mrc --o refined/run {REFINE}", tmp_path)
    assert len(read_star(tmp_path / "refined/run_it001_data.star")["particles"]) == NUMBER
    relion("star_handler --i poses.star --o theirs.star --select rlnOpticsGroup --minval 0", tmp_path)
    ours, theirs = (read_star(tmp_path / f"{name}.star", as_text=True)["particles"] for name in ("poses", "theirs"))
    for label in ("rlnImageName", "rlnMicrographName", "ucsfUid"):
        if label in ours:
            assert list(theirs[label]) == list(ours[label])
    turned = read_particles(tmp_path / "theirs.star").rotations
    np.testing.assert_allclose(turned, rotations, atol=1e-4)


def test_values_are_to_us_what_they_are_to_relion(tmp_path: Path) -> None:
    """What quotes, comments and escapes stand for, by what RELION writes of them again."""
    values = ["Bob's", 'a"b', "a#b", '"two words"', "'two words'", '"it\'s"', '""', "0071", "x"]
    rows = [["000001@a.mrcs", "1", value] for value in values]
    text = (
        "data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnVoltage #2\n_rlnSphericalAberration #3\n_rlnImagePixelSize #4\n"
    )
    text += "1 300 2.7 2.5\n\ndata_particles\n\nloop_\n_rlnImageName #1\n_rlnOpticsGroup #2\n_rlnMicrographName #3\n"
    (tmp_path / "a.star").write_text(text + "".join(" ".join(row) + "\n" for row in rows))
    relion("star_handler --i a.star --o b.star --select rlnOpticsGroup --minval 0", tmp_path)
    ours, theirs = (read_star(tmp_path / name, as_text=True)["particles"] for name in ("a.star", "b.star"))
    assert list(ours["rlnMicrographName"]) == list(theirs["rlnMicrographName"])


def test_b_factor_scale_and_magnification_are_in_the_ctf_as_relion_has_them(halves: Path, tmp_path: Path) -> None:
    """Projections with a CTF by RELION, divided by those without: its CTF, at all frequencies at once."""
    optics, table = (part.copy() for part in read_tables(halves / "particles.star"))
    table = (
        table.iloc[:20]
        .drop(columns="rlnTheirs")
        .assign(
            rlnDefocusV=lambda table: table["rlnDefocusU"] - 1500,
            rlnDefocusAngle=30.0,
            rlnPhaseShift=20.0,
            rlnCtfBfactor=np.linspace(0, 4000, 20),
            rlnCtfScalefactor=np.linspace(0.5, 1.5, 20),
        )
    )
    shutil.copy2(halves / "particles.mrcs", tmp_path)
    write_star(tmp_path / "asked.star", optics, table)
    for name, option in (("with", "--ctf"), ("without", "")):
        relion(f"project --i {halves / 'truth.mrc'} --ang asked.star --o {name} {option}", tmp_path)
    read = read_particles(tmp_path / "asked.star")
    assert read.ctf.shape == (20, 9)
    disc = half_disc(32)
    plain, theirs = (
        torch.from_numpy(np.array(mrcfile.read(tmp_path / f"{name}.mrcs"))) for name in ("without", "with")
    )
    ours = to_half_disc(plain, disc) * ctf(torch.from_numpy(read.ctf), disc.k, 32 * read.voxel_size)
    np.testing.assert_allclose(
        from_half_disc(ours, disc),
        from_half_disc(to_half_disc(theirs, disc), disc),
        atol=2e-3 * float(theirs.abs().max()),
    )


def test_relion_takes_out_the_same_beam_tilt_and_magnification(simulated_dataset, halves: Path, tmp_path: Path) -> None:
    """Its map of images that have our aberrations is the true one if it is told of them, and another if it is not."""
    folder, count = tmp_path / "theirs", 600
    folder.mkdir()
    for theirs, name in (
        ("particles.star", "particles.star"),
        ("particles.mrcs", "particles.mrcs"),
        ("truth.mrc", "volume.mrc"),
    ):
        shutil.copy2(halves / theirs, folder / name)
    images, _, rotations, shifts = images_of(folder, TILT, MATRIX, count)
    with mrcfile.new(tmp_path / "stack.mrcs") as mrc:
        mrc.set_data(images)
        mrc.set_image_stack()
        mrc.voxel_size = PIXEL
    optics, table = read_tables(folder / "particles.star")
    table = table.iloc[:count].drop(columns="rlnTheirs")
    table["rlnImageName"] = [f"{row + 1}@stack.mrcs" for row in range(count)]
    table["rlnDefocusV"] = table["rlnDefocusU"] - 3000
    table[["rlnOriginXAngst", "rlnOriginYAngst"]] = -shifts
    matrix = {f"rlnMagMat{row}{column}": MATRIX[row, column] for row in (0, 1) for column in (0, 1)}
    optics = optics.assign(rlnImagePixelSize=PIXEL)
    told = optics.assign(rlnBeamTiltX=TILT[0], rlnBeamTiltY=TILT[1], **matrix)
    true, curves = read_map(folder / "volume.mrc")[0], {}
    for name, part in (("told", told), ("untold", optics)):
        write_star(tmp_path / f"{name}.star", part, table)
        relion(f"reconstruct --i {name}.star --ctf --o {name}.mrc", tmp_path)
        curves[name] = fsc.fourier_shell_correlation(read_map(tmp_path / f"{name}.mrc")[0], true)
    assert (curves["told"][2:13] > 0.95).all(), curves["told"]
    assert curves["untold"][12] < 0.8, curves["untold"]
