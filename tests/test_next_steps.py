"""After a reconstruction: a filtered map, and command lines with its own numbers."""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from equipose.config.settings import PreparationConfig
from equipose.core.fsc import fourier_shell_correlation
from equipose.io.maps import read_map
from equipose.io.particle_tables import read_tables, write_star
from equipose.reconstruction.next_steps import steps, write_next_steps


@pytest.fixture(scope="module")
def folder(joined: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = shutil.copytree(joined, tmp_path_factory.mktemp("next") / "abinitio")
    write_next_steps(made, Path("/data/my project/abinitio"))
    return made


def test_the_filtered_map_has_the_same_shells_and_no_b_factor_where_none_can_be_read(folder: Path) -> None:
    (volume, voxel_size), (filtered, written) = (read_map(folder / f"{name}.mrc") for name in ("volume", "filtered"))
    mask = read_map(folder / "mask.mrc")[0]
    assert written == voxel_size
    assert fourier_shell_correlation(volume * mask, filtered)[1:14].min() > 0.99
    spectra = [np.abs(np.fft.fftn(each))[1:13, 0, 0] for each in (volume * mask, filtered)]
    assert (spectra[1] <= spectra[0] * (1 + 1e-4)).all() and spectra[1].sum() < spectra[0].sum()
    assert "No B factor can be read" in (folder / "next.md").read_text()


def test_commands_name_the_place_and_the_numbers_of_the_reconstruction(folder: Path) -> None:
    text = (folder / "next.md").read_text()
    place = Path("/data/my project/abinitio")
    for step in steps(folder, place):
        for line in step.lines:
            assert line in text and shlex.split(line)
    relion = next(step for step in steps(folder, place) if step.program == "RELION").lines
    words = shlex.split(relion[-1])
    asked = dict(zip(words, words[1:], strict=False))
    assert asked["--i"] == str(place / "poses.star") and asked["--sym"] == "C1"
    resolution = json.loads((folder / "reconstruction.json").read_text())["resolution_angstrom"]["corrected"]
    assert resolution < float(asked["--ini_high"]) < 2 * resolution
    assert 100 < float(asked["--particle_diameter"]) < 544
    assert "--rescale_angpix 17 --new_box 32" in relion[1]


def test_sizes_are_those_of_the_first_image_and_others_are_named(folder: Path, tmp_path: Path) -> None:
    several = shutil.copytree(folder, tmp_path / "several")
    optics, table = read_tables(several / "poses.star")
    first = optics["rlnOpticsGroup"].iloc[0]
    unused, finer = (optics.assign(rlnOpticsGroup=first + n, rlnImagePixelSize=8.5, rlnImageSize=64) for n in (1, 2))
    table.loc[5, "rlnOpticsGroup"] = first + 2
    write_star(several / "poses.star", pd.concat([unused.assign(rlnImageSize=99), optics, finer]), table)
    made = {step.program: step for step in steps(several, several)}
    for program in ("RELION", "cryoDRGN"):
        assert made[program].why.endswith(
            " Optics groups differ: box and pixel size below are those of the first image, 32 pixels of 17 Å; others"
            " have 64 pixels of 8.5 Å."
        )
    assert "--rescale_angpix 17 --new_box 32" in made["RELION"].lines[1] and "-D 32" in made["cryoDRGN"].lines[1]
    assert "differ" not in (folder / "next.md").read_text()


def test_a_map_that_has_not_converged_is_not_recommended(folder: Path, tmp_path: Path) -> None:
    lost = shutil.copytree(folder, tmp_path / "lost")  # with the files of a command that had converged
    summary = json.loads((lost / "reconstruction.json").read_text())
    (lost / "reconstruction.json").write_text(json.dumps(summary | {"halves_agree": [0.1, 0.1], "junk": None}))
    write_next_steps(lost, lost)
    assert not (lost / "next.md").exists() and not (lost / "filtered.mrc").exists()


@pytest.mark.parametrize(
    ("protein", "told", "flags", "relion", "cryodrgn"),
    [
        ("bright", {}, {}, (" --ctf ", False), "--ctf ctf.pkl --uninvert-data "),
        ("dark", {}, {}, (" --ctf ", True), "--ctf ctf.pkl --zdim"),
        ("dark", {"phase_flipped": True}, {}, (" --ctf --ctf_phase_flipped ", True), None),
        ("dark", {}, {"rlnCtfDataArePhaseFlipped": 1}, (" --ctf --ctf_phase_flipped ", True), None),
        ("dark", {}, {"rlnCtfDataAreCtfPremultiplied": 1}, (" --ctf ", True), None),
        ("dark", {"no_ctf": True}, {}, ("halves --firstiter_cc", True), "--poses poses.pkl --zdim"),
    ],
)
def test_commands_fit_what_was_done_to_the_images(
    folder: Path,
    tmp_path: Path,
    protein: str,
    told: dict[str, bool],
    flags: dict[str, int],
    relion: tuple[str, bool],
    cryodrgn: str | None,
) -> None:
    """A bright reference for dark images, or a CTF's sign that was taken out before, would lead a refinement astray."""
    made = shutil.copytree(folder, tmp_path / "made")
    (tmp_path / "half1").mkdir()
    (tmp_path / "half1/preparation.json").write_text(json.dumps({"protein": protein}))
    config = PreparationConfig(name="half1", star=str(made / "poses.star"), datadir=str(made), **told)
    (tmp_path / "half1/config.json").write_text(config.to_json())
    summary = json.loads((made / "reconstruction.json").read_text()) | {"datasets": [str(tmp_path / "half1")]}
    (made / "reconstruction.json").write_text(json.dumps(summary))
    optics, table = read_tables(made / "poses.star")
    write_star(made / "poses.star", optics.assign(**flags), table)
    lines = {step.program: step.lines for step in steps(made, made)}
    options, negative = relion
    assert options in lines["RELION"][-1] and lines["RELION"][1].endswith(" --multiply_constant -1") == negative
    assert ("--ctf_phase_flipped" in lines["RELION"][-1]) == ("phase_flipped" in options)
    assert ("cryoDRGN" in lines) == (cryodrgn is not None)
    if cryodrgn:
        assert cryodrgn in lines["cryoDRGN"][-1]
        assert any("parse_ctf_star" in line for line in lines["cryoDRGN"]) == ("--ctf" in cryodrgn)
