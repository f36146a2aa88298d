"""The style of all figures, and the function that saves them."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import colors, pyplot
from matplotlib.figure import Figure
from PIL import Image

from equipose.io.files import whole_file

COLUMN = 3.5  # inches, one column of a journal
PAGE = 7.2  # inches, two columns

TRUTH = "#8c8c8c"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito's, safe for all eyes


def _darker(colour: str) -> str:
    red, green, blue = (0.45 * part for part in colors.to_rgb(colour))
    return colors.to_hex((red, green, blue))


SHADES = (*PALETTE, *(_darker(colour) for colour in PALETTE))
"""For more models than six: the palette, then the same colours darker."""

GUIDE: dict[str, Any] = {"color": "0.45", "linewidth": 0.7, "zorder": 0}  # thresholds

SETTINGS: Any = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "ytick.minor.width": 0.5,
    "lines.linewidth": 1.4,
    "pdf.fonttype": 42,  # text stays text
    "figure.dpi": 100,
    "savefig.dpi": 300,
    "image.interpolation": "lanczos",
}


@contextmanager
def paper_style() -> Iterator[None]:
    """Draw inside this block."""
    with pyplot.rc_context(SETTINGS):
        yield


def model_colours(labels: list[str]) -> dict[str, str]:
    """One colour a model, in the order in which the models appear."""
    return dict(zip(dict.fromkeys(labels), cycle(SHADES), strict=False))


def degrees_text(value: float) -> str:
    """An angle for people: two digits, but whole degrees from ten on, and no powers of ten."""
    return f"{value:.0f}°" if value >= 10 else f"{value:.2g}°" if value >= 0.001 else "< 0.001°"


def save(figure: Figure, output: Path) -> None:
    """Write `output` as .pdf and .png, each whole or not at all, and close the figure.

    Git keeps the PNGs of every preset, so they are small. PNGs wider than a column have 200 dpi, which become 400 when
    the picture shrinks to a column. Colours are rounded to 64 steps; on a shaded map, no eye tells them from 256.
    """
    with whole_file(output.with_suffix(".pdf")) as partial:
        figure.savefig(partial, format="pdf", metadata={"CreationDate": None})
    dpi = 200 if figure.get_figwidth() > 1.5 * COLUMN else SETTINGS["savefig.dpi"]
    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi)
    picture = Image.open(drawn).convert("RGB").point([min(255, 4 * round(value / 4)) for value in range(256)] * 3)
    with whole_file(output.with_suffix(".png")) as partial:
        picture.save(partial, format="PNG", optimize=True, dpi=(dpi, dpi))
    pyplot.close(figure)
