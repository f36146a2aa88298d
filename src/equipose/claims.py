"""A verdict on each of the paper's statements: `python -m equipose.claims --claims YAML --results DIR …`.

Reads whatever runs have been evaluated, and writes a table as .csv and .md. claims.yaml says what is tested and what
would count; here are the numbers of a run (`NUMBERS`), the tests, and their intervals: Clopper and Pearson's for a
share of runs, the bootstrap's over runs for all else. A verdict is `reproduced`, `not reproduced`, `inconclusive`, `no
such run` (there are runs, but none that the statement is about, such as a converged one) or `not run`. Of the runs that
the configuration asks for, one that failed counts as not converged, and those not run are named.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy.stats import beta

from equipose.cli import run_main
from equipose.config import asked_runs, is_simulated, model_config, simulation_config
from equipose.errors import ConfigError
from equipose.figures.mixture import read_mixture
from equipose.figures.runs import load_run
from equipose.files import whole_file
from equipose.metrics import HANDS, subset_sizes
from equipose.symmetry import degrees_between
from equipose.tables import has_failed, run_names, why_unfinished
from equipose.verdict import CONVERGED

RESAMPLES = 10_000

OUTCOMES = ("converged", "has_converged", "right_poses")
"""Facts that tell how a run ended."""

EVERY = 0.6
"""Share of all runs that must be sure before a statement about every one of them counts: eight of eight are 0.63."""

SMALL_MEDSE = 0.5
"""MedSE below which an evaluation with a large MSE is on the plateau: most images agree, in two ways."""


@dataclass(frozen=True)
class RunResult:
    """What a claim may ask of a run: metrics.json, with the dataset's SNR, the images seen in training, and whether its
    poses are right (the refined ones if there are any), and the folder for everything else.

    Of an `unfinished` run (why, else nothing) they are what was asked for and, if it failed, that it did not converge.
    """

    folder: Path
    facts: dict[str, Any]
    unfinished: str = ""

    @property
    def missing(self) -> bool:
        return bool(self.unfinished) and not has_failed(self.unfinished)

    def history(self) -> pd.DataFrame:
        return pd.read_csv(self.folder / "history.csv")


@dataclass(frozen=True)
class Verdict:
    """`estimate` and its interval in the test's unit; NaN where no run counts. Runs that `failed` or are `missing`, and
    how many are `short`: not converged, after fewer images than it took in the paper.
    """

    verdict: str = "not run"
    estimate: float = np.nan
    low: float = np.nan
    high: float = np.nan
    runs: int = 0
    runs_compared: int = 0
    short: int = 0
    failed: str = ""
    missing: str = ""


def read_results(results: Path) -> list[RunResult]:
    """Every run under `results` that has been evaluated and whose images have true poses."""
    found = []
    for path in sorted(results.glob("runs/*/*/seed*/metrics.json")):
        metrics = json.loads(path.read_text())
        if metrics["training"]:
            dataset = json.loads((results / "datasets" / metrics["dataset"] / "config.json").read_text())
            config = json.loads((path.parent / "config.json").read_text())
            facts = {"snr": dataset.get("snr"), "has_converged": metrics["convergence_seconds"] is not None}
            facts |= {"images_seen": metrics["steps"] * config["model"]["batch"]}
            refined = metrics["training"].get("refined")
            right = refined["paper"]["mse"] < config["evaluation"]["converged_mse"] if refined else metrics["converged"]
            facts |= {"right_poses": right}
            found.append(RunResult(path.parent, metrics | facts))
    return found


def unfinished_runs(config: dict[str, Any], experiments: list[str], results: Path) -> list[RunResult]:
    """Every run that `experiments` ask for, of simulated particles, and that has no metrics.json."""
    found = []
    for dataset, name, seed in asked_runs(config, experiments):
        run = Path(dataset) / name / f"seed{seed}"
        if is_simulated(config, dataset) and (unfinished := why_unfinished(results, run)):
            model = model_config(config, name)
            facts = {"dataset": dataset, "model": name, "seed": seed, "encoder": model.encoder, "loss": model.loss}
            facts |= {"snr": simulation_config(config, dataset).snr}
            if has_failed(unfinished):
                facts |= {"converged": False, "has_converged": False}
            found.append(RunResult(results / "runs" / run, facts, unfinished))
    return found


def choose(results: list[RunResult], wanted: dict[str, Any]) -> list[RunResult]:
    """The runs whose facts have the wanted values; a list means any of them. A missing run may have any outcome."""

    def fits(result: RunResult) -> bool:
        known = [key for key in wanted if key in result.facts or not result.missing]
        return all(
            result.facts[key] in (wanted[key] if isinstance(wanted[key], list) else [wanted[key]]) for key in known
        )

    return [result for result in results if fits(result)]


def plateau(history: pd.DataFrame, converged_mse: float = 1.0) -> pd.DataFrame:
    """The evaluations of a run on the plateau of Fig. 2: a small MedSE beside a large MSE."""
    return history[(history["medse"] < SMALL_MEDSE) & (history["mse"] > converged_mse)]


def plateau_mse(result: RunResult) -> float:
    return float(plateau(result.history())["mse"].median())


def plateau_smaller_hand(result: RunResult) -> float:
    """Median share of the images that agree in the rarer hand."""
    return float(plateau(result.history())[["share_same", "share_mirror"]].min(axis=1).median())


def plateau_subset_share(result: RunResult) -> float:
    """Median |S_i| / N over images, in the middle evaluation of the plateau (Eq. 32; squared distance below 0.5)."""
    steps = plateau(result.history())["step"].to_numpy()
    if not len(steps):
        return float("nan")
    trace = np.load(result.folder / "trace.npz")
    predicted = trace["predicted"][np.flatnonzero(trace["steps"] == steps[len(steps) // 2])[0]]
    sizes = np.maximum(*(subset_sizes(predicted, trace["true"], hand, within=0.5) for hand in HANDS))
    return float(np.median(sizes) / len(predicted))


def mixture_plane_angle(result: RunResult) -> float:
    """Degrees between the map's mirror plane and that between the poses of both hands, at their fullest mixture.

    NaN where hands were never mixed.
    """
    mixture = read_mixture([load_run(result.folder)])
    return degrees_between(mixture.normal, mixture.plane.normal) if mixture.mixed else float("nan")


def mean_fsc(result: RunResult) -> float:
    curve = pd.read_csv(result.folder / "fsc.csv")
    return float(curve[curve["shell"] > 0]["fsc"].mean())


def judged_rightly(result: RunResult) -> float:
    """Whether the truth agrees with what is said without it: converged, where a search confirms the run's poses.

    The search looks at the refined poses where there are any, and so does the truth.
    """
    return float((result.facts["confirmed_share"] >= CONVERGED) == result.facts["right_poses"])


def fact(*path: str) -> Callable[[RunResult], float]:
    """A number of metrics.json; NaN where it is null."""

    def number(result: RunResult) -> float:
        value: Any = result.facts
        for key in path:
            value = value[key]
        return float("nan") if value is None else float(value)

    return number


NUMBERS: dict[str, Callable[[RunResult], float]] = {
    "converged": fact("converged"),
    "judged_rightly": judged_rightly,
    "convergence_seconds": fact("convergence_seconds"),
    "convergence_steps": fact("convergence_steps"),
    "mse": fact("training", "direct", "paper", "mse"),
    "resolution": fact("resolution", "paper", "0.5"),
    "seconds_per_step": lambda result: result.facts["seconds"] / max(result.facts["steps"], 1),
    "mean_fsc": mean_fsc,
    "plateau_mse": plateau_mse,
    "plateau_smaller_hand": plateau_smaller_hand,
    "plateau_subset_share": plateau_subset_share,
    "mixture_plane_angle": mixture_plane_angle,
}


def rate_interval(successes: int, runs: int, confidence: float) -> tuple[float, float]:
    """Clopper and Pearson's exact interval of a rate."""
    tail = (1 - confidence) / 2
    low = beta.ppf(tail, successes, runs - successes + 1) if successes else 0.0
    high = beta.ppf(1 - tail, successes + 1, runs - successes) if successes < runs else 1.0
    return float(low), float(high)


def bootstrap_interval(
    samples: list[np.ndarray], statistic: Callable[..., np.ndarray], confidence: float
) -> tuple[float, float]:
    """Percentile interval of a statistic of independent samples, each resampled by itself.

    `statistic` takes one array (resamples, n) for each sample and returns (resamples,).
    """
    rng = np.random.default_rng(0)
    drawn = [rng.choice(sample, (RESAMPLES, len(sample))) for sample in samples]
    tail = 50 * (1 - confidence)
    low, high = np.percentile(statistic(*drawn), [tail, 100 - tail])
    return float(low), float(high)


def judge(low: float, high: float, between: list[float], strictly: bool = False) -> str:
    """`inconclusive` unless the whole interval lies inside of what is asked for, or outside.

    `strictly` inside: a ratio of one is no gain.
    """
    if between[0] <= low and high <= between[1] and not (strictly and (low == between[0] or high == between[1])):
        return "reproduced"
    if high < between[0] or between[1] < low:
        return "not reproduced"
    return "inconclusive"


def numbers_of(results: list[RunResult], name: str) -> np.ndarray:
    """The runs' numbers, without those that have none (a run that never converged has no time of convergence).

    Of a run that failed all that is known is that it did not converge.
    """
    known = [result for result in results if not result.unfinished or (name == "converged" and not result.missing)]
    values = np.array([NUMBERS[name](result) for result in known], float)
    return values[np.isfinite(values)]


def assess(claim: dict[str, Any], results: list[RunResult], confidence: float, seeds: int) -> Verdict:
    """The verdict on one claim. Raises ConfigError for a test or number that does not exist.

    A ratio is taken on each dataset that both sides have run, with enough seeds if there are such datasets, and is
    averaged over these. Of a run that is `_too_short` nothing follows from that it did not converge.
    """
    if claim["test"] not in ("rate", "every", "value", "ratio") or claim["number"] not in NUMBERS:
        raise ConfigError(f"claims: no test `{claim['test']}` with number `{claim['number']}`.")
    chosen = choose(results, claim["of"])
    compared = choose(results, claim["over"]) if claim["test"] == "ratio" else []
    unfinished = [result for result in [*chosen, *compared] if result.unfinished]
    without = {
        "failed": _names([result for result in unfinished if not result.missing]),
        "missing": _names([result for result in unfinished if result.missing]),
    }
    short = [result for result in chosen if _too_short(result, claim)]
    nothing = Verdict("no such run" if _are_there(claim, results) else "not run", **without)
    if claim["test"] == "ratio":
        pairs = _by_dataset(claim["number"], chosen, compared)
        if not pairs:
            return nothing
        pairs = [pair for pair in pairs if min(map(len, pair)) >= seeds] or pairs
        samples = [values for pair in pairs for values in pair]
        estimate = float(_mean_ratio(*(values[None] for values in samples))[0])
        interval = bootstrap_interval(samples, _mean_ratio, confidence)
        counts = sum(len(pair[0]) for pair in pairs), sum(len(pair[1]) for pair in pairs)
        fewest = min(min(map(len, pair)) for pair in pairs)
    else:
        values = numbers_of(chosen, claim["number"])
        if not len(values):
            return nothing
        if claim["test"] == "value":
            estimate, interval = float(np.median(values)), bootstrap_interval([values], _median, confidence)
        else:
            if claim["test"] == "every":
                values = _within(values, claim["between"])
            estimate, interval = float(values.mean()), rate_interval(int(values.sum()), len(values), confidence)
        counts, fewest = (len(values),), len(values)
    told = [result for result in chosen if result not in short]
    if claim["test"] == "every" and not _within(numbers_of(told, claim["number"]), claim["between"]).all():
        verdict = "not reproduced"  # one run that is otherwise refutes it
    elif short or fewest < seeds:
        verdict = "inconclusive"
    elif claim["test"] == "every":
        verdict = judge(*interval, [EVERY, 1.0])
    else:
        verdict = judge(*interval, claim["between"], strictly=claim["test"] == "ratio")
    return Verdict(verdict, estimate, *interval, *counts, short=len(short), **without)


def _within(values: np.ndarray, between: list[float]) -> np.ndarray:
    return (values >= between[0]) & (values <= between[1])


def _too_short(result: RunResult, claim: dict[str, Any]) -> bool:
    """Whether a run ended, not converged, before it had seen the claim's `images`."""
    return (
        not result.unfinished
        and not result.facts["converged"]
        and result.facts.get("images_seen", 0) < claim.get("images", 0)
    )


def _are_there(claim: dict[str, Any], results: list[RunResult]) -> bool:
    """Whether runs have ended on each side of a claim, if those that it is about had not to turn out in some way."""
    sides = [claim["of"], *([claim["over"]] if claim["test"] == "ratio" else [])]
    asked = [{key: value for key, value in side.items() if key not in OUTCOMES} for side in sides]
    return all(any(not result.unfinished for result in choose(results, side)) for side in asked)


def _by_dataset(number: str, of: list[RunResult], over: list[RunResult]) -> list[tuple[np.ndarray, np.ndarray]]:
    """The numbers of both sides, for each dataset on which both have some."""
    datasets = sorted({result.facts["dataset"] for result in of})
    pairs = [
        tuple(
            numbers_of([result for result in side if result.facts["dataset"] == dataset], number) for side in (of, over)
        )
        for dataset in datasets
    ]
    return [(ours, theirs) for ours, theirs in pairs if len(ours) and len(theirs)]


def _names(results: list[RunResult]) -> str:
    return run_names([(result.facts["dataset"], result.facts["model"], result.facts["seed"]) for result in results])


def _median(values: np.ndarray) -> np.ndarray:
    return np.median(values, axis=1)


def _mean_ratio(*samples: np.ndarray) -> np.ndarray:
    """Mean over datasets of median / median; samples come in pairs."""
    return np.mean([_median(of) / _median(over) for of, over in zip(samples[::2], samples[1::2], strict=True)], axis=0)


def claims_table(specification: dict[str, Any], results: list[RunResult]) -> pd.DataFrame:
    """One row for each claim of claims.yaml, in its order."""
    test = partial(assess, results=results, confidence=specification["confidence"], seeds=specification["seeds"])
    return pd.DataFrame(
        [
            {"claim": name, "where": claim["where"], "says": claim["says"], "asked": tuple(claim["between"])}
            | vars(test(claim))
            | {"test": f"{claim['test']} {claim['number']}"}
            for name, claim in specification["claims"].items()
        ]
    )


def as_markdown(table: pd.DataFrame, confidence: float, results: list[RunResult]) -> str:
    """The claims as a table, and below it the runs that no number counts."""
    lines = ["| verdict | statement | where | found | asked for | runs |", "| --- | --- | --- | --- | --- | --- |"]
    for row in table.itertuples():
        found = "" if np.isnan(row.estimate) else f"{row.estimate:.3g} ({row.low:.3g} to {row.high:.3g})"
        asked = f"{row.test}: {row.asked[0]:g} to {row.asked[1]:g}"
        runs = f"{row.runs}, {row.runs_compared}" if row.runs_compared else f"{row.runs}"
        runs += f"; {row.short} too short" if row.short else ""
        lines.append(f"| **{row.verdict}** | {row.says} | {row.where} | {found} | {asked} | {runs} |")
    counts = ", ".join(f"{count} {name}" for name, count in table["verdict"].value_counts().items())
    lines += [
        "",
        f"{counts}. In brackets: {confidence:.0%} intervals, over runs; those of medians and ratios are narrower than"
        " that where runs are few. Too short: not converged, and trained on fewer images than the paper's runs took.",
    ]
    unfinished = [result for result in results if result.unfinished]
    if failed := _names([result for result in unfinished if not result.missing]):
        lines += ["", f"Failed, counted as not converged: {failed}."]
    if missing := _names([result for result in unfinished if result.missing]):
        lines += ["", f"Asked for and not there, so that no number counts them: {missing}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--claims", type=Path, required=True, help="claims.yaml")
    parser.add_argument("--results", type=Path, required=True, help="a preset's results folder")
    parser.add_argument("--config", type=Path, required=True, help="tables/config.json of the preset")
    parser.add_argument("--experiments", nargs="+", required=True, help="what the preset asks for")
    parser.add_argument("--output", type=Path, required=True, help="written as .csv and .md")
    arguments = parser.parse_args()
    specification = yaml.safe_load(arguments.claims.read_text())
    results = read_results(arguments.results)
    results += unfinished_runs(json.loads(arguments.config.read_text()), arguments.experiments, arguments.results)
    table = claims_table(specification, results)
    with whole_file(arguments.output.with_suffix(".csv")) as path:
        table.to_csv(path, index=False)
    with whole_file(arguments.output.with_suffix(".md")) as path:
        path.write_text(as_markdown(table, specification["confidence"], results))


if __name__ == "__main__":
    run_main(main)
