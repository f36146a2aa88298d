"""What Snakemake does before its jobs run, and the line that it writes after they have ended."""

import io
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from equipose.errors import ConfigError
from equipose.io.files import check_writable, leave_the_future
from equipose.workflow.snakemake_internals import drop_stale_locks


def prepare(results: Path, is_output: Callable[[Path], bool]) -> io.TextIOBase:
    """Make the results folder ready for jobs, so that the same command continues after a crash.

    Stale locks of ours are removed. An output with a time in the future gets the present time. Returns the open file
    that marks this process as alive. Ends the process with one line if the folder cannot be written.
    """
    try:
        check_writable(results)
    except ConfigError as error:
        sys.exit(f"error: {error}")
    alive = drop_stale_locks(Path(".snakemake"))
    leave_the_future(results, is_output)
    return alive


def note(results: Path, ended: str, cores: int | str, minutes: float, arguments: Sequence[str]) -> None:
    """Add a line to sessions.csv: how Snakemake ended, its cores (empty on a cluster), minutes and command."""
    path = results / "sessions.csv"
    head = "" if path.exists() else "ended,cores,minutes,command\n"
    command = shlex.join(["snakemake", *arguments]).replace('"', '""')
    results.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(f'{head}{ended},{cores},{minutes:.1f},"{command}"\n')
