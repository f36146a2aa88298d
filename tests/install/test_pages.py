"""The commands of README and docs run as they stand there, or are named below with the reason why not.

Particles are those of docs/first-map.md. Calls of Snakemake that train for hours are dry runs.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "config/README.md", *(ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"(?:\$ )?((?:equipose|snakemake|make|pip|python3?|cp|source|P=).*?)(?:\s+#.*)?$")
FIRST = "docs/first-map.md"

DONE = {
    "equipose info particles.star": 0,
    "equipose validate particles.star": 0,
    "equipose status abinitio": 0,
    "equipose pose abinitio more.star --out more": 0,
    "equipose symmetrise abinitio D7": 2,  # as it says: this molecule has no D7
    "equipose flip-hand abinitio": 0,
    "equipose info shiny_2sets.star": 0,
    "equipose validate shiny_2sets.star": 0,
}
"""What is done with the first map, or particles like it, and the exit code."""

PLANNED = (
    "snakemake -n --quiet rules",
    "snakemake --cores all",
    "snakemake --cores all --configfile my.yaml",
    "snakemake --workflow-profile workflow/profiles/slurm",
    'P="workflow/presets/laptop.yaml workflow/presets/comparison.yaml"; snakemake comparison --cores 2 --configfile $P',
)
"""Dry runs in the folder that `equipose where` prints, which has what a checkout has of the workflow."""

NOT_HERE = {
    "make .*": "needs a checkout; CI calls `make test`, the workflow on GitHub `make docs` and this",
    "source .*|python3 -m venv .*|pip install .*": "conftest.py makes the environment",
    "equipose reconstruct particles.star --out (abinitio|mine)": "as the first map, in more time",
    "equipose reconstruct shiny_2sets.star .*": "as above; for images of a microscope",
    "snakemake .*--workflow-profile workflow/profiles/slurm .*": "needs a Slurm; tests/test_scatter.py adds a pass up",
    "equipose select abinitio": "the first map has no junk; tests/test_junk.py has some",
    "equipose watch abinitio": "ends with Ctrl-C; tests/test_live.py and tests/browser do it",
    "equipose run --preset empiar10028 .*": "wants 6,000 images of 64 pixels or more",
    "equipose status results/paper": "hours; test_wheel.py asks for the status of results/smoke",
}


def blocks(page: Path) -> list[list[str]]:
    found = re.findall(r"^```\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [block.replace("\\\n", " ").splitlines() for block in found]


def commands(page: Path) -> list[str]:
    """The lines that are typed: those after a `$` where a block has any, else those that begin with a known command."""
    lines: list[str] = []
    for block in blocks(page):
        typed = [line for line in block if line.startswith("$ ")] or block
        lines += [found[1] for line in typed if (found := COMMAND.match(line.strip()))]
    return lines


def left_out() -> set[str]:
    """Commands of the pages that are neither run below nor named in NOT_HERE; tests/test_docs.py wants none."""
    planned = {part for line in PLANNED for part in line.split("; ")}
    run = {*DONE, *planned, *commands(ROOT / FIRST), *commands(ROOT / "docs/install.md")[-2:]}
    typed = {command for page in PAGES for command in commands(page)} - run
    return {command for command in typed if not any(re.fullmatch(line, command) for line in NOT_HERE)}


@pytest.fixture(scope="session")
def first_map(run: Callable[..., str], folder: Path) -> str:
    """What the commands of docs/first-map.md print, after they have been run up to the map."""
    (more,) = re.findall(r"the line `(simulation: .*?)`", (ROOT / FIRST).read_text())
    (folder / "more.yaml").write_text(more)
    typed = [line for block in blocks(ROOT / FIRST) for line in block if line.startswith("$ ")]
    printed = [run(line.removeprefix("$ ")) for line in typed]
    made = folder / "results/smoke/datasets/smoke_snr1"
    shutil.copy(made / "particles.mrcs", folder)
    for name in ("particles.star", "more.star", "shiny_2sets.star"):
        shutil.copy(made / "particles.star", folder / name)
    return "\n".join(printed)


def test_the_first_map_is_as_its_page_shows_it(first_map: str, folder: Path) -> None:
    shown = [line for block in blocks(ROOT / FIRST) for line in block if re.match(r"equipose \d|[a-z]+ {2,}\S", line)]
    assert len(shown) == 9 and set(shown) <= set(first_map.splitlines())
    assert "\nConverged. " in first_map
    for name in ("poses.star", "volume.mrc", "half1.mrc", "half2.mrc", "report.html"):
        assert (folder / "abinitio" / name).is_file()


@pytest.mark.parametrize("line", DONE)
def test_a_map_and_particles_are_used_as_the_pages_say(line: str, first_map: str, run: Callable[..., str]) -> None:
    run(line, DONE[line])


@pytest.mark.parametrize("line", PLANNED)
def test_the_paper_is_planned_by_its_commands(line: str, run: Callable[..., str], tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(run("equipose where").strip(), checkout)
    (checkout / "my.yaml").write_text("run: [table2]")
    assert re.search(r"^train +\d", run(f"{line} -n --quiet rules", cwd=checkout), re.MULTILINE)


def test_a_profile_is_copied_and_used(run: Callable[..., str]) -> None:
    copy, use = commands(ROOT / "docs/install.md")[-2:]
    run(copy)
    assert re.search(r"^train +\d", run(f"{use} -n --quiet rules"), re.MULTILINE)
