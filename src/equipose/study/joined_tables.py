"""An experiment's table, joined from the tables of its parts: say, Table 1 from four datasets that were run one by one.

A dataset and model have the same rows in the part and in the whole, so parts may have been run on different machines.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from equipose.io.files import write_text
from equipose.study.labels import from_markdown
from equipose.study.tables import MODES, SUFFIXES, format_cells, to_markdown

ALIKE = ("seeds", "budget", "table", "compare")
"""Settings that an experiment and its parts have in common."""


def join_tables(config: dict[str, Any], experiment: str, folder: Path) -> bool:
    """Write an experiment's tables (.csv, .md) to `folder`, from the tables of its parts there.

    A part has some of the datasets, and the same models, seeds, budget and kind of table. Returns whether all parts are
    there; otherwise nothing is written.
    """
    spec = config["experiments"][experiment]
    parts = [find_part(config, experiment, dataset, folder) for dataset in spec["datasets"]]
    if None in parts:
        return False
    for mode, suffix in SUFFIXES.items():
        paths = [folder / f"{part}{suffix}.csv" for part in dict.fromkeys(parts)]
        table, remarks = join(paths, spec)
        text, bold = format_cells(table, MODES[mode], spec["table"])
        stem = f"{experiment}{suffix}"
        write_text(folder / f"{stem}.csv", table.to_csv(index=False))
        write_text(folder / f"{stem}.md", to_markdown(table, text, bold, stem, remarks))
    return True


def find_part(config: dict[str, Any], experiment: str, dataset: str, folder: Path) -> str | None:
    """An experiment whose table in `folder` has the rows of a dataset that `experiment` needs, if there is one."""
    whole = config["experiments"][experiment]
    for name, part in config["experiments"].items():
        alike = all(part.get(key) == whole.get(key) for key in ALIKE) and {*whole["models"]} <= {*part["models"]}
        within = dataset in part["datasets"] and {*part["datasets"]} < {*whole["datasets"]}
        if alike and within and (folder / f"{name}.csv").exists():
            return name
    return None


def join(paths: list[Path], spec: dict[str, Any]) -> tuple[pd.DataFrame, list[str]]:
    """The rows of the parts' tables that an experiment needs, and all notes of the parts."""
    tables = [read_table(path) for path in paths]
    table = pd.concat(tables, ignore_index=True)
    table = table[table["dataset"].isin(spec["datasets"]) & table["model"].isin(spec["models"])]
    notes = [line for path in paths for line in path.with_suffix(".md").read_text().splitlines() if line[:2] == "- "]
    return table.reset_index(drop=True), [from_markdown(note.removeprefix("- ")) for note in dict.fromkeys(notes)]


def read_table(path: Path) -> pd.DataFrame:
    """Read a table that `tables.build_table` made, from its .csv."""
    table = pd.read_csv(
        path, dtype={"dataset": str, "model": str, "counted": str, "missing": str}, float_precision="round_trip"
    )
    table = table.astype(dict.fromkeys(("seeds", "finished", "failed"), "Int64"))
    return table.assign(missing=table["missing"].fillna("").where(table["source"] == "here"))
