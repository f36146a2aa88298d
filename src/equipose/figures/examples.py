"""The structures as maps, and some of their particles at each noise level (paper, Figs. 4 and 5).

`python -m equipose.figures.examples --datasets DIR … --output PATH`
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib import pyplot

from equipose.figures.maps import draw_maps
from equipose.figures.style import PAGE, TRUTH, paper_style, save
from equipose.io.maps import read_map
from equipose.io.particles import read_particles
from equipose.io.progress import run_main
from equipose.study.runs import dataset_title

PARTICLES = 6
"""The first so many of each dataset."""


def plot_examples(datasets: list[Path], output: Path) -> None:
    """A row for each dataset: its map, with the voxel size, and particles on a grey scale of their own."""
    with paper_style():
        figure, grid = pyplot.subplots(
            len(datasets), 1 + PARTICLES, figsize=(PAGE, 1.15 * len(datasets)), squeeze=False, layout="constrained"
        )
        for row, dataset in zip(grid, datasets, strict=True):
            volume, voxel_size = read_map(dataset / "volume.mrc")
            draw_maps([row[0]], [volume], [""], [TRUTH])
            particles = read_particles(dataset / "particles.star")
            shown = np.array(particles.images[:PARTICLES], np.float32)
            low, high = np.quantile(shown, [0.002, 0.998])
            for axes, image in zip(row[1:], shown, strict=False):
                axes.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
            for axes in row[1:]:
                axes.set_axis_off()
            title = f"{dataset_title(dataset.name)}: {len(volume)} px of {voxel_size:.4g} Å"
            row[1 + PARTICLES // 2].set_title(title, fontsize=8)  # wider than a picture: in the middle, it moves none
        save(figure, output)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m equipose.figures.examples", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--datasets", type=Path, nargs="+", required=True, help="folders with particles.star, volume.mrc"
    )
    parser.add_argument("--output", type=Path, required=True, help="picture; written as .pdf and .png")
    arguments = parser.parse_args()
    plot_examples(arguments.datasets, arguments.output)


if __name__ == "__main__":
    run_main(main)
