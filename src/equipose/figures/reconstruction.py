"""A reconstruction: the map from two sides, the FSC of its half-maps, and the viewing directions of the particles."""

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as pyplot
import numpy as np
import pandas as pd
import scipy.spatial.transform
from matplotlib.axes import Axes

from equipose.core.rotations import from_relion_angles, viewing_directions
from equipose.core.surface import enclosing_level, molecule_fraction
from equipose.figures.maps import VIEW, molecule_extent, render
from equipose.figures.sphere import draw_density
from equipose.figures.style import GUIDE, PAGE, PALETTE, paper_style, save
from equipose.io.maps import read_map
from equipose.io.particle_tables import ANGLES, read_tables
from equipose.io.progress import run_main
from equipose.reconstruction.names import THRESHOLD

LINES = (("unmasked", PALETTE[1], 1.0), ("masked", PALETTE[5], 1.0), ("corrected", PALETTE[0], 1.6))
"""Curves of fsc.csv, their colours and widths."""


def draw_fsc(axes: Axes, folder: Path) -> None:
    """The FSC of the half-maps, and where it falls below 0.143."""
    curves = pd.read_csv(folder / "fsc.csv")
    summary = json.loads((folder / "reconstruction.json").read_text())
    inside = curves["shell"] > 0
    for name, colour, width in LINES:
        axes.plot(curves["frequency_per_angstrom"][inside], curves[name][inside], color=colour, lw=width, label=name)
    axes.axhline(THRESHOLD, **GUIDE)
    found = summary["resolution_angstrom"]["corrected"]
    beyond = "at the last shell, " if summary["resolved_to_the_last_shell"] else ""
    axes.set_title(f"{beyond or f'{THRESHOLD} at '}{found:.3g} Å" if found else "no resolution")
    axes.set_xlabel("Spatial frequency (1/Å)")
    axes.set_ylabel("FSC of half-maps")
    axes.set_ylim(-0.1, 1.02)
    axes.legend(loc="center left")


def draw_directional_fsc(axes: Axes, folder: Path) -> None:
    """The FSC in the cones along which the half-maps agree most and least, beside that of all directions."""
    curves = pd.read_csv(folder / "fsc.csv")
    known = json.loads((folder / "reconstruction.json").read_text())["directional_fsc"]
    inside = curves["shell"] > 0
    frequency = curves["frequency_per_angstrom"][inside]
    worst, best = (curves[f"{name}_direction"][inside] for name in ("worst", "best"))
    axes.fill_between(frequency, worst, best, color=PALETTE[0], alpha=0.15, lw=0)
    for name, curve, colour in (("best", best, PALETTE[0]), ("worst", worst, PALETTE[1])):
        angstrom, along = known[f"{name}_angstrom"], ", ".join(f"{each:.2f}" for each in known[f"{name}_along"])
        label = f"{name}: {'none' if angstrom is None else f'{angstrom:.3g} Å'}, along ({along})"
        axes.plot(frequency, curve, color=colour, lw=1.2, label=label)
    axes.plot(frequency, curves["masked"][inside], color="0.3", lw=0.9, ls="--", label="all directions")
    axes.axhline(THRESHOLD, **GUIDE)
    axes.set_xlabel("Spatial frequency (1/Å)")
    axes.set_ylabel("FSC in a cone of 20°")
    axes.set_ylim(-0.1, 1.02)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1))


def directions_seen(folder: Path) -> np.ndarray:
    """Viewing directions (n, 3) of all particles."""
    particles = read_tables(folder / "poses.star")[1]
    return viewing_directions(from_relion_angles(particles[list(ANGLES)].to_numpy(np.float64)))


def plot_reconstruction(folder: Path, output: Path) -> None:
    """The output of `equipose.reconstruction.join` in `folder`, as one picture."""
    volume, _ = read_map(folder / "volume.mrc")
    with paper_style():
        figure, (front, side, correlation, directions) = pyplot.subplots(
            1, 4, figsize=(PAGE, 2.1), width_ratios=[1, 1, 1.35, 1.1], layout="constrained"
        )
        level = enclosing_level(volume, molecule_fraction(volume))
        extent = molecule_extent(volume, level)
        quarter = scipy.spatial.transform.Rotation.from_euler("x", 90, degrees=True).as_matrix()
        for axes, view, title in ((front, VIEW, "Map"), (side, quarter @ VIEW, "from another side")):
            axes.imshow(render(volume, level, PALETTE[0], extent, view))
            axes.set_title(title)
            axes.set_axis_off()

        draw_fsc(correlation, folder)
        draw_density(directions, directions_seen(folder))
        directions.set_title("Viewing directions")
        save(figure, output)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m equipose.figures.reconstruction", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="output folder of equipose.reconstruction.join")
    parser.add_argument("--output", type=Path, required=True, help="picture; written as .pdf and .png")
    arguments = parser.parse_args()
    plot_reconstruction(arguments.folder, arguments.output)


if __name__ == "__main__":
    run_main(main)
