"""Labels in pictures: matplotlib finds mathematics between dollars."""

import re


def drawable(label: str) -> str:
    r"""A label for pictures: its dollars are plain ones (`\$`) where matplotlib finds no mathematics between them."""
    from matplotlib.mathtext import MathTextParser  # takes a second to load, and most who read runs draw nothing

    try:
        MathTextParser("path").parse(label)
    except ValueError:
        return re.sub(r"(?<!\\)\$", r"\\$", label)
    return label
