"""Read and validate constraint files in JSON format.

A file contains a list of constraints, or an object that maps prompt numbers, starting at 0, to such lists.
``docs/control.md`` describes the kinds of constraints, coordinates and units.
"""
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.dataset import DatasetSpec
from utils import InputError
from utils.files import read_text

FARTHEST = 1e4  # m: largest coordinate
LAST = -1       # stands for the last frame, in constraints from flags
Value = Any     # decoded JSON
Check = Callable[[Value, str], Value]  # validates and converts a value; the string is its position, for error messages


@dataclass(frozen=True)
class Entry:
    """Validated constraint from a file or flag. Its times are checked later, when the length of the motion is known."""

    kind: str
    fields: Mapping[str, Value]
    place: str  # position in the file, for errors


@dataclass(frozen=True)
class FileConstraints:
    """Constraints from a file."""

    whole: Sequence[Entry]                # from a plain list
    by_prompt: Sequence[Sequence[Entry]]  # for each prompt


def read_constraints(path: str | Path, spec: DatasetSpec, prompts: int) -> FileConstraints:
    """Read a constraint file for a run with ``prompts`` prompts.

    Raises an ``InputError`` that names the position of the invalid value.
    """
    text = read_text(path, "constraint file")
    try:
        content = json.loads(text, object_pairs_hook=lambda pairs: _without_repeats(pairs, path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from error
    except RecursionError as error:
        raise InputError(f"{path}: lists nested too deeply") from error
    if not isinstance(content, dict):
        return FileConstraints(check_entries(content, str(path), spec, Path(path).parent), ((),) * prompts)
    found: list[list[Entry]] = [[] for _ in range(prompts)]
    for key, entries in content.items():
        place = f"{path}: prompt {key}"
        if not key.isdecimal() or int(key) >= prompts:
            raise InputError(f"{place}: prompts are numbered from 0 to {prompts - 1}")
        found[int(key)] = check_entries(entries, place, spec, Path(path).parent)
    return FileConstraints((), found)


def check_entries(entries: Value, place: str, spec: DatasetSpec, folder: Path | None = None) -> list[Entry]:
    """Validate a list of constraints. Paths of pose files are relative to ``folder``; if it is None, there can be none.

    Raises an ``InputError`` that names the position of the invalid value.
    """
    if not isinstance(entries, list):
        raise InputError(f"{place}: expected a list of constraints, not {_named(entries)}")
    return [_entry(entry, f"{place}[{number}]", spec, folder) for number, entry in enumerate(entries)]


def _without_repeats(pairs: Sequence[tuple[str, Value]], path: str | Path) -> dict[str, Value]:
    names = [name for name, _ in pairs]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise InputError(f"{path}: {repeated!r} is given twice in one object")
    return dict(pairs)


def _entry(entry: Value, place: str, spec: DatasetSpec, folder: Path | None) -> Entry:
    if not isinstance(entry, dict):
        raise InputError(f"{place}: expected an object, not {_named(entry)}")
    schema, kind = _schema(spec, folder), entry.get("kind")
    if not isinstance(kind, str) or kind not in schema:
        raise InputError(f"{place}.kind: {_shown(kind)} is not one of {', '.join(schema)}")
    needed, optional = schema[kind]
    known = needed | optional | TIMES
    for name in entry:
        if name != "kind" and name not in known:
            raise InputError(f"{place}.{name}: unknown; a {kind} has {', '.join(known)}")
    for name in needed:
        if name not in entry:
            raise InputError(f"{place}: a {kind} needs {name}")
    fields = {name: known[name](value, f"{place}.{name}") for name, value in entry.items() if name != "kind"}
    given = [name for name in TIMES if name in fields]
    if len(given) > 1:
        raise InputError(f"{place}: give one of {' and '.join(given)}")
    if kind in ("waypoint", "pose") and not given:
        raise InputError(f"{place}: a {kind} needs a time or a frame")
    return Entry(kind, fields, place)


def _number(value: Value, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"{place}: expected a number, not {_named(value)}")
    if not abs(value) <= FARTHEST:  # NaN too
        raise InputError(f"{place}: {value} is not a finite number of at most {FARTHEST:g}")
    return float(value)


def _not_negative(value: Value, place: str) -> float:
    number = _number(value, place)
    if number < 0:
        raise InputError(f"{place}: {value} is below 0")
    return number


def _frame(value: Value, place: str) -> int:
    number = _not_negative(value, place)
    if not number.is_integer():
        raise InputError(f"{place}: frames are whole numbers, not {value}")
    return int(number)


def _boolean(value: Value, place: str) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{place}: expected true or false, not {_named(value)}")
    return value


def _free(value: Value, place: str) -> float:
    return math.nan if value is None else _number(value, place)


def _one_of(*names: str) -> Check:
    def check(value: Value, place: str) -> str:
        if not isinstance(value, str) or value not in names:
            raise InputError(f"{place}: {_shown(value)} is not one of {', '.join(names)}")
        return value
    return check


def _list(item: Check, count: int | None = None) -> Check:
    """Create a check for a list of ``count`` items or, by default, for any list that is not empty."""
    def check(value: Value, place: str) -> list[Value]:
        if not isinstance(value, list) or not value or count not in (None, len(value)):
            found = str(len(value)) if count and isinstance(value, list) else _named(value)
            wanted = f"of {count}" if count else "with at least one item"
            raise InputError(f"{place}: expected a list {wanted}, not {found}")
        return [item(part, f"{place}[{number}]") for number, part in enumerate(value)]
    return check


def _span(item: Check) -> Check:
    """Create a check for a single time or a list [first, last]. The check returns (first, last) for both."""
    def check(value: Value, place: str) -> tuple[Value, Value]:
        first, last = _list(item, 2)(value, place) if isinstance(value, list) else [item(value, place)] * 2
        if first > last:
            raise InputError(f"{place}: starts at {first} but ends earlier, at {last}")
        return first, last
    return check


def _file(folder: Path | None) -> Check:
    def check(value: Value, place: str) -> Path:
        if folder is None:
            raise InputError(f"{place}: files cannot be used here")
        if not isinstance(value, str) or not value:
            raise InputError(f"{place}: expected a file, not {_named(value)}")
        path = folder / value
        if not path.is_file():
            raise InputError(f"{place}: {path} is missing")
        return path
    return check


TIMES: dict[str, Check] = {"time": _span(_not_negative), "times": _list(_not_negative), "frame": _span(_frame),
                           "frames": _list(_frame)}


def _schema(spec: DatasetSpec, folder: Path | None) -> dict[str, tuple[dict[str, Check], dict[str, Check]]]:
    """Return the required and the optional fields of each kind of constraint."""
    point, place = _list(_number, 2), _list(_free, 3)
    joint = _one_of(*spec.skeleton.joint_names)
    return {
        "path": ({"points": _list(point)}, {"tolerance": _not_negative, "face": _one_of("along", "free")}),
        "waypoint": ({"point": point}, {"tolerance": _not_negative}),
        "heading": ({"degrees": _number}, {"tolerance": _not_negative}),
        "joint": ({"joint": joint}, {"position": place, "positions": _list(place)}),
        "pose": ({}, {"joints": _list(_list(_number, 3), spec.joints_num), "file": _file(folder), "file_frame": _frame,
                      "in_body": _boolean}),
        "ground": ({"height": _not_negative}, {}),
        "contacts": ({}, {}),
    }


def _named(value: Value) -> str:
    """Describe the type of a JSON value for error messages."""
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a number", float: "a number", str: "a string", dict: "an object"}
    return names.get(type(value)) or ("an empty list" if not value else "a list")


def _shown(value: Value) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
