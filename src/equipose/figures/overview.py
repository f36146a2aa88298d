"""One picture of an experiment: particles in, poses found, maps out.

`python -m equipose.figures.overview --dataset DIR --runs DIR … --output PATH`

The maps are those of each model's best seed, in the truth's frame and hand, from one direction and at levels of equal
enclosed volume. Median errors are of training images: of the encoder's poses and, if there are any, of refined poses.
"""

from pathlib import Path

import numpy as np
from matplotlib import pyplot
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from equipose.figures.command_line import dataset_command_line
from equipose.figures.convergence import draw_errors
from equipose.figures.fsc_curves import draw_fsc
from equipose.figures.maps import draw_maps
from equipose.figures.style import PAGE, TRUTH, degrees_text, model_colours, paper_style, save
from equipose.io.maps import read_map
from equipose.io.particles import read_particles
from equipose.io.progress import run_main
from equipose.study.runs import Run, best_runs, dataset_title, load_runs, model_scores

EXAMPLES = (3, 3)
"""Rows and columns of example particles."""


def draw_particles(axes: Axes, images: np.ndarray) -> None:
    """Particles (rows · columns, L, L) as one sheet, all on one grey scale, a white line between them."""
    rows, columns = EXAMPLES
    gap = max(1, images.shape[-1] // 24)
    low, high = np.quantile(images, [0.002, 0.998])
    grey = np.clip((images - low) / (high - low), 0, 1)
    framed = np.pad(grey, [(0, 0), (0, gap), (0, gap)], constant_values=1)
    sheet = framed.reshape(rows, columns, *framed.shape[1:]).swapaxes(1, 2).reshape(rows * framed.shape[1], -1)
    axes.imshow(sheet[:-gap, :-gap], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_axis_off()


def map_label(run: Run) -> str:
    """A map's name and quality in short lines: with five models a map is 3 cm wide."""
    training, resolution = run.metrics["training"], run.metrics["resolution"]
    if training is None:
        return run.label
    lines = [run.label, f"median error {degrees_text(model_scores(training)['exact']['median_degrees'])}"]
    if training["refined"]:
        lines.append(f"refined {degrees_text(training['refined']['exact']['median_degrees'])}")
    first = resolution["exact"]["0.5"]["first"]
    if resolution["nyquist_reached"]:
        return "\n".join([*lines, f"FSC ≥ 0.5 to {first:.3g} Å"])
    return "\n".join([*lines, f"FSC 0.5 at {first:.3g} Å" if first else "FSC below 0.5"])


def plot_overview(dataset: Path, runs: list[Run], output: Path) -> None:
    """Particles, MSE over time, FSC, and the truth beside each model's best map."""
    best, colours = best_runs(runs), model_colours([run.label for run in runs])
    heights = [2.3, 0.8 + PAGE / (1 + len(best))]  # maps are square; above them are at most four lines
    with paper_style():
        figure = pyplot.figure(figsize=(PAGE, sum(heights)), layout="constrained")
        top, bottom = figure.subfigures(2, 1, height_ratios=heights, squeeze=False)[:, 0]
        particles, errors, correlation = top.subplots(1, 3, width_ratios=[1, 1.3, 1.3])
        images = read_particles(dataset / "particles.star").images
        draw_particles(particles, np.array(images[: EXAMPLES[0] * EXAMPLES[1]]))
        particles.set_title(dataset_title(dataset.name))
        draw_errors(errors, runs, "mse", colours)
        errors.set_ylabel("MSE of poses")
        errors.set_title("Poses")
        draw_fsc(correlation, runs, colours)
        correlation.set_title("Maps against the truth")
        lines: dict[str, Artist] = {}
        for axes in (correlation, errors):  # both may show the same models, but only the second shows refined poses
            lines |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        columns = min(5, len(lines))
        top.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=columns, columnspacing=1.2)

        truth, voxel_size = read_map(dataset / "volume.mrc")
        volumes = [truth]
        volumes += [read_map(run.folder / "volume_aligned.mrc")[0] for run in best]
        row = bottom.subplots(1, len(volumes), squeeze=False)[0]
        labels = [f"Truth\nvoxels of {voxel_size:.3g} Å", *(map_label(run) for run in best)]
        most = max(label.count("\n") for label in labels)
        labels = [label + "\n" * (most - label.count("\n")) for label in labels]  # first lines side by side
        draw_maps(list(row), volumes, labels, [TRUTH, *(colours[run.label] for run in best)])
        for axes in row:
            axes.title.set_fontsize(min(8.5, 40 / len(row)))
        save(figure, output)


def main() -> None:
    arguments = dataset_command_line("overview", __doc__.splitlines()[0]).parse_args()
    plot_overview(arguments.dataset, load_runs(arguments.runs, arguments.dataset), arguments.output)


if __name__ == "__main__":
    run_main(main)
