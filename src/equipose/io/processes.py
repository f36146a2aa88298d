"""Signals that stop a program, and a child program that is stopped with it, including the child's own processes."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NoReturn

from equipose.io.progress import SIGNALLED, say

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C; `kill` or a scheduler's warning; a closed terminal."""

GRACE_SECONDS = 10.0
"""Seconds that processes of a finished child have to end before SIGKILL ends them."""


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """While the block runs, a signal to stop prints a line and raises SystemExit: nothing half-written stays."""

    def leave(number: int, _: object) -> None:
        exit_after(number)

    with _handled_by(leave):
        yield


def exit_after(number: int, remedy: str = "") -> NoReturn:
    """Say which signal stopped us, and end with its exit code."""
    say(f"stopped by {signal.Signals(number).name}{remedy}")
    sys.exit(SIGNALLED + number)


@contextmanager
def stop_on_signals(act: Callable[[], None] = lambda: None) -> Iterator[Callable[[], int]]:
    """While the block runs, signals to stop are noted, and each calls `act`.

    The block gets a function that returns the first such signal, and 0 before there is one.
    """
    received: list[int] = []

    def note(number: int, _: object) -> None:
        received.append(number)
        act()

    with _handled_by(note):
        yield lambda: received[0] if received else 0


@contextmanager
def _handled_by(handler: Callable[[int, object], None]) -> Iterator[None]:
    """Signals to stop go to `handler`; ignored signals stay ignored, so that `nohup` works."""
    former = {n: signal.getsignal(n) for n in STOPPING if signal.getsignal(n) is not signal.SIG_IGN}
    for number in former:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, before in former.items():
            signal.signal(number, before)


def children_seconds() -> float:
    """Processor seconds, user and system, of the children of this process that have ended, and of theirs.

    Snakemake's cpu_time misses up to the last 30 s of a job (findings/snakemake_benchmark_samples.sh).
    """
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run_stoppable(
    command: list[str], environment: Mapping[str, str] | None = None, inherits: Sequence[int] = ()
) -> tuple[int, int]:
    """Run a command, in our environment or another; return its exit code, and the signal that told us to stop, or 0.

    It `inherits` these file descriptors of ours.

    Such a signal sends SIGTERM to the command and all of its processes, and the call returns when all have ended. The
    command has a session of its own: a closed terminal and Ctrl-C reach it only through us, once, as SIGTERM.
    Snakemake's jobs take SIGTERM without a traceback.
    """
    child: list[subprocess.Popen] = []

    def stop_all() -> None:
        for process in child:
            _signal_group(process.pid, signal.SIGTERM)

    with stop_on_signals(stop_all) as signalled:
        child.append(subprocess.Popen(command, env=environment, start_new_session=True, pass_fds=inherits))
        if signalled():  # while it was being started
            stop_all()
        code = child[0].wait()
        if signalled():
            _end_group(child[0].pid)
        return code, signalled()


def _end_group(group: int) -> None:
    """Wait until no process is left in a group; SIGKILL those that take too long."""
    until = time.monotonic() + GRACE_SECONDS
    while _signal_group(group, 0) and time.monotonic() < until:
        time.sleep(0.05)
    _signal_group(group, signal.SIGKILL)


def _signal_group(group: int, number: int) -> bool:
    """Whether there was a process in the group to be signalled."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
        return True
    return False
