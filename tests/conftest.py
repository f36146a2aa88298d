"""Fixtures that several test files share: small configurations taken from config.yaml, the only source of defaults."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from equipose.config import DatasetConfig, RunConfig, dataset_config, merge, run_config, simulation_config
from equipose.simulate import simulate
from equipose.structures import density, write_map

ROOT = Path(__file__).parents[1]

torch.set_num_threads(1)
os.environ["CUDA_VISIBLE_DEVICES"] = ""


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
