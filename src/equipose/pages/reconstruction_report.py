"""The page of a reconstruction of a user's particles, without a truth. The page needs no other file.

    python -m equipose.pages.reconstruction_report --folder DIR --results DIR --template FILE --title NAME --output FILE

`folder` holds the output of `equipose.reconstruction.join`, `results` the benchmarks of the workflow's rules.
"""

import argparse
import io
import json
from pathlib import Path

import matplotlib.pyplot as pyplot
from matplotlib.figure import Figure

from equipose.core.surface import molecule_fraction
from equipose.figures.reconstruction import directions_seen, draw_directional_fsc, draw_fsc
from equipose.figures.reconstruction_quality import (
    draw_agreement,
    draw_junk,
    draw_scores,
    plot_examples,
    plot_local_resolution,
    single,
)
from equipose.figures.sphere import plot_density
from equipose.figures.style import paper_style
from equipose.io.files import write_text
from equipose.io.maps import read_map
from equipose.io.progress import run_main
from equipose.io.provenance import hardware, package_versions
from equipose.pages.page import data_uri, mesh, read_template
from equipose.reconstruction.next_steps import steps
from equipose.reconstruction.verdict import verdict
from equipose.study.job_times import wall_times

DPI = 200

MAPS = {"volume": "all particles", "half1": "half 1", "half2": "half 2"}


def build(folder: Path, results: Path, template: Path, title: str, place: Path | None = None) -> str:
    """The page of the reconstruction in `folder`, whose command lines name files in `place`, where it will lie.

    By default that is the folder above `results`, which holds the benchmarks.
    """
    summary = json.loads((folder / "reconstruction.json").read_text())
    volumes = {label: read_map(folder / f"{name}.mrc")[0] for name, label in MAPS.items()}
    fraction = molecule_fraction(volumes["all particles"])
    return read_template(template).render(
        title=title,
        summary=summary,
        verdict=verdict(summary),
        maps=[{"label": label} | mesh(volume, fraction) for label, volume in volumes.items()],
        pictures=pictures(folder),
        steps=steps(folder, place or results.resolve().parent) if verdict(summary).state != "not converged" else [],
        versions=package_versions(),
        hardware=hardware(),
        times=wall_times(results),
    )


def pictures(folder: Path) -> dict[str, str]:
    """The page's pictures as data URIs."""
    summary = json.loads((folder / "reconstruction.json").read_text())
    with paper_style():
        figures = {
            "fsc": single(draw_fsc, folder),
            "directions": plot_density(directions_seen(folder)),
            "local_resolution": plot_local_resolution(folder),
            "agreement": single(draw_agreement, folder),
            "scores": single(draw_scores, folder),
            "examples": plot_examples(folder),
        }
        if "directional_fsc" in summary:  # folders of before lack it
            figures["directional_fsc"] = single(draw_directional_fsc, folder)
        if summary.get("junk"):
            figures["junk"] = single(draw_junk, folder)
        return {name: _picture(figure) for name, figure in figures.items()}


def _picture(figure: Figure) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI)
    pyplot.close(figure)
    return data_uri(file.getvalue(), "image/png")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m equipose.pages.reconstruction_report", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--folder", type=Path, required=True, help="output folder of equipose.reconstruction.join")
    parser.add_argument("--results", type=Path, required=True, help="folder with the benchmarks")
    parser.add_argument("--template", type=Path, required=True, help="reconstruction.html.jinja")
    parser.add_argument("--title", required=True, help="of the page")
    parser.add_argument("--output", type=Path, required=True, help="the page")
    arguments = parser.parse_args()
    page = build(arguments.folder, arguments.results, arguments.template, arguments.title)
    write_text(arguments.output, page)


if __name__ == "__main__":
    run_main(main)
