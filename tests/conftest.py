"""Fixtures that several test files share: small configurations taken from config.yaml, the only source of defaults."""

import dataclasses
import importlib
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
import torch
import yaml
from scipy.spatial.transform import Rotation

from equipose.config.settings import (
    DatasetConfig,
    PreparationConfig,
    RunConfig,
    merge,
    simulation_config,
)
from equipose.core.rotations import other_hand, random_rotations, to_relion_angles
from equipose.data.simulate import simulate
from equipose.data.structures import density
from equipose.io.maps import write_map
from equipose.io.particle_tables import read_tables, write_star
from equipose.io.particles import read_particles
from equipose.io.progress import run_main
from equipose.model.autoencoder import Autoencoder
from equipose.reconstruction import join
from equipose.training.evaluate import RelionPoses
from equipose.workflow.resolve import dataset_config, run_config

ROOT = Path(__file__).parents[1]

torch.set_num_threads(1)
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # `make test-gpu` names one


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., CompletedProcess]:
    """A function that runs `python -m module arguments` in this process: a new one would load its packages again."""

    def run(module: str, *arguments: object) -> CompletedProcess:
        words = [module, *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", words)
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # `run_main` sets it
        code: object = 0
        try:
            run_main(importlib.import_module(module).main)
        except SystemExit as ended:
            code = ended.code
        shown = capsys.readouterr()
        if isinstance(code, str):  # as Python ends then
            return CompletedProcess(words, 1, shown.out, f"{shown.err}{code}\n")
        return CompletedProcess(words, code or 0, shown.out, shown.err)

    return run


@pytest.fixture(scope="session")
def paper_config() -> dict:
    """config.yaml as it stands."""
    return yaml.safe_load((ROOT / "config.yaml").read_text())


@pytest.fixture(scope="session")
def small_run(paper_config: dict) -> Callable[..., RunConfig]:
    """A function (model name, box) → RunConfig of one of the paper's models with few channels."""

    def build(model: str = "d4_l2", box: int = 32, **changes: object) -> RunConfig:
        run = run_config(paper_config, "spliceosome_noiseless", model, 0)
        narrow = {"widths": (8, 16, 16), "head_widths": (16, 16), "decoder_width": 16, "batch": 4, "shift_scale": 10.0}
        dataset = dataclasses.replace(run.dataset, box=box, voxel_size=run.dataset.voxel_size * 128 / box)
        return dataclasses.replace(run, dataset=dataset, model=dataclasses.replace(run.model, **(narrow | changes)))

    return build


@dataclasses.dataclass(frozen=True)
class SimulatedDataset:
    """A small dataset on disk, made by the package itself from an embedded structure."""

    config: DatasetConfig
    folder: Path


@pytest.fixture(scope="session")
def simulated_dataset(paper_config: dict, tmp_path_factory: pytest.TempPathFactory) -> SimulatedDataset:
    """40 training and 10 held-out images of the spliceosome, 32 px."""
    small = {"box": 32, "images": 40, "held_out": 10, "voxel_size": 17.0}
    changed = merge(paper_config, {"datasets": {"spliceosome_noiseless": small}})
    config = simulation_config(changed, "spliceosome_noiseless")
    folder = tmp_path_factory.mktemp("dataset")
    atoms = ROOT / "workflow/resources/structures/5nrl.npz"
    write_map(folder / "volume.mrc", density(atoms, config.box, config.voxel_size, config.resolution), 17.0)
    simulate(config, folder / "volume.mrc", folder, threads=1, progress=lambda *_: None)
    return SimulatedDataset(dataset_config(changed, config.name), folder)


BOX, VOXEL, IMAGES = 32, 17.0, 1200
GAUGE = random_rotations(1, np.random.default_rng(3))[0]
OFFSET = np.array([20.0, -10.0, 5.0])  # Å


def in_other_frame(rotations: np.ndarray, shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The true poses in the frame of a run: the mirror hand, turned by GAUGE and moved by OFFSET."""
    turned = other_hand(rotations @ GAUGE.T)
    return turned, shifts + rotations[:, :2] @ OFFSET


@pytest.fixture(scope="session")
def halves(paper_config: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the user's star file, two datasets, and two runs whose poses are true, each in its own frame."""
    folder = tmp_path_factory.mktemp("halves")
    line = {"box": BOX, "voxel_size": VOXEL, "images": IMAGES, "held_out": 1, "snr": 1.0}
    config = simulation_config(merge(paper_config, {"datasets": {"80s_snr1": line}}), "80s_snr1")
    atoms = ROOT / "workflow/resources/structures/5nrl.npz"
    write_map(folder / "truth.mrc", density(atoms, BOX, VOXEL, 2.0), VOXEL)
    simulate(config, folder / "truth.mrc", folder, threads=1, progress=lambda *_: None)
    optics, table = read_tables(folder / "particles.star")
    table = table.assign(
        rlnRandomSubset=1 + np.arange(len(table)) % 2,
        rlnTheirs=["0071", "None", "1.25e-09"] * (len(table) // 3) + ["nan"],
    )
    write_star(folder / "particles.star", optics, table)
    for half in (1, 2):
        dataset, run = folder / f"half{half}", folder / f"run{half}"
        part = table[table["rlnRandomSubset"] == half].copy()
        part["rlnImageName"] = [name.replace("@", "@../") for name in part["rlnImageName"]]
        write_star(dataset / "particles.star", optics, part)
        asked = PreparationConfig(name="x", star=str(folder / "particles.star"), subset=half)
        (dataset / "preparation.json").write_text(json.dumps({"whitening": None}))
        (dataset / "config.json").write_text(asked.to_json())
        true = read_particles(dataset / "particles.star")
        rotations, shifts = true.rotations, true.shifts
        if half == 2:
            rotations, shifts = in_other_frame(rotations, shifts)
        part[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]] = to_relion_angles(rotations)
        part[["rlnOriginXAngst", "rlnOriginYAngst"]] = -shifts
        write_star(run / "poses.star", optics, part)
    return folder


def roughly(rotations: np.ndarray, shifts: np.ndarray) -> RelionPoses:
    """Poses as from an encoder: off by about 20° and half a pixel, and every fifth one at random."""
    rng = np.random.default_rng(4)
    off = Rotation.from_rotvec(rng.normal(0, np.deg2rad(12), (len(rotations), 3))).as_matrix() @ rotations
    off[::5] = random_rotations(len(off[::5]), rng)
    return RelionPoses(off, shifts + 0.5 * VOXEL)


@pytest.fixture(scope="session")
def asking(halves: Path, small_run: Callable[..., RunConfig]) -> Callable[[], AbstractContextManager]:
    """A context in which each run's encoder roughly knows the poses of the other half, in the run's own frame."""
    true = {half: read_particles(halves / f"half{half}/particles.star") for half in (1, 2)}
    config = small_run("d4_l2", BOX)
    few = dataclasses.replace(config.model.search, refine_orientations=1000, refine_radii=(7, 10), candidates=4)
    dataset = dataclasses.replace(config.dataset, voxel_size=VOXEL, shift_std=true[1].shifts.std())
    config = dataclasses.replace(config, dataset=dataset, model=dataclasses.replace(config.model, search=few))
    models = {name: Autoencoder(config, image_scale) for name, image_scale in (("run1", 0.7), ("run2", 0.8))}
    answers = {  # of a run about the images of the half that it has not seen
        models["run1"]: roughly(true[2].rotations, true[2].shifts),
        models["run2"]: roughly(*in_other_frame(true[1].rotations, true[1].shifts)),
    }

    @contextmanager
    def patched() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("equipose.reconstruction.halves.load_model", lambda path: models[path.parent.name])
            patch.setattr("equipose.reconstruction.halves.predict", lambda model, *_: (answers[model], None))
            yield

    return patched


@pytest.fixture(scope="session")
def joined(halves: Path, asking: Callable[[], AbstractContextManager]) -> Path:
    """The folder of the reconstruction that `reconstruct` makes from `halves`."""
    with asking():
        runs, datasets = [halves / "run1", halves / "run2"], [halves / "half1", halves / "half2"]
        join.reconstruct(runs, datasets, halves / "out", lambda _: None)
    return halves / "out"
