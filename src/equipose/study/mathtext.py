"""Labels in pictures: matplotlib reads text between dollars as mathematics."""

import re


def drawable(label: str) -> str:
    r"""A label for pictures: dollars are escaped (`\$`) if matplotlib cannot read the text between them."""
    from matplotlib.mathtext import MathTextParser  # takes a second to load, and most callers draw nothing

    try:
        MathTextParser("path").parse(label)
    except ValueError:
        return re.sub(r"(?<!\\)\$", r"\\$", label)
    return label
