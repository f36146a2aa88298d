"""The report of a preset's results: one HTML page, without other files.

`python -m equipose.pages.study_report --config …`

The page shows all finished results. It names the missing ones, with the command that makes them. Pictures, maps and the
viewer's code are embedded in the page (workflow/report/report.html.jinja), so it loads nothing from elsewhere.
"""

import dataclasses
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pandas as pd
import yaml
from PIL import Image

from equipose.config.settings import asked_runs, model_config, simulation_config
from equipose.core.surface import molecule_fraction
from equipose.figures import EVERY, caption
from equipose.io.files import write_text
from equipose.io.progress import run_main
from equipose.io.provenance import hardware, package_versions
from equipose.pages.page import data_uri, mesh, read_template
from equipose.study.command_line import preset_command_line
from equipose.study.job_times import wall_times
from equipose.study.runs import (
    OUTDATED,
    age_notes,
    final_mse,
    has_failed,
    load_settings,
    model_scores,
    read_runs,
    run_names,
    why_unfinished,
)
from equipose.study.tables import MODES, build_table, to_html
from equipose.workflow.freshness import made_by_other_code, run_folder

PIXELS_AN_INCH = 125
"""CSS pixels an inch of a figure: a figure as wide as a journal's page gets the width of this page's text, 900."""


def build(
    config: dict[str, Any],
    paper: dict[str, Any],
    experiments: list[str],
    results: Path,
    template: Path,
    command: str,
    paper_tables: Path,
    notes: dict[str, list[str]],
) -> str:
    """The page, from the preset's configuration and its results folder.

    `paper_tables` is the folder of the paper's own numbers; `notes` are further sentences for an experiment's captions.
    """
    runs = list(asked_runs(config, experiments))
    unfinished = {run: why for run in runs if (why := why_unfinished(config, results, run))}
    finished = [run for run in runs if run not in unfinished]
    outdated = [run for run, why in unfinished.items() if why == OUTDATED]
    return read_template(template).render(
        title=results.name,
        summary=summary(runs, unfinished, results),
        missing_count=sum(not has_failed(why) for why in unfinished.values()),
        missing=run_names([run for run, why in unfinished.items() if not has_failed(why)]),
        failed=[(run_names([run]), why) for run, why in unfinished.items() if has_failed(why)],
        command=command,
        converged_mse=config["evaluation"]["converged_mse"],
        claims=_read(results / "claims.csv"),
        tables=[(name, html_tables(config, name, results, paper_tables, notes.get(name, []))) for name in experiments],
        figures=[(name, figures_of(results, name), notes.get(name, [])) for name in experiments],
        outdated=run_names(outdated),
        maps=meshes(runs, unfinished, results),
        notes=age_notes(made_by_other_code(results, finished)),
        differences=differences(config, paper, runs),
        configuration=yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
        versions=package_versions(),
        hardware=hardware(),
        times=wall_times(results),
    )


def summary(
    runs: list[tuple[str, str, int]], unfinished: dict[tuple[str, str, int], str], results: Path
) -> list[dict[str, Any]]:
    """A line for each dataset and model: seeds asked for, finished, failed, converged, and the best held-out error.

    `unfinished` gives the reason for each of the `runs` without a result.
    """
    lines = []
    for dataset, model in dict.fromkeys((dataset, model) for dataset, model, _ in runs):
        chosen = [run for run in runs if run[:2] == (dataset, model)]
        found = [
            json.loads((run_folder(results, *run) / "metrics.json").read_text())
            for run in chosen
            if run not in unfinished
        ]
        scored = [model_scores(metrics["held_out"])["exact"] for metrics in found if metrics["held_out"]]
        best = min(scored, key=lambda scores: scores["mse"], default={"mse": None, "median_degrees": None})
        times = [metrics["convergence_seconds"] for metrics in found if metrics["converged"]]
        lines.append(
            {
                "dataset": dataset,
                "model": model,
                "seeds": len(chosen),
                "finished": len(found),
                "failed": sum(has_failed(unfinished.get(run, "")) for run in chosen),
                "converged": len(times),
                "seconds": float(np.median(times)) if times else None,
                "mse": best["mse"],
                "degrees": best["median_degrees"],
            }
        )
    return lines


def html_tables(
    config: dict[str, Any], experiment: str, results: Path, paper_tables: Path, notes: list[str]
) -> list[str]:
    """An experiment's tables, by the paper's definitions and under one alignment; none if no run is finished."""
    runs = read_runs(config, experiment, results)
    if all(run["unfinished"] for run in runs):
        return []
    titles = {"paper": "By the paper's definitions", "exact": "One alignment for all images"}
    tables = {mode: build_table(config, experiment, runs, mode, paper_tables, notes) for mode in MODES}
    return [to_html(*parts[:3], titles[mode], parts[3]) for mode, parts in tables.items()]


def figures_of(results: Path, experiment: str) -> list[dict[str, Any]]:
    """An experiment's figures, in the order of `figures.EVERY`: name, caption, width, picture as a data URI."""
    folder = results / "figures" / experiment
    return [
        {
            "name": path.stem.replace("_", " "),
            "caption": caption(figure),
            "picture": data_uri(path.read_bytes(), "image/png"),
            "width": width_on_page(path),
        }
        for figure in EVERY
        for path in sorted([*folder.glob(f"{figure}.png"), *folder.glob(f"{figure}_*.png")])
    ]


def width_on_page(picture: Path) -> int:
    """CSS pixels, from the figure's width in inches, so that the text of all figures has one size."""
    with Image.open(picture) as image:
        return round(PIXELS_AN_INCH * image.width / image.info["dpi"][0])


def meshes(
    runs: list[tuple[str, str, int]], unfinished: Collection[tuple[str, str, int]], results: Path
) -> list[dict[str, Any]]:
    """Surfaces of the truth and of each model's best map, dataset by dataset, enclosing the same volume.

    The `unfinished` runs give no map.
    """
    groups = []
    for dataset in dict.fromkeys(dataset for dataset, _, _ in runs):
        best: dict[str, tuple[float, Path]] = {}
        for run in runs:
            path = run_folder(results, *run) / "metrics.json"
            if run[0] == dataset and run not in unfinished:
                metrics = json.loads(path.read_text())
                mse = final_mse(metrics) if metrics["training"] else 0.0
                name = "volume_aligned.mrc" if metrics["training"] else "volume.mrc"
                best[run[1]] = min(best.get(run[1], (np.inf, path)), (mse, path.parent / name))
        named = {"truth": results / "datasets" / dataset / "volume.mrc"}
        named |= {model: path for model, (_, path) in best.items()}
        volumes = {label: _read_map(path) for label, path in named.items() if path.exists()}
        if volumes:
            fraction = molecule_fraction(next(iter(volumes.values())))
            maps = [{"label": label} | mesh(volume, fraction) for label, volume in volumes.items()]
            groups.append({"dataset": dataset, "maps": maps})
    return groups


def differences(
    config: dict[str, Any], paper: dict[str, Any], runs: list[tuple[str, str, int]]
) -> list[dict[str, str]]:
    """Settings of the runs' datasets and models that differ from the paper's settings under the same name."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for section, resolve in (("datasets", simulation_config), ("models", model_config)):
        names = dict.fromkeys(run[0] if section == "datasets" else run[1] for run in runs)
        for name in (name for name in names if name in paper[section]):
            ours, theirs = (_flat(dataclasses.asdict(resolve(source, name))) for source in (config, paper))
            for key in ours:
                if ours[key] != theirs[key]:
                    found.setdefault((key, str(ours[key]), str(theirs[key])), []).append(name)
    return [
        {"setting": key, "here": ours, "paper": theirs, "of": ", ".join(names)}
        for (key, ours, theirs), names in found.items()
    ]


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with dots in their names."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _read(path: Path) -> pd.DataFrame | None:
    return pd.read_csv(path) if path.exists() else None


def _read_map(path: Path) -> np.ndarray:
    with mrcfile.open(path) as file:
        return np.array(file.data, np.float32)


def main() -> None:
    parser = preset_command_line("equipose.pages.study_report", __doc__.splitlines()[0])
    parser.add_argument("--paper", type=Path, required=True, help="config.yaml, the paper's own")
    parser.add_argument("--template", type=Path, required=True, help="report.html.jinja")
    parser.add_argument("--command", required=True, help="the command that makes the missing results")
    parser.add_argument("--paper-tables", type=Path, required=True, help="folder of the paper's own tables")
    parser.add_argument(
        "--notes", default="{}", help="more sentences for the captions, JSON: a list for each experiment"
    )
    parser.add_argument("--output", type=Path, required=True, help="the page")
    arguments = parser.parse_args()
    page = build(
        load_settings(arguments.config, arguments.results, arguments.experiments),
        yaml.safe_load(arguments.paper.read_text()),
        arguments.experiments,
        arguments.results,
        arguments.template,
        arguments.command,
        arguments.paper_tables,
        json.loads(arguments.notes),
    )
    write_text(arguments.output, page)


if __name__ == "__main__":
    run_main(main)
