"""Pictures of the live page, as data URIs: a map's surface and sections, curves of runs, and an FSC."""

import io
from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as pyplot
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from equipose.core.resizing import resized
from equipose.core.surface import enclosing_level, molecule_fraction
from equipose.figures.maps import FINE_BOX, molecule_extent, render
from equipose.figures.style import COLUMN, GUIDE, PALETTE, SHADES, paper_style
from equipose.pages.page import data_uri
from equipose.reconstruction.names import THRESHOLD

DPI = 180

AXES = "zyx"
"""Of a map's array; a section is drawn at the middle of each."""


def surface(volume: np.ndarray, colour: str = PALETTE[0]) -> str:
    """The surface of a map (L, L, L), (z, y, x)."""
    fine = resized(volume, max(FINE_BOX, len(volume)))
    level = enclosing_level(fine, molecule_fraction(fine))
    image = render(fine, level, colour, min(1.0, 1.1 * molecule_extent(fine, level)))
    with io.BytesIO() as file:
        pyplot.imsave(file, image, format="png")
        return data_uri(file.getvalue(), "image/png")


def sections(volume: np.ndarray) -> str:
    """The three sections through the middle of a map (L, L, L), (z, y, x), side by side."""
    with paper_style():
        figure, row = pyplot.subplots(1, 3, figsize=(COLUMN, COLUMN / 3 + 0.2), layout="constrained")
        for axis, axes in enumerate(row):
            axes.imshow(volume.take(len(volume) // 2, axis), cmap="gray")
            axes.set_title(f"{AXES[axis]} = 0")
            axes.set_axis_off()
        return _png(figure)


def curves(lines: Mapping[str, Sequence[tuple[float, float]]], x: str, y: str, logarithmic: bool) -> str:
    """Lines through points (x, y), one for each name."""

    def draw(axes: Axes) -> None:
        for (name, points), colour in zip(lines.items(), SHADES, strict=False):
            axes.plot(*zip(*points, strict=True), marker="o", ms=2.5, color=colour, label=name)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if logarithmic:
            axes.set_yscale("symlog", linthresh=1)
            axes.set_ylim(bottom=0)
        axes.legend()

    return _drawn(draw)


def fsc(frequency: Sequence[float], curve: Sequence[float]) -> str:
    """The FSC of half-maps by frequency in 1/Å."""

    def draw(axes: Axes) -> None:
        axes.plot(frequency, curve, color=PALETTE[0])
        axes.axhline(THRESHOLD, **GUIDE)
        axes.set_xlabel("Spatial frequency (1/Å)")
        axes.set_ylabel("FSC of half-maps")
        axes.set_ylim(-0.1, 1.02)

    return _drawn(draw)


def _drawn(draw: Callable[[Axes], None]) -> str:
    with paper_style():
        figure, axes = pyplot.subplots(figsize=(COLUMN, 2.3), layout="constrained")
        draw(axes)
        return _png(figure)


def _png(figure: Figure) -> str:
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=DPI)
        pyplot.close(figure)
        return data_uri(file.getvalue(), "image/png")
