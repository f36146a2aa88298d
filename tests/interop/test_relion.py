"""RELION reads what we write, and agrees with it; we read what RELION writes (`make test-interop`)."""

import shutil
import subprocess
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest

from equipose import cli
from equipose.core import fsc
from equipose.io.maps import read_map
from equipose.io.particle_tables import read_tables, write_star
from equipose.io.particles import read_particles
from equipose.reconstruction.handback import SCORE

pytestmark = pytest.mark.skipif(shutil.which("relion_reconstruct") is None, reason="relion is not installed")


def relion(program: str, *arguments: object, cwd: Path) -> str:
    done = subprocess.run([f"relion_{program}", *map(str, arguments)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_relion_reconstructs_our_map_from_our_poses(halves: Path, joined: Path) -> None:
    """Rotations, shifts, CTF, hand and centre at once: any of them wrong, and the maps differ."""
    shutil.copy2(joined / "poses.star", halves / "ours.star")
    relion("reconstruct", "--i", "ours.star", "--ctf", "--o", "relion.mrc", cwd=halves)
    theirs, ours = (read_map(path)[0] for path in (halves / "relion.mrc", joined / "volume.mrc"))
    curve = fsc.fourier_shell_correlation(ours, theirs)
    assert (curve[1:15] > 0.9).all(), curve


def test_the_other_hand_in_relion_is_the_mirrored_map(halves: Path, joined: Path, monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["equipose", "flip-hand", str(joined), "--out", str(halves / "flipped")])
    cli.main()
    shutil.copy2(halves / "flipped/poses.star", halves / "flipped.star")
    relion("reconstruct", "--i", "flipped.star", "--ctf", "--o", "flipped.mrc", cwd=halves)
    theirs = read_map(halves / "flipped.mrc")[0]
    flipped, unflipped = (read_map(folder / "volume.mrc")[0] for folder in (halves / "flipped", joined))
    assert (fsc.fourier_shell_correlation(flipped, theirs)[1:15] > 0.9).all()
    assert fsc.fourier_shell_correlation(unflipped, theirs)[6:15].mean() < 0.5


def test_astigmatic_projections_by_relion_read_as_the_particles_they_were(halves: Path, tmp_path: Path) -> None:
    optics, table = (part.copy() for part in read_tables(halves / "particles.star"))
    table = table.iloc[:40].assign(
        rlnDefocusV=table["rlnDefocusU"][:40] - 1500, rlnDefocusAngle=np.linspace(-80, 80, 40), rlnPhaseShift=30.0
    )
    table = table.drop(columns=["rlnTheirs"])
    shutil.copy2(halves / "particles.mrcs", tmp_path)
    write_star(tmp_path / "asked.star", optics, table)
    relion("project", "--i", halves / "truth.mrc", "--ang", "asked.star", "--o", "theirs", "--ctf", cwd=tmp_path)
    asked, read = (read_particles(tmp_path / f"{name}.star") for name in ("asked", "theirs"))
    np.testing.assert_allclose(read.ctf, asked.ctf, rtol=1e-5)
    np.testing.assert_allclose(read.rotations, asked.rotations, atol=1e-4)
    np.testing.assert_allclose(read.shifts, asked.shifts, atol=1e-3)
    assert read.images.shape == (40, 32, 32)


def test_star_handler_passes_our_poses_through_and_selects_by_their_score(halves: Path, joined: Path) -> None:
    shutil.copy2(joined / "poses.star", halves / "ours.star")
    selections = {"handled": ("rlnRandomSubset", 1), "best": (SCORE, 0.75)}
    for name, (label, least) in selections.items():
        select = ("--select", label, "--minval", least)
        relion("star_handler", "--i", "ours.star", "--o", f"{name}.star", *select, cwd=halves)
    scores = read_tables(halves / "ours.star")[1][SCORE]
    np.testing.assert_allclose(read_tables(halves / "best.star")[1][SCORE], scores[scores >= 0.75], atol=1e-6)
    ours, handled = (read_particles(halves / f"{name}.star") for name in ("ours", "handled"))
    np.testing.assert_allclose(handled.rotations, ours.rotations, atol=1e-5)
    np.testing.assert_allclose(handled.ctf, ours.ctf, rtol=1e-6)
    np.testing.assert_array_equal(handled.images, ours.images)


def test_old_star_files_mean_to_us_what_relions_own_converter_makes_of_them(halves: Path, tmp_path: Path) -> None:
    optics, table = read_tables(halves / "particles.star")
    pixel = optics["rlnImagePixelSize"].iloc[0]
    old = table.iloc[:30].drop(columns=["rlnOpticsGroup", "rlnTheirs", "rlnOriginXAngst", "rlnOriginYAngst"])
    old = old.assign(
        rlnOriginX=table["rlnOriginXAngst"] / pixel,
        rlnOriginY=table["rlnOriginYAngst"] / pixel,
        rlnVoltage=300.0,
        rlnSphericalAberration=2.7,
        rlnAmplitudeContrast=0.1,
        rlnDetectorPixelSize=5.0,
        rlnMagnification=5e4 / pixel,
        rlnMicrographName="a.mrc",
    )
    shutil.copy2(halves / "particles.mrcs", tmp_path)
    _write_old(tmp_path / "old.star", old)
    relion("convert_star", "--i", "old.star", "--o", "new.star", cwd=tmp_path)
    ours, theirs = (read_particles(tmp_path / f"{name}.star") for name in ("old", "new"))
    np.testing.assert_allclose(ours.shifts, theirs.shifts, atol=1e-3)
    np.testing.assert_allclose(ours.ctf, theirs.ctf, rtol=1e-5)
    np.testing.assert_allclose(ours.rotations, theirs.rotations, atol=1e-6)
    assert abs(ours.voxel_size - theirs.voxel_size) < 1e-4


def test_relion_opens_our_maps_with_their_voxel_size(joined: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.mrc"
    relion("image_handler", "--i", joined / "volume.mrc", "--o", again, "--multiply_constant", 1, cwd=tmp_path)
    with mrcfile.open(again) as theirs, mrcfile.open(joined / "volume.mrc") as ours:
        np.testing.assert_allclose(theirs.data, ours.data, atol=1e-6)
        np.testing.assert_allclose(float(theirs.voxel_size.x), float(ours.voxel_size.x), rtol=1e-5)


def _write_old(path: Path, table: pd.DataFrame) -> None:
    """A star file as RELION 3.0 wrote them: one table without a name."""
    head = "\ndata_\n\nloop_\n" + "".join(f"_{name} #{number}\n" for number, name in enumerate(table, start=1))
    path.write_text(head + "\n".join(" ".join(map(str, row)) for row in table.to_numpy()) + "\n")
