"""Shared by all command-line modules: a user's mistake is one line on stderr, not a traceback; so is progress."""

import argparse
import math
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress

from equipose.errors import ConfigError

SECONDS_BETWEEN_REPORTS, REPORTS = 5.0, 20
"""Least seconds between two lines of progress, and largest number of lines for one activity."""

SIGNALLED = 128
"""A shell's exit code of a command that signal N ended is this plus N."""

Report = Callable[[str, int, int], None]
"""A function of the activity's name, the images done so far, and the number of all images."""


def run_main(main: Callable[[], None]) -> None:
    """Run `main`; a ConfigError ends it with `error: …` and exit code 2, a closed pipe (`… | head`) with 141 alone.

    A warning is a line, too.
    """
    warnings.showwarning = lambda message, *_: say(f"warning: {message}")
    try:
        try:
            main()
        finally:
            sys.stdout.flush()
    except ConfigError as error:
        say(f"error: {error}")
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python's last flush raises it again
        sys.exit(SIGNALLED + signal.SIGPIPE)


def say(line: str) -> None:
    """Print a line for people. If a signal has ended our `tee` or terminal, print nothing and go on."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def reporter(say: Callable[[str], None] = say) -> Report:
    """A function that prints the activity and the time left now and then, and nothing if it does not take long."""
    began: dict[str, float] = {}
    reported: dict[str, tuple[float, int]] = {}

    def report(what: str, done: int, total: int) -> None:
        now = time.perf_counter()
        start = began.setdefault(what, now)
        last, before = reported.setdefault(what, (start, 0))
        enough = done == total or REPORTS * (done - before) >= total
        if enough and now - last >= SECONDS_BETWEEN_REPORTS:
            left = (now - start) / done * (total - done)
            say(f"{what} {done} of {total} images, about {left:.0f} s to go")
            reported[what] = now, done

    return report


def duration(seconds: float) -> str:
    """A time for people: 90 s, 25 minutes, 3.5 hours, 513 hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes"
    hours = seconds / 3600
    return f"{hours:.0f} hours" if hours >= 100 else f"{hours:.1f} hours"


def number(kind: Callable[[str], float], least: float, above: bool = False) -> Callable[[str], float]:
    """For argparse, which names the option: text as an int or float of at least `least`, or `above` it; no infinity."""
    whole = "whole " if kind is int else ""
    wanted = f"above {least:g}" if above else f"of {least:g} or more"

    def read(text: str) -> float:
        with suppress(ValueError):
            value = kind(text)
            if (value > least or (value == least and not above)) and math.isfinite(value):
                return value
        raise argparse.ArgumentTypeError(f"{text} is no {whole}number {wanted}")

    return read
