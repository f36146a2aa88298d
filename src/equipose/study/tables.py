"""An experiment's table: `python -m equipose.study.tables --config … --experiment … --results … --output-dir …`.

Tables are made from the runs' metrics.json alone, as CSV (numbers), LaTeX and Markdown. NAME.* has the paper's
definitions (`paper` mode, on training images), NAME_exact.* has one alignment for all images (on held-out images). Both
score the poses of the same models (`model_scores`). `--summary` prints NAME to the terminal instead.

`table: best_three` gives mean ± population standard deviation of the three seeds with the lowest `final_mse` and the
percentage of seeds that converged (Table 1); `table: best` gives the best seed (Table 2). A failed run counts as not
converged. A run that has not started or ended is named, and does not count in the percentage.
"""

import argparse
import html
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table as TerminalTable
from rich.text import Text

from equipose.config.settings import is_simulated, model_config, model_label, simulation_config
from equipose.errors import ConfigError
from equipose.io.files import write_text
from equipose.io.progress import run_main
from equipose.study.labels import latex, markdown, plain_label
from equipose.study.runs import (
    MODEL,
    NOT_RUN,
    OUTDATED,
    age_notes,
    dataset_title,
    final_mse,
    has_failed,
    is_missing,
    load_settings,
    number_at,
    read_runs,
)

PAPER_PX = 128
"""Side of the paper's images, which its SNRs are of."""


@dataclass(frozen=True)
class Column:
    """One number of the table: its place in metrics.json and its format."""

    title: str  # LaTeX, which Markdown shows too
    path: tuple[str, ...]
    decimals: int
    at_least: str = ""  # of a run without this number: what stands in metrics.json under this key is a lower bound


PAPER_COLUMNS = {
    "mse": Column("MSE", ("training", MODEL, "paper", "mse"), 4),
    "medse": Column("MedSE", ("training", MODEL, "paper", "medse"), 4),
    "conv_time_s": Column("Conv. time (s)", ("convergence_seconds",), 0, "seconds"),
    "conv_steps": Column("Steps until conv.", ("convergence_steps",), 0, "steps"),
    "refined_mse": Column("MSE, refined", ("training", "refined", "paper", "mse"), 5),
    "resolution_A": Column("Resolution (Å)", ("resolution", "paper", "0.5"), 2),
}
EXACT_COLUMNS = {
    "mse": Column("MSE", ("held_out", MODEL, "exact", "mse"), 4),
    "medse": Column("MedSE", ("held_out", MODEL, "exact", "medse"), 4),
    "median_degrees": Column("Median error (°)", ("held_out", MODEL, "exact", "median_degrees"), 2),
    "refined_mse": Column("MSE, refined", ("held_out", "refined", "exact", "mse"), 5),
    "refined_degrees": Column("Median error, refined (°)", ("held_out", "refined", "exact", "median_degrees"), 2),
    "confirmed_share": Column("Confirmed without the truth", ("confirmed_share",), 3),
    "shift_rmse_A": Column("Shift RMSE (Å)", ("held_out", MODEL, "exact", "shift_rmse_angstrom"), 2),
    "resolution_A": Column("Resolution, FSC 0.5 (Å)", ("resolution", "exact", "0.5", "first"), 2),
    "resolution_0143_A": Column("FSC 0.143 (Å)", ("resolution", "exact", "0.143", "first"), 2),
}
MODES = {"paper": PAPER_COLUMNS, "exact": EXACT_COLUMNS}
SUFFIXES = {"paper": "", "exact": "_exact"}  # of the files' names
NOT_SHOWN = {"best_three": (), "best": ("conv_steps",)}  # Table 2 has no steps; the CSV has all
MODE_NOTES = {
    "paper": "The poses are the encoder's, of training images. A loss with two paths trains the better reconstructed of"
    " an image and its moved copy, and the pose is that one's, as in cryoAI; metrics.json also has the image's own pose"
    " (`direct`). With `turns`, the encoder gives a pose at"
    " each turn, and the one nearest to the best refined pose counts. MSE and MedSE are as the paper defines them: each"
    " has the best of its own alignments, in both hands. The resolution is that of the last whole shell before"
    " FSC = 0.5.",
    "exact": "The runs are those of the table with the paper's definitions. The poses are the same model's,"
    " of held-out images, under the one alignment that fits all of them best. Resolutions are at the first crossings of"
    " the FSC, interpolated.",
}

SEEDS_COUNTED = {"best_three": 3, "best": 1}
"""How many of the best seeds a kind of table sums up."""

CONVERGED_PERCENT = Column("Conv. runs %", (), 1)
MORE_IS_BETTER = (CONVERGED_PERCENT, EXACT_COLUMNS["confirmed_share"])


def summarise(config: dict[str, Any], experiment: str, runs: list[dict[str, Any]], mode: str) -> pd.DataFrame:
    """One row of numbers for each dataset and model of `experiment`.

    Columns are those of `MODES[mode]`, each with its population standard deviation `…_std`, beside `source` ("here"),
    `seeds` (asked for), `finished`, `counted`, `failed`, the `missing` seeds, those of them that are `outdated`, the
    seeds that `other_code` made, and `converged_percent` of those that finished or failed. A number that does not
    exist is NaN.
    Where a run that counts did not converge, `…_at_least` bounds the mean from below: it counts with all its training.
    """
    spec = config["experiments"][experiment]
    rows = []
    for dataset in spec["datasets"]:
        for name in spec["models"]:
            model = model_config(config, name)
            asked = [run for run in runs if run["dataset"] == dataset and run["model"] == name]
            finished = [run for run in asked if not run["unfinished"]]
            failed = [run for run in asked if has_failed(run["unfinished"])]
            ranks = np.argsort([final_mse(run) for run in finished], kind="stable")  # NaN comes last
            best = [finished[rank] for rank in ranks[: SEEDS_COUNTED[spec["table"]]]]
            row = {
                "dataset": dataset,
                "model": name,
                "encoder": model.encoder,
                "loss": model.loss,
                "source": "here",
                "seeds": len(asked),
                "finished": len(finished),
                "counted": ",".join(str(run["seed"]) for run in best),
                "failed": len(failed),
                "missing": ",".join(str(run["seed"]) for run in asked if is_missing(run)),
                "outdated": ",".join(str(run["seed"]) for run in asked if run["unfinished"] == OUTDATED),
                "other_code": ",".join(str(run["seed"]) for run in finished if run["made_by"]),
            }
            for key, column in MODES[mode].items():
                values = np.array([number_at(run, column.path) for run in best])
                row[key], row[f"{key}_std"] = _mean_and_spread(values)
                if column.at_least:
                    row[f"{key}_at_least"] = _lower_bound(best, values, column)
            judged = [*(run["converged"] for run in finished if run["training"]), *(False for _ in failed)]
            row["converged_percent"] = 100 * float(np.mean(judged)) if judged else np.nan
            rows.append(row)
    return pd.DataFrame(rows)


def with_paper(config: dict[str, Any], table: pd.DataFrame, paper: pd.DataFrame) -> pd.DataFrame:
    """`table` with the paper's own row, if it has one, below each of ours.

    Rows of `paper` are found by dataset, encoder and loss. A model that starts from a search is not the paper's,
    whatever its encoder and loss.
    """
    rows, of = [], ("dataset", "encoder", "loss")
    for row in table.to_dict("records"):
        rows.append(row)
        match = paper[(paper[[*of]] == [row[key] for key in of]).all(axis=1)]
        if len(match) and model_config(config, row["model"]).init == "none":
            rows.append(match.iloc[0].to_dict() | {"model": row["model"], "source": "paper"})
    return pd.DataFrame(rows)[list(table.columns)].astype(dict.fromkeys(("seeds", "finished", "failed"), "Int64"))


def format_cells(table: pd.DataFrame, columns: dict[str, Column], kind: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table's numbers as text, and which of them are bold: the best of their dataset and source."""
    shown = {key: column for key, column in columns.items() if key not in NOT_SHOWN[kind]}
    shown = {key: column for key, column in shown.items() if "refined" not in column.path or table[key].notna().any()}
    if kind == "best_three":
        shown["converged_percent"] = CONVERGED_PERCENT
    text, bold = pd.DataFrame(index=table.index), pd.DataFrame(index=table.index)
    empty = (table["source"] == "here") & (table["finished"] == 0)
    instead = np.where(table["failed"].fillna(0) > 0, "failed", np.where(_outdated(table), OUTDATED, NOT_RUN))
    for key, column in shown.items():
        spread = table.get(f"{key}_std") if kind == "best_three" else None
        cells = [_cell(value, None if spread is None else spread[index], column) for index, value in table[key].items()]
        if column.at_least:
            bounds = table[f"{key}_at_least"]
            cells = [cell if np.isnan(bound) else f"> {bound:.0f}" for cell, bound in zip(cells, bounds, strict=True)]
        if column is CONVERGED_PERCENT:
            cells = [cell + part for cell, part in zip(cells, _seeds_run(table), strict=True)]
        text[column.title] = np.where(empty, instead, cells)
        sign = -1 if column in MORE_IS_BETTER else 1
        best = (sign * table[key].mask(empty)).groupby([table["dataset"], table["source"]]).transform("min")
        bold[column.title] = (sign * table[key] == best) & ~empty
    return text, bold


def notes(config: dict[str, Any], experiment: str, runs: list[dict[str, Any]], mode: str, more: list[str]) -> list[str]:
    """The table's notes: which runs count, how, and which are missing."""
    spec = config["experiments"][experiment]
    seeds = len(spec["seeds"])
    counted = min(SEEDS_COUNTED[spec["table"]], seeds)
    budget = " ".join(f"{value:g} {unit}" for unit, value in spec["budget"].items() if value is not None)
    finished = [run for run in runs if not run["unfinished"]]
    refined = any(run["training"] and run["training"]["refined"] for run in finished)
    ranked_by = "final MSE (of refined poses, if there are any)" if refined else "final MSE"
    if spec["table"] == "best_three" and counted > 1:
        what = f"Mean ± population standard deviation of the {counted} best of {seeds} seeds by {ranked_by}"
    else:
        what = f"The best of {seeds} seeds by {ranked_by}" if seeds > 1 else "One seed"
    if enough := config["evaluation"].get("stop_after"):
        budget += f" (less if {enough} evaluations in a row were converged)"
    found = [f"{what}; {budget} of training each.", MODE_NOTES[mode]]
    if mode == "paper":
        threshold = config["evaluation"]["converged_mse"]
        found.append(
            f"Converged: MSE < {threshold:g}. A time after a > is a lower bound: some of the counted runs did not"
            " converge, and enter the mean with their whole training."
        )
    for dataset, model in dict.fromkeys((run["dataset"], run["model"]) for run in runs if run["unfinished"]):
        each = [run for run in runs if run["unfinished"] and (run["dataset"], run["model"]) == (dataset, model)]
        for failed, verdict in (
            (True, "without a result, counted as not converged"),
            (False, "not there, and left out"),
        ):
            chosen = [run for run in each if has_failed(run["unfinished"]) == failed]
            listed = [f"seed {run['seed']} {run['unfinished']}" for run in chosen]
            if listed:
                name = f"{dataset_title(dataset)}, {model_label(config, model)}"
                found.append(f"{name}: {len(listed)} of {seeds} runs {verdict}: {', '.join(listed)}.")
    for pixels, titles in _smaller_snr_boxes(config, spec["datasets"] if spec.get("compare") else []).items():
        found.append(
            f"The SNR of {', '.join(titles)} is that of images of {pixels} pixels. The paper's is that of {PAPER_PX},"
            f" with less noise after a crop; `snr_box: {PAPER_PX}` gives it."
        )
    found += age_notes({(run["dataset"], run["model"], run["seed"]): run["made_by"] for run in finished})
    if any(run["resolution"] and run["resolution"]["nyquist_reached"] for run in finished):
        found.append("Some maps have FSC ≥ 0.5 at every shell: their resolution is limited by the voxel size.")
    if refined:
        found.append("Refined: after training, each pose was refined. Resolutions are of the map from these poses.")
    return found + more


def _smaller_snr_boxes(config: dict[str, Any], datasets: list[str]) -> dict[int, list[str]]:
    """The datasets whose SNR is that of smaller images than the paper's, by the pixels of these images."""
    found: dict[int, list[str]] = {}
    for dataset in datasets:
        if is_simulated(config, dataset):
            images = simulation_config(config, dataset)
            if images.snr != "noiseless" and images.snr_px < PAPER_PX:
                found.setdefault(images.snr_px, []).append(dataset_title(dataset))
    return found


def to_latex(table: pd.DataFrame, text: pd.DataFrame, bold: pd.DataFrame, caption: str, label: str) -> str:
    """A LaTeX table (booktabs, multirow), rows grouped by dataset."""
    cells = text.map(latex)
    cells.columns = [latex(title) for title in cells.columns]
    marks = bold.set_axis(cells.columns, axis=1)
    cells.index = marks.index = pd.MultiIndex.from_frame(_row_titles(table).map(latex))
    style = cells.style.apply(lambda _: marks.map(lambda best: "textbf:--rwrap;" if best else ""), axis=None)
    written = style.to_latex(
        hrules=True,
        caption=latex(caption),
        label=f"tab:{label}",
        position="tbp",
        position_float="centering",
        column_format="l" * cells.index.nlevels + "r" * len(cells.columns),
        multirow_align="t",
    )
    head, body = written.split("\\midrule\n")
    body = re.sub(r"\n(?=\\multirow|[^&\\]*[^ &\\][^&\\]*&)", r"\n\\midrule\n", body)  # a rule above each dataset
    return "% needs \\usepackage{booktabs, multirow}\n" + head + "\\midrule\n" + body


def to_markdown(table: pd.DataFrame, text: pd.DataFrame, bold: pd.DataFrame, title: str, notes: list[str]) -> str:
    """A Markdown table with its notes below."""
    titles = _row_titles(table).map(markdown)
    titles.iloc[:, 0] = titles.iloc[:, 0].mask(titles.iloc[:, 0].duplicated(), "")
    marked = text.where(~bold, "**" + text + "**")
    rows = pd.concat([titles, marked], axis=1)
    header = list(rows.columns)
    align = [":--"] * titles.shape[1] + ["--:"] * text.shape[1]
    lines = ["| " + " | ".join(row) + " |" for row in [header, align, *rows.to_numpy().tolist()]]
    return "\n".join([f"# {title}", "", *lines, "", *(f"- {markdown(note, code=True)}" for note in notes)]) + "\n"


def to_html(table: pd.DataFrame, text: pd.DataFrame, bold: pd.DataFrame, title: str, notes: list[str]) -> str:
    """An HTML table with its notes below, a fragment to be put into a page."""
    titles = _row_titles(table).map(plain_label)
    cells = text.map(html.escape)
    marked = cells.where(~bold, "<b>" + cells + "</b>")
    rows = pd.concat([titles.map(html.escape), marked], axis=1)

    def line(kind: str, values: list[str]) -> str:
        return "<tr>" + "".join(f"<{kind}>{value}</{kind}>" for value in values) + "</tr>"

    lines = [f"<caption>{html.escape(title)}</caption>", line("th", [html.escape(name) for name in rows.columns])]
    lines += [line("td", values) for values in rows.to_numpy().tolist()]
    remarks = [f"<li>{_as_code(html.escape(plain_label(note)))}</li>" for note in notes]
    return "\n".join(["<table>", *lines, "</table>", "<ul>", *remarks, "</ul>"]) + "\n"


def _as_code(text: str) -> str:
    """What stands between backticks as HTML code."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", text)


def to_terminal(table: pd.DataFrame, text: pd.DataFrame, bold: pd.DataFrame, title: str) -> TerminalTable:
    """The table for a terminal."""
    titles = _row_titles(table)
    shown = TerminalTable(title=title, title_justify="left")
    for name in titles.columns:
        shown.add_column(name)
    for name in text.columns:
        shown.add_column(name, justify="right")
    last = None
    for index in table.index:
        if table.loc[index, "dataset"] != last and last is not None:
            shown.add_section()
        last = table.loc[index, "dataset"]
        cells = [Text(cell, "bold" if bold.loc[index, name] else "") for name, cell in text.loc[index].items()]
        shown.add_row(*(Text(plain_label(part)) for part in titles.loc[index]), *cells)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m equipose.study.tables", description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True, help="the workflow's whole configuration, JSON")
    parser.add_argument("--experiment", required=True, help="its name in the configuration")
    parser.add_argument("--results", type=Path, required=True, help="folder that holds runs/")
    parser.add_argument("--paper", type=Path, required=True, help="folder of the paper's own tables, for `compare`")
    parser.add_argument("--notes", nargs="*", default=[], metavar="TEXT", help="more notes for the captions")
    output = parser.add_mutually_exclusive_group(required=True)
    output.add_argument("--output-dir", type=Path, help="folder for the tables")
    output.add_argument("--summary", action="store_true", help="print the table instead")
    arguments = parser.parse_args()
    name = arguments.experiment
    config = load_settings(arguments.config, arguments.results, [name])
    if name not in config["experiments"]:
        raise ConfigError(f"experiments has no {name!r}; known: {', '.join(config['experiments'])}")
    runs = read_runs(config, name, arguments.results)
    if arguments.summary:
        table, text, bold, remarks = build_table(config, name, runs, "paper", arguments.paper, arguments.notes)
        console = Console()
        console.print(to_terminal(table, text, bold, name))
        for remark in remarks:
            console.print(f"· {plain_label(remark)}", markup=False, highlight=False)
        return
    for mode, suffix in SUFFIXES.items():
        stem = f"{name}{suffix}"
        table, text, bold, remarks = build_table(config, name, runs, mode, arguments.paper, arguments.notes)
        path = arguments.output_dir / stem
        write_text(path.with_suffix(".csv"), table.to_csv(index=False))
        write_text(path.with_suffix(".tex"), to_latex(table, text, bold, " ".join(remarks), stem))
        write_text(path.with_suffix(".md"), to_markdown(table, text, bold, stem, remarks))
        write_text(path.with_suffix(".html"), to_html(table, text, bold, stem, remarks))


def build_table(
    config: dict[str, Any], experiment: str, runs: list[dict[str, Any]], mode: str, paper: Path, more: list[str]
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, list[str]]:
    """Numbers, their text, what is bold, and the notes of one table; `paper` is the folder of the paper's own."""
    spec = config["experiments"][experiment]
    table = summarise(config, experiment, runs, mode)
    remarks = notes(config, experiment, runs, mode, more)
    if mode == "paper" and spec.get("compare"):
        path = paper / f"{spec['compare']}.csv"
        if not path.exists():
            raise ConfigError(f"experiments.{experiment}.compare is {spec['compare']!r}, but there is no {path}.")
        table = with_paper(config, table, pd.read_csv(path))
        if (table["source"] == "paper").any():
            remarks.append("Rows `paper`: the numbers that de Ruijter and Cesa print, of 128 px images on a GPU.")
    text, bold = format_cells(table, MODES[mode], spec["table"])
    table = table.assign(label=[model_label(config, model) for model in table["model"]])
    return table, text, bold, remarks


def _row_titles(table: pd.DataFrame) -> pd.DataFrame:
    """Dataset, model and, where the paper's rows are among them, source."""
    titles = pd.DataFrame({"Dataset": table["dataset"].map(dataset_title), "Model": table["label"]})
    return titles.assign(Source=table["source"]) if (table["source"] == "paper").any() else titles


def _seeds_run(table: pd.DataFrame) -> list[str]:
    """For each row that lacks seeds, how many of them there are."""
    parts = []
    for row in table.itertuples():
        lacks = len(str(row.missing).split(",")) if row.source == "here" and row.missing else 0
        parts.append(f" ({row.seeds - lacks} of {row.seeds} run)" if 0 < lacks < row.seeds else "")
    return parts


def _outdated(table: pd.DataFrame) -> np.ndarray:
    """Rows some of whose runs are of other settings (joined tables may be of a version that did not say)."""
    return table["outdated"].fillna("").astype(str) != "" if "outdated" in table else np.zeros(len(table), bool)


def _mean_and_spread(values: np.ndarray) -> tuple[float, float]:
    """Mean and population standard deviation; one run has no spread, none has neither."""
    return (values.mean() if len(values) else np.nan), (values.std() if len(values) > 1 else np.nan)


def _lower_bound(runs: list[dict[str, Any]], values: np.ndarray, column: Column) -> float:
    """Mean of `values` with a run's whole training for each that is missing; NaN where none is, or truth is unknown."""
    if not np.isnan(values).any() or not all(run["training"] for run in runs):
        return np.nan
    whole = np.array([number_at(run, (column.at_least,)) for run in runs])
    return float(np.where(np.isnan(values), whole, values).mean())


def _cell(value: float, spread: float | None, column: Column) -> str:
    if np.isnan(value):
        return "-"
    if column is CONVERGED_PERCENT:
        return f"{value:.1f}".removesuffix(".0")
    number = f"{value:.{column.decimals}f}"
    return number if spread is None or np.isnan(spread) else f"{number} ± {spread:.{column.decimals}f}"


if __name__ == "__main__":
    run_main(main)
