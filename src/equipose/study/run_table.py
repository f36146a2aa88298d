"""The results of all runs: `python -m equipose.study.run_table --results DIR --output runs.csv`.

The table has a line for each evaluated run whose images have true poses, with every number that claims.yaml may ask
for. These lines are enough to judge the paper's statements and to compare two machines.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from equipose.core.mirror_plane import degrees_between
from equipose.core.pose_metrics import HANDS, subset_sizes
from equipose.errors import ConfigError
from equipose.io.files import read_json, write_text
from equipose.io.progress import run_main
from equipose.reconstruction.names import CONVERGED
from equipose.study.command_line import preset_command_line
from equipose.study.mixture import MIXED_SHARE, read_mixture
from equipose.study.runs import MODEL, final_mse, load_run, load_settings, model_scores
from equipose.study.seed_agreement import best_agreement
from equipose.workflow.freshness import age, metrics_code, outdated, trained_with

RUN = ["dataset", "model", "seed"]
"""Columns that identify a run."""

METRICS = {
    "dataset": "dataset",
    "model": "model",
    "seed": "seed",
    "encoder": "encoder",
    "loss": "loss",
    "converged": "converged",
    "convergence_seconds": "convergence_seconds",
    "convergence_steps": "convergence_steps",
    "seconds": "seconds",
    "steps": "steps",
    "training.model.paper.mse": "mse",
    "held_out.model.paper.mse": "held_out_mse",
    "held_out.model.paper.medse": "held_out_medse",
    "held_out.model.exact.median_degrees": "held_out_degrees",
    "training.refined.paper.mse": "refined_mse",
    "training.refined.exact.median_degrees": "refined_degrees",
    "confirmed_share": "confirmed_share",
    "resolution.paper.0.5": "resolution",
    "resolution.nyquist_reached": "fsc_half_at_every_shell",
}
"""The numbers that a line takes from a run's metrics.json: their names here and there."""

DERIVED = ("snr", "snr_px", "has_converged", "right_poses", "judged_rightly", "images_seen", "seconds_per_step")

OF_SEEDS = ("seed_agrees", "seeds_judge_rightly")

MADE_WITH = ("commit", "processor", "precision", "made_by")

SMALL_MEDSE = 0.5
"""An evaluation with a large MSE and a MedSE below this is on the plateau: most images agree, in two hands."""


def read_outcomes(results: Path, config: dict[str, Any] | None = None) -> pd.DataFrame:
    """A line for each run under `results` that has been evaluated and whose images have true poses.

    A run has no line if its scores come from settings other than those in `config`.

    `seed_agrees` is the share of a run's poses that another seed of its model shares, for the seed that shares most.
    By this share a run is judged to have converged or not; `seeds_judge_rightly` is whether the truth says the same.
    """
    found = {path.parent: json.loads(path.read_text()) for path in sorted(results.glob("runs/*/*/seed*/metrics.json"))}
    runs = {
        run: metrics
        for run, metrics in found.items()
        if metrics["training"] and not (config and outdated(config, _run_of(metrics), run, metrics))
    }
    lines = [outcome(run, metrics, results / "datasets" / metrics["dataset"]) for run, metrics in runs.items()]
    table, folders = pd.DataFrame(lines, columns=COLUMNS), list(runs)
    for _, seeds in table.groupby(["dataset", "model"]):
        symmetry = runs[folders[seeds.index[0]]].get("symmetry", "C1")
        table.loc[seeds.index, "seed_agrees"] = best_agreement([folders[index] for index in seeds.index], symmetry)
    told = (table["seed_agrees"] >= CONVERGED) == table["right_poses"]
    return table.assign(seeds_judge_rightly=told.where(table["seed_agrees"].notna()))


def load_outcomes(path: Path) -> pd.DataFrame:
    """A runs.csv as `read_outcomes` made it. Raises ConfigError where there is none."""
    if not path.exists():
        raise ConfigError(f"there is no {path}, with a line for each run: write it with `publish`.")
    texts = dict.fromkeys(("dataset", "model", "snr"), str)
    true, false = ["True", "1.0"], ["False", "0.0"]  # a column may have lines of a version that wrote numbers
    table = pd.read_csv(path, dtype=texts, float_precision="round_trip", true_values=true, false_values=false)
    snr = [snr if snr == "noiseless" else float(snr) for snr in table["snr"]]
    return table.assign(snr=snr).reindex(columns=COLUMNS)


def outcome(run: Path, metrics: dict[str, Any], dataset: Path) -> dict[str, Any]:
    """The line of a run folder with these metrics, of images of a dataset folder.

    `right_poses` and `judged_rightly` are about the refined poses where there are any. Without the truth, a run is
    judged to have converged if a search confirms its poses; `judged_rightly` is whether the truth says the same. A
    number that a run does not have (it never converged, hands were never mixed) is NaN.
    """
    config = metrics.get("config") or trained_with(run)
    images = metrics.get("images") or read_json(dataset / "config.json")
    if config is None or images is None:
        raise ConfigError(f"{run}: its config.json, or that of its dataset {dataset}, is gone: evaluate the run again")
    made = json.loads((run / "provenance.json").read_text())[-1]  # the last start, if training was interrupted
    chosen = {
        part: metrics[part] and metrics[part] | {MODEL: model_scores(metrics[part])}
        for part in ("training", "held_out")
    }
    flat = pd.json_normalize(metrics | chosen).iloc[0]
    right = final_mse(metrics) < config["evaluation"]["converged_mse"]
    return {
        **{name: flat.get(path) for path, name in METRICS.items()},
        "snr": images.get("snr"),  # a user's particles have none
        "snr_px": images.get("snr_box") or images["box"],
        "has_converged": metrics["convergence_seconds"] is not None,
        "right_poses": right,
        "judged_rightly": (metrics["confirmed_share"] >= CONVERGED) == right,
        "images_seen": metrics["steps"] * config["model"]["batch"],
        "seconds_per_step": metrics["seconds"] / max(metrics["steps"], 1),
        **{name: read(run) for name, read in OF_FOLDERS.items()},
        "commit": made["code"]["commit"],
        "processor": made["machine"].get("GPU", made["machine"]["processor"]),
        "precision": made.get("precision"),  # runs before 27 November did not say
        "made_by": age(metrics_code(metrics)),
    }


def plateau(history: pd.DataFrame, converged_mse: float = 1.0) -> pd.DataFrame:
    """The evaluations of a run on the plateau of Fig. 2: a small MedSE beside a large MSE."""
    return history[(history["medse"] < SMALL_MEDSE) & (history["mse"] > converged_mse)]


def plateau_mse(run: Path) -> float:
    return float(plateau(_history(run))["mse"].median())


def plateau_smaller_hand(run: Path) -> float:
    """Median share of images in the rarer hand."""
    return float(plateau(_history(run))[["share_same", "share_mirror"]].min(axis=1).median())


def plateau_subset_share(run: Path) -> float:
    """Median |S_i| / N over images, in the middle evaluation of the plateau (Eq. 32; squared distance below 0.5)."""
    steps = plateau(_history(run))["step"].to_numpy()
    if not len(steps):
        return float("nan")
    trace = np.load(run / "trace.npz")
    predicted = trace["predicted"][np.flatnonzero(trace["steps"] == steps[len(steps) // 2])[0]]
    sizes = np.maximum(*(subset_sizes(predicted, trace["true"], hand, 0.5, load_run(run).group) for hand in HANDS))
    return float(np.median(sizes) / len(predicted))


def mixture_plane_angle(run: Path) -> float:
    """Degrees between two planes when the hands were mixed most: the map's mirror plane and the plane between the poses
    of both hands.
    """
    rarer = _history(run)[["share_same", "share_mirror"]].min(axis=1)[1:]  # a random start has no hands
    if not (rarer >= MIXED_SHARE).any():
        return float("nan")
    mixture = read_mixture([load_run(run)])
    return degrees_between(mixture.normal, mixture.plane.normal)


def stays_converged(run: Path) -> float:
    """Whether all evaluations were converged from the first such one on; NaN if none was."""
    converged = _history(run)["mse"] < load_run(run).converged_mse
    return float(converged[converged.idxmax() :].all()) if converged.any() else float("nan")


def mean_fsc(run: Path) -> float:
    """Mean over shells of the FSC with the true map."""
    curve = pd.read_csv(run / "fsc.csv")
    return float(curve[curve["shell"] > 0]["fsc"].mean())


OF_FOLDERS: dict[str, Callable[[Path], float]] = {
    "mean_fsc": mean_fsc,
    "plateau_mse": plateau_mse,
    "plateau_smaller_hand": plateau_smaller_hand,
    "plateau_subset_share": plateau_subset_share,
    "mixture_plane_angle": mixture_plane_angle,
    "stays_converged": stays_converged,
}
"""The numbers of a line that are not in metrics.json, and the function that reads each from a run's folder."""

COLUMNS = [*METRICS.values(), *DERIVED, *OF_FOLDERS, *OF_SEEDS, *MADE_WITH]
"""Of runs.csv."""

NUMBERS = [name for name in COLUMNS if name not in (*RUN, "encoder", "loss", "snr", "snr_px", *MADE_WITH)]
"""The measured columns, which a claim may be about."""


def main() -> None:
    parser = preset_command_line("equipose.study.run_table", __doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="runs.csv")
    arguments = parser.parse_args()
    config = load_settings(arguments.config, arguments.results, arguments.experiments)
    write_text(arguments.output, read_outcomes(arguments.results, config).to_csv(index=False))


def _run_of(metrics: dict[str, Any]) -> tuple[str, str, int]:
    return metrics["dataset"], metrics["model"], metrics["seed"]


def _history(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "history.csv")


if __name__ == "__main__":
    run_main(main)
