r"""A user's labels and notes, escaped for each format: mathematics stands between dollars, other signs are printed.

As in matplotlib, text with an odd number of dollars has no mathematics, and `\$` is a dollar.
"""

import re

LATEX = {"\\": r"$\backslash$", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "[": "{[}", "]": "{]}"}
LATEX |= {sign: f"\\{sign}" for sign in "_%&#{}$"} | {sign: f"${sign}$" for sign in "<>|"}
LATEX |= {"Å": r"\AA{}", "°": r"$^\circ$", "≥": r"$\ge$", "±": r"$\pm$"}
"""How LaTeX prints signs. LaTeX would take a bare bracket for an option of the line break before it."""

MARKDOWN = re.compile(r"[\\|*\[\]$]|<(?=[\w/!?])|&(?=[\w#])|(?<!\w)_|_(?!\w)")
"""Signs that Markdown would take for its own, or for HTML."""


def parts(label: str) -> list[tuple[str, bool]]:
    """Pieces of a label, and whether each is mathematics."""
    pieces = re.split(r"(?<!\\)\$", label)
    if len(pieces) % 2 == 0:
        pieces = ["$".join(pieces)]
    return [(piece if index % 2 else piece.replace(r"\$", "$"), bool(index % 2)) for index, piece in enumerate(pieces)]


def plain_label(label: str) -> str:
    """A label without its LaTeX: `$D_4$ ($L_2$)` is "D4 (L2)"."""
    return "".join(re.sub(r"\\mathcal|[{}_]", "", part) if maths else part for part, maths in parts(label))


def latex(label: str) -> str:
    """A label for LaTeX."""
    return "".join(
        f"${part}$" if maths else "".join(LATEX.get(sign, sign) for sign in part) for part, maths in parts(label)
    )


def markdown(label: str, code: bool = False) -> str:
    """A label for Markdown, also in a table; with `code`, backticks mark code."""

    def plain(text: str) -> str:
        text = MARKDOWN.sub(r"\\\g<0>", text)
        return text if code else text.replace("`", r"\`")

    return "".join("${}$".format(part.replace("|", r"\|")) if maths else plain(part) for part, maths in parts(label))


def from_markdown(text: str) -> str:
    """The label that `markdown` turned into this text."""
    return re.sub(r"\\([\\|*\[\]<&_`])", r"\1", text)


def chimerax(text: str) -> str:
    r"""A quoted word of a ChimeraX command. ChimeraX ends a word at a quote and a space, even after a \."""
    return '"{}"'.format(text.replace("\\", r"\x5c").replace('"', r"\x22"))
