"""The parts of a finished run that figures read."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from equipose.errors import ConfigError
from equipose.study.mathtext import drawable
from equipose.study.tables import final_mse


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


def load_run(folder: Path) -> Run:
    """Read a run folder. Raises ConfigError if a file is missing."""
    for name in ("config.json", "metrics.json", "history.csv", "fsc.csv"):
        if not (folder / name).exists():
            raise ConfigError(f"{folder} has no {name}: name the folder of a run that has been evaluated.")
    config = json.loads((folder / "config.json").read_text())
    metrics = json.loads((folder / "metrics.json").read_text())
    return Run(
        folder=folder,
        dataset=metrics["dataset"],
        label=drawable(metrics["label"]),
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
