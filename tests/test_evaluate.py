"""Evaluation of stand-in models that know the answer, in frames of their own.

The volume is a sum of Gaussians, whose transform is known; images are its projections, computed in real space. The
encoder returns the true poses in a frame that is rotated, mirrored and translated, and the decoder is the transform of
the volume in that frame: every score must be perfect, and the exported files must agree with one another.
"""

import dataclasses
import json
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from equipose.core.groups import move_images
from equipose.core.pose_metrics import Alignment, paper_scores
from equipose.core.rotations import random_rotations, to_relion_angles
from equipose.errors import ConfigError
from equipose.io.particle_tables import write_star
from equipose.io.particles import Particles, read_particles
from equipose.model.autoencoder import Autoencoder
from equipose.model.losses import PATHS
from equipose.model.rotation_tensors import pose_action
from equipose.training import evaluate as module
from equipose.training.monitor import predict_poses
from equipose.training.train import batch_source

BOX, VOXEL, SIGMA = 32, 4.0, 1.5  # pixels, Å, pixels
TRAINING, HELD_OUT = 60, 40
SCALE = 0.25
RNG = np.random.default_rng(0)
CENTRES = RNG.normal(0, 3.5, (6, 3)).clip(-7, 7)  # pixels from voxel L/2
AMPLITUDES = RNG.uniform(0.5, 1.5, 6)
GAUGE = random_rotations(1, RNG)[0]
OFFSET = np.array([5.0, -3.0, 2.0])  # Å


def gaussians(centres: np.ndarray, axes: tuple[np.ndarray, ...]) -> np.ndarray:
    """Sum of isotropic Gaussians of unit amplitude in the given dimensions, at `centres` (6, dimensions)."""
    squared = sum((axis[..., None] - centres[:, i]) ** 2 for i, axis in enumerate(axes))
    return (np.exp(-squared / (2 * SIGMA**2)) * AMPLITUDES).sum(-1)


def true_volume() -> np.ndarray:
    z, y, x = np.indices((BOX, BOX, BOX)) - BOX // 2
    return gaussians(CENTRES, (x, y, z))


def projections(rotations: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Images (n, L, L) with content displaced by `shifts` (n, 2) Å from pixel L/2."""
    y, x = np.indices((BOX, BOX)) - BOX // 2
    line_integral = np.sqrt(2 * np.pi) * SIGMA
    return np.stack(
        [
            line_integral * gaussians((CENTRES @ r.T)[:, :2] + t / VOXEL, (x, y))
            for r, t in zip(rotations, shifts, strict=True)
        ]
    )


class GaussianDecoder(nn.Module):
    """FourierNet's stand-in: the transform of V(x) with V_aligned(x) = V(A (x - u)), in its units."""

    def __init__(self, alignment: Alignment) -> None:
        super().__init__()
        centres = (CENTRES - alignment.translation / VOXEL) @ alignment.volume_map().T
        self.centres = nn.Parameter(torch.tensor(centres), requires_grad=False)

    def forward(self, k: Tensor) -> Tensor:
        k = k.double()
        envelope = (2 * np.pi * SIGMA**2) ** 1.5 * torch.exp(-2 * (np.pi * SIGMA / BOX) ** 2 * k.square().sum(-1))
        angle = (-2 * np.pi / BOX) * (k @ self.centres.T)
        structure = (torch.polar(torch.ones_like(angle), angle) * torch.tensor(AMPLITUDES)).sum(-1)
        return (SCALE / BOX * envelope * structure).to(torch.complex64)


class KnowingEncoder(nn.Module):
    """Returns for each image, which it looks up, the true pose in the frame of `alignment`.

    `knows` is the motion of the copies that it recognises; others get the pose of the wrong image.
    """

    def __init__(self, images: np.ndarray, rotations: np.ndarray, shifts: np.ndarray, knows: tuple) -> None:
        super().__init__()
        g = torch.tensor(knows)
        self.images = move_images(g, torch.tensor(images * SCALE)).flatten(1).double()
        self.rotations = pose_action(g.double()) @ torch.tensor(rotations)
        self.shifts = (torch.tensor(shifts) + 0.5 * VOXEL) @ g.double().T  # about (L - 1)/2

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        distance, row = torch.cdist(images.flatten(1).double(), self.images).min(1)
        row = torch.where(distance < 1e-3, row, (row + 1) % len(self.images))
        return self.rotations[row].float(), self.shifts[row].float()


def frame(hand: str) -> Alignment:
    return Alignment(GAUGE, hand, OFFSET)


def poses_in(alignment: Alignment, rotations: np.ndarray, shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The poses that `alignment` maps to the true ones."""
    back = rotations @ alignment.rotation.T
    if alignment.hand == "mirror":
        back = np.diag([1, 1, -1]) @ back @ np.diag([1, 1, -1])
    return back, shifts + (rotations @ alignment.translation)[:, :2]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """A dataset folder: 60 training and 40 held-out projections, CTF 1 everywhere, and the volume."""
    folder = tmp_path_factory.mktemp("results") / "datasets/gaussians"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    count = TRAINING + HELD_OUT
    rotations, shifts = random_rotations(count, rng), rng.normal(0, 6, (count, 2))
    with mrcfile.new(folder / "particles.mrcs") as mrc:
        mrc.set_data(projections(rotations, shifts).astype(np.float32))
        mrc.set_image_stack()
        mrc.voxel_size = VOXEL
    with mrcfile.new(folder / "volume.mrc") as mrc:
        mrc.set_data(true_volume().astype(np.float32))
        mrc.voxel_size = VOXEL
    optics = {"rlnOpticsGroup": 1, "rlnVoltage": 300.0, "rlnSphericalAberration": 0.0, "rlnAmplitudeContrast": 1.0}
    optics |= {"rlnImagePixelSize": VOXEL, "rlnImageSize": BOX, "rlnImageDimensionality": 2}
    table = pd.DataFrame({"rlnImageName": [f"{i + 1:06d}@particles.mrcs" for i in range(count)], "rlnOpticsGroup": 1})
    table[["rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"]] = 0.0
    table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]] = to_relion_angles(rotations)
    table[["rlnOriginXAngst", "rlnOriginYAngst"]] = -shifts
    write_star(folder / "particles.star", pd.DataFrame([optics]), table)
    return folder


def model_of(particles: Particles, small_run, loss: str, alignment: Alignment, knows: tuple) -> Autoencoder:
    """An autoencoder that finds the truth of `particles` in the frame of `alignment`."""
    config = small_run("d4_l2", BOX, loss=loss, batch=16)
    size = {"voxel_size": VOXEL, "images": TRAINING, "held_out": HELD_OUT, "name": "gaussians", "shift_std": 6.0}
    config = dataclasses.replace(config, dataset=dataclasses.replace(config.dataset, **size))
    model = Autoencoder(config, SCALE)
    rotations, shifts = poses_in(alignment, particles.rotations, particles.shifts)
    model.encoder = KnowingEncoder(np.array(particles.images), rotations, shifts, knows)
    model.decoder = GaussianDecoder(alignment)
    return model.eval()


def run_evaluation(monkeypatch, dataset: Path, model: Autoencoder) -> tuple[Path, dict]:
    """Evaluate the stand-in as a run beside the dataset; returns the run folder and metrics.json."""
    run = dataset.parents[1] / f"runs/gaussians/d4_l2/seed{len(list(dataset.parents[1].rglob('seed*')))}"
    run.mkdir(parents=True)
    (run / "config.json").write_text(model.config.to_json())
    columns = {"step": [0, 10, 20, 30], "seconds": [0.0, 1.5, 3.0, 4.5], "mse": [5.0, 0.09, 0.2, 0.05]}
    pd.DataFrame(columns).to_csv(run / "history.csv", index=False)
    monkeypatch.setattr(module, "load_model", lambda path: model)
    module.evaluate(run, dataset, "D4", torch.device("cpu"), lambda _: None)
    return run, json.loads((run / "metrics.json").read_text())


@pytest.mark.parametrize("hand", ["same", "mirror"])
def test_a_perfect_model_in_its_own_frame_has_perfect_scores(monkeypatch, small_run, dataset, hand):
    model = model_of(read_particles(dataset / "particles.star"), small_run, "l2", frame(hand), PATHS["l2"][0])
    run, metrics = run_evaluation(monkeypatch, dataset, model)
    for images in ("training", "held_out"):
        scores = metrics[images]["direct"]
        assert scores["paper"]["mse"] == pytest.approx(0, abs=1e-6)  # float32
        assert scores["paper"]["hand"] == scores["exact"]["hand"] == hand
        assert scores["exact"]["mse"] == pytest.approx(0, abs=1e-6)  # float32
        assert scores["exact"]["shift_rmse_angstrom"] == pytest.approx(0, abs=1e-3)
        assert np.allclose(scores["exact"]["mean_residual_shift_pixels"], 0, atol=1e-4)
        assert scores["exact"][f"share_{hand}"] == 1
        assert metrics[images]["best_path"] is None
    curve = pd.read_csv(run / "fsc.csv")
    assert list(curve["shell"]) == list(range(BOX // 2))
    assert (curve["fsc"][:12] > 0.9999).all() and (curve["fsc"] > 0.98).all()  # beyond, sampled Gaussians alias
    assert metrics["resolution"]["nyquist_reached"]
    assert metrics["resolution"]["paper"]["0.5"] == pytest.approx(BOX * VOXEL / (BOX // 2 - 1))
    assert metrics["confirmed_share"] > 0.95
    aligned = mrcfile.read(run / "volume_aligned.mrc")
    assert np.allclose(aligned, true_volume(), atol=0.01 * true_volume().max())


@pytest.mark.parametrize("hand", ["same", "mirror"])
def test_exported_poses_and_volume_give_the_images(monkeypatch, small_run, dataset, hand):
    particles = read_particles(dataset / "particles.star")
    model = model_of(particles, small_run, "l2", frame(hand), PATHS["l2"][0])
    run, _ = run_evaluation(monkeypatch, dataset, model)
    exported = read_particles(run / "poses.star")  # finds the dataset's stack from the run folder
    assert np.array_equal(exported.images, particles.images)
    assert list(exported.particle_table.columns) == list(particles.particle_table.columns)
    with mrcfile.open(run / "volume.mrc") as mrc:
        volume, voxel = mrc.data.copy(), float(mrc.voxel_size.x)
    assert voxel == pytest.approx(VOXEL)
    assert not np.allclose(volume, true_volume(), atol=0.1), "the run's own frame is another one"
    # Project by summing each voxel's plane wave over the slice: no interpolation, and none of the package's code.
    voxels = np.arange(BOX) - BOX // 2
    frequency = np.fft.fftfreq(BOX, 1 / BOX)
    ky, kx = np.meshgrid(frequency, frequency, indexing="ij")
    disc = kx**2 + ky**2 < (BOX / 2) ** 2
    for i in (0, 7, 70):
        k = np.stack([kx[disc], ky[disc], 0 * kx[disc]], axis=-1) @ exported.rotations[i]
        wave_x, wave_y, wave_z = np.exp(-2j * np.pi / BOX * k.T[..., None] * voxels)
        values = np.einsum("nz,ny,nx,zyx->n", wave_z, wave_y, wave_x, volume, optimize=True)
        displacement = exported.shifts[i] / VOXEL + BOX // 2
        spectrum = np.zeros((BOX, BOX), complex)
        spectrum[disc] = values * np.exp(-2j * np.pi / BOX * (kx[disc] * displacement[0] + ky[disc] * displacement[1]))
        image = np.fft.ifft2(spectrum).real
        assert np.allclose(image, particles.images[i], atol=0.01 * particles.images[i].max())


class RoughEncoder(nn.Module):
    """The true poses, off by some degrees and half a pixel, and every fifth one at random."""

    def __init__(self, knowing: KnowingEncoder) -> None:
        super().__init__()
        self.knowing = knowing

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        rotations, shifts = self.knowing(images)
        rng = np.random.default_rng(len(images))
        off = torch.tensor(random_rotations(len(images), rng)).float()
        turn = torch.matrix_exp(0.06 * (off - off.mT))
        anywhere = torch.arange(len(images))[:, None, None] % 5 == 0
        return torch.where(anywhere, off, turn @ rotations), shifts + 0.5 * VOXEL


@pytest.mark.parametrize("hand", ["same", "mirror"])
def test_refinement_corrects_rough_poses_and_finds_lost_ones(monkeypatch, small_run, dataset, hand):
    model = model_of(read_particles(dataset / "particles.star"), small_run, "l2", frame(hand), PATHS["l2"][0])
    model.encoder = RoughEncoder(model.encoder)
    settings = dataclasses.replace(model.config.model.search, refine_orientations=2000, refine_radii=(7, 10))
    trained = dataclasses.replace(model.config.model, refine_passes=1, search=settings)
    model.config = dataclasses.replace(model.config, model=trained)
    run, metrics = run_evaluation(monkeypatch, dataset, model)
    for rows in ("training", "held_out"):
        direct, refined = metrics[rows]["direct"]["exact"], metrics[rows]["refined"]["exact"]
        assert direct["median_degrees"] > 4 and direct["mse"] > 0.5
        assert refined["median_degrees"] < 1 and refined["mse"] < 0.3 and refined["hand"] == hand
        assert refined["shift_rmse_angstrom"] < 1
    assert metrics["confirmed_share"] > 0.9  # of the refined poses, by the map of the other images
    exported = read_particles(run / "poses.star")
    aligned = frame(hand).rotations(exported.rotations)
    truth = read_particles(dataset / "particles.star").rotations
    assert np.median(((aligned - truth) ** 2).sum((1, 2))) < 1e-3
    assert metrics["resolution"]["exact"]["0.5"]["first"] < 12  # the back-projected map of 100 images


@pytest.mark.parametrize("loss", ["sym", "mir"])
def test_best_path_takes_the_copy_that_is_reconstructed_best_and_direct_does_not(monkeypatch, small_run, dataset, loss):
    particles = read_particles(dataset / "particles.star")
    model = model_of(particles, small_run, loss, frame("mirror"), PATHS[loss][1])  # blind to unmoved images
    _, metrics = run_evaluation(monkeypatch, dataset, model)
    assert metrics["training"]["best_path"]["exact"]["mse"] == pytest.approx(0, abs=1e-6)  # float32
    assert metrics["training"]["best_path"]["exact"]["shift_rmse_angstrom"] == pytest.approx(0, abs=1e-3)
    assert metrics["training"]["direct"]["exact"]["mse"] > 1


@pytest.mark.parametrize("loss", ["sym", "mir"])
def test_training_is_scored_by_the_path_that_it_supervises(small_run, dataset, loss):
    """The encoder is blind to unmoved images, as the loss allows, and yet the run has converged."""
    particles = read_particles(dataset / "particles.star")
    model = model_of(particles, small_run, loss, frame("mirror"), PATHS[loss][1])
    rows = np.arange(model.config.dataset.images)
    rotations, _ = predict_poses(model, batch_source(particles, torch.device("cpu")), rows)
    assert paper_scores(rotations, particles.rotations[rows]).mse == pytest.approx(0, abs=1e-6)


def test_convergence_is_the_first_evaluation_below_the_threshold(monkeypatch, small_run, dataset):
    model = model_of(read_particles(dataset / "particles.star"), small_run, "l2", frame("same"), PATHS["l2"][0])
    _, metrics = run_evaluation(monkeypatch, dataset, model)
    assert metrics["converged"] and metrics["convergence_steps"] == 10 and metrics["convergence_seconds"] == 1.5
    assert metrics["steps"] == 30 and metrics["seconds"] == 4.5


def test_a_run_that_never_falls_below_the_threshold_has_no_convergence_time():
    history = pd.DataFrame({"step": [0, 5], "seconds": [0.0, 1.0], "mse": [5.0, 0.1]})
    found = module.convergence(history, 0.1)
    assert not found["converged"]
    assert found["convergence_seconds"] is None and found["convergence_steps"] is None
    assert module.convergence(history.drop(columns="mse"), 0.1)["converged"] is False


def test_particles_without_a_truth_get_nulls_and_all_files(monkeypatch, small_run, dataset, tmp_path):
    particles = read_particles(dataset / "particles.star")
    bare = tmp_path / "datasets/bare"
    bare.mkdir(parents=True)
    (bare / "particles.mrcs").symlink_to(dataset / "particles.mrcs")
    poses = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst"]
    write_star(bare / "particles.star", particles.optics_table, particles.particle_table.drop(columns=poses))
    run, metrics = run_evaluation(
        monkeypatch, bare, model_of(particles, small_run, "l2", frame("same"), PATHS["l2"][0])
    )
    assert metrics["training"] is metrics["held_out"] is metrics["resolution"] is None
    assert len(pd.read_csv(run / "fsc.csv")) == 0
    assert np.array_equal(mrcfile.read(run / "volume.mrc"), mrcfile.read(run / "volume_aligned.mrc"))
    assert read_particles(run / "poses.star").rotations.shape == (TRAINING + HELD_OUT, 3, 3)


def test_a_diverged_model_is_a_message_and_leaves_nothing(monkeypatch, small_run, dataset):
    model = model_of(read_particles(dataset / "particles.star"), small_run, "l2", frame("same"), PATHS["l2"][0])
    model.encoder.shifts *= float("nan")
    with pytest.raises(ConfigError, match=r"model\.pt predicts NaN poses"):
        run_evaluation(monkeypatch, dataset, model)
    newest = max((dataset.parents[1] / "runs").rglob("seed*"), key=lambda path: path.stat().st_mtime)
    assert {path.name for path in newest.iterdir()} == {"config.json", "history.csv"}
