"""The full settings of a dataset and of a run, from the configuration and the user's star file."""

import hashlib
from pathlib import Path
from typing import Any

from equipose.config.settings import (
    Budget,
    DatasetConfig,
    EvaluationConfig,
    RunConfig,
    is_simulated,
    model_config,
    preparation_config,
    run_budgets,
    simulation_config,
)
from equipose.errors import ConfigError
from equipose.io.particles import summarise


def dataset_config(config: dict[str, Any], name: str) -> DatasetConfig:
    """Training's settings of the dataset `name`. A user's star file gives the number and size of the images."""
    if is_simulated(config, name):
        source = simulation_config(config, name)
        images, voxel_size, made_from = source.images, source.voxel_size, images_digest(source.to_json())
    else:
        source = preparation_config(config, name)
        star = Path(source.star)
        found = summarise(star, source.datadir and Path(source.datadir), source.limits, source.told)
        images = found.subsets[source.subset] - source.held_out
        if images < 1:
            raise ConfigError(
                f"`datasets.{name}`: {source.held_out} images are to be held out, and {star} has"
                f" {found.subsets[source.subset]} to choose from: lower `held_out`, or `select` more."
            )
        voxel_size = found.box * found.voxel_size / source.box
        made_from = images_digest(source.to_json(), found.digest, found.stacks)
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
    """`made_from` of images, from their settings (JSON) and the digests of a user's star file and stacks."""
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
