"""Fourier shell correlation of the reconstructions with the truth (paper, Fig. 3).

`python -m equipose.figures.fsc_curves --runs DIR … --output PATH`

Strong lines are the best seed of each model by its final MSE, faint lines its other seeds. No mask is used. The
alignment of the poses with the true poses gives frame and hand of a map.
"""

from pathlib import Path

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes

from equipose.core.fsc import THRESHOLDS
from equipose.figures.command_line import command_line
from equipose.figures.style import COLUMN, GUIDE, PAGE, model_colours, paper_style, save
from equipose.io.progress import run_main
from equipose.study.runs import Run, best_runs, dataset_title, load_run


def draw_fsc(axes: Axes, runs: list[Run], colours: dict[str, str]) -> None:
    """The best run of each model as a line, its other seeds faint behind it; the x axis gives Å."""
    best = best_runs(runs)
    highest, lowest = 0.0, -0.1
    for run in [*(run for run in runs if run not in best), *best]:
        curve = run.fsc[run.fsc["shell"] > 0]
        strength = {"lw": 1.5, "label": run.label} if run in best else {"lw": 0.7, "alpha": 0.35}
        axes.plot(curve["frequency_per_angstrom"], curve["fsc"], color=colours[run.label], **strength)
        highest = max([highest, *curve["frequency_per_angstrom"]])
        lowest = min([lowest, *(curve["fsc"] - 0.03)])
    for threshold in THRESHOLDS:
        axes.axhline(threshold, ls="--", **GUIDE)
        axes.annotate(
            f"{threshold:g}",
            (0, threshold),
            xycoords=("axes fraction", "data"),
            xytext=(3, 1.5),
            textcoords="offset points",
            color="0.35",
            fontsize=7,
        )
    if highest:
        ticks = np.linspace(0, highest, 5)[1:]
        axes.set_xlim(0, highest)
        axes.set_xticks(ticks, [f"1/{1 / tick:.3g}" for tick in ticks])
    axes.set_ylim(max(lowest, -0.3), 1.03)
    axes.set_xlabel("Spatial frequency (1/Å)")
    axes.set_ylabel("FSC with the truth")


def plot_fsc(runs: list[Run], output: Path) -> None:
    """One panel for each dataset."""
    datasets = list(dict.fromkeys(run.dataset for run in runs))
    colours = model_colours([run.label for run in runs])
    columns = min(2, len(datasets))
    rows = -(-len(datasets) // columns)
    with paper_style():
        size = (COLUMN if columns == 1 else PAGE, 2.4 * rows)
        figure, grid = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
        for axes in grid.flat[len(datasets) :]:
            axes.set_axis_off()
        for axes, dataset in zip(grid.flat, datasets, strict=False):
            draw_fsc(axes, [run for run in runs if run.dataset == dataset], colours)
            axes.set_title(dataset_title(dataset), loc="left")
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=columns * 2)
        save(figure, output)


def main() -> None:
    arguments = command_line("fsc_curves", __doc__.splitlines()[0]).parse_args()
    plot_fsc([load_run(folder) for folder in arguments.runs], arguments.output)


if __name__ == "__main__":
    run_main(main)
