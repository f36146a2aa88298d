"""A user's particles, prepared: the same picture at another sampling, bright protein, background 0 ± 1."""

import dataclasses
import json
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from equipose.config.settings import PreparationConfig, merge, preparation_config
from equipose.core.ctf import ctf
from equipose.core.noise import filtered, shells
from equipose.data import prepare as preparation
from equipose.data.prepare import fourier_crop, prepare
from equipose.errors import ConfigError
from equipose.io.half_sets import half_of
from equipose.io.particle_tables import ANGLES, read_tables, write_star
from equipose.io.particles import read_particles, summarise
from equipose.workflow.resolve import dataset_config

ROOT = Path(__file__).parents[1]


def blobs(size: int, pixel: float, centre: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """A Gaussian of 12 Å at `centre` (x, y) in Å from pixel size/2."""
    axis = (np.arange(size) - size // 2) * pixel
    return np.exp(-((axis - centre[0]) ** 2 + (axis[:, None] - centre[1]) ** 2) / (2 * 12.0**2))


@pytest.mark.parametrize("size", [64, 96, 75])
def test_cropping_samples_the_same_picture_more_coarsely(size: int) -> None:
    """Also from odd boxes, and to a pixel size that is no multiple of the old one."""
    pixel = 192 / size
    cropped = fourier_crop(blobs(size, pixel, (7.0, -11.0))[None], 32)[0]
    np.testing.assert_allclose(cropped, blobs(32, 6.0, (7.0, -11.0)), atol=2e-3)


@pytest.fixture
def user(simulated_dataset, tmp_path: Path) -> Path:
    """The simulated particles as a user may have them: dark, scaled, with an offset, in float16, with a new column."""
    optics, table = read_tables(simulated_dataset.folder / "particles.star")
    images = mrcfile.read(simulated_dataset.folder / "particles.mrcs")
    with mrcfile.new(tmp_path / "theirs.mrcs") as mrc:
        mrc.set_data((7 - 3 * images).astype(np.float16))
        mrc.set_image_stack()
        mrc.voxel_size = simulated_dataset.config.voxel_size
    table["rlnImageName"] = [name.replace("particles.mrcs", "theirs.mrcs") for name in table["rlnImageName"]]
    write_star(tmp_path / "theirs.star", optics, table.assign(rlnTheirs=np.arange(len(table))))
    return tmp_path / "theirs.star"


@pytest.fixture
def settings(user: Path) -> PreparationConfig:
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    line = {"star": str(user), "box": 32, "contrast": "detect"}
    return preparation_config(merge(config, {"datasets": {"mine": line}}), "mine")


def quiet(_: str) -> None:
    pass


def test_dark_particles_come_out_bright_with_a_background_of_0_and_1(
    settings, simulated_dataset, tmp_path: Path
) -> None:
    prepare(settings, tmp_path / "out", quiet)
    prepared = read_particles(tmp_path / "out/particles.star")
    originals = read_particles(simulated_dataset.folder / "particles.star").images
    for mine, original in zip(prepared.images, originals, strict=True):
        assert np.corrcoef(mine.ravel(), original.ravel())[0, 1] > 0.99
    axis = np.arange(32) - 16
    background = np.hypot(axis[:, None], axis) > 15
    np.testing.assert_allclose(prepared.images[:][:, background].std(axis=1), 1, atol=1e-3)
    assert json.loads((tmp_path / "out/preparation.json").read_text())["protein"] == "dark"


def test_rows_and_columns_are_kept_and_poses_only_as_truth(settings, tmp_path: Path) -> None:
    prepare(settings, tmp_path / "blind", quiet)
    prepare(dataclasses.replace(settings, truth=True), tmp_path / "told", quiet)
    blind, told = (read_tables(tmp_path / name / "particles.star")[1] for name in ("blind", "told"))
    assert list(blind["rlnTheirs"]) == list(range(50))
    assert not set(ANGLES) & set(blind) and set(ANGLES) <= set(told)


def test_a_subset_is_the_half_of_the_star_file_that_it_says(settings, user: Path, tmp_path: Path) -> None:
    halves = half_of(*read_tables(user)[::-1])
    for subset in (1, 2):
        prepare(dataclasses.replace(settings, subset=subset), tmp_path / str(subset), quiet)
        rows = read_tables(tmp_path / str(subset) / "particles.star")[1]["rlnTheirs"]
        assert list(rows) == list(np.flatnonzero(halves == subset))


def test_a_mask_leaves_nothing_outside_its_radius(settings, tmp_path: Path) -> None:
    prepare(dataclasses.replace(settings, mask_radius=200.0), tmp_path / "out", quiet)
    images = read_particles(tmp_path / "out/particles.star").images[:]
    axis = (np.arange(32) - 16) * 17.0
    assert np.abs(images[:, np.hypot(axis[:, None], axis) > 201]).max() == 0


def test_training_is_told_the_pixel_size_and_number_that_the_star_file_gives(user: Path, simulated_dataset) -> None:
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    asked = merge(config, {"datasets": {"mine": {"star": str(user), "box": 32, "subset": 1}}})
    dataset = dataset_config(asked, "mine")
    assert (dataset.images, dataset.box, dataset.voxel_size) == (25, 32, simulated_dataset.config.voxel_size)


def test_selected_rows_are_those_within_the_limits_in_their_order_and_halves(
    settings, user: Path, tmp_path: Path
) -> None:
    halves = half_of(*read_tables(user)[::-1])
    asked = dataclasses.replace(settings, select={"rlnTheirs": [10, None], "rlnDefocusU": [None, 1e6]}, subset=2)
    prepare(asked, tmp_path / "out", quiet)
    rows = list(read_tables(tmp_path / "out/particles.star")[1]["rlnTheirs"])
    assert rows == [row for row in range(10, 50) if halves[row] == 2]
    assert summarise(user, None, asked.limits).subsets[2] == len(rows)
    summary = json.loads((tmp_path / "out/preparation.json").read_text())
    assert (summary["particles"], summary["particles_in_star"]) == (len(rows), 50)


@pytest.mark.parametrize("what", ["flipped", "multiplied"])
def test_what_was_done_to_images_with_their_ctf_is_undone(settings, user: Path, tmp_path: Path, what: str) -> None:
    """With voxels so small that half of the CTF's values are negative, and astigmatism."""
    voxel_size = 4.0
    optics, table = read_tables(user)
    optics = optics.assign(rlnImagePixelSize=voxel_size)
    table = table.assign(rlnDefocusV=table["rlnDefocusU"] - 3000, rlnDefocusAngle=30.0)
    write_star(user, optics, table)
    with mrcfile.open(user.with_name("theirs.mrcs"), "r+") as mrc:
        mrc.voxel_size = voxel_size
    prepare(settings, tmp_path / "plain", quiet)
    particles = read_particles(user)
    row, column = np.meshgrid(np.fft.fftfreq(32, 1 / 32), np.arange(17), indexing="ij")
    k = torch.from_numpy(np.stack([column.ravel(), row.ravel()], -1)).float()
    transfer = ctf(torch.from_numpy(particles.ctf), k, 32 * voxel_size).numpy().reshape(-1, 32, 17)
    assert 0.4 < (transfer < 0).mean() < 0.6
    changed = filtered(np.asarray(particles.images), np.where(transfer < 0, -1, 1) if what == "flipped" else transfer)
    with mrcfile.new(user.with_name("theirs.mrcs"), overwrite=True) as mrc:
        mrc.set_data(changed)
        mrc.set_image_stack()
        mrc.voxel_size = voxel_size
    label = {"flipped": "rlnCtfDataArePhaseFlipped", "multiplied": "rlnCtfDataAreCtfPremultiplied"}[what]
    write_star(user, optics.assign(**{label: 1}), table)
    prepare(settings, tmp_path / "undone", quiet)
    plain, undone = (read_particles(tmp_path / name / "particles.star") for name in ("plain", "undone"))
    least = {"flipped": 1 - 1e-6, "multiplied": 0.98}[what]  # where the CTF is near zero, an image stays weak
    for one, other in zip(plain.images, undone.images, strict=True):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > least
    assert list(undone.optics_table[label]) == [0]


def test_whitened_images_are_the_others_with_the_filter_that_is_written_down(settings, tmp_path: Path) -> None:
    """Their map, divided by the filter, is the map of the other images."""
    prepare(settings, tmp_path / "plain", quiet)
    prepare(dataclasses.replace(settings, whiten=True), tmp_path / "white", quiet)
    plain, white = (read_particles(tmp_path / name / "particles.star").images[:] for name in ("plain", "white"))
    factors = json.loads((tmp_path / "white/preparation.json").read_text())["whitening"]
    expected = filtered(np.array(plain), np.array(factors)[shells(32)])
    for one, other in zip(expected, white, strict=True):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.9999  # scaled and moved to a background of 0 and 1
    assert json.loads((tmp_path / "plain/preparation.json").read_text())["whitening"] is None


def test_an_interrupted_preparation_goes_on_to_the_same_files(settings, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(preparation, "CHUNK", 8)
    prepare(settings, tmp_path / "whole", quiet)
    done, made = preparation.prepared, []

    def interrupted(images: np.ndarray, *rest: object) -> np.ndarray:
        made.append(len(images))
        if len(made) == 4:
            raise KeyboardInterrupt
        return done(images, *rest)

    monkeypatch.setattr(preparation, "prepared", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(settings, tmp_path / "again", quiet)
    assert not (tmp_path / "again/particles.mrcs").exists()
    prepare(settings, tmp_path / "again", quiet)
    assert made == [8, 8, 8, 8, 8, 8, 8, 8, 2][:4] + [8, 8, 8, 2]  # three parts were kept
    for name in ("particles.mrcs", "particles.star", "preparation.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"select": {"rlnNothing": [0, 1]}}, "lacks the column rlnNothing"),
        ({"select": {"rlnTheirs": [1000, None]}}, "no particle is within the limits"),
        ({"box": 64}, "images of 32 pixels are smaller than the box of 64"),
        ({"mask_radius": 400.0}, "does not fit into images of 544 Å"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(settings, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare(dataclasses.replace(settings, **changes), tmp_path / "out", quiet)
    assert not (tmp_path / "out").exists()


def test_a_constant_image_is_named_and_nothing_is_half_written(settings, user: Path, tmp_path: Path) -> None:
    with mrcfile.open(user.with_name("theirs.mrcs"), "r+") as mrc:
        mrc.data[3] = 1.0
    with pytest.raises(ConfigError, match="000004@theirs.mrcs of particle 4 is constant"):
        prepare(settings, tmp_path / "out", quiet)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("whiten", [False, True])
def test_images_that_are_masked_already_are_refused(settings, user: Path, tmp_path: Path, whiten: bool) -> None:
    with mrcfile.open(user.with_name("theirs.mrcs"), "r+") as mrc:
        axis = np.arange(32) - 16
        mrc.data[7] *= np.hypot(axis[:, None], axis) < 12
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="000008@theirs.mrcs is constant outside of the particle"):
        prepare(dataclasses.replace(settings, contrast="dark", whiten=whiten), tmp_path / "out", quiet)
    assert list((tmp_path / "out").iterdir()) == []


def test_noise_alone_does_not_tell_the_contrast(settings, user: Path, tmp_path: Path) -> None:
    with mrcfile.open(user.with_name("theirs.mrcs"), "r+") as mrc:
        mrc.data[:] = np.random.default_rng(0).standard_normal(mrc.data.shape)
    with pytest.raises(ConfigError, match="say contrast .*: bright, .* or dark"):
        prepare(settings, tmp_path / "out", quiet)


@pytest.mark.parametrize("protein", ["bright", "dark"])
@pytest.mark.parametrize("radius", [3.0, 7.0, 11.0])
def test_a_hollow_particle_is_as_bright_as_a_full_one(settings, simulated_dataset, radius: float, protein: str) -> None:
    """Shells of protein, whose transforms change their sign within the shells that are looked at, at SNR 0.2."""
    rng, count, axis = np.random.default_rng(0), 500, np.arange(32) - 16
    directions = rng.normal(size=(20_000, 3))
    points = radius * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    clean = np.histogram2d(*points[:, :2].T, [np.append(axis, 16) - 0.5] * 2)[0]
    particles = read_particles(simulated_dataset.folder / "particles.star")
    parameters = particles.ctf[:1].repeat(count, 0)
    parameters[:, 0] = parameters[:, 1] = rng.uniform(8e3, 25e3, count)
    row, column = np.meshgrid(np.fft.fftfreq(32, 1 / 32), np.arange(17), indexing="ij")
    k = torch.from_numpy(np.stack([column.ravel(), row.ravel()], -1)).float()
    transfer = ctf(torch.from_numpy(parameters), k, 320.0).numpy().reshape(-1, 32, 17)
    images = filtered(clean.repeat(count).reshape(32, 32, count).transpose(2, 0, 1), transfer)
    images += rng.normal(0, images.std() / 0.2**0.5, images.shape)
    images = (images if protein == "bright" else -images).astype(np.float32)
    seen = dataclasses.replace(particles, images=images, ctf=parameters, voxel_size=10.0)
    sign, _ = preparation.contrast(seen, np.arange(count), settings, 10.0)
    assert sign == (1 if protein == "bright" else -1)


@pytest.mark.parametrize("flipped", [False, True])
def test_phases_that_were_flipped_without_a_trace_are_noticed(simulated_dataset, flipped: bool) -> None:
    """At 4 Å a pixel, where the CTF changes its sign within the shells that are looked at, and SNR 1."""
    particles = read_particles(simulated_dataset.folder / "particles.star")
    rng, count = np.random.default_rng(0), 3000
    clean, parameters = np.asarray(particles.images)[rng.integers(0, 40, count)], particles.ctf[:1].repeat(count, 0)
    parameters[:, 0] = parameters[:, 1] = rng.uniform(8e3, 25e3, count)
    row, column = np.meshgrid(np.fft.fftfreq(32, 1 / 32), np.arange(17), indexing="ij")
    k = torch.from_numpy(np.stack([column.ravel(), row.ravel()], -1)).float()
    transfer = ctf(torch.from_numpy(parameters), k, 128.0).numpy().reshape(-1, 32, 17)
    images = filtered(clean, np.abs(transfer) if flipped else transfer)
    images += rng.normal(0, images.std(), images.shape)
    seen = dataclasses.replace(particles, images=images.astype(np.float32), ctf=parameters, voxel_size=4.0)
    assert preparation.looks_flipped(seen, np.arange(count), 4.0, 32) is flipped


def test_a_single_image_tells_nothing_of_its_phases_and_gives_no_warning(simulated_dataset, recwarn) -> None:
    particles = read_particles(simulated_dataset.folder / "particles.star")
    assert not preparation.looks_flipped(particles, np.arange(1), particles.voxel_size, 32)
    assert not [found for found in recwarn if issubclass(found.category, RuntimeWarning)]


def test_what_the_user_says_of_phases_is_what_the_file_would_say(settings, user: Path, tmp_path: Path) -> None:
    optics, table = read_tables(user)
    prepare(dataclasses.replace(settings, phase_flipped=True), tmp_path / "told", quiet)
    write_star(user, optics.assign(rlnCtfDataArePhaseFlipped=1), table)
    prepare(settings, tmp_path / "written", quiet)
    told, written = (read_particles(tmp_path / name / "particles.star") for name in ("told", "written"))
    np.testing.assert_array_equal(told.images, written.images)
    assert list(told.optics_table["rlnCtfDataArePhaseFlipped"]) == [0]


def test_aberrations_are_out_of_prepared_images_and_their_star_file(settings, user: Path, tmp_path: Path) -> None:
    optics, table = read_tables(user)
    matrix = {"rlnMagMat00": 1.05, "rlnMagMat01": 0.0, "rlnMagMat10": 0.0, "rlnMagMat11": 1.0}
    write_star(user, optics.assign(rlnBeamTiltX=0.5, **matrix), table)
    prepare(dataclasses.replace(settings, truth=True), tmp_path / "out", quiet)
    prepared, given = read_particles(tmp_path / "out/particles.star"), read_particles(user)
    assert not set(prepared.optics_table) & {"rlnBeamTiltX", *matrix}
    np.testing.assert_allclose(prepared.shifts * [1.05, 1], given.shifts, rtol=1e-5)
    assert np.corrcoef(-prepared.images[0].ravel(), np.asarray(given.images[0]).ravel())[0, 1] < 0.999


def test_rows_that_select_leaves_out_need_not_be_sound(settings, user: Path, tmp_path: Path) -> None:
    optics, table = read_tables(user)
    table.loc[3, ["rlnDefocusU", "rlnImageName"]] = [-50.0, "9@gone.mrcs"]
    write_star(user, optics, table.assign(rlnScore=np.arange(len(table)) != 3))
    prepare(dataclasses.replace(settings, select={"rlnScore": [1, None]}), tmp_path / "out", quiet)
    assert len(read_particles(tmp_path / "out/particles.star").images) == 49
    with pytest.raises(ConfigError, match="row 4: .*gone.mrcs does not exist"):
        prepare(settings, tmp_path / "all", quiet)


def test_halves_of_several_sizes_are_brought_to_the_size_of_both(settings, user: Path, tmp_path: Path) -> None:
    """Else each half-set would have the size of its own smallest field of view."""
    optics, table = read_tables(user)
    with mrcfile.new(tmp_path / "large.mrcs") as mrc:
        mrc.set_data(np.pad(mrcfile.read(user.with_name("theirs.mrcs")), ((0, 0), (4, 4), (4, 4)), "wrap"))
        mrc.set_image_stack()
    half = half_of(table, optics)
    names = table["rlnImageName"].where(half == 2, table["rlnImageName"].str.replace("theirs", "large"))
    groups = pd.concat([optics.assign(rlnOpticsGroup=1, rlnImageSize=40), optics.assign(rlnOpticsGroup=2)])
    write_star(user, groups, table.assign(rlnImageName=names, rlnOpticsGroup=half, rlnRandomSubset=half))
    for subset in (1, 2):
        prepare(dataclasses.replace(settings, subset=subset, contrast="dark"), tmp_path / str(subset), quiet)
        assert read_particles(tmp_path / str(subset) / "particles.star").voxel_size == 17.0


def test_images_of_two_contrasts_are_prepared_alike_and_told_so_once(settings, user: Path, tmp_path: Path) -> None:
    """The prepared images have one contrast: nothing may multiply them again."""
    prepare(settings, tmp_path / "plain", quiet)
    optics, table = read_tables(user)
    sign = np.where(np.arange(len(table)) % 3, 1, -1)
    with mrcfile.open(user.with_name("theirs.mrcs"), "r+") as mrc:
        mrc.set_data((mrc.data * sign[:, None, None]).astype(np.float16))
    write_star(user, optics, table.assign(equiposeSign=sign))
    prepare(settings, tmp_path / "mixed", quiet)
    plain, mixed = (read_particles(tmp_path / name / "particles.star") for name in ("plain", "mixed"))
    np.testing.assert_array_equal(mixed.images, plain.images)
    assert "equiposeSign" not in mixed.particle_table
