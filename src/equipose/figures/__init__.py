"""Figures: one module each, from a run's files to a picture. A module's docstring is its caption."""

import ast
from pathlib import Path

OF_RUNS = ("convergence", "fsc_curves", "encoders")
"""Figures of all runs of an experiment."""

OF_DATASETS = ("overview", "orbit", "sphere", "subsets", "directions", "mirror", "twins")
"""Figures of the runs of one dataset of an experiment."""

EVERY = ("examples", *OF_RUNS, *OF_DATASETS)
"""All figures of an experiment, in the order of the report."""


def caption(figure: str) -> str:
    """A figure's caption: its module's docstring without the command."""
    text = ast.get_docstring(ast.parse((Path(__file__).parent / f"{figure}.py").read_text())) or ""
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
    return " ".join(paragraph for paragraph in paragraphs if not paragraph.startswith("`python "))
