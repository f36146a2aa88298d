"""Pose errors over the viewing sphere, folded onto the projective plane.

`python -m equipose.figures.sphere --dataset DIR --runs DIR … --output PATH`

The points are the training images of each model's best seed at the last evaluation. The poses are aligned with the true
ones so that most of them fit. Equal areas of the disc are equal areas of the sphere.
"""

from pathlib import Path

import numpy as np
from matplotlib import colors, pyplot
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection, PathCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Wedge

from equipose.core.mirror_plane import alignment_of_most
from equipose.core.pose_metrics import squared_distances
from equipose.core.rotations import degrees_from_squared_frobenius, viewing_directions
from equipose.figures.command_line import dataset_command_line
from equipose.figures.style import COLUMN, PAGE, degrees_text, paper_style, save
from equipose.io.progress import run_main
from equipose.study.runs import Run, best_runs, dataset_title, load_runs

RANGE = (0.3, 180.0)
"""Degrees at the ends of the colour scale."""

PER_CELL, MOST_RINGS = 25, 9
"""A density's cell holds this many directions on average; a density has at most so many rings of cells."""


def equal_area(directions: np.ndarray) -> np.ndarray:
    """Points (n, 2) of the unit disc for directions (n, 3), opposite ones alike (Lambert's projection)."""
    upper = np.where(directions[:, 2:] < 0, -1, 1) * directions
    return upper[:, :2] / np.sqrt(1 + upper[:, 2:])


def draw_density(axes: Axes, directions: np.ndarray) -> PatchCollection:
    """The density of directions (n, 3), relative to an even spread, in cells of one area that fill the disc.

    Ring i has 3 (2i + 1) cells, so that all have the same area, and none is cut by the rim.
    """
    rings = int(np.clip(np.sqrt(len(directions) / PER_CELL / 3), 2, MOST_RINGS))
    x, y = equal_area(directions).T
    ring = np.minimum(rings * np.hypot(x, y), rings - 1).astype(int)
    sector = ((np.arctan2(y, x) / (2 * np.pi)) % 1 * 3 * (2 * ring + 1)).astype(int)
    counts = np.bincount(3 * ring**2 + sector, minlength=3 * rings**2)
    wedges = [
        Wedge((0, 0), (number + 1) / rings, start, start + 120 / (2 * number + 1), width=1 / rings)
        for number in range(rings)
        for start in np.arange(3 * (2 * number + 1)) * 120 / (2 * number + 1)
    ]
    drawn = PatchCollection(wedges, cmap="viridis", lw=0.2, edgecolor="face")
    drawn.set_array(counts / counts.mean())
    drawn.set_clim(0, max(2.0, float(np.quantile(counts / counts.mean(), 0.98))))
    axes.add_collection(drawn)
    axes.set_xlim(-1.02, 1.02)
    axes.set_ylim(-1.02, 1.02)
    axes.set_aspect("equal")
    axes.set_axis_off()
    return drawn


def plot_density(directions: np.ndarray) -> Figure:
    """The density of directions (n, 3), with its scale."""
    figure, axes = pyplot.subplots(figsize=(COLUMN, 2.6), layout="constrained")
    figure.colorbar(draw_density(axes, directions), label="Particles, relative to an even spread", shrink=0.8)
    return figure


def draw_sphere(axes: Axes, run: Run) -> PathCollection:
    """The errors in degrees of a run's images at their true viewing directions."""
    trace = np.load(run.folder / "trace.npz")
    predicted, true = trace["predicted"][-1], trace["true"]
    aligned = alignment_of_most(predicted, true, run.group).rotations(predicted)
    degrees = degrees_from_squared_frobenius(squared_distances(aligned, true, run.group))
    x, y = equal_area(viewing_directions(true)).T
    drawn = axes.scatter(x, y, c=degrees, s=7, lw=0, cmap="viridis", norm=colors.LogNorm(*RANGE))
    axes.add_patch(Circle((0, 0), 1, fill=False, color="0.6", lw=0.8))
    axes.set_title(f"{run.label}\nmedian {degrees_text(float(np.median(degrees)))}")
    axes.set_aspect("equal")
    axes.set_axis_off()
    return drawn


def plot_sphere(runs: list[Run], output: Path) -> None:
    """One disc for each model."""
    best = [run for run in best_runs(runs) if "mse" in run.history]
    columns = min(4, max(1, len(best)))
    rows = max(1, -(-len(best) // columns))
    with paper_style():
        figure, grid = pyplot.subplots(
            rows,
            columns,
            figsize=(columns * PAGE / 4 + 0.9, rows * PAGE / 4 + 0.5),
            squeeze=False,
            layout="constrained",
        )
        for axes in grid.flat[len(best) :]:
            axes.set_axis_off()
        for axes, run in zip(grid.flat, best, strict=False):
            drawn = draw_sphere(axes, run)
        if best:
            bar = figure.colorbar(drawn, ax=grid, shrink=0.7, pad=0.01, label="Pose error (degrees)")
            bar.set_ticks([1, 10, 100], labels=["1", "10", "100"])
            figure.suptitle(dataset_title(best[0].dataset), fontsize=8.5)
        save(figure, output)


def main() -> None:
    arguments = dataset_command_line("sphere", __doc__.splitlines()[0]).parse_args()
    plot_sphere(load_runs(arguments.runs, arguments.dataset), arguments.output)


if __name__ == "__main__":
    run_main(main)
