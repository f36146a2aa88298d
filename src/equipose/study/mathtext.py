"""Labels in pictures: matplotlib finds mathematics between dollars."""

import re

from matplotlib.mathtext import MathTextParser


def drawable(label: str) -> str:
    r"""A label for pictures: its dollars are plain ones (`\$`) where matplotlib finds no mathematics between them."""
    try:
        MathTextParser("path").parse(label)
    except ValueError:
        return re.sub(r"(?<!\\)\$", r"\\$", label)
    return label
