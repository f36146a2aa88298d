"""What every command-line module shares: a user's mistake is one line on stderr, not a traceback."""

import sys
from collections.abc import Callable

from equipose.errors import ConfigError


def run_main(main: Callable[[], None]) -> None:
    """Run `main`; a ConfigError ends it with `error: …` and exit code 1."""
    try:
        main()
    except ConfigError as error:
        sys.exit(f"error: {error}")
