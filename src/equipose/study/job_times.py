"""Time and memory of the jobs whose results lie in a folder, as Snakemake measured them."""

from pathlib import Path
from typing import Any

import pandas as pd


def job_times(results: Path) -> pd.DataFrame:
    """Jobs, minutes and peak memory of each rule, `of` each dataset or experiment, from Snakemake's benchmarks."""
    folder = results / "benchmarks"
    lines = []
    for path in sorted(folder.glob("*/**/*.tsv")):
        rule, of, *_ = path.relative_to(folder).with_suffix("").parts
        table = pd.read_csv(path, sep="\t", na_values="-")
        peak = float(table["max_rss"].max()) / 1024
        lines.append({"rule": rule, "of": of, "jobs": len(table), "minutes": table["s"].sum() / 60, "gib": peak})
    jobs = pd.DataFrame(lines, columns=["rule", "of", "jobs", "minutes", "gib"])
    return _add_up(jobs, ["rule", "of"])


def wall_times(results: Path) -> list[dict[str, Any]]:
    """Jobs, minutes and peak memory of each rule."""
    return _add_up(job_times(results), ["rule"]).to_dict("records")


def _add_up(jobs: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    return jobs.groupby(by, as_index=False).agg({"jobs": "sum", "minutes": "sum", "gib": "max"})
