"""Two viewing directions with equal images in a map with a mirror plane, and unequal ones in the truth (Fig. 12).

`python -m equipose.figures.twins --dataset DIR --runs DIR … --output PATH`

Direction B is direction A, reflected in the plane and reversed. Of many random directions A, the figure shows the one
for which the truth's two images differ most.
"""

from pathlib import Path

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes

from equipose.core.mirror_plane import moved_volume, projection, twin
from equipose.core.rotations import random_rotations, viewing_directions
from equipose.figures.command_line import dataset_command_line
from equipose.figures.maps import PIXELS, draw_maps
from equipose.figures.style import PAGE, PALETTE, TRUTH, paper_style, save
from equipose.io.maps import read_map
from equipose.io.progress import run_main
from equipose.study.mixture import Mixture, read_mixture
from equipose.study.runs import load_runs

TRIED = 200
"""Random poses among which A is chosen."""


def likeness(pair: list[np.ndarray]) -> float:
    return float(np.corrcoef(pair[0].ravel(), pair[1].ravel())[0, 1])


def images_of_twins(volume: np.ndarray, rotation: np.ndarray, normal: np.ndarray) -> list[np.ndarray]:
    """The images (L, L) of a volume in a pose and its twin."""
    return [projection(volume, pose) for pose in (rotation, twin(rotation, normal))]


def draw_volume(
    axes: Axes, volume: np.ndarray, label: str, colour: str, directions: list[np.ndarray], view: np.ndarray
) -> None:
    """A map with the viewing directions A and B as arrows."""
    draw_maps([axes], [volume], [label], [colour], view)
    reach = 1.5 * np.abs(np.subtract([*axes.get_xlim(), *axes.get_ylim()], PIXELS / 2)).max()  # the map, and arrows
    axes.set_xlim(PIXELS / 2 - reach, PIXELS / 2 + reach)
    axes.set_ylim(PIXELS / 2 + reach, PIXELS / 2 - reach)
    for name, direction in zip("AB", directions, strict=True):
        seen = (view @ direction)[:2]
        tip, tail, letter = (PIXELS / 2 - part * reach * seen for part in (0.6, 0.85, 0.94))  # towards the molecule
        axes.annotate("", tip, tail, arrowprops={"arrowstyle": "-|>", "color": "0.1", "lw": 1.2})
        axes.annotate(name, letter, ha="center", va="center", fontsize=9, fontweight="bold")


def plot_twins(mixture: Mixture, truth: np.ndarray, output: Path) -> None:
    """The map of mixed hands and the truth, each with its images along A and B."""
    normal = mixture.plane.normal
    centred = moved_volume(mixture.volume, np.eye(3), mixture.plane.offset * normal)  # the plane through the centre
    tried = random_rotations(TRIED, np.random.default_rng(0))
    rotation = min(tried, key=lambda pose: likeness(images_of_twins(truth, pose, normal)))
    directions = [viewing_directions(pose) for pose in (rotation, twin(rotation, normal))]
    across = directions[0] - (directions[0] @ normal) * normal
    across /= np.linalg.norm(across)
    view = np.stack([across, normal, np.cross(across, normal)])
    with paper_style():
        figure, grid = pyplot.subplots(2, 3, figsize=(0.75 * PAGE, 3.7), layout="constrained")
        for row, volume, name, colour in (
            (grid[0], centred, f"after {mixture.when(mixture.index)}", PALETTE[1]),
            (grid[1], truth, "truth", TRUTH),
        ):
            pair = images_of_twins(volume, rotation, normal)
            draw_volume(row[0], volume, name, colour, directions, view)
            if mixture.mixed:
                row[0].axhline(PIXELS / 2, ls="--", color="0.1", lw=0.8)
            low, high = np.quantile(pair, [0.01, 0.999])
            for axes, image, letter in zip(row[1:], pair, "AB", strict=True):
                axes.imshow(image, cmap="gray", vmin=low, vmax=high)
                axes.set_axis_off()
                axes.set_title(f"along {letter}")
            row[2].annotate(
                f"A with B: correlation {likeness(pair):.3f}",
                (0, -0.02),
                (0, -4),
                xycoords="axes fraction",
                textcoords="offset points",
                va="top",
            )
        figure.suptitle(mixture.title, fontsize=8.5)
        save(figure, output)


def main() -> None:
    arguments = dataset_command_line("twins", __doc__.splitlines()[0]).parse_args()
    mixture = read_mixture(load_runs(arguments.runs, arguments.dataset))
    plot_twins(mixture, read_map(arguments.dataset / "volume.mrc")[0], arguments.output)


if __name__ == "__main__":
    run_main(main)
