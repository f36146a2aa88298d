"""What every command-line module shares: a user's mistake is one line on stderr, not a traceback; so is progress."""

import sys
import time
from collections.abc import Callable
from contextlib import suppress

from equipose.errors import ConfigError

SECONDS_BETWEEN_REPORTS, REPORTS = 5.0, 20
"""At least so far apart, and at most so many for one thing that is being done."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, the images done so far, and their number."""


def run_main(main: Callable[[], None]) -> None:
    """Run `main`; a ConfigError ends it with `error: …` and exit code 2."""
    try:
        main()
    except ConfigError as error:
        say(f"error: {error}")
        sys.exit(2)


def say(line: str) -> None:
    """A line for people. A signal to a whole job may end its `tee` first: what is to be saved is saved all the same."""
    with suppress(BrokenPipeError):
        print(line, file=sys.stderr, flush=True)


def reporter(say: Callable[[str], None] = say) -> Progress:
    """Says what is done, and the time left, now and then; nothing where it does not take long."""
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
