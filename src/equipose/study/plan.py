"""What a workflow is about to do, in a few lines of text.

`python -m equipose.study.plan config.yaml [preset.yaml …] [--gpus N …]` prints the plan. Rates come from runs that the
results folder holds; without such runs they are assumed. The plan names the source of each rate.
"""

import argparse
import heapq
import logging
from collections.abc import Collection, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from snakemake.api import SnakemakeApi
from snakemake.settings.types import ConfigSettings, DAGSettings, OutputSettings, ResourceSettings

from equipose.config.given import read_given
from equipose.config.settings import DatasetConfig, asked_runs, merge
from equipose.io.progress import duration, number, run_main
from equipose.study.job_times import wall_times
from equipose.study.runs import age_notes
from equipose.workflow.freshness import made_by_other_code, run_folder
from equipose.workflow.resolve import dataset_config

GPUS = (1, 8, 64)
"""Numbers of GPUs for which the plan gives the wall time."""

TRAIN_FACTOR, EVALUATE_MINUTES, SIMULATE_MINUTES, RECONSTRUCT_MINUTES = 1.25, 5.0, 10.0, 4.0
"""Assumed times: of a training job over its budget, which does not count scoring (1.24 for D4 on an H100); of an
evaluation; of a dataset; of a reconstruction of 3,000 simulated particles."""

VOXEL_BYTES, IMAGE_BYTES = 64, 300
"""Assumed size of a run's folder: bytes a voxel for maps, snapshots, weights and checkpoint; bytes a row of its star
file."""


def plan(config: dict[str, Any], files: Collection[str], gpus: Sequence[int] = GPUS) -> str:
    """Snakemake's work for the experiments in `run`: jobs, GPU-hours, disk, memory, and time on each number of `gpus`.

    `files` are the files that its jobs will write, by its own dry run (`files_to_make`).
    """
    results = Path(config["pathvars"]["results"])
    to_make = set(map(Path, files))
    asked = asked_runs(config, config["run"])
    runs = {run: budget for run, budget in asked.items() if run_folder(results, *run) / "model.pt" in to_make}
    rescored = [run for run in asked if run not in runs and run_folder(results, *run) / "metrics.json" in to_make]
    panel = [name for name in config["panel"] if results / "reconstructed" / name / "score.json" in to_make]
    wanted = {dataset for dataset, _, _ in asked} | set(config["panel"])
    of_runs = {name: dataset_config(config, name) for name in sorted(wanted)}
    missing = [dataset for name, dataset in of_runs.items() if _particles(results, name) in to_make]
    particles = sum((dataset.images + dataset.held_out) * dataset.box**2 * 4 for dataset in missing)
    evaluated = [folder for run in asked if ((folder := run_folder(results, *run)) / "metrics.json").exists()]
    if evaluated:
        sizes = [sum(file.stat().st_size for file in run.iterdir()) for run in evaluated]
        folders = len(runs) * float(np.mean(sizes))
    else:
        folders = sum(_assumed_bytes(of_runs[dataset]) for dataset, _, _ in runs)

    rules = {row["rule"]: row for row in wall_times(results)}
    factor, factor_source = _train_factor(results)
    evaluate, evaluate_source = _minutes(rules, "evaluate", EVALUATE_MINUTES)
    simulate, simulate_source = _minutes(rules, "simulate", SIMULATE_MINUTES)
    reconstruct, reconstruct_source = _minutes(rules, "reconstruct_simulated", RECONSTRUCT_MINUTES)
    steps = _seconds_per_step(results)
    training = [
        factor * (budget["seconds"] if "seconds" in budget else budget["steps"] * steps.get(model, np.nan))
        for (_, model, _), budget in runs.items()
    ]
    jobs = [seconds + 60 * evaluate for seconds in training if np.isfinite(seconds)] + [60 * evaluate] * len(rescored)
    jobs += [60 * reconstruct] * len(panel)
    times = [f"{duration(60 * simulate * bool(missing) + makespan(jobs, count))} on {count}" for count in gpus]
    memory = f"{config['resources']['train']['memory_mb'] / 1000:.0f} GB a training job, set in `resources`"
    if "train" in rules:
        memory += f"; {rules['train']['gib']:.1f} GiB were measured"

    unknown = sum(not np.isfinite(seconds) for seconds in training)
    without = f", without {unknown} runs of unknown speed" * bool(unknown)
    done = [run for run in asked if run not in runs and (run_folder(results, *run) / "model.pt").exists()]
    kept = [f"  kept       {note}" for note in age_notes(made_by_other_code(results, done))]
    return "\n".join(
        [
            f"Plan of {', '.join([*config['run'], *['panel'] * bool(config['panel'])])} → {results}",
            f"  datasets   {len(missing)}, {particles / 1e9:.2f} GB of particles",
            f"  training   {len(runs)} jobs, {_budget(runs.values())} in all"
            + f" ({len(done)} more are done)" * bool(done),
            *[f"  scoring    {len(rescored)} jobs, of models that stay as they are"] * bool(rescored),
            *[f"  panel      {len(panel)} reconstructions, {reconstruct:.1f} minutes each ({reconstruct_source})"]
            * bool(panel),
            *kept,
            f"  GPU-hours  {sum(jobs) / 3600:.1f}{without}",
            f"  disk       {(particles + folders) / 1e9:.1f} GB with the runs' folders",
            f"  memory     {memory}",
            f"  wall time  {', '.join(times)} GPUs, or cores where there are none{without}",
            f"  rates      training {factor:.2f} times its budget ({factor_source}), evaluation {evaluate:.1f} minutes"
            f" ({evaluate_source}), a dataset {simulate:.1f} minutes ({simulate_source}), a run's folder"
            f" ({_source(len(evaluated))})",
        ]
    )


def files_to_make(configfiles: Sequence[Path]) -> list[str]:
    """The files that `snakemake --configfile …` would make in the working directory, by Snakemake's own dry run."""
    found: list[str] = []
    settings = ConfigSettings(configfiles=[path.absolute() for path in configfiles])
    with SnakemakeApi(OutputSettings(dryrun=True, log_level_override=logging.ERROR)) as api:
        workflow = api.workflow(ResourceSettings(), settings)
        dag = workflow.dag(DAGSettings(force_incomplete=True))
        dag.execute_workflow(executor="dryrun", updated_files=found)
    return found


def makespan(jobs: Sequence[float], devices: int) -> float:
    """Time until all jobs are done. The longest jobs start first, each on the first free device."""
    free_at = [0.0] * devices
    for seconds in sorted(jobs, reverse=True):
        heapq.heapreplace(free_at, free_at[0] + seconds)
    return max(free_at)


def _train_factor(results: Path) -> tuple[float, str]:
    """The time of a training job over the time that its run recorded, from jobs without interruption."""
    pairs = []
    for path in sorted((results / "benchmarks/train").glob("*/*/*.tsv")):
        history = results / "runs" / path.relative_to(results / "benchmarks/train").with_suffix("") / "history.csv"
        if history.exists():
            pairs.append((pd.read_csv(path, sep="\t")["s"].iloc[0], pd.read_csv(history)["seconds"].iloc[-1]))
    whole = np.array([pair for pair in pairs if pair[0] >= pair[1]])
    if not len(whole):
        return TRAIN_FACTOR, _source(0)
    return whole[:, 0].sum() / whole[:, 1].sum(), _source(len(whole))


def _seconds_per_step(results: Path) -> dict[str, float]:
    """Seconds a step of each model: the mean of its finished runs."""
    rates: dict[str, list[float]] = {}
    for path in results.glob("runs/*/*/seed*/history.csv"):
        last = pd.read_csv(path).iloc[-1]
        rates.setdefault(path.parts[-3], []).append(last["seconds"] / last["step"])
    return {model: float(np.mean(values)) for model, values in rates.items()}


def _minutes(rules: dict[str, dict[str, Any]], rule: str, assumed: float) -> tuple[float, str]:
    if rule not in rules:
        return assumed, _source(0)
    return rules[rule]["minutes"] / rules[rule]["jobs"], _source(rules[rule]["jobs"])


def _source(jobs: int) -> str:
    return f"measured on {jobs} here" if jobs else "assumed"


def _assumed_bytes(dataset: DatasetConfig) -> int:
    return VOXEL_BYTES * dataset.box**3 + IMAGE_BYTES * (dataset.images + dataset.held_out)


def _budget(budgets: Collection[dict[str, float]]) -> str:
    seconds, steps = (sum(budget.get(unit, 0) for budget in budgets) for unit in ("seconds", "steps"))
    return " and ".join([duration(seconds)] * bool(seconds) + [f"{steps} steps"] * bool(steps)) or "nothing"


def _particles(results: Path, dataset: str) -> Path:
    return results / "datasets" / dataset / "particles.mrcs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, nargs="+", help="config.yaml, then the presets to lay over it")
    parser.add_argument("--gpus", type=number(int, 1), nargs="+", default=GPUS, help="numbers of GPUs to plan for")
    arguments = parser.parse_args()
    layers = [read_given(path) for path in arguments.config]
    print(plan(reduce(merge, layers), files_to_make(arguments.config), arguments.gpus))


if __name__ == "__main__":
    run_main(main)
