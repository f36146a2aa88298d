"""Sizes of the internally consistent subsets S_i over training time, a joy plot (paper, Fig. 7 and Eq. 32).

`python -m equipose.figures.subsets --dataset DIR --runs DIR … --within ε … --output PATH`

The figure shows the dataset's run whose hands were mixed most. S_i are the images that the relative rotation of image i
aligns to a squared Frobenius distance below ε, in the better hand. Panels differ in ε. The dotted line is half of the
images, where the S_i of two mixed hands lie.
"""

from pathlib import Path

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from scipy import ndimage

from equipose.core.pose_metrics import HANDS, subset_sizes
from equipose.core.rotations import degrees_from_squared_frobenius
from equipose.figures.command_line import dataset_command_line
from equipose.figures.style import GUIDE, PAGE, PALETTE, paper_style, save
from equipose.io.progress import number, run_main
from equipose.study.mixture import most_mixed
from equipose.study.runs import Run, dataset_title, load_runs

IMAGES = 300
"""The first so many, as in the paper."""

LINES = 24
"""At most this many evaluations are drawn."""


def draw_joy(axes: Axes, sizes: np.ndarray, minutes: np.ndarray) -> None:
    """A line for each evaluation, its `sizes` (m, n) as a smoothed histogram; time runs down."""
    count = sizes.shape[1]
    edges = np.linspace(0, count, 76)
    centres = (edges[1:] + edges[:-1]) / 2
    for line, row in enumerate(sizes):
        heights = ndimage.gaussian_filter1d(np.histogram(row, edges)[0].astype(float), 1.0, mode="nearest")
        ridge = -line + 1.7 * heights / heights.max()
        axes.fill_between(centres, -line, ridge, color=PALETTE[5], alpha=0.85, lw=0, zorder=line)
        axes.plot(centres, ridge, color=PALETTE[0], lw=0.7, zorder=line + 0.5)
    axes.axvline(count / 2, ls=":", **GUIDE)
    every = max(1, len(sizes) // 8)
    axes.set_yticks(-np.arange(len(sizes))[::every], [f"{value:.1f}" for value in minutes[::every]])
    axes.set_xlim(0, count)
    axes.set_xticks([0, count // 2, count])
    axes.set_xlabel(f"$|S_i|$, of {count} images")


def plot_subsets(runs: list[Run], within: list[float], output: Path) -> None:
    """One panel for each ε in `within`."""
    run, _ = most_mixed(runs)
    trace = np.load(run.folder / "trace.npz")
    true = trace["true"][:IMAGES]
    chosen = np.unique(np.linspace(0, len(trace["steps"]) - 1, LINES).round().astype(int))
    with paper_style():
        figure, row = pyplot.subplots(
            1, len(within), figsize=(PAGE, 3.4), sharey=True, squeeze=False, layout="constrained"
        )
        for axes, limit in zip(row[0], within, strict=True):
            sizes = [
                np.maximum(*(subset_sizes(predicted[:IMAGES], true, hand, limit, run.group) for hand in HANDS))
                for predicted in trace["predicted"][chosen]
            ]
            draw_joy(axes, np.stack(sizes), trace["seconds"][chosen] / 60)
            axes.set_title(f"$\\epsilon$ = {limit:g} ({degrees_from_squared_frobenius(limit):.0f}°)")
        row[0, 0].set_ylabel("Training time (min)")
        figure.suptitle(f"{dataset_title(run.dataset)}: {run.label}, seed {run.seed}", fontsize=8.5)
        save(figure, output)


def main() -> None:
    parser = dataset_command_line("subsets", __doc__.splitlines()[0])
    parser.add_argument(
        "--within",
        type=number(float, 0, above=True),
        nargs="+",
        required=True,
        help="squared distances ε, a panel each",
    )
    arguments = parser.parse_args()
    plot_subsets(load_runs(arguments.runs, arguments.dataset), arguments.within, arguments.output)


if __name__ == "__main__":
    run_main(main)
