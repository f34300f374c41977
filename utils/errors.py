"""Errors of the user's input, reported in one line without a traceback."""
import functools
import sys
from collections.abc import Callable


class InputError(Exception):
    """Invalid input; the message names the path, line or value and, if possible, a remedy."""


def script(main: Callable[[], None]) -> Callable[[], None]:
    """Decorator for a script's ``main``: prints an ``InputError`` as one line on stderr and exits with status 2."""

    @functools.wraps(main)
    def wrapped() -> None:
        try:
            main()
        except InputError as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)

    return wrapped
