"""Is the user's configuration sound? This check runs before any job, and gives one message.

The classes of settings.py check keys, types and limits. This module checks the rest: names that refer to other parts of
the configuration, files on the disk, and settings that must agree.
"""

import itertools
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from equipose.config.complaints import suggest
from equipose.config.settings import (
    Configuration,
    is_simulated,
    model_config,
    model_label,
    preparation_config,
    run_budgets,
    simulation_config,
)
from equipose.core.point_groups import check_symmetry
from equipose.errors import ConfigError
from equipose.io.particle_tables import ANGLES
from equipose.io.particles import summarise
from equipose.workflow.resolve import dataset_config

ORDERS = {"c4": 4, "d4": 8}
"""Numbers of elements of the encoders' groups (core/groups.py)."""


def check_config(
    config: dict[str, Any],
    *,
    embedded: Path,
    paper: Path,
    encoders: Collection[str],
    losses: Collection[str],
    rules: Collection[str],
) -> None:
    """Raise ConfigError on the first thing wrong with `config`, the merged configuration.

    `embedded` is the folder of embedded structures, `paper` that of the paper's tables, `encoders` and `losses` are the
    registered names, `rules` those of the workflow.
    """
    _check_keys(config, "")
    Configuration.from_dict(config)
    for name, model in config["models"].items():
        model_config(config, name)
        if not isinstance(model.get("label", ""), str):
            raise ConfigError(f"`models.{name}.label` is {model['label']!r}; wanted: a text.")
    _check_names(config, encoders, losses)
    _check_structures(config, embedded)
    _check_datasets(config)
    _check_numbers(config)
    for name, experiment in config["experiments"].items():
        if name in rules:
            raise ConfigError(
                f"`experiments.{name}`: an experiment is a target of its own name, and {name} is a rule:"
                " give it another name."
            )
        if "compare" in experiment:
            _check_known(f"experiments.{name}.compare", [experiment["compare"]], _stems(paper, "*.csv"), str(paper))
        if len(experiment["budget"]) != 1:
            raise ConfigError(
                f"experiments.{name}.budget must be either {{ seconds: S }} or {{ steps: N }}, but it is"
                f" {experiment['budget']}. (A preset adds to the keys of config.yaml: give the experiment a new name.)"
            )
        for one, other in itertools.combinations(experiment["models"], 2):
            if (label := model_label(config, one)) == model_label(config, other):
                raise ConfigError(
                    f"`models.{one}.label` and `models.{other}.label` are both {label!r}, and experiment {name} has"
                    " both models: give them two labels."
                )
    asked = run_budgets(config)
    for name, reconstruction in config["reconstructions"].items():
        model, seed = reconstruction["model"], reconstruction["seed"]
        for half in reconstruction["halves"]:
            if (half, model, seed) not in asked:
                raise ConfigError(
                    f"`reconstructions.{name}`: no experiment trains the model {model} with seed {seed} on {half}: add"
                    " it to one."
                )


def _check_keys(config: dict[str, Any], key: str) -> None:
    """YAML reads a name such as 80 or 5e-1 as a number."""
    for name, value in config.items():
        if not isinstance(name, str):
            where = f"`{key}`" if key else "the configuration"
            raise ConfigError(f"{where} holds the name {name!r}, which is no text for YAML: put it in quotes.")
        if isinstance(value, dict):
            _check_keys(value, f"{key}.{name}".lstrip("."))


def _check_names(config: dict[str, Any], encoders: Collection[str], losses: Collection[str]) -> None:
    _check_known("run", config["run"], config["experiments"], "experiments")
    simulated = [name for name in config["datasets"] if is_simulated(config, name)]
    _check_known("panel", config["panel"], simulated, "the simulated datasets")
    for name, reconstruction in config["reconstructions"].items():
        _check_known(f"reconstructions.{name}.halves", reconstruction["halves"], config["datasets"], "datasets")
        _check_known(f"reconstructions.{name}.model", [reconstruction["model"]], config["models"], "models")
    for name, model in config["models"].items():
        _check_known(f"models.{name}.encoder", [model["encoder"]], encoders, "src/equipose/model/encoders.py")
        _check_known(f"models.{name}.loss", [model["loss"]], losses, "src/equipose/model/losses.py")
        _check_widths(config, name)
        if model.get("hypotheses", config["training"]["hypotheses"]) > 1 and model["loss"] != "l2":
            raise ConfigError(
                f"`models.{name}.hypotheses` above 1 goes with the loss l2, which trains the best of them."
            )
    for name, experiment in config["experiments"].items():
        _check_known(f"experiments.{name}.datasets", experiment["datasets"], config["datasets"], "datasets")
        _check_known(f"experiments.{name}.models", experiment["models"], config["models"], "models")


def _check_widths(config: dict[str, Any], name: str) -> None:
    """Channels of a regular field come in groups of one for each of the group's elements."""
    model = model_config(config, name)
    order = ORDERS.get(model.encoder, 1)
    for key in ("widths", "head_widths"):
        for width in getattr(model, key):
            if width % order:
                raise ConfigError(
                    f"`{key}` of model {name} has {width}, and the encoder {model.encoder} has {order} channels a"
                    f" field: give multiples of {order}."
                )


def _check_structures(config: dict[str, Any], embedded: Path) -> None:
    for name, structure in config["structures"].items():
        key = f"structures.{name}"
        if "path" in structure:
            if structure.keys() - {"path", "assembly"}:
                raise ConfigError(f"`{key}` has a `path` and other sources besides: keep one, under a new name.")
            if not Path(structure["path"]).is_file():
                raise ConfigError(f"`{key}.path`: there is no file {structure['path']}; correct the path.")
            if "assembly" in structure and structure["path"].endswith((".npz", ".mrc", ".map")):
                raise ConfigError(f"`{key}.assembly`: {structure['path']} describes none; name an mmCIF or PDB file.")
        elif "embedded" in structure and (config["offline"] or "pdb" not in structure):
            _check_known(f"{key}.embedded", [structure["embedded"]], _stems(embedded, "*.npz"), str(embedded))
            if "assembly" in structure:
                raise ConfigError(
                    f"`{key}.assembly`: embedded atoms have no assemblies; take it away, or set offline: false."
                )
        elif not structure.keys() - {"assembly"}:
            raise ConfigError(f"`{key}` has no source: add `pdb` or `path`.")
        elif config["offline"]:
            raise ConfigError(
                f"`{key}` has PDB entries only, but `offline` is true: give it a `path`, or set offline: false."
            )


def _check_datasets(config: dict[str, Any]) -> None:
    """A dataset is simulated, from a structure, or the user's own, from a star file."""
    for name in config["datasets"]:
        if is_simulated(config, name):
            simulated = simulation_config(config, name)
            _check_known(f"datasets.{name}.structure", [simulated.structure], config["structures"], "structures")
            symmetry = simulated.symmetry
        else:
            symmetry = preparation_config(config, name).symmetry
        try:
            check_symmetry(symmetry)
        except ConfigError as error:
            raise ConfigError(f"`datasets.{name}.symmetry`: {error}") from error


def _check_numbers(config: dict[str, Any]) -> None:
    """Check settings of a dataset against those of a model, for every pair in an experiment."""
    scored = config["evaluation"]["images"]
    for name, experiment in config["experiments"].items():
        for dataset_name in experiment["datasets"]:
            if name not in config["run"] and not is_simulated(config, dataset_name):
                continue  # nothing reads that star file
            dataset = dataset_config(config, dataset_name)
            if not is_simulated(config, dataset_name):
                _check_own_particles(config, dataset_name)
            for key, count in (("images", dataset.images), ("held_out", dataset.held_out)):
                if name in config["run"] and is_simulated(config, dataset_name) and scored > count:
                    raise ConfigError(
                        f"`evaluation.images` is {scored}, more than the {key} of dataset {dataset_name} ({count}):"
                        f" lower the one or raise the other."
                    )
            for model_name in experiment["models"]:
                model = model_config(config, model_name)
                for key in ("images", "batch"):
                    if model.init == "search" and (wanted := getattr(model.search, key)) > dataset.images:
                        raise ConfigError(
                            f"the search of model {model_name} takes {wanted} images (`training.search.{key}`), more"
                            f" than dataset {dataset_name} has ({dataset.images}): lower the one or raise the other."
                        )
                if (batch := model.batch) > dataset.images:
                    raise ConfigError(
                        f"the batch of model {model_name} ({batch}) is more than the images of dataset"
                        f" {dataset_name} ({dataset.images}): lower `training.batch` or raise `simulation.images`."
                    )


def _check_own_particles(config: dict[str, Any], name: str) -> None:
    """Check the settings of a dataset of the user's own particles against its star file and the stacks' headers."""
    own = preparation_config(config, name)
    star = Path(own.star)
    found = summarise(star, Path(own.datadir) if own.datadir else None, own.limits, own.told)
    width = found.box * found.voxel_size
    if own.box > found.box:
        raise ConfigError(
            f"`datasets.{name}`: the box is {own.box}, and the images of {star} have {found.box} pixels: lower `box`."
        )
    if own.mask_radius and own.mask_radius > width / 2:
        raise ConfigError(
            f"`datasets.{name}`: a mask of radius {own.mask_radius:g} Å (`mask_radius`) does not fit into the images of"
            f" {star}, {width:.4g} Å wide: give {width / 2:.4g} or less."
        )
    if own.truth and not found.posed:
        raise ConfigError(
            f"`datasets.{name}`: `truth: true` wants a pose ({', '.join(ANGLES)}) for each particle of {star}, which"
            " lacks some or all: leave it out."
        )


def _check_known(key: str, names: Iterable[str], known: Collection[str], where: str) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(f"`{key}` names {name!r}, which is not in {where}{suggest(str(name), known)}")


def _stems(folder: Path, pattern: str) -> list[str]:
    return sorted(path.stem for path in folder.glob(pattern))
