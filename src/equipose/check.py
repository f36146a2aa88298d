"""Is the user's configuration sound? All that can be known before any job starts, said in one message.

The schema, workflow/schemas/config.schema.yaml, knows keys and values; this module puts its complaints into plain
words, and checks what a schema cannot: that names mentioned in one part exist in another, and files on the disk.
"""

import difflib
import math
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from equipose.config import is_simulated, model_config, preparation_config, run_budgets
from equipose.errors import ConfigError
from equipose.particles import check_symmetry
from equipose.resolve import dataset_config


def check_config(
    config: dict[str, Any],
    *,
    schema: Path,
    embedded: Path,
    paper: Path,
    encoders: Collection[str],
    losses: Collection[str],
    rules: Collection[str],
) -> None:
    """Raise ConfigError on the first thing wrong with `config`, the merged configuration.

    `schema` is the JSON schema's file, `embedded` the folder of embedded structures, `paper` that of the paper's
    tables, `encoders` and `losses` the registered names, `rules` those of the workflow.
    """
    _check_schema(config, yaml.safe_load(schema.read_text()))
    _check_finite(config, ())
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
            _known(f"experiments.{name}.compare", [experiment["compare"]], _stems(paper, "*.csv"), str(paper))
        if len(experiment["budget"]) != 1:
            raise ConfigError(
                f"experiments.{name}.budget must be either {{ seconds: S }} or {{ steps: N }}, but it is"
                f" {experiment['budget']}. (A preset adds to the keys of config.yaml: give the experiment a new name.)"
            )
    run_budgets(config)


def _check_schema(config: dict[str, Any], schema: dict[str, Any]) -> None:
    errors = list(jsonschema.Draft202012Validator(schema).iter_errors(config))
    if errors:
        # An unknown key first: it is often why another one is missing.
        raise ConfigError(_plain_words(min(errors, key=lambda error: error.validator != "additionalProperties")))


def _plain_words(error: jsonschema.ValidationError) -> str:
    """A schema's complaint as a sentence that names the key, the value and what is wanted."""
    key = ".".join(str(part) for part in error.absolute_path)
    subschema = error.schema
    if error.validator == "additionalProperties":
        unknown = next(name for name in error.instance if name not in subschema["properties"])
        return f"unknown key `{key + '.' if key else ''}{unknown}`{_suggest(unknown, subschema['properties'])}"
    if error.validator == "required":
        missing = next(name for name in error.validator_value if name not in error.instance)
        wanted = subschema["properties"].get(missing, {}).get("description", "")
        return f"`{key + '.' if key else ''}{missing}` is missing: {wanted}"
    wanted = subschema.get("description", error.message)
    if error.validator == "uniqueItems":
        return f"`{key}` names something twice: {error.instance}"
    hint = ""
    if isinstance(error.instance, str) and _is_number(error.instance):
        hint = " It is text, not a number: YAML wants 1.0e-4 rather than 1e-4, and no quotes."
    if (error.validator == "pattern" and not error.absolute_path) or "propertyNames" in error.absolute_schema_path:
        return f"`{key}` holds the name {error.instance!r}; wanted: {wanted}"
    return f"`{key}` is {_show(error.instance)}; wanted: {wanted}.{hint}"


def _check_finite(value: Any, keys: tuple[str, ...]) -> None:
    """YAML has `.nan` and `.inf`, which pass every comparison of a schema, or half of them."""
    if isinstance(value, dict):
        for key, part in value.items():
            _check_finite(part, (*keys, str(key)))
    elif isinstance(value, list):
        for part in value:
            _check_finite(part, keys)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"`{'.'.join(keys)}` is {value}; wanted: a finite number.")


def _check_names(config: dict[str, Any], encoders: Collection[str], losses: Collection[str]) -> None:
    _known("run", config["run"], config["experiments"], "experiments")
    for name, reconstruction in config["reconstructions"].items():
        _known(f"reconstructions.{name}.halves", reconstruction["halves"], config["datasets"], "datasets")
        _known(f"reconstructions.{name}.model", [reconstruction["model"]], config["models"], "models")
    for name, model in config["models"].items():
        _known(f"models.{name}.encoder", [model["encoder"]], encoders, "src/equipose/encoders.py")
        _known(f"models.{name}.loss", [model["loss"]], losses, "src/equipose/losses.py")
        if model.get("hypotheses", config["training"]["hypotheses"]) > 1 and model["loss"] != "l2":
            raise ConfigError(
                f"`models.{name}.hypotheses` above 1 goes with the loss l2, which trains the best of them."
            )
    for name, experiment in config["experiments"].items():
        _known(f"experiments.{name}.datasets", experiment["datasets"], config["datasets"], "datasets")
        _known(f"experiments.{name}.models", experiment["models"], config["models"], "models")


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
            _known(f"{key}.embedded", [structure["embedded"]], _stems(embedded, "*.npz"), str(embedded))
            if "assembly" in structure:
                raise ConfigError(
                    f"`{key}.assembly`: embedded atoms have no assemblies; take it away, or set offline: false."
                )
        elif not structure.keys() - {"assembly"}:
            raise ConfigError(f"`{key}` has an assembly and no source: add `pdb` or `path`.")
        elif config["offline"]:
            raise ConfigError(
                f"`{key}` has PDB entries only, but `offline` is true: give it a `path`, or set offline: false."
            )


def _check_datasets(config: dict[str, Any]) -> None:
    """A dataset is simulated, from a structure, or the user's own, from a star file: its keys must be of one kind."""
    for name, dataset in config["datasets"].items():
        simulated = is_simulated(config, name)
        kind, section = ("simulated", "simulation") if simulated else ("of your own particles", "preparation")
        needed = {"structure", "voxel_size"} if simulated else {"star"}
        if missing := sorted(needed - dataset.keys()):
            raise ConfigError(
                f"`datasets.{name}.{missing[0]}` is missing: a simulated dataset has a structure and a voxel_size,"
                " one of your own particles a star file."
            )
        if foreign := sorted(dataset.keys() - needed - config[section].keys()):
            raise ConfigError(f"`datasets.{name}.{foreign[0]}`: a dataset {kind} has the keys of `{section}`.")
        if not simulated:
            check_symmetry(preparation_config(config, name).symmetry)
        else:
            _known(f"datasets.{name}.structure", [dataset["structure"]], config["structures"], "structures")


def _check_numbers(config: dict[str, Any]) -> None:
    """What two settings must agree on, for every dataset and model that an experiment brings together."""
    scored = config["evaluation"]["images"]
    for name, experiment in config["experiments"].items():
        for dataset_name in experiment["datasets"]:
            if name not in config["run"] and not is_simulated(config, dataset_name):
                continue  # nothing reads that star file
            dataset = dataset_config(config, dataset_name)
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


def _known(key: str, names: Iterable[str], known: Collection[str], where: str) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(f"`{key}` names {name!r}, which is not in {where}{_suggest(name, known)}")


def _suggest(name: str, known: Collection[str]) -> str:
    if close := difflib.get_close_matches(str(name), list(known), n=1):
        return f"; did you mean `{close[0]}`?"
    return f"; known: {', '.join(known) or 'none'}"


def _stems(folder: Path, pattern: str) -> list[str]:
    return sorted(path.stem for path in folder.glob(pattern))


def _show(value: Any) -> str:
    return "empty" if value in ([], {}, "") else repr(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
