"""Every format shows a model's label as the user wrote it."""

import ast
import re

import pytest
from matplotlib.figure import Figure

from equipose.study import labels
from equipose.study.mathtext import drawable

LABELS = [
    "D4 [search]",
    "[/b]",
    "a|b",
    "<i>x</i> & y",
    """it's "new" ones""",
    "5 $ more",
    r"C:\new $x_2$",
    "a*b*_c_`d`",
]


def test_mathematics_is_plain_text_where_there_is_no_latex() -> None:
    assert labels.plain_label(r"$C_4$ ($\mathcal{L}_{mir}$)") == "C4 (Lmir)"


def test_outside_of_mathematics_nothing_is_lost() -> None:
    assert labels.plain_label("my_model {2}, 5 $") == "my_model {2}, 5 $"
    assert labels.plain_label(r"5 \$ and 6 \$ for $D_4$") == "5 $ and 6 $ for D4"


@pytest.mark.parametrize(
    ("label", "wanted"),
    [
        (r"$D_4$ ($\mathcal{L}_{sym}$)", r"$D_4$ ($\mathcal{L}_{sym}$)"),
        ("[b] a_b & 5 % #1 {x}", r"{[}b{]} a\_b \& 5 \% \#1 \{x\}"),
        ("1 $ a|b <c> ~^\\", r"1 \$ a$|$b $<$c$>$ \textasciitilde{}\textasciicircum{}$\backslash$"),
        ("8.5 Å, 30°, FSC ≥ 0.5 ± 0.1", r"8.5 \AA{}, 30$^\circ$, FSC $\ge$ 0.5 $\pm$ 0.1"),
    ],
)
def test_latex_prints_each_sign(label: str, wanted: str) -> None:
    assert labels.latex(label) == wanted


@pytest.mark.parametrize("label", [*LABELS, "$D_4$ ($L_2$)", "MSE < 0.1; FSC ≥ 0.5"])
def test_markdown_is_read_back_as_it_was(label: str) -> None:
    written = labels.markdown(label)
    assert labels.from_markdown(written) == label.replace("5 $", r"5 \$")  # which is the same label
    assert labels.markdown(labels.from_markdown(written)) == written


@pytest.mark.parametrize("note", ["MSE < 0.1: `turns` (one) & more", "$D_4$ ($L_2$): seed_1"])
def test_markdown_of_what_needs_no_escape_is_the_text_itself(note: str) -> None:
    assert labels.markdown(note, code=True) == note


@pytest.mark.parametrize("label", LABELS)
def test_chimerax_reads_a_label_as_one_word(label: str) -> None:
    """Its `progress.py`: a word ends at a quote before a space, a semicolon or the end; then escapes are undone."""
    word, rest = re.match(r"""("(?:.|\")*?")(?:\s|;|$)(.*)""", labels.chimerax(label) + " next").groups()
    assert rest == "next"
    assert ast.literal_eval(word) == label


@pytest.mark.parametrize("label", [*LABELS, "costs $5 & $6", "$D_4$ ($L_2$)", r"$\nothing$"])
def test_a_figure_can_draw_any_label(label: str) -> None:
    figure = Figure()
    figure.suptitle(drawable(label))
    figure.canvas.draw()


def test_a_figure_draws_mathematics_as_such_and_other_dollars_as_dollars() -> None:
    assert drawable("$D_4$ ($L_2$)") == "$D_4$ ($L_2$)"
    assert drawable(r"$\nothing$") == r"\$\nothing\$"
