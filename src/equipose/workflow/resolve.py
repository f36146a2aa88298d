"""What the configuration comes to for a dataset and for a run, once the user's star file has been read."""

import hashlib
from pathlib import Path
from typing import Any

from equipose.config.settings import (
    Budget,
    DatasetConfig,
    EvaluationConfig,
    PreparationConfig,
    RunConfig,
    SimulationConfig,
    is_simulated,
    model_config,
    preparation_config,
    run_budgets,
    simulation_config,
)
from equipose.errors import ConfigError
from equipose.io.particles import summarise


def dataset_config(config: dict[str, Any], name: str) -> DatasetConfig:
    """What training knows of the dataset `name`. Of a user's, the star file says how many images, and how large."""
    source: SimulationConfig | PreparationConfig
    if is_simulated(config, name):
        source = simulated = simulation_config(config, name)
        images, voxel_size, made_from = simulated.images, simulated.voxel_size, images_digest(simulated.to_json())
    else:
        source = own = preparation_config(config, name)
        star = Path(own.star)
        found = summarise(star, Path(own.datadir) if own.datadir else None, own.limits, own.told)
        images = found.subsets[own.subset] - own.held_out
        if images < 1:
            raise ConfigError(
                f"`datasets.{name}`: {own.held_out} images are to be held out, and {star} has"
                f" {found.subsets[own.subset]} to choose from: lower `held_out`, or `select` more."
            )
        voxel_size = found.box * found.voxel_size / own.box
        made_from = images_digest(own.to_json(), found.digest, found.stacks)
    return DatasetConfig(
        name=name,
        box=source.box,
        voxel_size=voxel_size,
        images=images,
        held_out=source.held_out,
        shift_std=source.shift_std,
        symmetry=source.symmetry.upper(),
        made_from=made_from,
    )


def images_digest(settings: str, star: str = "", stacks: str = "") -> str:
    """`made_from` of images with these settings (JSON), of a user's star file and stacks with these digests."""
    return hashlib.sha256((settings + star + stacks).encode()).hexdigest()[:16]


def run_config(config: dict[str, Any], dataset: str, model: str, seed: int) -> RunConfig:
    """The run (dataset, model, seed), with the budget of the experiment that asks for it."""
    budget = {"seconds": None, "steps": None} | run_budgets(config)[dataset, model, seed]
    return RunConfig(
        dataset=dataset_config(config, dataset),
        model=model_config(config, model),
        seed=seed,
        budget=Budget.from_dict(budget),
        evaluation=EvaluationConfig.from_dict(config["evaluation"]),
    )
