"""Runs as tables, claims, figures and pages read them: which are there, how they ended, what is in their folders."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from equipose.config.settings import model_label
from equipose.core import point_groups
from equipose.errors import ConfigError
from equipose.io.files import read_json
from equipose.study.mathtext import drawable
from equipose.study.status import ERROR
from equipose.workflow.freshness import OLDER, UNKNOWN, RunKey, age, metrics_code, outdated, run_folder, run_path

NOT_RUN, NOT_ENDED, OUTDATED = "not run", "not ended", "outdated"
"""What is said of a run that has no scores for the settings asked for, and has not failed: no rate counts it.
An outdated run has scores of other settings."""


MODEL = "model"
"""Stands for `model_scores` on a way into metrics.json."""


@dataclass(frozen=True)
class Run:
    """A run folder's small files; `mse` is its `final_mse`."""

    folder: Path
    dataset: str
    label: str
    seed: int
    converged_mse: float
    mse: float
    metrics: dict[str, Any]
    history: pd.DataFrame
    fsc: pd.DataFrame

    @property
    def group(self) -> np.ndarray:
        """The point group (g, 3, 3) modulo which poses are scored. Runs of before had none."""
        return point_groups.group(self.metrics.get("symmetry", "C1"))


def load_run(folder: Path) -> Run:
    """Read a run folder. Raises ConfigError if a file is missing.

    The label is the one that the results folder's tables have, or else the one that the run was scored with.
    """
    for name in ("config.json", "metrics.json", "history.csv", "fsc.csv"):
        if not (folder / name).exists():
            raise ConfigError(f"{folder} has no {name}: name the folder of a run that has been evaluated.")
    config = json.loads((folder / "config.json").read_text())
    metrics = json.loads((folder / "metrics.json").read_text())
    settings = read_json(folder / "../../../../tables/config.json") or {"models": {}}  # of its results folder
    asked = metrics.get("model") in settings["models"]  # a new label draws a figure anew, and scores nothing anew
    return Run(
        folder=folder,
        dataset=metrics["dataset"],
        label=drawable(model_label(settings, metrics["model"]) if asked else metrics["label"]),
        seed=metrics["seed"],
        converged_mse=config["evaluation"]["converged_mse"],
        mse=final_mse(metrics),
        metrics=metrics,
        history=pd.read_csv(folder / "history.csv"),
        fsc=pd.read_csv(folder / "fsc.csv"),
    )


def best_runs(runs: list[Run]) -> list[Run]:
    """For each dataset and model, the run with the lowest final MSE, in the order of the models."""
    best: dict[tuple[str, str], Run] = {}
    for run in runs:
        key = (run.dataset, run.label)
        if key not in best or run.mse < best[key].mse:
            best[key] = run
    return list(best.values())


def load_runs(folders: list[Path], dataset: Path) -> list[Run]:
    """Runs of one dataset. Raises ConfigError if a run is of another dataset."""
    runs = [load_run(folder) for folder in folders]
    if strangers := {run.dataset for run in runs} - {dataset.name}:
        raise ConfigError(f"--runs holds runs of {', '.join(sorted(strangers))}; the dataset is {dataset.name}.")
    return runs


def load_settings(path: Path, results: Path, experiments: list[str]) -> dict[str, Any]:
    """The configuration that tables/config.json keeps, for the experiments that are asked for in a results folder."""
    return json.loads(path.read_text()) | {"run": experiments, "pathvars": {"results": str(results)}}


def read_runs(config: dict[str, Any], experiment: str, results: Path) -> list[dict[str, Any]]:
    """The metrics.json of every run that `experiment` asks for; `unfinished` says why there is none, else nothing.

    `made_by` says whether another code made it. Scores of other settings than those that are asked for are left out.
    """
    spec = config["experiments"][experiment]
    runs = []
    for dataset in spec["datasets"]:
        for model in spec["models"]:
            for seed in spec["seeds"]:
                names: dict[str, Any] = {"dataset": dataset, "model": model, "seed": seed}
                if unfinished := why_unfinished(config, results, (dataset, model, seed)):
                    runs.append(names | {"unfinished": unfinished})
                    continue
                metrics = read_json(run_folder(results, dataset, model, seed) / "metrics.json")
                runs.append(names | {"unfinished": "", "made_by": age(metrics_code(metrics))} | metrics)
    return runs


def why_unfinished(config: dict[str, Any], results: Path, asked: RunKey) -> str:
    """Why the run `asked` has no scores for the settings in `config`; nothing where it has.

    Its scores are of other settings, or its logs tell: it failed, and how, or it is not done yet.
    """
    folder = run_folder(results, *asked)
    if (metrics := read_json(folder / "metrics.json")) is not None:
        return OUTDATED if outdated(config, asked, folder, metrics) else ""
    for rule in ("evaluate", "train"):  # the last job's first
        log = results / "logs" / rule / run_path(*asked).with_suffix(".log")
        if log.exists():
            text = log.read_text(errors="replace").strip()
            if not ERROR.search(text):
                return NOT_ENDED
            plain = re.sub(r"[\\${}^~]", "", text.splitlines()[-1].removeprefix("error: ").split(". ")[0])  # for LaTeX
            return f"failed ({plain})"
    return NOT_RUN


def has_failed(unfinished: str) -> bool:
    """Whether the reason from `why_unfinished` is that the run failed."""
    return unfinished not in ("", NOT_RUN, NOT_ENDED, OUTDATED)


def final_mse(metrics: dict[str, Any]) -> float:
    """The MSE by which seeds are ranked: of the map's poses, refined if there are any; NaN without a truth.

    It is of training images, by the paper's definition.
    """
    poses = "refined" if metrics["training"] and metrics["training"]["refined"] else MODEL
    return number_at(metrics, ("training", poses, "paper", "mse"))


def model_scores(scores: dict[str, Any]) -> dict[str, Any]:
    """Of a part of metrics.json, the scores of the model's poses: those of the best path, or else the encoder's own."""
    return scores.get("best_path") or scores["direct"]


def is_missing(run: dict[str, Any]) -> bool:
    """Whether a run never began, has not ended, or has scores of other settings. A failed run is not missing."""
    return run.get("unfinished") in (NOT_RUN, NOT_ENDED, OUTDATED)


def number_at(run: dict[str, Any], path: tuple[str, ...]) -> float:
    """The number at `path` in a metrics.json, with MODEL for `model_scores`; NaN for a null anywhere on the way."""
    value: Any = run
    for key in path:
        if value is not None:
            value = model_scores(value) if key == MODEL else value[key]
    return np.nan if value is None else float(value)


def age_notes(made_by: dict[RunKey, str]) -> list[str]:
    """Sentences that name the runs which another code made (`freshness.age`)."""
    kinds = {OLDER: "another version of the code", UNKNOWN: "a code that was not recorded"}
    named = {kind: run_names([run for run, age in made_by.items() if age == kind]) for kind in kinds}
    return [
        f"{names}: made by {kinds[kind]}, and kept; `--config retrain=code` makes them again."
        for kind, names in named.items()
        if names
    ]


def dataset_title(name: str) -> str:
    """A dataset's name for people: `80s_snr0.5` is "80S SNR 0.5"."""
    words = re.sub(r"_snr", " SNR ", name).replace("_", " ")
    return re.sub(r"^\d+[a-z]+|^[a-z]", lambda match: match[0].upper(), words)


def run_names(runs: list[RunKey]) -> str:
    """Runs (dataset, model, seed) as text, the seeds of a dataset and model together."""
    seeds: dict[str, list[str]] = {}
    for dataset, model, seed in runs:
        seeds.setdefault(f"{dataset}/{model}", []).append(str(seed))
    return "; ".join(f"{name} seed {', '.join(each)}" for name, each in seeds.items())
