"""``opt.txt``: the settings of a run, one ``key: value`` a line between two dashed lines."""
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.errors import InputError
from utils.files import read_text, write_text

HEADER = "------------ Options -------------"
FOOTER = "-------------- End ----------------"
_FLOAT = re.compile(r"[+-]?\d+\.\d+(e[+-]?\d+)?|[+-]?\d+e[+-]?\d+")
_INT = re.compile(r"[+-]?\d+")


def write_options(path: str | Path, options: Mapping[str, Any]) -> None:
    """Write settings sorted by key, atomically."""
    lines = [f"{key}: {value}" for key, value in sorted(options.items())]
    write_text(path, "\n".join([HEADER, *lines, FOOTER, ""]))


def read_options(path: str | Path) -> dict[str, Any]:
    """Settings of a run. True/False, whole and decimal numbers are converted; anything else stays text, and so does
    every name, be it ``007``.

    A line is split at its first ``":"`` only; blank lines are skipped. Raises ``InputError`` for a line without one.
    """
    options: dict[str, Any] = {}
    for number, line in enumerate(read_text(path, "options").splitlines(), 1):
        if not line.strip() or line.startswith("---"):
            continue
        key, separator, value = line.partition(":")
        if not separator:
            raise InputError(f"{path}:{number}: expected 'key: value', not {line!r}")
        key, value = key.strip(), value.strip()
        options[key] = value if key == "name" or key.endswith("_name") else _value(value)
    return options


def _value(text: str) -> Any:
    if text in ("True", "False"):
        return text == "True"
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
