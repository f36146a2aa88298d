"""The table of faults: a line from each test that passed, printed at the end."""

from broken_runs import note, pytest_terminal_summary  # noqa: F401 (pytest finds them here)
