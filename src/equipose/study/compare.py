"""Do results agree with published ones? `python -m equipose.study.compare --results DIR --reference DIR`.

For every dataset and model with runs in both, it compares the number of converged seeds, the final MSE and the time
until convergence. It also compares the verdicts of the claims that both could judge. The exit code is 0 if all
conclusions agree and 1 if one differs:

- convergence differs if all seeds converged in one and none in the other, or if Fisher's exact test tells the counts
  apart (p < `TOLD_APART`);
- MSE and time are those of converged seeds: a budget in seconds and the machine decide where the other seeds end. They
  differ if Welch's test on their logarithms tells them apart at the same level. A single seed has no spread, and is not
  tested. Time depends on the machine as well: a time beyond the spread is marked, but changes no conclusion;
- a claim differs if one says `reproduced` and the other `not reproduced`: fewer runs may leave a claim open.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import fisher_exact, ttest_ind

from equipose.errors import ConfigError
from equipose.io.progress import run_main
from equipose.study.run_table import load_outcomes

TOLD_APART = 0.01

OPPOSITE = {"reproduced", "not reproduced"}


def told_apart(ours: pd.Series, theirs: pd.Series) -> bool:
    """Whether the two sets of positive numbers differ by more than the spread of seeds in them."""
    logs = [np.log(side.dropna().to_numpy(float)) for side in (ours, theirs)]
    if min(map(len, logs)) < 2:
        return False
    if all(np.ptp(side) == 0 for side in logs):
        return bool(logs[0][0] != logs[1][0])
    return bool(ttest_ind(*logs, equal_var=False).pvalue < TOLD_APART)


def rates_differ(ours: pd.Series, theirs: pd.Series) -> bool:
    """Whether the two sets of runs, true where converged, lead to different conclusions about convergence."""
    counts = [[int(side.sum()), int((~side).sum())] for side in (ours, theirs)]
    return {ours.mean(), theirs.mean()} == {0.0, 1.0} or fisher_exact(counts).pvalue < TOLD_APART


def compare_runs(ours: pd.DataFrame, theirs: pd.DataFrame) -> list[dict[str, Any]]:
    """A line for each dataset and model in both: the numbers of both, and which of them `differs`."""
    lines = []
    groups = [dict(list(side.groupby(["dataset", "model"]))) for side in (ours, theirs)]
    for key in sorted(groups[0].keys() & groups[1].keys()):
        here, there = groups[0][key], groups[1][key]
        differs = {
            "convergence": rates_differ(here["converged"].astype(bool), there["converged"].astype(bool)),
            "MSE": told_apart(*(side["mse"][side["converged"].astype(bool)] for side in (here, there))),
            "time": told_apart(here["convergence_seconds"], there["convergence_seconds"]),
        }
        lines.append(
            {"dataset": key[0], "model": key[1]}
            | {
                "converged": " / ".join(f"{int(side['converged'].sum())} of {len(side)}" for side in (here, there)),
                "MSE": " / ".join(f"{side['mse'].median():.3g}" for side in (here, there)),
                "time (s)": " / ".join(_seconds(side) for side in (here, there)),
                "differs": ", ".join(name for name, apart in differs.items() if apart),
            }
        )
    return lines


def compare_claims(ours: pd.DataFrame, theirs: pd.DataFrame) -> tuple[int, list[str]]:
    """How many claims have the same verdict, and the names of the claims with opposite verdicts."""
    both = ours.merge(theirs, on="claim", suffixes=("", "_there"))
    opposite = [set(pair) == OPPOSITE for pair in zip(both["verdict"], both["verdict_there"], strict=True)]
    return int((both["verdict"] == both["verdict_there"]).sum()), both["claim"][opposite].tolist()


def compare(results: Path, reference: Path) -> tuple[str, list[str]]:
    """The comparison as text, and the conclusions that differ. Raises ConfigError if there is nothing to compare."""
    ours, theirs = (load_outcomes(folder / "runs.csv") for folder in (results, reference))
    lines = compare_runs(ours, theirs)
    if not lines:
        raise ConfigError(f"{results} and {reference} have no dataset and model in common: run a part of the preset.")
    same, opposite = compare_claims(*(pd.read_csv(folder / "claims.csv") for folder in (results, reference)))
    text = "\n".join(
        [
            f"{results} / {reference}, medians over seeds:",
            pd.DataFrame(lines).to_string(index=False),
            f"Claims: {same} with the same verdict, {len(opposite)} with opposite ones.",
        ]
    )
    conclusions = [
        f"{line['dataset']}, {line['model']}: {line['differs']}"
        for line in lines
        if line["differs"] not in ("", "time")
    ]
    return text, conclusions + [f"claim {name}" for name in opposite]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, required=True, help="a preset's results folder")
    parser.add_argument("--reference", type=Path, required=True, help="what `publish` kept of the same preset")
    arguments = parser.parse_args()
    text, conclusions = compare(arguments.results, arguments.reference)
    print(text)
    if conclusions:
        sys.exit("Conclusions that differ: " + "; ".join(conclusions))
    print("The conclusions agree.")


def _seconds(runs: pd.DataFrame) -> str:
    """Median time until convergence of the converged runs; if none converged, the bound that all runs give."""
    times = runs["convergence_seconds"].dropna()
    return f"{times.median():.0f}" if len(times) else f"> {runs['seconds'].min():.0f}"


if __name__ == "__main__":
    run_main(main)
