"""Viewing directions on the projective plane, true and predicted, while hands are mixed (paper, Figs. 8 to 10).

`python -m equipose.figures.directions --dataset DIR --runs DIR … --output PATH`

Opposite directions show mirrored images and lie at one point of the disc. Every image keeps the colour of its true
direction. The volume is turned so that the mirror plane between the two hands is the vertical line. Images in the rarer
hand appear on its other side.
"""

from pathlib import Path

import numpy as np
from matplotlib import colors, pyplot
from matplotlib.axes import Axes
from matplotlib.patches import Circle

from equipose.core.mirror_plane import frame_with_first_axis
from equipose.core.rotations import viewing_directions
from equipose.figures.command_line import dataset_command_line
from equipose.figures.style import GUIDE, PAGE, PALETTE, paper_style, save
from equipose.io.progress import run_main
from equipose.study.mixture import Mixture, read_mixture
from equipose.study.runs import load_runs

WHEEL = ("#56B4E9", "#F0C020", "#D55E00", "#10326B")
"""Colours of the disc's rim from 0° to 135°, blended: light against dark and yellow against blue, for all eyes."""


def folded(directions: np.ndarray) -> np.ndarray:
    """Points (n, 2) of the disc for directions (n, 3): (x, y) where z ≥ 0, else (-x, -y) (Fig. 8)."""
    return np.where(directions[:, 2:] < 0, -1, 1) * directions[:, :2]


def direction_colours(points: np.ndarray) -> np.ndarray:
    """Colours (n, 3) of points of the disc: opposite points of its rim, which are one direction, have the same.

    Inwards they fade to grey.
    """
    place = len(WHEEL) * ((np.arctan2(points[:, 1], points[:, 0]) / np.pi) % 1)
    wheel = np.array([colors.to_rgb(colour) for colour in (*WHEEL, WHEEL[0])])
    rim = np.stack([np.interp(place, np.arange(len(wheel)), channel) for channel in wheel.T], axis=1)
    strength = (0.25 + 0.75 * np.linalg.norm(points, axis=1).clip(0, 1))[:, None]
    return strength * rim + (1 - strength) * 0.65


def draw_folding(axes: Axes) -> None:
    """The sphere from the side: a direction, its opposite, and the point that both fold onto."""
    direction = np.array([0.62, 0.78])
    axes.add_patch(Circle((0, 0), 1, fill=False, color="0.6", lw=0.8))
    axes.plot([-1, 1], [0, 0], color="0.2", lw=1.2)
    axes.plot([-direction[0], direction[0]], [-direction[1], direction[1]], color="0.6", lw=0.8)
    axes.plot([direction[0]] * 2, [direction[1], 0], ls="--", **GUIDE)
    axes.plot(*direction, "o", color=PALETTE[0], ms=5)
    axes.plot(*-direction, "o", mfc="white", color=PALETTE[0], ms=5)
    axes.plot(direction[0], 0, "o", color=PALETTE[1], ms=5)
    axes.annotate("$d$", (direction[0], direction[1]), xytext=(4, 3), textcoords="offset points")
    axes.annotate("$-d$", (-direction[0], -direction[1]), xytext=(-14, -9), textcoords="offset points")
    axes.annotate("the disc", (-0.95, 0.06), fontsize=7, color="0.2")
    axes.set_title("$d$ and $-d$ fold\nonto one point")


def draw_directions(axes: Axes, rotations: np.ndarray, shades: np.ndarray, frame: np.ndarray) -> None:
    """Viewing directions of poses (n, 3, 3), in a volume turned by `frame` (3, 3)."""
    x, y = folded(viewing_directions(rotations) @ frame.T).T
    axes.scatter(x, y, c=shades, s=5, lw=0)
    axes.add_patch(Circle((0, 0), 1, fill=False, color="0.6", lw=0.8))


def plot_directions(mixture: Mixture, output: Path) -> None:
    """How directions fold, and all of them: true, when hands were mixed most, and at the end if that came later."""
    last = len(mixture.run.history) - 1
    moments = [(mixture.predicted, mixture.index), *([(mixture.end, last)] if mixture.index < last else [])]
    frame = frame_with_first_axis(mixture.normal)
    shades = direction_colours(folded(viewing_directions(mixture.true) @ frame.T))
    with paper_style():
        figure, row = pyplot.subplots(1, 2 + len(moments), figsize=(PAGE, 2.5), layout="constrained")
        draw_folding(row[0])
        draw_directions(row[1], mixture.true, shades, frame)
        row[1].set_title("true directions\n")
        for axes, (rotations, index) in zip(row[2:], moments, strict=True):
            draw_directions(axes, rotations, shades, frame)
            axes.set_title(f"after {mixture.when(index)}\n{mixture.shares(index)} in a hand")
        if mixture.mixed:
            row[2].axvline(0, ls="--", color="0.1", lw=0.9)
        for axes in row:
            axes.set_aspect("equal")
            axes.set_xlim(-1.1, 1.1)
            axes.set_ylim(-1.1, 1.1)
            axes.set_axis_off()
        figure.suptitle(mixture.title, fontsize=8.5)
        save(figure, output)


def main() -> None:
    arguments = dataset_command_line("directions", __doc__.splitlines()[0]).parse_args()
    plot_directions(read_mixture(load_runs(arguments.runs, arguments.dataset)), arguments.output)


if __name__ == "__main__":
    run_main(main)
