"""The full settings of a dataset and of a run, from the configuration and the user's star file."""

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
    """Training's settings of the dataset `name`. A user's star file gives the number and size of the images."""
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
    """`made_from` of images, from their settings (JSON) and the digests of a user's star file and stacks."""
    return hashlib.sha256((settings + star + stacks).encode()).hexdigest()[:16]


def run_config(
    config: dict[str, Any], dataset: str, model: str, seed: int, budget: dict[str, Any] | None = None
) -> RunConfig:
    """The run (dataset, model, seed), with `budget` or that of the experiment that asks for it.

    Raises ConfigError if there is neither.
    """
    asked = run_budgets(config)
    if budget is None and (dataset, model, seed) not in asked:
        raise ConfigError(
            f"no experiment asks for the run ({dataset}, {model}, seed {seed}): add it to a line of `experiments`,"
            " which gives it a budget"
        )
    return RunConfig(
        dataset=dataset_config(config, dataset),
        model=model_config(config, model),
        seed=seed,
        budget=Budget.from_dict({"seconds": None, "steps": None} | (budget or asked[dataset, model, seed])),
        evaluation=EvaluationConfig.from_dict(config["evaluation"]),
    )
