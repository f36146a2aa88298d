"""What Snakemake measured of the jobs whose results lie in a folder: time and memory of each rule."""

from pathlib import Path
from typing import Any

import pandas as pd


def wall_times(results: Path) -> list[dict[str, Any]]:
    """Jobs, minutes and peak memory of each rule, from Snakemake's benchmarks."""
    rules = []
    for folder in sorted((results / "benchmarks").glob("*")):
        tables = [pd.read_csv(path, sep="\t", na_values="-") for path in folder.rglob("*.tsv")]
        if tables:
            rows = pd.concat(tables)
            peak = float(rows["max_rss"].max()) / 1024
            rules.append({"rule": folder.name, "jobs": len(rows), "minutes": rows["s"].sum() / 60, "gib": peak})
    return rules
