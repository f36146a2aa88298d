"""A user's particles, prepared: the same picture at another sampling, bright protein, background 0 ± 1."""

import dataclasses
import json
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import yaml

from equipose.config import PreparationConfig, dataset_config, merge, preparation_config
from equipose.errors import ConfigError
from equipose.particles import ANGLES, half_of, read_particles, read_tables, write_star
from equipose.prepare import fourier_crop, prepare

ROOT = Path(__file__).parents[1]


def blobs(size: int, pixel: float, centre: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """A Gaussian of 12 Å at `centre` (x, y) in Å from pixel size/2."""
    axis = (np.arange(size) - size // 2) * pixel
    return np.exp(-((axis - centre[0]) ** 2 + (axis[:, None] - centre[1]) ** 2) / (2 * 12.0**2))


@pytest.mark.parametrize("size", [64, 96, 75])
def test_cropping_samples_the_same_picture_more_coarsely(size: int) -> None:
    """Also from odd boxes, and to a pixel that is no multiple of the old one."""
    pixel = 192 / size
    cropped = fourier_crop(blobs(size, pixel, (7.0, -11.0))[None], 32)[0]
    np.testing.assert_allclose(cropped, blobs(32, 6.0, (7.0, -11.0)), atol=2e-3)


@pytest.fixture
def user(simulated_dataset, tmp_path: Path) -> Path:
    """The simulated particles as somebody else's: dark, scaled, with an offset, float16, and a column of theirs."""
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
    np.testing.assert_allclose(prepared.images[:, background].std(axis=1), 1, atol=1e-3)
    assert json.loads((tmp_path / "out/preparation.json").read_text())["protein"] == "dark"


def test_rows_and_columns_are_kept_and_poses_only_as_truth(settings, tmp_path: Path) -> None:
    prepare(settings, tmp_path / "blind", quiet)
    prepare(dataclasses.replace(settings, truth=True), tmp_path / "told", quiet)
    blind, told = (read_tables(tmp_path / name / "particles.star")[1] for name in ("blind", "told"))
    assert list(blind["rlnTheirs"]) == list(range(50))
    assert not set(ANGLES) & set(blind) and set(ANGLES) <= set(told)


def test_a_subset_is_the_half_of_the_star_file_that_it_says(settings, user: Path, tmp_path: Path) -> None:
    halves = half_of(read_tables(user)[1])
    for subset in (1, 2):
        prepare(dataclasses.replace(settings, subset=subset), tmp_path / str(subset), quiet)
        rows = read_tables(tmp_path / str(subset) / "particles.star")[1]["rlnTheirs"]
        assert list(rows) == list(np.flatnonzero(halves == subset))


def test_a_mask_leaves_nothing_outside_its_radius(settings, tmp_path: Path) -> None:
    prepare(dataclasses.replace(settings, mask_radius=200.0), tmp_path / "out", quiet)
    images = read_particles(tmp_path / "out/particles.star").images
    axis = (np.arange(32) - 16) * 17.0
    assert np.abs(images[:, np.hypot(axis[:, None], axis) > 201]).max() == 0


def test_training_is_told_the_pixel_size_and_number_that_the_star_file_gives(user: Path, simulated_dataset) -> None:
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    asked = merge(config, {"datasets": {"mine": {"star": str(user), "box": 32, "subset": 1}}})
    dataset = dataset_config(asked, "mine")
    assert (dataset.images, dataset.box, dataset.voxel_size) == (25, 32, simulated_dataset.config.voxel_size)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
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


def test_noise_alone_does_not_tell_the_contrast(settings, user: Path, tmp_path: Path) -> None:
    with mrcfile.open(user.with_name("theirs.mrcs"), "r+") as mrc:
        mrc.data[:] = np.random.default_rng(0).standard_normal(mrc.data.shape)
    with pytest.raises(ConfigError, match="say contrast: bright .* or dark"):
        prepare(settings, tmp_path / "out", quiet)
