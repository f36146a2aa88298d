"""README and docs name only what there is: commands and their options, targets of make, presets, links."""

import itertools
import re
import runpy
import shlex
from pathlib import Path

import pytest

from equipose.cli import parser

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "config/README.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)

MAKE = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)


def commands(page: Path, name: str) -> list[list[str]]:
    """The words of each line of a page's blocks that begins with the command `name`, without comments."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    lines: list[str] = []
    for block in blocks:
        typed = block.replace("\\\n", " ").splitlines()
        shown = [line.removeprefix("$ ") for line in typed if line.startswith("$ ")]  # the rest is what was printed
        lines += shown or typed
    asked = [line.strip() for line in lines]
    return [shlex.split(line, comments=True) for line in asked if re.match(rf"{name} ", line)]


@each_page
def test_every_call_of_equipose_parses(page: Path) -> None:
    for _, *words in commands(page, "equipose"):
        try:
            arguments, more = parser().parse_known_args(words)
        except SystemExit as stopped:
            assert stopped.code == 0, words  # --version
            continue
        assert not more or words[0] == "run", words
        for name in getattr(arguments, "preset", []):
            assert (ROOT / f"workflow/presets/{name}.yaml").is_file()


@each_page
def test_no_target_is_typed_where_snakemake_takes_it_for_a_configuration(page: Path) -> None:
    for _, *words in commands(page, "snakemake"):
        after = words[words.index("--configfile") + 1 :] if "--configfile" in words else []
        files = itertools.takewhile(lambda word: not word.startswith("-"), after)
        assert all(word.endswith(".yaml") or word == "$P" for word in files), words


@each_page
def test_make_has_every_target_that_is_named(page: Path) -> None:
    inline = re.findall(r"`make ([a-z-]+)", page.read_text())
    blocks = [word for _, *words in commands(page, "make") for word in words if "=" not in word]
    assert {*inline, *blocks} <= {*MAKE}


@each_page
def test_every_preset_and_profile_that_is_named_is_there(page: Path) -> None:
    for path in re.findall(r"\bworkflow/(?:presets|profiles)/[\w./-]*\w", page.read_text()):
        assert (ROOT / path).exists() or path.endswith("/NAME"), path


@each_page
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([\w:-]*[./][\w./:-]*)", page.read_text()):
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_every_command_is_run_by_make_test_install_or_has_a_reason_why_not() -> None:
    assert not runpy.run_path(str(ROOT / "tests/install/test_pages.py"))["left_out"]()
