"""One particle in all eight positions of D4, with the pose that each model reads from it (paper, Fig. 1).

`python -m equipose.figures.orbit --dataset DIR --runs DIR … --output PATH`

Arrows are the volume's x, y and z axes as the image shows them, from the particle's predicted centre. Thin arrows point
away from the viewer. The number below is the angle between a pose and the first pose moved with the image: zero for an
equivariant encoder.
"""

from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from torch import Tensor

from equipose.core.groups import motions, move_images
from equipose.core.pose_metrics import squared_distances
from equipose.core.rotations import degrees_from_squared_frobenius
from equipose.figures.command_line import dataset_command_line
from equipose.figures.style import PAGE, PALETTE, degrees_text, paper_style, save
from equipose.io.particles import read_particles
from equipose.io.progress import run_main
from equipose.model.autoencoder import load_model
from equipose.model.rotation_tensors import pose_action
from equipose.study.runs import Run, best_runs, dataset_title, load_runs

AXES = (PALETTE[1], PALETTE[2], PALETTE[5])
"""Colours of x, y and z."""


def orbit(image: np.ndarray) -> tuple[Tensor, Tensor]:
    """D4's motions (8, 2, 2), and an image (L, L) moved by each, (8, L, L)."""
    elements = motions("d4")
    return elements, torch.stack([move_images(g, torch.from_numpy(image)) for g in elements])


@torch.no_grad()
def orbit_poses(run: Run, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The encoder's rotations (n, 3, 3) and shifts (n, 2) in pixels of images (n, L, L)."""
    model = load_model(run.folder / "model.pt")
    rotations, shifts = model.answers(images * model.image_scale)[0]
    return rotations.double().numpy(), (shifts / model.voxel_size).double().numpy()


def draw_pose(axes: Axes, rotation: np.ndarray, shift: np.ndarray, box: int) -> None:
    """The volume's axes, columns of R, as arrows on an image; those that point away are thinner."""
    start = (box - 1) / 2 + shift
    for axis, colour in enumerate(AXES):
        x, y, depth = 0.3 * box * rotation[:, axis]
        head = 10 * min(1.0, np.hypot(x, y) / (0.15 * box))  # no longer than its arrow
        arrow = {"arrowstyle": "-|>,head_length=0.3,head_width=0.15", "color": colour, "lw": 1.6 if depth < 0 else 0.8}
        arrow |= {"mutation_scale": head}
        axes.annotate(
            "", (start[0] + x, start[1] + y), (start[0], start[1]), arrowprops=arrow | {"shrinkA": 0, "shrinkB": 0}
        )


def plot_orbit(image: np.ndarray, runs: list[Run], output: Path) -> None:
    """A row for the best seed of each model."""
    elements, images = orbit(image)
    best = best_runs(runs)
    with paper_style():
        figure, grid = pyplot.subplots(
            len(best), len(images), figsize=(PAGE, 1.25 * len(best) + 0.5), squeeze=False, layout="constrained"
        )
        low, high = np.quantile(image, [0.005, 0.995])
        for row, run in zip(grid, best, strict=True):
            rotations, shifts = orbit_poses(run, images)
            expected = pose_action(elements.double()).numpy() @ rotations[0]
            departures = degrees_from_squared_frobenius(squared_distances(rotations, expected))
            for index, axes in enumerate(row):
                axes.imshow(images[index], cmap="gray", vmin=low, vmax=high, interpolation="nearest")
                draw_pose(axes, rotations[index], shifts[index], len(image))
                axes.set_xticks([])
                axes.set_yticks([])
                axes.spines[:].set_visible(False)
                axes.set_xlabel("the image" if index == 0 else degrees_text(departures[index]))
            row[0].set_title(run.label, loc="left")
        figure.suptitle(dataset_title(runs[0].dataset), fontsize=8.5)
        lines = [Line2D([], [], color=colour, lw=1.6) for colour in AXES]
        figure.legend(lines, ["x", "y", "z of the volume"], loc="outside lower center", ncols=len(AXES))
        save(figure, output)


def main() -> None:
    arguments = dataset_command_line("orbit", __doc__.splitlines()[0]).parse_args()
    image = np.array(read_particles(arguments.dataset / "particles.star").images[0], np.float32)
    plot_orbit(image, load_runs(arguments.runs, arguments.dataset), arguments.output)


if __name__ == "__main__":
    run_main(main)
