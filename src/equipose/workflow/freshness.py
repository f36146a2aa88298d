"""Do the results in a folder agree with the configuration, and which code made them?

Only the results are read, since they record their settings: datasets in config.json and in simulation.json or
preparation.json, models in model.pt, scores in metrics.json. So this works for moved results, too. Results of older
versions record less; a setting that they lack counts as unchanged.
"""

import csv
import itertools
import json
import math
import re
import zipfile
from pathlib import Path
from typing import Any

from equipose.config.settings import (
    Config,
    PreparationConfig,
    RunConfig,
    SimulationConfig,
    is_simulated,
    preparation_config,
    run_budgets,
    simulation_config,
    source_of,
    structure_source,
)
from equipose.errors import ConfigError
from equipose.io.files import MADE_FROM, read_json, sampled_digest
from equipose.io.fingerprint import Stage, dataset_code, fingerprint, training_code
from equipose.io.particles import Summary, summarise
from equipose.workflow.resolve import images_digest, run_config

RunKey = tuple[str, str, int]

TABLE_KEYS: tuple[str, ...] = ("structures", "offline", "simulation", "datasets", "preparation", "training", "models")
TABLE_KEYS += ("experiments", "evaluation", "figures")
"""The parts of the configuration that tables, claims, figures and reports need."""

SCORED = ("dataset", "model", "seed", "seconds", "steps", "mse")
"""Columns of runs.csv."""

OLDER, UNKNOWN = "older code", "unknown code"
"""Marks of results that another code than the present one made, and of results that do not record their code."""


def asked_images(config: dict[str, Any], name: str) -> SimulationConfig | PreparationConfig:
    """The settings of the dataset `name`."""
    return (simulation_config if is_simulated(config, name) else preparation_config)(config, name)


def same_settings(made: dict[str, Any], asked: Config) -> bool:
    """Whether settings that were written as JSON agree with the wanted settings.

    If another version with other keys wrote them, the keys of both versions are compared.
    """
    try:
        return type(asked).from_dict(made) == asked
    except ConfigError:
        return _agree(made, json.loads(asked.to_json()))


def settings_changed(config: dict[str, Any], path: Path, asked: Config) -> bool:
    """Whether an existing config.json differs from the wanted settings."""
    made = read_json(path)
    if made is None:
        return False
    if isinstance(asked, RunConfig):
        return not _same_run(config, made, asked)
    return not same_settings(made, asked)


def dataset_settings_changed(config: dict[str, Any], dataset: str) -> bool:
    return settings_changed(config, _dataset(config, dataset) / "config.json", asked_images(config, dataset))


def source_changed(config: dict[str, Any], dataset: str) -> bool:
    """Whether a dataset was made from another structure, or from another star file or other stacks."""
    folder = _dataset(config, dataset)
    if is_simulated(config, dataset):
        return _structure_changed(config, dataset, folder)
    record, found = read_json(folder / "preparation.json"), _summary(config, dataset)
    if record is None or not (folder / "particles.mrcs").exists():
        return False
    if "source" in record:
        return record["source"] != {"star": found.digest, "stacks": found.stacks}
    made_at = (folder / "particles.mrcs").stat().st_mtime  # of a version that recorded nothing
    return any(
        path.stat().st_mtime > made_at for path in (Path(preparation_config(config, dataset).star), *found.paths)
    )


def _structure_changed(config: dict[str, Any], dataset: str, folder: Path) -> bool:
    record, source = read_json(folder / "simulation.json"), structure_source(config, dataset)
    if "path" in source and not Path(source["path"]).exists():  # results that were moved here without it
        return False
    if record is None:  # not simulated yet, or again: there may be a volume
        made = read_json((folder / "volume.mrc").with_suffix(MADE_FROM))
        return made is not None and made != structure_digest(source)
    if record.get("structure"):
        return record["structure"] != structure_digest(source)
    made_at = (folder / "volume.mrc").stat().st_mtime if (folder / "volume.mrc").exists() else math.inf
    return "path" in source and Path(source["path"]).stat().st_mtime > made_at  # of a version that recorded nothing


def entries_changed(config: dict[str, Any], structure: str) -> bool:
    """Whether atoms were made from other PDB entries, another assembly or another file than `structure` now names."""
    source = source_of(config, structure)
    atoms = f"{structure}.assembly.npz" if "path" in source else f"{structure}.npz"
    made = read_json((Path(config["pathvars"]["results"]) / "structures" / atoms).with_suffix(MADE_FROM))
    if made is not None:
        return made != structure_digest(source)
    # Atoms of a version that recorded nothing: the datasets that were made from them did.
    for name, dataset in config["datasets"].items():
        if is_simulated(config, name) and dataset["structure"] == structure:
            record = read_json(_dataset(config, name) / "simulation.json") or {}
            if (record.get("structure") or {}).keys() & {"pdb", "assembly"} and source_changed(config, name):
                return True
    return False


def dataset_changed(config: dict[str, Any], dataset: str) -> bool:
    """Whether a dataset was made from another source or, with `retrain: code`, by another code."""
    folder = _dataset(config, dataset)
    if source_changed(config, dataset):
        return True
    return config["retrain"] == "code" and (folder / "particles.star").exists() and bool(age(dataset_code(folder)))


def run_settings_changed(config: dict[str, Any], dataset: str, model: str, seed: str | int) -> bool:
    asked = run_config(config, dataset, model, int(seed))
    return settings_changed(config, _run(config, dataset, model, seed) / "config.json", asked)


def model_changed(config: dict[str, Any], dataset: str, model: str, seed: str | int) -> bool:
    """Whether a model has other settings than the wanted ones or, with `retrain: code`, comes from another code."""
    folder = _run(config, dataset, model, seed)
    if not (folder / "model.pt").exists():
        return False
    made, asked = trained_with(folder), run_config(config, dataset, model, int(seed))
    if made is not None and not _same_run(config, made, asked):
        return True
    return config["retrain"] == "code" and bool(age(training_code(folder)))


def scores_changed(config: dict[str, Any], dataset: str, model: str, seed: str | int) -> bool:
    """Whether metrics.json has other settings or, with `retrain: code`, comes from another code."""
    folder = _run(config, dataset, model, seed)
    metrics = read_json(folder / "metrics.json")
    if metrics is None:
        return False
    asked = run_config(config, dataset, model, int(seed))
    if _scores_differ(metrics, folder, config, asked):
        return True
    return config["retrain"] == "code" and bool(age(metrics_code(metrics)))


def table_settings(config: dict[str, Any]) -> dict[str, Any]:
    """The part of the configuration that tables, claims and reports need."""
    return {key: config[key] for key in TABLE_KEYS}


def table_settings_changed(config: dict[str, Any]) -> bool:
    """Whether tables/config.json differs from the configuration in a key that it has."""
    made = read_json(Path(config["pathvars"]["results"]) / "tables/config.json")
    return made is not None and any(made[key] != config[key] for key in TABLE_KEYS if key in made)


def table_changed(config: dict[str, Any], experiment: str) -> bool:
    """Whether an experiment's table fails to name the runs that another code made."""
    path, spec = Path(config["pathvars"]["results"]) / f"tables/{experiment}.csv", config["experiments"][experiment]
    if not path.exists():
        return False
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == "here"]
    if not all("other_code" in row for row in rows):
        return False  # of a version that did not say
    said = {(row["dataset"], row["model"], int(seed)) for row in rows for seed in row["other_code"].split(",") if seed}
    runs = list(itertools.product(spec["datasets"], spec["models"], spec["seeds"]))
    return said != set(made_by_other_code(path.parents[1], runs))


def outcomes_changed(config: dict[str, Any]) -> bool:
    """Whether runs.csv has runs that are gone, or fails to mark those that another code made."""
    path = Path(config["pathvars"]["results"]) / "runs.csv"
    if not path.exists():
        return False
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    said = {(row["dataset"], row["model"], int(row["seed"])): row["made_by"] for row in rows if "made_by" in row}
    if not all((run_folder(path.parent, *run) / "metrics.json").exists() for run in said):
        return True
    return {run: age for run, age in said.items() if age} != made_by_other_code(path.parent, list(said))


def unpublished(config: dict[str, Any], published: Path) -> bool:
    """Whether the results' runs.csv has a run, or scores of one, that the `published` runs.csv lacks."""
    path = Path(config["pathvars"]["results"]) / "runs.csv"
    return path.exists() and published.exists() and not _scored(path) <= _scored(published)


def _scored(path: Path) -> set[tuple[str, ...]]:
    """Of each line of a runs.csv, the run and what tells one training of it from another."""
    with path.open(newline="") as file:
        return {tuple(row.get(key) or "" for key in SCORED) for row in csv.DictReader(file)}


def sorting_changed(config: dict[str, Any], reconstruction: str) -> bool:
    """Whether particles were sorted into another number of classes than the configuration asks for."""
    found = read_json(Path(config["pathvars"]["results"]) / "classes" / reconstruction / "classes.json")
    if found is None:
        return False
    sorted_into = sum(found.get("copies", [found["classes"]]))  # before copies of one molecule were joined
    return sorted_into != config["reconstructions"][reconstruction].get("classes", 1)


def reconstruction_changed(config: dict[str, Any], reconstruction: str) -> bool:
    found = read_json(Path(config["pathvars"]["results"]) / "maps" / reconstruction / "reconstruction.json")
    return config["retrain"] == "code" and found is not None and bool(age(found.get("code", {"reconstruct": None})))


def outdated(config: dict[str, Any], run: RunKey, folder: Path, metrics: dict[str, Any]) -> bool:
    """Whether the scores in the run folder `folder` come from settings, or a structure, other than those in `config`.

    Of a run that no experiment asks for, any budget counts as the wanted one. No run is outdated whose dataset or model
    the configuration lacks, and none that the tables/config.json of a version with fewer keys judges.
    """
    dataset, model, _ = run
    if "preparation" not in config or dataset not in config["datasets"] or model not in config["models"]:
        return False
    if is_simulated(config, dataset) and source_changed(config, dataset):
        return True
    if run in run_budgets(config):
        return _scores_differ(metrics, folder, config, run_config(config, *run))
    made = metrics.get("config") or trained_with(folder)
    if made is None or not is_simulated(config, dataset):  # a star file of before may be gone
        return False
    return not _same_run(config, made, run_config(config, *run, made["budget"]))


def age(code: dict[Stage, str | None]) -> str:
    """OLDER or UNKNOWN if a stage's fingerprint differs from the present code's; otherwise nothing."""
    if any(made not in (None, fingerprint(stage)) for stage, made in code.items()):
        return OLDER
    return UNKNOWN if None in code.values() else ""


def metrics_code(metrics: dict[str, Any]) -> dict[Stage, str | None]:
    return metrics.get("code", {"evaluate": None})


def made_by_other_code(results: Path, runs: list[RunKey]) -> dict[RunKey, str]:
    """OLDER or UNKNOWN, for those of `runs` whose results another code made or may have made."""
    ages = {}
    for dataset, model, seed in runs:
        folder = run_folder(results, dataset, model, seed)
        metrics = read_json(folder / "metrics.json")
        if metrics is not None:
            ages[dataset, model, seed] = age(metrics_code(metrics))
        elif (folder / "model.pt").exists():
            ages[dataset, model, seed] = age(dataset_code(results / "datasets" / dataset) | training_code(folder))
    return {run: found for run, found in ages.items() if found}


def trained_with(folder: Path) -> dict[str, Any] | None:
    """The settings that the model in a run folder was trained with, or those beside it if it cannot be read."""
    try:
        with zipfile.ZipFile(folder / "model.pt") as archive:
            (name,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            text = archive.read(name).decode(errors="replace")  # without torch, which takes seconds to load
        found = re.search(r'\{\s*"dataset":', text)
        return json.JSONDecoder().raw_decode(text, found.start())[0] if found else read_json(folder / "config.json")
    except (OSError, ValueError, zipfile.BadZipFile):
        return read_json(folder / "config.json")


def structure_digest(source: dict[str, Any]) -> dict[str, Any]:
    """The identity of a structure: its PDB entries, the embedded structure's name, or the digest of a file."""
    if "path" not in source:
        return source
    file = {"file": sampled_digest([Path(source["path"])])}
    return file | {key: source[key] for key in ("assembly",) if key in source}


def run_path(dataset: str, model: str, seed: str | int) -> Path:
    """A run's place in the folders runs, logs and benchmarks."""
    return Path(dataset, model, f"seed{seed}")


def run_folder(results: Path, dataset: str, model: str, seed: str | int) -> Path:
    return results / "runs" / run_path(dataset, model, seed)


def _run(config: dict[str, Any], dataset: str, model: str, seed: str | int) -> Path:
    return run_folder(Path(config["pathvars"]["results"]), dataset, model, seed)


def _dataset(config: dict[str, Any], name: str) -> Path:
    return Path(config["pathvars"]["results"]) / "datasets" / name


def _scores_differ(metrics: dict[str, Any], folder: Path, config: dict[str, Any], asked: RunConfig) -> bool:
    """Whether scores come from settings other than `asked`, or from a model that has been replaced since."""
    made = metrics.get("config")
    if made is None:  # of a version that recorded nothing
        if training_code(folder)["train"] is not None:
            return True
        made = trained_with(folder)
    return made is not None and not _same_run(config, made, asked)


def _same_run(config: dict[str, Any], made: dict[str, Any], asked: RunConfig) -> bool:
    """Like `same_settings`, but any digest of the wanted images counts as the same."""
    dataset = made.get("dataset", {})
    if dataset.get("made_from") in _digests(config, asked.dataset.name):
        made = made | {"dataset": dataset | {"made_from": asked.dataset.made_from}}
    return same_settings(made, asked)


def _digests(config: dict[str, Any], name: str) -> set[str]:
    """All values of `made_from` for the wanted images, including those of versions with other keys.

    These versions digested config.json as it is, without the image stacks.
    """
    texts = {asked_images(config, name).to_json()}
    standing = _dataset(config, name) / "config.json"
    if standing.exists() and not dataset_settings_changed(config, name):
        texts.add(standing.read_text())
    if is_simulated(config, name):
        return {images_digest(text) for text in texts}
    found = _summary(config, name)
    return {images_digest(text, found.digest, stacks) for text in texts for stacks in (found.stacks, "")}


def _summary(config: dict[str, Any], name: str) -> Summary:
    asked = preparation_config(config, name)
    return summarise(Path(asked.star), Path(asked.datadir) if asked.datadir else None, asked.limits, asked.told)


def _agree(made: Any, asked: Any) -> bool:
    if isinstance(made, dict) and isinstance(asked, dict):
        return all(_agree(made[key], asked[key]) for key in made.keys() & asked.keys())
    return made == asked
