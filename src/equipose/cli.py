"""What every command-line module shares: a user's mistake is one line on stderr, not a traceback."""

import sys
from collections.abc import Callable
from contextlib import suppress

from equipose.errors import ConfigError


def run_main(main: Callable[[], None]) -> None:
    """Run `main`; a ConfigError ends it with `error: …` and exit code 1."""
    try:
        main()
    except ConfigError as error:
        say(f"error: {error}")
        sys.exit(1)


def say(line: str) -> None:
    """A line for people. A signal to a whole job may end its `tee` first: what is to be saved is saved all the same."""
    with suppress(BrokenPipeError):
        print(line, file=sys.stderr, flush=True)
