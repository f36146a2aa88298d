"""A verdict on each of the paper's statements: `python -m equipose.study.claims --claims YAML --runs CSV …`.

The module reads the scores of all evaluated runs (`equipose.study.run_table`) and writes a table as .csv and .md.
claims.yaml states the claims and the range that each asks for. This module has the tests and their intervals: Clopper
and Pearson's for a share of runs, the bootstrap's over runs for everything else. A verdict is `reproduced`,
`not reproduced`, `inconclusive`, `no such run` (runs exist, but none of the kind that the statement is about, such as a
converged one) or `not run`. The configuration asks for runs: a failed run counts as not converged, and the table names
the runs that are missing.

A run is a line of runs.csv, as a dictionary. An unfinished run has its settings and `unfinished`, the reason. If it
failed, its line also says that it did not converge.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy.stats import beta

from equipose.config.settings import asked_runs, is_simulated, model_config, simulation_config
from equipose.errors import ConfigError
from equipose.io.files import write_text
from equipose.io.progress import run_main
from equipose.study.command_line import preset_command_line
from equipose.study.labels import markdown
from equipose.study.run_table import NUMBERS, RUN, load_outcomes
from equipose.study.runs import (
    OUTDATED,
    age_notes,
    has_failed,
    is_missing,
    load_settings,
    run_names,
    why_unfinished,
)

RESAMPLES = 10_000

OUTCOMES = ("converged", "has_converged", "right_poses")
"""Facts about how a run ended. None holds of a failed run."""

TRAINED = {"convergence_seconds": "seconds", "convergence_steps": "steps"}
"""How long a run was trained. One that has not converged needs longer than that."""

SECONDS = ("convergence_seconds", "seconds_per_step")
"""Numbers that depend on the machine."""

EVERY = 0.6
"""A statement about every run is reproduced if the interval of the share of runs lies above this. Eight of eight runs
give an interval from 0.63."""

RunRow = dict[str, Any]


@dataclass(frozen=True)
class Assessment:
    """`estimate` and its interval are in the test's unit, or NaN if no run counts. `failed` and `missing` name runs.
    `bound` is "at most" or "at least" where runs that never converged leave a ratio open on one side.
    `short` counts the runs that did not converge and saw fewer images than the paper's runs took.
    """

    verdict: str = "not run"
    estimate: float = np.nan
    low: float = np.nan
    high: float = np.nan
    bound: str = ""
    runs: int = 0
    runs_compared: int = 0
    short: int = 0
    failed: str = ""
    missing: str = ""


def asked_or_found(
    config: dict[str, Any], experiments: list[str], results: Path, outcomes: pd.DataFrame
) -> list[RunRow]:
    """The runs of `outcomes`, and as unfinished all other runs on simulated particles that `experiments` ask for.

    A run also counts as unfinished if its results come from settings other than those in `config`.
    """
    reasons = {run: why_unfinished(config, results, run) for run in asked_runs(config, experiments)}
    old = {run for run, why in reasons.items() if why == OUTDATED}
    known = set(outcomes[RUN].itertuples(index=False, name=None)) - old
    found: list[RunRow] = [run for run in outcomes.to_dict("records") if tuple(run[key] for key in RUN) not in old]
    for (dataset, name, seed), unfinished in reasons.items():
        if (dataset, name, seed) in known or not is_simulated(config, dataset):
            continue
        if unfinished:
            model = model_config(config, name)
            run = {"dataset": dataset, "model": name, "seed": seed, "encoder": model.encoder, "loss": model.loss}
            images = simulation_config(config, dataset)
            run |= {"snr": images.snr, "snr_px": images.snr_px, "unfinished": unfinished}
            found.append(run | (dict.fromkeys(OUTCOMES, False) if has_failed(unfinished) else {}))
    return found


def is_failed(run: RunRow) -> bool:
    return "unfinished" in run and has_failed(run["unfinished"])


def choose(runs: list[RunRow], wanted: dict[str, Any]) -> list[RunRow]:
    """The runs with the wanted values; a list means any of its values. A missing run may have any outcome."""

    def fits(run: RunRow) -> bool:
        known = [key for key in wanted if key in run or not is_missing(run)]
        return all(run[key] in (wanted[key] if isinstance(wanted[key], list) else [wanted[key]]) for key in known)

    return [run for run in runs if fits(run)]


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
    found = np.sort(statistic(*drawn))
    last = tail / 100 * (RESAMPLES - 1)
    return float(found[math.floor(last)]), float(found[math.ceil(RESAMPLES - 1 - last)])  # one of them may be infinite


def judge(low: float, high: float, between: list[float], strictly: bool = False) -> str:
    """`reproduced` if the whole interval lies in the range `between`, `not reproduced` if it lies outside.

    It is `inconclusive` otherwise. With `strictly`, the ends of the range do not count, but for zero: a ratio of one is
    no gain.
    """
    at_an_end = 0 < low == between[0] or high == between[1]
    if between[0] <= low and high <= between[1] and not (strictly and at_an_end):
        return "reproduced"
    if high < between[0] or between[1] < low:
        return "not reproduced"
    return "inconclusive"


def numbers_of(runs: list[RunRow], name: str) -> np.ndarray:
    """The number `name` of all runs that have it (a run that never converged has no time of convergence).

    A failed run has no numbers; it only counts as not converged.
    """
    values = np.array([run.get(name, np.nan) for run in runs], float)
    return values[np.isfinite(values)]


def assess(claim: dict[str, Any], runs: list[RunRow], confidence: float, seeds: int) -> Assessment:
    """The verdict on one claim. Raises ConfigError for a test or number that does not exist.

    A run that is `_too_short` says nothing about convergence.
    """
    if claim["test"] not in ("rate", "every", "value", "ratio") or claim["number"] not in NUMBERS:
        raise ConfigError(f"claims: no test `{claim['test']}` with number `{claim['number']}`.")
    chosen = choose(runs, claim["of"])
    compared = choose(runs, claim["over"]) if claim["test"] == "ratio" else []
    failed = _names([run for run in [*chosen, *compared] if is_failed(run)])
    missing = _names([run for run in [*chosen, *compared] if is_missing(run)])
    short = [run for run in [*chosen, *compared] if _too_short(run, claim)]
    runs_told = Assessment(short=len(short), failed=failed, missing=missing)
    nothing = replace(runs_told, verdict="no such run" if _are_there(claim, runs) else "not run")
    if claim["test"] == "ratio":
        of, over = ([run for run in side if run not in short] for side in (chosen, compared))
        return _assess_ratio(claim, of, over, confidence, seeds, runs_told) or nothing
    values = numbers_of(chosen, claim["number"])
    if not len(values):
        return nothing
    if claim["test"] == "value":
        estimate, interval = float(np.median(values)), bootstrap_interval([values], _median, confidence)
    else:
        if claim["test"] == "every":
            values = _within(values, claim["between"])
        estimate, interval = float(values.mean()), rate_interval(int(values.sum()), len(values), confidence)
    told_values = numbers_of([run for run in chosen if run not in short], claim["number"])
    if claim["test"] == "every" and not _within(told_values, claim["between"]).all():
        verdict = "not reproduced"  # a single run outside of the range refutes the statement
    elif short or len(values) < seeds:
        verdict = "inconclusive"
    else:
        verdict = judge(*interval, [EVERY, 1.0] if claim["test"] == "every" else claim["between"])
    return replace(runs_told, verdict=verdict, estimate=estimate, low=interval[0], high=interval[1], runs=len(values))


def _assess_ratio(
    claim: dict[str, Any],
    of: list[RunRow],
    over: list[RunRow],
    confidence: float,
    seeds: int,
    runs_told: Assessment,
) -> Assessment | None:
    """The verdict on a ratio, or None if no dataset has numbers of both sides.

    A ratio is taken on each dataset with runs of both sides, and averaged over these datasets; with `across: worst`,
    the largest one counts. A ratio of `SECONDS` is taken on each machine's runs of a dataset, too. If some of them have
    enough seeds, only those count. With `best`, a side has that many of its runs on a dataset, those of least MSE.

    The time to convergence of a run that has not converged lies between the time of its training and infinity. So the
    ratio lies between two numbers, and its interval reaches from the lower one's to the upper one's.
    """
    pairs, place = [], partial(_place, number=claim["number"])
    for here in sorted({place(run) for run in of}):
        sides = [_best([run for run in side if place(run) == here], claim.get("best")) for side in (of, over)]
        (low_of, high_of), (low_over, high_over) = (_bounds(side, claim["number"]) for side in sides)
        if len(low_of) and len(low_over) and not (np.isinf(high_of).all() and np.isinf(high_over).all()):
            pairs.append((low_of, high_over, high_of, low_over))
    if not pairs:
        return None
    pairs = [pair for pair in pairs if min(map(len, pair)) >= seeds] or pairs
    least, most = ([values for pair in pairs for values in pair[part]] for part in (slice(0, 2), slice(2, 4)))
    ratio = partial(_ratio, across=np.max if claim.get("across") == "worst" else np.mean)
    low_estimate, high_estimate = (float(ratio(*(values[None] for values in ends))[0]) for ends in (least, most))
    low, high = (bootstrap_interval(ends, ratio, confidence)[end] for end, ends in enumerate((least, most)))
    enough = min(min(map(len, pair)) for pair in pairs) >= seeds
    estimate, bound = (high_estimate, "at most") if np.isfinite(high_estimate) else (low_estimate, "at least")
    return replace(
        runs_told,
        verdict=judge(low, high, claim["between"], strictly=True) if enough else "inconclusive",
        estimate=estimate,
        low=low,
        high=high,
        bound=bound if low_estimate != high_estimate else "",
        runs=sum(len(pair[0]) for pair in pairs),
        runs_compared=sum(len(pair[1]) for pair in pairs),
    )


def _place(run: RunRow, number: str) -> tuple[str, ...]:
    """The dataset of a run and, for a number of `SECONDS`, the machine that made it."""
    machine = [str(run.get(key)) for key in ("processor", "precision")] if number in SECONDS else []
    return run["dataset"], *machine


def _best(runs: list[RunRow], number: int | None) -> list[RunRow]:
    """The runs of least MSE, so many of them; all runs without a number."""
    if number is None:
        return runs
    scored = [run for run in runs if np.isfinite(run.get("mse", np.nan))]
    return sorted(scored, key=lambda run: run["mse"])[:number]


def _bounds(runs: list[RunRow], number: str) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest value that `number` can have in each run. They differ only in runs not converged."""
    if number not in TRAINED:
        return (values := numbers_of(runs, number)), values
    times = [(run.get(number, np.nan), run.get(TRAINED[number], np.nan)) for run in runs]
    known = [(time, time) if np.isfinite(time) else (trained, np.inf) for time, trained in times if trained > 0]
    least, most = np.array(known, float).reshape(-1, 2).T
    return least, most


def _within(values: np.ndarray, between: list[float]) -> np.ndarray:
    return (values >= between[0]) & (values <= between[1])


def _too_short(run: RunRow, claim: dict[str, Any]) -> bool:
    """Whether a run ended without convergence before it had seen the claim's `images`."""
    return "unfinished" not in run and not run["converged"] and run.get("images_seen", 0) < claim.get("images", 0)


def _are_there(claim: dict[str, Any], runs: list[RunRow]) -> bool:
    """Whether each side of a claim has finished runs, whatever their outcome."""
    sides = [claim["of"], *([claim["over"]] if claim["test"] == "ratio" else [])]
    asked = [{key: value for key, value in side.items() if key not in OUTCOMES} for side in sides]
    return all(any("unfinished" not in run for run in choose(runs, side)) for side in asked)


def _names(runs: list[RunRow]) -> str:
    return run_names([(run["dataset"], run["model"], run["seed"]) for run in runs])


def _median(values: np.ndarray) -> np.ndarray:
    return np.median(values, axis=1)


def _ratio(*samples: np.ndarray, across: Callable[..., np.ndarray]) -> np.ndarray:
    """Mean or largest of median / median `across` datasets; samples come in pairs."""
    return across([_median(of) / _median(over) for of, over in zip(samples[::2], samples[1::2], strict=True)], axis=0)


def claims_table(specification: dict[str, Any], runs: list[RunRow]) -> pd.DataFrame:
    """One row for each claim of claims.yaml, in its order."""
    test = partial(assess, runs=runs, confidence=specification["confidence"], seeds=specification["seeds"])
    return pd.DataFrame(
        [
            {"claim": name, "where": claim["where"], "says": claim["says"], "asked": tuple(claim["between"])}
            | vars(test(claim))
            | {"test": f"{claim['test']} {claim['number']}"}
            for name, claim in specification["claims"].items()
        ]
    )


def as_markdown(table: pd.DataFrame, confidence: float, runs: list[RunRow]) -> str:
    """The claims as a table, and below it the runs without numbers."""
    lines = ["| verdict | statement | where | found | asked for | runs |", "| --- | --- | --- | --- | --- | --- |"]
    for row in table.itertuples():
        found = "" if np.isnan(row.estimate) else f"{row.estimate:.3g} ({row.low:.3g} to {row.high:.3g})"
        found = f"{row.bound} {found}".strip()
        asked = f"{row.test}: {row.asked[0]:g} to {row.asked[1]:g}"
        count = f"{row.runs}, {row.runs_compared}" if row.runs_compared else f"{row.runs}"
        count += f"; {row.short} too short" if row.short else ""
        lines.append(f"| **{row.verdict}** | {markdown(row.says)} | {row.where} | {found} | {asked} | {count} |")
    counts = ", ".join(f"{count} {name}" for name, count in table["verdict"].value_counts().items())
    lines += [
        "",
        f"{counts}. In brackets: {confidence:.0%} intervals, over runs; with few runs, the intervals of medians and"
        " ratios are too narrow. Too short: not converged, and trained on fewer images than the paper's runs took."
        " A run that has not converged needs longer than it was trained: some ratios are “at most” a number.",
    ]
    if failed := _names([run for run in runs if is_failed(run)]):
        lines += ["", f"Failed, counted as not converged: {failed}."]
    if missing := _names([run for run in runs if is_missing(run)]):
        lines += ["", f"Asked for but missing, and not counted: {missing}."]
    if old := _names([run for run in runs if run.get("unfinished") == OUTDATED]):
        lines += ["", f"Of these, outdated (their results come from other settings): {old}."]
    made_by = {tuple(run[key] for key in RUN): run.get("made_by") for run in runs}
    for note in age_notes({run: age for run, age in made_by.items() if isinstance(age, str)}):
        lines += ["", note]
    return "\n".join(lines) + "\n"


def write_claims(specification: dict[str, Any], runs: list[RunRow], output: Path) -> None:
    """Every claim's verdict on `runs`, as `output` with .csv and .md."""
    table = claims_table(specification, runs)
    write_text(output.with_suffix(".csv"), table.to_csv(index=False))
    write_text(output.with_suffix(".md"), as_markdown(table, specification["confidence"], runs))


def main() -> None:
    parser = preset_command_line("equipose.study.claims", __doc__.splitlines()[0])
    parser.add_argument("--claims", type=Path, required=True, help="claims.yaml")
    parser.add_argument("--runs", type=Path, required=True, help="runs.csv, of equipose.study.run_table")
    parser.add_argument("--output", type=Path, required=True, help="written as .csv and .md")
    arguments = parser.parse_args()
    config = load_settings(arguments.config, arguments.results, arguments.experiments)
    runs = asked_or_found(config, arguments.experiments, arguments.results, load_outcomes(arguments.runs))
    write_claims(yaml.safe_load(arguments.claims.read_text()), runs, arguments.output)


if __name__ == "__main__":
    run_main(main)
