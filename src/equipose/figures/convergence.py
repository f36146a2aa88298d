"""Pose errors over training time, a line for each seed, and the share of images in each hand (paper, Fig. 2).

`python -m equipose.figures.convergence --runs DIR … --output PATH`

MSE and MedSE are errors of the encoder's poses of training images. A diamond at the end marks refined poses. Right: the
share of images whose poses are right in each hand. The full line is the hand that a run ends in, the dotted line the
other hand. A few per cent are right in the other hand by chance.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes

from equipose.figures.command_line import command_line
from equipose.figures.style import GUIDE, PAGE, model_colours, paper_style, save
from equipose.io.progress import run_main
from equipose.study.runs import Run, dataset_title, load_run

PLATEAU = 8 / 3
"""MSE of half of the images in either hand: the plateau of spurious mirror symmetry."""

FLOOR = 1e-6
"""Smaller errors are drawn at this value: an error that rounds to 0 has no place on a logarithmic axis."""


def draw_errors(axes: Axes, runs: list[Run], metric: str, colours: dict[str, str]) -> None:
    """Lines of `metric`, "mse" or "medse", over minutes of training, with the levels that explain them.

    Where poses were refined, a diamond at the end of the line.
    """
    labelled: set[str] = set()
    lowest = [0.4 * runs[0].converged_mse]

    def draw(run: Run, label: str, minutes: Any, errors: Any, **style: Any) -> None:
        axes.plot(minutes, errors, color=colours[run.label], label=None if label in labelled else label, **style)
        labelled.add(label)
        lowest.append(0.7 * float(np.min(errors)))

    for run in runs:
        if metric not in run.history:
            continue
        minutes = run.history["seconds"] / 60
        draw(run, run.label, minutes, run.history[metric], lw=1.2)
        if refined := run.metrics["training"]["refined"]:
            error = [max(FLOOR, refined["paper"][metric])]
            draw(run, f"{run.label}, refined", minutes.iloc[-1:], error, marker="D", ms=3.5, ls="", clip_on=False)
    axes.set_yscale("log")
    axes.set_xlabel("Training time (min)")
    axes.set_xlim(left=0)
    axes.margins(x=0.01)
    if metric == "mse":
        axes.set_ylim(max(min(lowest), FLOOR), 14)
        guides = {PLATEAU: "8/3: hands mixed", runs[0].converged_mse: f"converged (< {runs[0].converged_mse:g})"}
        for level, text in guides.items():
            axes.axhline(level, ls=":" if level == PLATEAU else "--", **GUIDE)
            axes.annotate(
                text,
                (1, level),
                xycoords=("axes fraction", "data"),
                xytext=(-12, -1.5 if level == PLATEAU else 1.5),  # where curves rarely pass, beside the diamonds
                textcoords="offset points",
                ha="right",
                va="top" if level == PLATEAU else "bottom",
                color="0.35",
                fontsize=7,
                zorder=1,  # behind the curves: a curve may rest on this line
            )


def draw_hands(axes: Axes, runs: list[Run], colours: dict[str, str]) -> None:
    """Shares of the images that agree in a run's better hand (full line) and in the other hand (dotted)."""
    for run in runs:
        if "share_same" not in run.history:
            continue
        shares = run.history[["share_same", "share_mirror"]].to_numpy()
        better = int(shares[-1].argmax())
        for hand, style in ((better, "-"), (1 - better, ":")):
            axes.plot(run.history["seconds"] / 60, 100 * shares[:, hand], ls=style, color=colours[run.label], lw=1.0)
    axes.axhline(50, **GUIDE)
    axes.set_xlabel("Training time (min)")
    axes.set_ylabel("Images in each hand (%)")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 102)
    axes.margins(x=0.01)


def plot_convergence(runs: list[Run], output: Path) -> None:
    """A row of MSE, MedSE and shares of the hands for each dataset."""
    datasets = list(dict.fromkeys(run.dataset for run in runs))
    colours = model_colours([run.label for run in runs])
    with paper_style():
        figure, grid = pyplot.subplots(
            len(datasets), 3, figsize=(PAGE, 2.1 * len(datasets) + 0.2), squeeze=False, layout="constrained"
        )
        for row, dataset in zip(grid, datasets, strict=True):
            chosen = [run for run in runs if run.dataset == dataset]
            for axes, metric, name in zip(row[:2], ("mse", "medse"), ("MSE", "MedSE"), strict=True):
                draw_errors(axes, chosen, metric, colours)
                axes.set_ylabel(name)
            draw_hands(row[2], chosen, colours)
            row[0].set_title(dataset_title(dataset), loc="left")
        grid[0, 2].set_title("full: the better hand, dotted: the other", fontsize=7)
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        save(figure, output)


def main() -> None:
    arguments = command_line("convergence", __doc__.splitlines()[0]).parse_args()
    plot_convergence([load_run(folder) for folder in arguments.runs], arguments.output)


if __name__ == "__main__":
    run_main(main)
