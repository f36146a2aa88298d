"""The quality of a reconstruction without a truth: agreement of the half-sets, scores, local resolution, examples."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as pyplot
import numpy as np
import pandas as pd
import scipy.stats
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from equipose.figures.style import COLUMN, GUIDE, PAGE, PALETTE, degrees_text
from equipose.io.half_sets import SUBSET
from equipose.io.maps import read_map
from equipose.io.particle_tables import read_tables
from equipose.reconstruction.handback import SCORE

HALVES = ((1, PALETTE[0]), (2, PALETTE[1]))

DECOYS_SHOWN = 0.2
"""Area of the decoys' histogram, as a part of that of all images: far fewer are posed against the decoy."""

SMALLEST, LARGEST = 0.1, 180.0
"""Degrees at the ends of the histogram."""


def draw_agreement(axes: Axes, folder: Path) -> None:
    """The angle between the two runs' poses, image by image."""
    apart = pd.read_csv(folder / "agreement.csv")
    within = _summary(folder)["agree_within_degrees"]
    bins = np.geomspace(SMALLEST, LARGEST, 45).tolist()
    for half, colour in HALVES:
        degrees = apart["degrees"][apart["half"] == half]
        label = f"half {half}: median {degrees_text(float(degrees.median()))}"
        axes.hist(degrees.clip(SMALLEST, LARGEST), bins, histtype="step", color=colour, label=label)
    axes.axvline(within, **GUIDE)
    axes.set_xscale("log")
    axes.set_xticks([0.1, 1, 10, 100], labels=["0.1°", "1°", "10°", "100°"])
    axes.set_xlabel("Between the poses of the two runs")
    axes.set_ylabel("Images")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1))


def draw_scores(axes: Axes, folder: Path) -> None:
    """The correlation of every image with its projection, half by half."""
    particles = read_tables(folder / "poses.star")[1]
    bins = np.linspace(particles[SCORE].min(), particles[SCORE].max(), 45).tolist()
    for half, colour in HALVES:
        scores = particles[SCORE][particles[SUBSET] == half]
        axes.hist(scores, bins, histtype="step", color=colour, label=f"half {half}: median {scores.median():.2f}")
    axes.set_xlabel("Correlation with the other half's projection")
    axes.set_ylabel("Images")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1))


def draw_junk(axes: Axes, folder: Path) -> None:
    """The detail scores of all images, of some images with a decoy, the two fitted distributions, and the threshold."""
    table, junk = pd.read_csv(folder / "detail_scores.csv"), _summary(folder)["junk"]
    decoy = table["of"] == "decoy"
    scores, by_chance = table["score"][~decoy], table["score"][decoy]
    bins = np.linspace(min(0.0, table["score"].min()), table["score"].max(), 60)
    axes.hist(scores, bins.tolist(), color=PALETTE[0], alpha=0.3, label="all images")
    scaled = np.full(len(by_chance), DECOYS_SHOWN * len(scores) / max(len(by_chance), 1))
    axes.hist(by_chance, bins.tolist(), weights=scaled, histtype="step", color=PALETTE[5], label="with a decoy, scaled")
    fine, area = np.linspace(bins[0], bins[-1], 400), len(scores) * (bins[1] - bins[0])
    parts = (1 - junk["share"], "", PALETTE[0]), (junk["share"], "_elsewhere", PALETTE[1])
    for part, kind, colour in parts:
        density = scipy.stats.norm.pdf(fine, junk[f"mean{kind}"], junk[f"deviation{kind}"])
        axes.plot(fine, part * area * density, color=colour)
    if junk["threshold"] is not None:
        axes.axvline(junk["threshold"], **GUIDE)
    axes.set_xlabel("Detail shared with the map (1: as expected)")
    axes.set_ylabel("Images")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1))


def plot_local_resolution(folder: Path) -> Figure:
    """Three sections through the centre of the map, coloured inside of the mask."""
    volume, local, mask = (read_map(folder / f"{name}.mrc")[0] for name in ("volume", "local_resolution", "mask"))
    low, high = np.quantile(local[mask > 0.5], [0.02, 0.98])
    figure, row = pyplot.subplots(1, 3, figsize=(PAGE, PAGE / 3 + 0.1), layout="constrained")
    for axis, (axes, across) in enumerate(zip(row, ("xy", "xz", "yz"), strict=True)):
        density, shown, inside = (part.take(len(volume) // 2, axis) for part in (volume, local, mask > 0.5))
        axes.imshow(density, cmap="gray", origin="lower")
        drawn = axes.imshow(
            np.where(inside, shown, np.nan),
            cmap="viridis_r",
            vmin=low,
            vmax=max(high, 1.05 * low),
            alpha=0.65,
            origin="lower",
            interpolation="nearest",
        )
        axes.set_title(f"{across} section")
        axes.set_axis_off()
    figure.colorbar(drawn, ax=row, shrink=0.8, label="Local FSC = 0.5 at (Å)")
    return figure


def plot_examples(folder: Path) -> Figure:
    """Particles, their projections, and the residuals; all three of a particle share one grey scale."""
    shown = np.load(folder / "examples.npz")
    images, projections = shown["images"], shown["projections"]
    count = len(images)
    figure, rows = pyplot.subplots(
        3, count, figsize=(PAGE, PAGE / count * 3 + 0.3), squeeze=False, layout="constrained"
    )
    for column, score in enumerate(shown["scores"]):
        low, high = np.quantile(images[column], [0.005, 0.995])
        parts = images[column], projections[column], images[column] - projections[column]
        for axes, part in zip(rows[:, column], parts, strict=True):
            axes.imshow(part - part.mean() + images[column].mean(), cmap="gray", vmin=low, vmax=high)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
        rows[0, column].set_title(f"{score:.2f}")
    for axes, label in zip(rows[:, 0], ("particle", "projection", "residual"), strict=True):
        axes.set_ylabel(label)
    return figure


def _summary(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "reconstruction.json").read_text()))


def single(draw: Callable[..., object], *arguments: object) -> Figure:
    """A figure of one column that `draw` fills."""
    figure, axes = pyplot.subplots(figsize=(COLUMN, 2.6), layout="constrained")
    draw(axes, *arguments)
    return figure
