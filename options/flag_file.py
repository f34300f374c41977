"""Flag files: ``@configs/paper/vq.txt`` on a command line expands to the flags in that file."""
import argparse
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from utils.errors import InputError
from utils.files import read_text

MARK = "@"


def expand_flag_files(args: Sequence[str], known: Mapping[str, argparse.Action]) -> list[str]:
    """Replace each ``@FILE`` argument with the flags in the file. Later flags take precedence.

    An argument that follows a flag with a value is that value, even if it starts with ``@``. ``known``: actions by
    flag. Raises ``InputError`` as ``read_flag_file`` does.
    """
    expanded: list[str] = []
    for before, argument in zip(["", *args], args, strict=False):
        takes_value = before in known and known[before].nargs != 0
        is_file = argument.startswith(MARK) and len(argument) > 1 and not takes_value
        expanded += read_flag_file(argument[1:], known) if is_file else [argument]
    return expanded


def read_flag_file(path: str | Path, known: Mapping[str, argparse.Action]) -> list[str]:
    """Arguments in a flag file: one ``--flag value`` per line, comments after ``#``, shell quoting.

    Raises ``InputError`` with file and line for a line that does not start with one of the ``known`` flags.
    """
    arguments: list[str] = []
    for number, line in enumerate(read_text(path, "flag file").splitlines(), 1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise InputError(f"{path}:{number}: {error} in {line.strip()!r}") from error
        if not words:
            continue
        flag = words[0].partition("=")[0]
        if not flag.startswith("--"):
            raise InputError(f"{path}:{number}: expected '--flag value', not {line.strip()!r}")
        if flag not in known:
            raise InputError(f"{path}:{number}: this script has no flag {flag}")
        arguments += words
    return arguments
