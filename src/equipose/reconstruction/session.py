"""A reconstruction step by step in a Python session: what `from equipose import …` gives beside plain functions.

Settings are those of `equipose reconstruct`: config.yaml and the preset for particles.
"""

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from equipose.config.folder import WORKFLOW, preset
from equipose.config.settings import (
    Budget,
    DatasetConfig,
    EvaluationConfig,
    RunConfig,
    merge,
    model_config,
    simulation_config,
    usual_shift,
)
from equipose.core.fourier_grid import grid_map, real_map
from equipose.data import simulate as simulation
from equipose.data.structures import density
from equipose.errors import ConfigError
from equipose.io.maps import write_map
from equipose.io.particles import Particles, check_training_box, read_particles
from equipose.model.autoencoder import Autoencoder, load_model
from equipose.poses import refinement
from equipose.poses.search_stages import search_length
from equipose.reconstruction import halves
from equipose.training.evaluate import predict
from equipose.training.train import train

EMBEDDED = WORKFLOW / "workflow/resources/structures/5nrl.npz"
"""Atoms of the yeast spliceosome (PDB 5NRL), which come with the package."""

Say = Callable[[str], None]


def silent(_: str) -> None:
    """Say nothing."""


def simulate(
    folder: Path, images: int, snr: float, structure: Path = EMBEDDED, box: int = 32, voxel_size: float = 17.0
) -> Particles:
    """Particles of a structure, simulated: uniform poses, shifts, CTFs and white noise of this `snr` (of variances).

    `structure` has atoms (.cif, .pdb) or a map (.mrc); by default it is the spliceosome's. `box` is in pixels of
    `voxel_size` Å. The `folder` gets particles.star, particles.mrcs and volume.mrc; star file and result hold the true
    poses. Raises ConfigError if the structure cannot be read.

    Examples:
        >>> particles = simulate(folder, images=100, snr=1.0)
        >>> particles.images.shape, particles.ctf.shape, particles.rotations.shape
        ((100, 32, 32), (100, 7), (100, 3, 3))
    """
    line = {"structure": "own", "box": box, "voxel_size": voxel_size, "images": images, "held_out": 0, "snr": snr}
    config = simulation_config(merge(settings(), {"datasets": {"simulated": line}}), "simulated")
    folder.mkdir(parents=True, exist_ok=True)
    write_map(folder / "volume.mrc", density(structure, box, voxel_size, config.resolution), voxel_size)
    simulation.simulate(config, folder / "volume.mrc", folder, threads=1, progress=lambda *_: None)
    return read_particles(folder / "particles.star")


def search(
    particles: Particles,
    starts: int = 2,
    fit_steps: int = 0,
    symmetry: str = "C1",
    shift_std: float | None = None,
    seed: int = 0,
    say: Say = silent,
) -> Autoencoder:
    """A map from images alone: stochastic EM from random maps, until two of `starts` agree, and its refinement.

    Images are (n, L, L) with bright protein, L 32, 64, 128 or 256. The result's `found` is the map (L, L, L) as
    (z, y, x). With `fit_steps`, its encoder and decoder are then trained on that map, so that `encode` can be asked.
    `shift_std` in Å is the standard deviation of the particles' shifts, by default 3 % of the box. Raises ConfigError
    if images have another size.

    Examples:
        >>> model = search(particles, starts=1, fit_steps=2)
        >>> tuple(model.found.shape)
        (32, 32, 32)
    """
    count, box = len(particles.images), particles.images.shape[-1]
    check_training_box(box)
    asked = {"images": min(count, 3000), "starts": starts, "fit": "always" if fit_steps else "unless_agreed"}
    whole = merge(settings(), {"training": {"search": asked}})
    model = model_config(whole, "d4_search")
    few = dataclasses.replace(model.search, batch=min(model.search.batch, count))
    model = dataclasses.replace(model, search=few, batch=min(model.batch, count))
    width = box * particles.voxel_size
    dataset = DatasetConfig(
        name="particles",
        box=box,
        voxel_size=particles.voxel_size,
        images=count,
        held_out=0,
        shift_std=usual_shift(width) if shift_std is None else shift_std,
        symmetry=symmetry,
        made_from="",
    )
    budget = Budget(steps=search_length(model.search) + fit_steps)
    evaluation = EvaluationConfig.from_dict(whole["evaluation"])
    config = RunConfig(dataset=dataset, model=model, seed=seed, budget=budget, evaluation=evaluation)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        train(config, particles, Path(folder), device, say)
        return load_model(Path(folder) / "model.pt").to(device)


def encode(model: Autoencoder, particles: Particles) -> tuple[np.ndarray, np.ndarray]:
    """The poses that a trained encoder gives: rotations (n, 3, 3) and shifts (n, 2) in Å of the content from pixel L/2.

    `model` comes from `search` with `fit_steps`, or from `load_model` of a run's model.pt. Poses are in its own frame
    and hand.

    Examples:
        >>> rotations, shifts = encode(model, particles)
        >>> rotations.shape, shifts.shape
        ((100, 3, 3), (100, 2))
    """
    poses, _ = predict(model, particles, lambda *_: None)
    return poses.rotations, poses.shifts


def refine(
    model: Autoencoder, particles: Particles, rotations: np.ndarray, shifts: np.ndarray, say: Say = silent
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Poses improved image by image, and the map (L, L, L), (z, y, x), that is back-projected from them.

    The poses to start from, and the refined ones, are those of `encode`. A search joins each start, so they may be
    poor. Passes end once the poses settle.

    Examples:
        >>> rotations, shifts, volume = refine(model, particles, rotations, shifts)
        >>> volume.shape
        (32, 32, 32)
    """
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "refinement.pt"
        turned, moved, volume = refinement.refine(model, particles, rotations, shifts, say, kept)
    return turned, moved, real_map(volume, model.box // 2).cpu().numpy() / model.image_scale


def back_project(particles: Particles, rotations: np.ndarray, shifts: np.ndarray, symmetry: str = "C1") -> np.ndarray:
    """The map (L, L, L), (z, y, x), of n particles at rotations (n, 3, 3) and shifts (n, 2) in Å, CTF-weighted.

    Examples:
        >>> volume = back_project(particles, particles.rotations, particles.shifts)
        >>> truth, voxel_size = read_map(folder / "volume.mrc")
        >>> bool(fsc(volume, truth)[1:6].min() > 0.8)
        True

    Raises ConfigError for images of an odd size.
    """
    if particles.images.shape[-1] % 2:
        raise ConfigError(f"images of {particles.images.shape[-1]} pixels have no pixel L/2: crop them to an even size")
    return grid_map(halves.back_project(halves.Half(particles, rotations, shifts, symmetry))).numpy()


def some(particles: Particles, rows: np.ndarray | slice) -> Particles:
    """Some of the particles, in the order of `rows`.

    Examples:
        >>> len(some(particles, slice(0, 100, 2)).images)
        50
    """
    return dataclasses.replace(
        particles,
        images=np.asarray(particles.images[rows]),
        ctf=particles.ctf[rows],
        rotations=None if particles.rotations is None else particles.rotations[rows],
        shifts=None if particles.shifts is None else particles.shifts[rows],
        particle_table=particles.particle_table.iloc[rows],
    )


def settings() -> dict[str, Any]:
    """config.yaml with the preset for particles laid over it."""
    return merge(*(yaml.safe_load(path.read_text()) for path in (WORKFLOW / "config.yaml", preset("particles"))))
