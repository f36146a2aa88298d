"""More particles for a finished reconstruction: each is posed by its half-set's network and map, in the final frame."""

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import BOX, VOXEL
from test_cli import equipose

from equipose.config.settings import PreparationConfig, RunConfig, Told, merge, simulation_config
from equipose.core.fourier_grid import empty_grid
from equipose.core.fsc import fourier_shell_correlation
from equipose.core.mask import solvent_mask
from equipose.core.pose_metrics import squared_distances
from equipose.core.rotations import from_relion_angles, of_inverted, random_rotations, to_relion_angles
from equipose.data.simulate import simulate
from equipose.errors import ConfigError, OtherParticles
from equipose.io.half_sets import SUBSET
from equipose.io.maps import read_map, write_map
from equipose.io.particle_tables import ANGLES, ORIGINS, read_tables, without_poses, write_star
from equipose.io.particles import Particles
from equipose.io.stacks import open_stack
from equipose.model.autoencoder import Autoencoder, save_model
from equipose.poses.search_stages import search_length
from equipose.reconstruction import pose_more
from equipose.reconstruction.finished import Finished, read_finished
from equipose.reconstruction.growing import GROWN, SUMS, grow, read_sums, sums_of, write_sums
from equipose.reconstruction.halves import FURTHER, Half
from equipose.reconstruction.handback import SCORE
from equipose.training.evaluate import RelionPoses
from equipose.training.run_progress import networks_trained

NEW = 40
PREPARED = {
    "protein": "bright",
    "box": BOX,
    "voxel_size": VOXEL,
    "original_box": BOX,
    "original_voxel_size": VOXEL,
    "background_radius_angstrom": BOX * VOXEL / 2,
    "whitening": None,
}
CONVERGED = {
    "halves_compared": [600, 600],
    "halves_agree": [0.99, 0.99],
    "agree_within_degrees": 15.0,
    "resolution_angstrom": {"corrected": 36.0},
}


@pytest.fixture(scope="module")
def abinitio(halves: Path, small_run: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished reconstruction with the true map, whose second run lies in another frame and hand, and new particles.

    Its networks have learned nothing: poses come from the search.
    """
    folder = tmp_path_factory.mktemp("finished") / "abinitio"
    shutil.copytree(halves, folder.parent / "halves")
    work = folder.parent / "halves"
    config = small_run("d4_l2", BOX)
    few = dataclasses.replace(config.model.search, refine_orientations=1500, refine_radii=(7, 10), candidates=4)
    dataset = dataclasses.replace(config.dataset, voxel_size=VOXEL, shift_std=20.0)
    config = dataclasses.replace(config, dataset=dataset, model=dataclasses.replace(config.model, search=few))
    torch.manual_seed(0)
    for number, scale in ((1, 0.7), (2, 0.8)):
        save_model(Autoencoder(config, scale), work / f"run{number}/model.pt")
        (work / f"half{number}/preparation.json").write_text(json.dumps(PREPARED))
        asked = PreparationConfig(name="x", star=str(work / "particles.star"), subset=number, box=BOX)
        (work / f"half{number}/config.json").write_text(asked.to_json())
    optics, table = read_tables(work / "particles.star")
    write_star(folder / "poses.star", optics, table.assign(**{SCORE: 0.7}))
    truth = read_map(work / "truth.mrc")[0]
    maps = dict.fromkeys(("volume", "half1", "half2"), truth) | {"mask": solvent_mask(torch.from_numpy(truth)).numpy()}
    for name, volume in maps.items():
        write_map(folder / f"{name}.mrc", volume, VOXEL)
    places = {"runs": [str(work / f"run{n}") for n in (1, 2)], "datasets": [str(work / f"half{n}") for n in (1, 2)]}
    (folder / "reconstruction.json").write_text(json.dumps(CONVERGED | places))
    return folder


@pytest.fixture(scope="module")
def more(abinitio: Path, paper_config: dict) -> Path:
    """A star file of new particles of the same molecule, with the truth beside it."""
    folder = abinitio.parent / "more"
    line = {"box": BOX, "voxel_size": VOXEL, "images": NEW, "held_out": 1, "snr": 1.0, "seed": 5}
    config = simulation_config(merge(paper_config, {"datasets": {"80s_snr1": line}}), "80s_snr1")
    simulate(config, abinitio.parent / "halves/truth.mrc", folder, threads=1, progress=lambda *_: None)
    optics, table = read_tables(folder / "particles.star")
    write_star(folder / "more.star", optics, without_poses(table))
    return folder


@pytest.fixture(scope="module")
def finished(abinitio: Path) -> Finished:
    return read_finished(abinitio, abinitio / "work", False)


@pytest.fixture(scope="module")
def posed(finished: Finished, more: Path) -> Path:
    pose(finished, more / "more.star", finished.folder.parent / "posed")
    return finished.folder.parent / "posed"


def pose(finished: Finished, star: Path, out: Path, encoder_only: bool = False) -> list[str]:
    """What is said meanwhile."""
    said: list[str] = []
    pose_more.pose(finished, star, None, Told(), out, said.append, encoder_only=encoder_only)
    return said


def poses(star: Path) -> tuple[np.ndarray, np.ndarray]:
    table = read_tables(star)[1]
    return from_relion_angles(table[list(ANGLES)].to_numpy(float)), -table[list(ORIGINS)].to_numpy(float)


def test_poses_are_right_in_the_frame_of_the_reconstruction_whatever_the_runs(posed: Path, more: Path) -> None:
    (rotations, shifts), (true, moved) = poses(posed / "poses.star"), poses(more / "particles.star")
    half = read_tables(posed / "poses.star")[1][SUBSET].to_numpy()
    assert sorted(set(half)) == [1, 2]
    for number in (1, 2):
        apart = squared_distances(rotations, true)[half == number]
        assert np.median(apart) < 0.01 and (apart < 0.5).mean() > 0.9
        assert np.median(np.abs(shifts - moved)[half == number]) < 3
    table = read_tables(posed / "poses.star")[1]
    assert list(table["rlnImageName"]) == list(read_tables(more / "more.star")[1]["rlnImageName"])
    assert table[SCORE].median() == pytest.approx(0.5**0.5, abs=0.06)
    summary = json.loads((posed / "pose.json").read_text())
    assert summary["doubtful_share"] < 0.1 and summary["share_above_decoy"] > 0.9


def test_an_interrupted_call_continues_and_gives_the_same_and_a_finished_one_does_nothing(
    finished: Finished, more: Path, posed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted, calls = pose_more._fitted, []
    monkeypatch.setattr(pose_more, "PART", 10)
    monkeypatch.setattr(pose_more, "SAMPLE", 4)

    def counted(*arguments: object) -> tuple:
        calls.append(1)
        if len(calls) == 4 + 3:  # two halves with the map and with the decoy; then the third part
            raise KeyboardInterrupt
        return fitted(*arguments)

    monkeypatch.setattr(pose_more, "_fitted", counted)
    with pytest.raises(KeyboardInterrupt):
        pose(finished, more / "more.star", tmp_path / "out")
    assert not (tmp_path / "out/poses.star").exists()
    pose(finished, more / "more.star", tmp_path / "out")
    parts = sum(-(-int(n) // 10) for n in np.bincount(read_tables(posed / "poses.star")[1][SUBSET])[1:])
    assert len(calls) == 4 + 3 + parts - 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "pose.json",
        "poses.cs",
        "poses.star",
        "settings.json",
    ]
    before = (tmp_path / "out/poses.star").read_bytes()
    (tmp_path / "out/partial").mkdir()  # of a call that was stopped right after its last file
    pose(finished, more / "more.star", tmp_path / "out")
    assert len(calls) == 4 + 3 + parts - 2 and not (tmp_path / "out/partial").exists()
    monkeypatch.setattr(pose_more, "_fitted", fitted)
    pose(finished, more / "more.star", tmp_path / "whole")
    assert (tmp_path / "whole/poses.star").read_bytes() == before


def test_a_call_does_not_overwrite_the_settings_of_one_that_began_meanwhile(
    finished: Finished, more: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / "out/settings.json"

    def other_begins(*_: object) -> dict:
        theirs.parent.mkdir()
        theirs.write_text('{"encoder_only": true}')
        return {"images": 200, "share_above_decoy": 1.0, "doubtful_share": 0.0}

    monkeypatch.setattr(pose_more, "_compare_with_decoy", other_begins)
    with pytest.raises(ConfigError, match="has poses with another .*encoder_only"):
        pose(finished, more / "more.star", tmp_path / "out")
    assert theirs.read_text() == '{"encoder_only": true}'


def test_without_refinement_poses_are_those_of_the_networks_moved_into_the_frame(
    finished: Finished, more: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    answered: list[tuple] = []

    def answers(model: Autoencoder, particles: Particles, _: object) -> tuple[RelionPoses, None]:
        found = RelionPoses(random_rotations(len(particles.ctf), rng), rng.normal(size=(len(particles.ctf), 2)))
        answered.append((model, found))
        return found, None

    monkeypatch.setattr(pose_more, "predict", answers)
    monkeypatch.setattr(pose_more, "ANOTHER", 0.0)
    pose(finished, more / "more.star", tmp_path / "out", encoder_only=True)
    rotations, shifts = poses(tmp_path / "out/poses.star")
    subset = read_tables(tmp_path / "out/poses.star")[1][SUBSET].to_numpy()
    for number, half in enumerate(finished.halves, start=1):
        found = next(found for model, found in reversed(answered) if model is half.model)
        wanted = half.frame.rotations(found.rotations), half.frame.shifts(found.rotations, found.shifts)
        np.testing.assert_allclose(rotations[subset == number], wanted[0], atol=1e-6)
        np.testing.assert_allclose(shifts[subset == number], wanted[1], atol=1e-5)


def test_networks_that_were_not_trained_are_not_asked(
    finished: Finished, more: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose history ends with its search has none."""
    config = finished.halves[0].model.config
    searched = dataclasses.replace(config, model=dataclasses.replace(config.model, init="search"))
    model, last = Autoencoder(searched, 0.7), search_length(config.model.search)
    for steps, trained in ((last, False), (last + 1, True)):
        (tmp_path / "history.csv").write_text(f"step,seconds\n{steps},1\n")
        assert networks_trained(tmp_path, model.config) is trained
    halves = tuple(dataclasses.replace(half, trained=False) for half in finished.halves)
    untrained = dataclasses.replace(finished, halves=halves)
    with pytest.raises(ConfigError, match="leave out --encoder-only"):
        pose(untrained, more / "more.star", tmp_path / "out", encoder_only=True)
    monkeypatch.setattr(pose_more, "predict", None)
    pose(untrained, more / "more.star", tmp_path / "out")
    assert (
        squared_distances(poses(tmp_path / "out/poses.star")[0], poses(more / "particles.star")[0]) < 0.5
    ).mean() > 0.9


def test_poses_for_the_flipped_map_are_those_of_the_other_hand(
    abinitio: Path, more: Path, posed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert equipose(monkeypatch, "flip-hand", abinitio, "--out", tmp_path / "flipped") == 0
    words = ("pose", tmp_path / "flipped", more / "more.star", "--out", tmp_path / "out")
    assert equipose(monkeypatch, *words) == 0
    (flipped, shifts), (before, moved) = poses(tmp_path / "out/poses.star"), poses(posed / "poses.star")
    assert (squared_distances(flipped, of_inverted(before)) < 0.05).mean() > 0.9
    assert np.median(np.abs(shifts - moved)) < 1


def test_images_of_finer_pixels_and_a_wider_view_are_brought_to_those_of_the_reconstruction(
    finished: Finished, more: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice as fine, in a box half as wide again: what is prepared is what the coarse images give."""
    spectra = np.fft.fftshift(np.fft.fft2(np.array(open_stack(more / "particles.mrcs").map())), axes=(1, 2))
    spectra[:, 0] = spectra[:, :, 0] = 0  # frequencies that have no partner
    for name, width, wider, pixel in (("coarse", 0, 0, VOXEL), ("fine", BOX // 2, BOX // 2, VOXEL / 2)):
        wide = np.pad(spectra, [(0, 0), (width, width), (width, width)])
        images = np.fft.ifft2(np.fft.ifftshift(wide, axes=(1, 2))).real.astype(np.float32)
        images = np.pad(images, [(0, 0), (wider, wider), (wider, wider)], mode="wrap")
        _write_stack(tmp_path / f"{name}.mrcs", images, pixel)
        optics, table = read_tables(more / "more.star")
        table["rlnImageName"] = [f"{number}@{name}.mrcs" for number in range(1, len(table) + 1)]
        optics = optics.assign(rlnImagePixelSize=pixel, rlnImageSize=images.shape[-1])
        write_star(tmp_path / f"{name}.star", optics, table)
    original, prepared = pose_more.prepared_like, []

    def kept(*arguments: object) -> np.ndarray:
        prepared.append(original(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(pose_more, "prepared_like", kept)
    said: list[str] = []
    for name in ("coarse", "fine"):
        with pytest.raises(KeyboardInterrupt):
            pose_more.pose(finished, tmp_path / f"{name}.star", None, Told(), tmp_path / "out", said.append)
    assert [np.corrcoef(*(image.ravel() for image in pair))[0, 1] for pair in zip(*prepared, strict=True)][0] > 0.99
    assert ["rescaled: the reconstruction's were of 17 Å" in line for line in said] == [False, True]


def _write_stack(path: Path, images: np.ndarray, pixel: float) -> None:
    with mrcfile.new(path) as mrc:
        mrc.set_data(images)
        mrc.set_image_stack()
        mrc.voxel_size = pixel


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rlnVoltage": 200.0}, "other optics, 200 kV"),
        ({"rlnImagePixelSize": 2 * VOXEL}, "pixels of 34 Å are larger"),
        ({"rlnImagePixelSize": VOXEL / 2}, "images of 272 Å are smaller than the 544 Å"),
        ("inverted", "protein is dark in its images, and was bright"),
        ("noise", "do not show the molecule"),
    ],
)
def test_particles_of_another_kind_are_refused_and_nothing_is_written(
    finished: Finished, more: Path, tmp_path: Path, change: dict | str, message: str
) -> None:
    optics, table = read_tables(more / "more.star")
    images = np.array(open_stack(more / "particles.mrcs").map())
    if change == "inverted":
        images = -images
    elif change == "noise":
        images = np.random.default_rng(0).normal(size=images.shape).astype(np.float32)
    else:
        optics = optics.assign(**change)
    _write_stack(tmp_path / "particles.mrcs", images, 0)
    write_star(tmp_path / "other.star", optics, table)
    with pytest.raises(ConfigError, match=message):
        pose(finished, tmp_path / "other.star", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_reconstruction_that_has_not_converged_poses_nothing_unless_told_to(
    abinitio: Path, more: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    folder = shutil.copytree(abinitio, tmp_path / "abinitio")
    summary = json.loads((folder / "reconstruction.json").read_text())
    (folder / "reconstruction.json").write_text(json.dumps(summary | {"halves_agree": [0.99, 0.4]}))
    words = ("pose", folder, more / "more.star", "--out", tmp_path / "out")
    assert equipose(monkeypatch, *words) == 2
    assert "has not converged" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert equipose(monkeypatch, *words, "--anyway") == 0
    assert "The reconstruction is not converged" in capsys.readouterr().out


def test_a_folder_whose_runs_are_not_there_or_are_others_poses_nothing(abinitio: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(abinitio, tmp_path / "abinitio")
    optics, table = read_tables(folder / "poses.star")
    write_star(folder / "poses.star", optics, table.assign(rlnAngleRot=table["rlnAngleRot"].to_numpy()[::-1]))
    with pytest.raises(ConfigError, match="does not have the poses of its runs"):
        read_finished(folder, folder / "work", False)
    (folder / "reconstruction.json").write_text(json.dumps(CONVERGED))
    with pytest.raises(ConfigError, match="its networks are not known"):
        read_finished(folder, folder / "work", False)
    (folder / "mask.mrc").unlink()
    with pytest.raises(ConfigError, match="lacks mask.mrc"):
        read_finished(folder, folder / "work", False)


def test_a_reconstruction_after_further_passes_has_their_poses(
    finished: Finished, abinitio: Path, tmp_path: Path
) -> None:
    """With the former ones, new particles would be compared with another map, or be refused."""
    folder = shutil.copytree(abinitio, tmp_path / "abinitio")
    places = json.loads((folder / "reconstruction.json").read_text())
    optics, table = read_tables(folder / "poses.star")
    rng, moved = np.random.default_rng(0), []
    (tmp_path / "particles.mrcs").symlink_to(abinitio.parent / "halves/particles.mrcs")
    for number, (run, half) in enumerate(zip(places["runs"], finished.halves, strict=True), start=1):
        copied = Path(shutil.copytree(run, tmp_path / f"run{number}"))
        (own_optics, own), rows = read_tables(copied / "poses.star"), np.flatnonzero(table[SUBSET] == number)
        turned = random_rotations(len(own), rng)
        angles = dict(zip(ANGLES, to_relion_angles(turned).T, strict=True))
        write_star(copied / FURTHER, own_optics, own.assign(**angles))
        table.loc[rows, list(ANGLES)] = to_relion_angles(half.frame.rotations(turned))
        moved.append(str(copied))
    write_star(folder / "poses.star", optics, table)
    (folder / "reconstruction.json").write_text(json.dumps(places | {"runs": moved}))
    others = read_finished(folder, folder / "work", False)
    for half, former in zip(others.halves, finished.halves, strict=True):
        np.testing.assert_allclose(half.frame.rotation, former.frame.rotation, atol=1e-4)
        assert fourier_shell_correlation(half.own.numpy(), former.own.numpy())[3:8].mean() < 0.5, "random poses"


def test_a_folder_of_other_poses_is_not_overwritten(
    finished: Finished, more: Path, posed: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(posed, tmp_path / "out")
    with pytest.raises(ConfigError, match="poses with another `encoder_only`"):
        pose(finished, more / "more.star", out, encoder_only=True)
    settings = json.loads((out / "settings.json").read_text())
    for path, error in (("/another.star", ConfigError), (settings["told"]["star"], OtherParticles)):
        told = {"told": settings["told"] | {"star": path}, "particles": ["of", "before"]}
        (out / "settings.json").write_text(json.dumps(settings | told))
        with pytest.raises(ConfigError, match="poses with another `particles") as raised:
            pose(finished, more / "more.star", out)
        assert raised.type is error
    (out / "settings.json").unlink()
    with pytest.raises(ConfigError, match=r"poses\.star of another command"):
        pose(finished, more / "more.star", out)


def test_the_map_of_posed_files_has_each_file_once(finished: Finished, more: Path, tmp_path: Path) -> None:
    def grown() -> tuple[float, list[str]]:
        grids, names = read_sums(tmp_path / GROWN, BOX // 2)
        return float(sum(grid.power.sum() for grid in grids)), names

    pose_more.pose(finished, more / "more.star", None, Told(), tmp_path / "one", lambda _: None, with_sums=True)
    kept = (tmp_path / "one" / SUMS).read_bytes()
    grow(finished, tmp_path / "one")
    power, names = grown()
    assert names == ["one"] and power > 0 and not (tmp_path / "one" / SUMS).exists()
    (tmp_path / "one" / SUMS).write_bytes(kept)  # as a kill before its removal leaves it
    grow(finished, tmp_path / "one")
    assert grown() == (power, ["one"])
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / SUMS).write_bytes(kept)
    grow(finished, tmp_path / "two")
    assert grown() == (pytest.approx(2 * power), ["one", "two"])


def test_an_image_of_two_watched_files_is_in_one_half_set_and_in_the_map_once(
    finished: Finished, more: Path, tmp_path: Path
) -> None:
    """As where an export has the rows of the one before, and new ones."""
    optics, table = read_tables(more / "more.star")
    shutil.copy2(more / "particles.mrcs", tmp_path)
    kept = table.iloc[::-1].iloc[: 3 * len(table) // 4]
    write_star(tmp_path / "first.star", optics, kept.iloc[len(kept) // 3 :])
    write_star(tmp_path / "second.star", optics, kept)

    def posed(name: str) -> tuple[pd.Series, float]:
        out = tmp_path / "out" / name
        pose_more.pose(finished, tmp_path / f"{name}.star", None, Told(), out, lambda _: None, with_sums=True)
        grow(finished, out)
        grids, _ = read_sums(tmp_path / "out" / GROWN, BOX // 2)
        found = read_tables(out / "poses.star")[1].set_index("rlnImageName")["rlnRandomSubset"].astype(int)
        return found, float(sum(grid.power.sum() for grid in grids))

    (first, power), (second, more_power) = posed("first"), posed("second")
    assert (second[first.index] == first).all() and len(second) == 3 * len(first) // 2
    assert more_power == pytest.approx(1.5 * power, rel=0.1)


def test_the_map_of_posed_files_has_the_point_group_of_the_reconstruction(finished: Finished, posed: Path) -> None:
    rotations, shifts = poses(posed / "poses.star")
    images = np.zeros((len(shifts), BOX, BOX), np.float32)
    ctf = np.tile(np.float32([20000, 20000, 0, 300, 2.7, 0.1, 0]), (len(shifts), 1))
    particles = Particles(images, ctf, VOXEL, None, None, pd.DataFrame(), pd.DataFrame())
    part = [Half(particles, rotations, shifts, "C1")]
    assert finished.symmetry == "C1"
    alone, three = (
        float(sums_of(dataclasses.replace(finished, symmetry=name), 0, part).power.sum()) for name in ("C1", "C3")
    )
    assert three == pytest.approx(3 * alone, rel=0.01) and alone > 0


def test_files_posed_by_two_reconstructions_are_not_added(finished: Finished, tmp_path: Path) -> None:
    grids = [empty_grid(BOX // 2, torch.device("cpu"))] * 2
    for name, digest in (("one", "a"), ("two", "b")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "settings.json").write_text(json.dumps({"its_files": digest}))
        write_sums(tmp_path / name / SUMS, grids, [name])
    write_sums(tmp_path / GROWN, grids, ["one"])
    with pytest.raises(ConfigError, match=r"grown\.npz has particles posed by another reconstruction"):
        grow(finished, tmp_path / "two")
    assert read_sums(tmp_path / GROWN, BOX // 2)[1] == ["one"]


def test_a_watched_folder_is_posed_file_by_file_and_after_a_kill_nothing_is_posed_again(
    abinitio: Path,
    more: Path,
    posed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    def waited(_: float) -> None:
        if (tmp_path / "out/more/poses.star").exists():
            sys.exit(143)

    monkeypatch.setattr("equipose.cli.time.sleep", waited)
    (tmp_path / "live").mkdir()
    for name in ("more.star", "particles.mrcs"):
        (tmp_path / "live" / name).symlink_to(more / name)
    words = ("pose", abinitio, "--watch", tmp_path / "live", "--out", tmp_path / "out")
    assert equipose(monkeypatch, *words) == 143
    assert (tmp_path / "out/more/poses.star").stat().st_size == (posed / "poses.star").stat().st_size
    volume, truth = (read_map(folder / "volume.mrc")[0] for folder in (tmp_path / "out", abinitio))
    assert fourier_shell_correlation(volume, truth)[1:6].min() > 0.7
    assert len(pd.read_csv(tmp_path / "out/fsc.csv")) == BOX // 2
    assert equipose(monkeypatch, "pose", abinitio, more / "more.star", "--watch", "--out", tmp_path / "out") == 2
    assert "more.star is no folder" in capsys.readouterr().err
