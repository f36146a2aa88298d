"""The simulator, against closed forms, RELION's projector, its own promises of scale and noise, and bad input."""

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from equipose.config.settings import SimulationConfig, simulation_config
from equipose.core.ctf import ctf
from equipose.core.fourier import from_half_disc, half_disc, shift_phase, to_half_disc
from equipose.core.resizing import resized
from equipose.core.rotations import from_relion_angles, random_rotations
from equipose.data import simulate as module
from equipose.data.simulate import draw_ctf, padded_transform, simulate, slices
from equipose.data.uncropped import uncropped
from equipose.errors import ConfigError
from equipose.io import progress
from equipose.io.maps import write_map
from equipose.io.particle_tables import write_star
from equipose.io.particles import Particles, read_particles

BY_RELION = Path(__file__).parent / "data/relion_project.star"

BOX, VOXEL = 32, 4.0
COUNT = 200
BLOBS = np.array([[5.0, 1.0, -3.0], [-6.0, 4.0, 2.0], [0.0, -7.0, 1.0], [1.0, 2.0, 7.0]])  # (x, y, z) in voxels
WEIGHTS = np.array([1.0, 2.0, 1.5, 0.7])
SIGMA = 1.5  # voxels: no coefficient above 1e-4 is lost at the edge of the disc


def gaussians(position: np.ndarray) -> np.ndarray:
    """Normalised 1D Gaussians (..., BOX) about `position` (...) voxels from pixel BOX/2."""
    distance = np.arange(BOX) - BOX // 2 - position[..., None]
    return np.exp(-0.5 * (distance / SIGMA) ** 2) / (np.sqrt(2 * np.pi) * SIGMA)


def blob_volume() -> np.ndarray:
    x, y, z = gaussians(BLOBS.T)
    return np.einsum("n,nz,ny,nx->zyx", WEIGHTS, z, y, x).astype(np.float32)


def blob_projections(rotations: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Projections in closed form: a Gaussian at p projects to one at (R p)_xy + shift. Shifts in pixels."""
    x, y = gaussians(np.moveaxis((BLOBS @ rotations.transpose(0, 2, 1))[..., :2] + shifts[:, None], -1, 0))
    return np.einsum("n,iny,inx->iyx", WEIGHTS, y, x)


def relative_error(images: np.ndarray, expected: np.ndarray) -> float:
    return float(np.sqrt(((images - expected) ** 2).sum() / ((expected - expected.mean()) ** 2).sum()))


def project(volume: np.ndarray, particles: Particles, with_ctf: bool) -> np.ndarray:
    """Projections of a volume with the poses, shifts and, if asked, the CTFs of a particle set."""
    disc = half_disc(len(volume))
    coefficients = slices(padded_transform(volume), particles.rotations, disc)
    coefficients *= shift_phase(torch.from_numpy(particles.shifts / particles.voxel_size).float(), disc)
    if with_ctf:
        coefficients *= ctf(torch.from_numpy(particles.ctf), disc.k, disc.box * particles.voxel_size)
    return from_half_disc(coefficients, disc).numpy()


@pytest.fixture
def dataset(paper_config: dict) -> SimulationConfig:
    config = simulation_config(paper_config, "spliceosome_noiseless")
    return dataclasses.replace(config, box=BOX, voxel_size=VOXEL, images=COUNT - 40, held_out=40, shift_std=6.0)


@pytest.fixture
def make(tmp_path: Path, dataset: SimulationConfig) -> Callable[..., Path]:
    """A function that simulates the blobs into a folder, with the dataset changed as asked, and returns the folder."""
    write_map(tmp_path / "volume.mrc", blob_volume(), VOXEL)

    def build(name: str = "dataset", threads: int = 1, **changes: object) -> Path:
        config = dataclasses.replace(dataset, **changes)
        simulate(config, tmp_path / "volume.mrc", tmp_path / name, threads, lambda *_: None)
        return tmp_path / name

    return build


# --- projection


def test_slices_are_the_projections_of_gaussians_known_in_closed_form() -> None:
    rng = np.random.default_rng(0)
    rotations, shifts, disc = random_rotations(30, rng), rng.normal(0, 2, (30, 2)), half_disc(BOX)
    coefficients = slices(padded_transform(blob_volume()), rotations, disc)
    images = from_half_disc(coefficients * shift_phase(torch.from_numpy(shifts).float(), disc), disc).numpy()
    assert relative_error(images, blob_projections(rotations, shifts)) < 0.03  # trilinear, oversampled twice, as RELION


def test_a_quarter_turn_in_the_plane_turns_the_projection_from_x_to_y() -> None:
    disc, transform = half_disc(BOX), padded_transform(blob_volume())
    # v_img = R v_vol: with psi = 90° RELION's matrix takes (x, y) to (y, -x).
    rotations = from_relion_angles(np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 90.0]]))
    image, turned = from_half_disc(slices(transform, rotations, disc), disc).numpy()[:, 1:, 1:]  # about pixel BOX/2
    np.testing.assert_allclose(turned, image.T[::-1], atol=1e-3 * image.max())


def test_a_blob_on_the_middle_voxel_projects_onto_pixel_half_the_box_whatever_the_pose() -> None:
    x = gaussians(np.zeros(1))[0]
    volume, disc = np.einsum("z,y,x->zyx", x, x, x).astype(np.float32), half_disc(BOX)
    rotations = random_rotations(10, np.random.default_rng(0))
    images = from_half_disc(slices(padded_transform(volume), rotations, disc), disc).numpy()
    np.testing.assert_array_equal(images.reshape(10, -1).argmax(1), BOX // 2 * BOX + BOX // 2)
    np.testing.assert_allclose(images, np.broadcast_to(np.outer(x, x), images.shape), atol=1e-3 * x.max() ** 2)


# --- a dataset


def test_a_noiseless_dataset_is_the_projections_times_the_ctf_moved_by_minus_the_origins(make: Callable) -> None:
    particles = read_particles(make() / "particles.star")
    disc = half_disc(BOX)
    expected = torch.from_numpy(blob_projections(particles.rotations, particles.shifts / VOXEL)).float()
    optics = ctf(torch.from_numpy(particles.ctf), disc.k, BOX * VOXEL)
    expected = from_half_disc(to_half_disc(expected, disc) * optics, disc).numpy()
    scale = (expected * particles.images[:]).sum() / (expected**2).sum()
    assert scale > 0, "protein is bright"
    assert relative_error(particles.images[:], scale * expected) < 0.03
    np.testing.assert_allclose(particles.shifts, -particles.particle_table[["rlnOriginXAngst", "rlnOriginYAngst"]])


def test_clean_images_have_standard_deviation_one(make: Callable) -> None:
    images = read_particles(make() / "particles.star").images[:]
    centred = images - images.mean((1, 2), keepdims=True)
    assert centred.std() == pytest.approx(1, rel=1e-5)
    np.testing.assert_allclose(images.mean((1, 2)), images.mean(), rtol=1e-4)  # CTF(0) × mass: the same for all


@pytest.mark.parametrize("definition, snr, sigma", [("variance", 0.25, 2.0), ("amplitude", 0.25, 4.0)])
def test_the_noise_is_white_of_the_defined_strength_and_the_decibels_say_so(
    make: Callable, definition: str, snr: float, sigma: float
) -> None:
    clean = read_particles(make("clean") / "particles.star").images[:]
    folder = make("noisy", snr=snr, snr_definition=definition)
    noise = read_particles(folder / "particles.star").images[:] - clean
    assert noise.std() == pytest.approx(sigma, rel=0.01)
    assert np.abs(noise.mean(0)).max() < 6 * sigma / np.sqrt(COUNT)
    assert abs(np.corrcoef(noise[:, :, 1:].ravel(), noise[:, :, :-1].ravel())[0, 1]) < 0.01
    report = json.loads((folder / "simulation.json").read_text())
    assert report["sigma"] == sigma
    assert report["full_box_db"] == pytest.approx(10 * np.log10(1 / noise.var()), abs=1e-3)
    assert report["in_mask_db"] > report["full_box_db"] + 1, "the particle fills a part of its box"


def test_the_in_mask_decibels_are_those_of_the_disc_about_the_shifted_particle(make: Callable) -> None:
    folder = make("noisy", snr=1.0)
    report, particles = json.loads((folder / "simulation.json").read_text()), read_particles(folder / "particles.star")
    clean = read_particles(make("clean") / "particles.star").images[:]
    clean = clean - clean.mean((1, 2), keepdims=True)
    grid = (np.arange(BOX) - BOX // 2) * VOXEL
    x, y = (grid - particles.shifts[:, axis, None] for axis in (0, 1))
    mask = np.hypot(x[:, None, :], y[:, :, None]) <= report["mask_radius_angstrom"]
    expected = 10 * np.log10((clean[mask] ** 2).mean() / report["measured_sigma"] ** 2)
    assert report["in_mask_db"] == pytest.approx(expected, abs=0.01)


@pytest.fixture
def cropped(tmp_path: Path, dataset: SimulationConfig) -> SimulationConfig:
    """Settings whose SNR of 0.5 is that of twice the box; the blobs are too sharp for the coarser voxels."""
    axis = np.arange(2 * BOX) - BOX
    x, y, z = (np.exp(-0.5 * ((axis - 2 * place[:, None]) / SIGMA) ** 2) for place in BLOBS.T)
    finer = np.einsum("n,nz,ny,nx->zyx", WEIGHTS, z, y, x).astype(np.float32)
    write_map(tmp_path / "finer.mrc", finer, VOXEL / 2)
    write_map(tmp_path / "coarse.mrc", resized(finer, BOX).astype(np.float32), VOXEL)
    return dataclasses.replace(dataset, snr=0.5, snr_box=2 * BOX)


def test_an_snr_of_larger_images_is_that_of_these_images_after_a_fourier_crop(tmp_path: Path, cropped) -> None:
    paths = tmp_path / "coarse.mrc", tmp_path / "crop"
    simulate(cropped, *paths, 1, lambda *_: None, uncropped_path=tmp_path / "finer.mrc")
    larger, images = uncropped(cropped), {}
    assert (larger.box, larger.voxel_size, larger.resolution) == (64, 2.0, 2 * cropped.resolution)
    for name, snr in (("clean", "noiseless"), ("noisy", 0.5)):
        config = dataclasses.replace(larger, snr=snr, snr_box=None)
        simulate(config, tmp_path / "finer.mrc", tmp_path / name, 1, lambda *_: None)
        images[name] = read_particles(tmp_path / name / "particles.star").images[:]
    inner = slice(BOX // 2, 3 * BOX // 2)
    clean, noise = (
        np.fft.fftshift(np.fft.fft2(stack), axes=(1, 2))[:, inner, inner]
        for stack in (images["clean"], images["noisy"] - images["clean"])
    )
    clean[:, BOX // 2, BOX // 2] = 0  # the mean of an image
    snr = (np.abs(clean) ** 2).sum() / (np.abs(noise) ** 2).sum()
    assert 1 < snr < 2, "four times 0.5, less what the clean images lose"
    report = json.loads((tmp_path / "crop/simulation.json").read_text())
    assert report["sigma"] ** -2 == pytest.approx(snr, rel=0.01)
    assert report["measured_sigma"] == pytest.approx(report["sigma"], rel=0.01)


def test_cropped_noise_is_the_same_for_any_number_of_threads(tmp_path: Path, cropped: SimulationConfig) -> None:
    for threads in (1, 3):
        folder = tmp_path / str(threads)
        simulate(cropped, tmp_path / "coarse.mrc", folder, threads, lambda *_: None, None, tmp_path / "finer.mrc")
    assert (tmp_path / "1/particles.mrcs").read_bytes() == (tmp_path / "3/particles.mrcs").read_bytes()


def test_an_snr_of_larger_images_needs_their_volume(tmp_path: Path, cropped: SimulationConfig) -> None:
    with pytest.raises(ConfigError, match="has a snr_box: give the volume of that box, too"):
        simulate(cropped, tmp_path / "coarse.mrc", tmp_path / "crop", 1, lambda *_: None)
    with pytest.raises(ConfigError, match="has box 64 at 2.0 Å"):
        paths = tmp_path / "coarse.mrc", tmp_path / "crop"
        simulate(cropped, *paths, 1, lambda *_: None, uncropped_path=tmp_path / "coarse.mrc")


def test_noiseless_data_have_no_decibels(make: Callable) -> None:
    report = json.loads((make() / "simulation.json").read_text())
    assert report["sigma"] == 0 and report["full_box_db"] is None and report["in_mask_db"] is None


def test_poses_are_uniform_shifts_gaussian_and_defocus_log_normal_as_asked(dataset: SimulationConfig) -> None:
    parameters = draw_ctf(dataset, 20_000, np.random.default_rng(0))
    defocus = parameters[:, 0]
    assert np.median(defocus) == pytest.approx(20_000, rel=0.01)  # 2.0 µm
    assert np.log(defocus).std() == pytest.approx(0.2, rel=0.03)
    assert defocus.min() > 0.6e4 and defocus.max() < 6e4  # Å: what microscopes are set to
    np.testing.assert_array_equal(parameters[:, 1], defocus)
    np.testing.assert_allclose(parameters[0, 2:], [0, 300, 2.7, 0.1, 0])


def test_shifts_have_the_standard_deviation_asked_for_along_both_axes(make: Callable) -> None:
    shifts = read_particles(make(images=2000, held_out=0) / "particles.star").shifts
    np.testing.assert_allclose(shifts.std(0), 6.0, rtol=0.06)
    np.testing.assert_allclose(shifts.mean(0), 0, atol=0.5)


def test_the_same_seed_gives_the_same_bytes_whatever_the_number_of_threads(make: Callable) -> None:
    one = make("one", threads=1, snr=0.5)
    time.sleep(1)  # another second on the clock: no file holds the time
    three = make("three", threads=3, snr=0.5)
    for name in ("particles.mrcs", "particles.star"):
        assert (one / name).read_bytes() == (three / name).read_bytes(), name
    other = make("other", snr=0.5, seed=1)
    assert (one / "particles.mrcs").read_bytes() != (other / "particles.mrcs").read_bytes()


def test_datasets_that_differ_in_noise_share_poses_shifts_and_ctf(make: Callable) -> None:
    assert (make("clean") / "particles.star").read_bytes() == (make("noisy", snr=0.1) / "particles.star").read_bytes()


def test_the_stack_is_a_valid_mrc_image_stack_with_true_statistics(make: Callable) -> None:
    path = make(snr=1.0) / "particles.mrcs"
    assert mrcfile.validate(path)
    with mrcfile.open(path) as mrc:
        assert mrc.is_image_stack() and mrc.data.shape == (COUNT, BOX, BOX)
        assert mrc.voxel_size.x == pytest.approx(VOXEL)
        assert mrc.header.dmin == mrc.data.min() and mrc.header.dmax == mrc.data.max()
        assert mrc.header.dmean == pytest.approx(mrc.data.mean(), rel=1e-4)
        assert mrc.header.rms == pytest.approx(mrc.data.std(), rel=1e-4)


def test_a_finished_dataset_is_three_files(make: Callable) -> None:
    assert {path.name for path in make().iterdir()} == {"particles.mrcs", "particles.star", "simulation.json"}


# --- RELION


def test_projections_shifts_and_ctfs_are_those_that_relion_wrote() -> None:
    particles = read_particles(BY_RELION)
    assert relative_error(project(blob_volume(), particles, with_ctf=True), particles.images[:]) < 0.01


@pytest.mark.skipif(shutil.which("relion_project") is None, reason="needs relion_project (Debian: apt install relion)")
def test_projections_shifts_and_the_ctfs_sign_agree_with_relion_project(make: Callable) -> None:
    folder = make()
    volume = blob_volume()

    def relion(star: str, *options: str) -> np.ndarray:
        command = ["relion_project", "--i", "../volume.mrc", "--ang", star, "--o", "out", "--angpix", str(VOXEL)]
        subprocess.run([*command, *options], cwd=folder, check=True, capture_output=True)
        return mrcfile.read(folder / "out.mrcs")

    particles = read_particles(folder / "particles.star")
    scale = json.loads((folder / "simulation.json").read_text())["image_scale"]
    assert relative_error(particles.images[:] / scale, relion("particles.star", "--ctf")) < 0.01
    assert relative_error(project(volume, particles, with_ctf=False), relion("particles.star")) < 0.01

    astigmatic = particles.particle_table.assign(
        rlnDefocusU=lambda table: table["rlnDefocusU"] + 4000,
        rlnDefocusAngle=np.linspace(0, 170, COUNT),
        rlnPhaseShift=np.linspace(0, 90, COUNT),
    )
    write_star(folder / "astigmatic.star", particles.optics_table, astigmatic)
    particles = read_particles(folder / "astigmatic.star")
    assert relative_error(project(volume, particles, with_ctf=True), relion("astigmatic.star", "--ctf")) < 0.01


# --- bad input


def test_a_volume_of_another_box_or_voxel_size_is_refused(make: Callable) -> None:
    for changes in ({"box": 64}, {"voxel_size": 3.0}):
        with pytest.raises(ConfigError, match="volume.mrc is .* but dataset spliceosome_noiseless has box"):
            make(**changes)


def test_an_empty_volume_is_refused(tmp_path: Path, make: Callable) -> None:
    write_map(tmp_path / "volume.mrc", np.zeros((BOX, BOX, BOX)), VOXEL)
    with pytest.raises(ConfigError, match=r"volume\.mrc is zero everywhere"):
        make()


def test_a_disk_without_room_is_noticed_before_any_work(
    tmp_path: Path, make: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(
        ConfigError, match=r"needs 0\.0 GB for particles\.mrcs, and its disk has 0\.0 GB free: make room"
    ):
        make()
    assert list((tmp_path / "dataset").iterdir()) == []


def test_a_disk_that_fills_up_is_one_clear_message_and_leaves_no_file(
    tmp_path: Path, make: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full_disk)
    with pytest.raises(ConfigError, match=r"cannot be written \(No space left on device\): make room"):
        make()
    monkeypatch.setattr(os, "pwrite", lambda *_: 10)
    with pytest.raises(ConfigError, match=r"cannot be written \(the disk is full\): make room"):
        make()
    assert list((tmp_path / "dataset").iterdir()) == []


def test_the_command_reads_its_configuration_and_shows_progress(
    tmp_path: Path, dataset: SimulationConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write_map(tmp_path / "volume.mrc", blob_volume(), VOXEL)
    (tmp_path / "config.json").write_text(dataset.to_json())
    paths = "--config", tmp_path / "config.json", "--volume", tmp_path / "volume.mrc", "--output", tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["simulate", *map(str, paths), "--threads", "1"])
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_REPORTS", 0.0)
    module.main()
    assert len(read_particles(tmp_path / "out" / "particles.star").images) == COUNT
    assert f"projected {COUNT} of {COUNT} images, about 0 s to go" in capsys.readouterr().err


def test_the_command_ends_with_one_line_where_the_configuration_is_wrong(
    tmp_path: Path, dataset: SimulationConfig
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(dataset) | {"snr": 0.0}))
    paths = "--config", tmp_path / "config.json", "--volume", tmp_path / "absent.mrc", "--output", tmp_path / "out"
    command = [sys.executable, "-m", "equipose.data.simulate", *map(str, paths), "--threads", "1"]
    result = subprocess.run(command, capture_output=True, text=True)
    wanted = "`snr` is 0.0; wanted: signal-to-noise ratio (a number above 0 or `noiseless`)."
    assert (result.returncode, result.stderr) == (2, f"error: {tmp_path}/config.json: {wanted}\n")
    assert not (tmp_path / "out").exists()
