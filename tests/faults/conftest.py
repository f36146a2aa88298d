"""The table of faults: a line from each test that passed, printed at the end."""

from collections.abc import Callable

import pytest

HEAD = "| what was done | what happened | training went on from steps | outputs equal |\n| :-- | :-- | :-- | :-- |"
LINES = pytest.StashKey[list[str]]()


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[..., None]:
    """A function that adds a line, to be called once all has been checked."""

    def add(done: str, happened: str, project) -> None:
        went_on = ", ".join(map(str, project.starts()[1:])) or "not stopped"
        request.config.stash.setdefault(LINES, []).append(f"| {done} | {happened} | {went_on} | yes |")

    return add


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if lines := config.stash.get(LINES, []):
        terminalreporter.write_line("\n".join(["", HEAD, *lines]))
