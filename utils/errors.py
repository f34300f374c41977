"""Bad input is told in one line, without a traceback."""
import functools
import sys
from collections.abc import Callable


class InputError(Exception):
    """Something the user gave is wrong: the message names the path, line or value, and the mend."""


def script(main: Callable[[], None]) -> Callable[[], None]:
    """Decorate a script's ``main``: an ``InputError`` becomes one line on stderr and exit status 2."""

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
