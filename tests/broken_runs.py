"""What tests of faults share: whether a run equals an undisturbed one, and a table with a line for each test."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

HEAD = "| what was done | what happened | training went on from steps | outputs equal |\n| :-- | :-- | :-- | :-- |"
LINES = pytest.StashKey[list[str]]()


def starts(run: Path) -> list[int]:
    """The step that each start of training in the folder `run` went on from."""
    return [start["from_step"] for start in json.loads((run / "provenance.json").read_text())]


def assert_equal_runs(run: Path, undisturbed: Path) -> None:
    """Weights and history in two folders are equal, seconds apart."""
    ours, theirs = (pd.read_csv(folder / "history.csv") for folder in (run, undisturbed))
    pd.testing.assert_frame_equal(ours.drop(columns="seconds"), theirs.drop(columns="seconds"), check_exact=True)
    assert ours["seconds"].is_monotonic_increasing and 0 < ours["seconds"].iloc[-1] < 600
    mine, whole = (torch.load(folder / "model.pt", weights_only=True)["weights"] for folder in (run, undisturbed))
    assert mine.keys() == whole.keys()
    assert all(torch.equal(mine[name], whole[name]) for name in mine)


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[[str, str, Path], None]:
    """A function that adds a line on a run, named by its folder, to the table; to be called once all is checked."""

    def add(done: str, happened: str, run: Path) -> None:
        went_on = ", ".join(map(str, starts(run)[1:])) or "not stopped"
        request.config.stash.setdefault(LINES, []).append(f"| {done} | {happened} | {went_on} | yes |")

    return add


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if lines := config.stash.get(LINES, []):
        terminalreporter.write_line("\n".join(["", HEAD, *lines]))
        lines.clear()  # two folders of tests may have this hook
