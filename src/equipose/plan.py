"""What a workflow is about to do, in a few lines of text.

`python -m equipose.plan config.yaml [preset.yaml …]` prints the plan.
"""

import argparse
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from equipose.cli import run_main
from equipose.config import dataset_config, merge, run_budgets


def plan(config: dict[str, Any]) -> str:
    """Training jobs that the experiments in `run` still need, their time and memory, and the disk for particles."""
    asked = _runs(config)
    runs = {run: budget for run, budget in asked.items() if not (_folder(config, *run) / "model.pt").exists()}
    done = len(asked) - len(runs)
    datasets = [dataset_config(config, name) for name in sorted({dataset for dataset, _, _ in runs})]
    seconds = sum(budget.get("seconds", 0) for budget in runs.values())
    steps = sum(budget.get("steps", 0) for budget in runs.values())
    time = [f"{_duration(seconds)}"] * bool(seconds) + [f"{steps} steps"] * bool(steps)
    particles = sum((dataset.images + dataset.held_out) * dataset.box**2 * 4 for dataset in datasets)
    memory = config["resources"]["train"]["memory_mb"]
    return "\n".join(
        [
            f"Plan of {', '.join(config['run'])} → {config['pathvars']['results']}",
            f"  datasets  {len(datasets)}, {particles / 1e9:.2f} GB of particles",
            f"  training  {len(runs)} jobs, {' and '.join(time) or 'nothing'} in all, evaluations not counted"
            + (f" ({done} more are done)" if done else ""),
            f"  memory    up to {memory / 1000:.0f} GB a training job",
        ]
    )


def _runs(config: dict[str, Any]) -> dict[tuple[str, str, int], dict[str, float]]:
    """The budgets of the runs of the experiments in `run`."""
    return run_budgets(config | {"experiments": {name: config["experiments"][name] for name in config["run"]}})


def _folder(config: dict[str, Any], dataset: str, model: str, seed: int) -> Path:
    return Path(config["pathvars"]["results"]) / "runs" / dataset / model / f"seed{seed}"


def _duration(seconds: float) -> str:
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.0f} hours"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, nargs="+", help="config.yaml, and what is laid over it")
    arguments = parser.parse_args()
    layers = [yaml.safe_load(path.read_text()) for path in arguments.config]
    print(plan(reduce(merge, layers)))


if __name__ == "__main__":
    run_main(main)
