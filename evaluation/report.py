"""Results of an evaluation: printed, and kept as text and as JSON beside the model."""
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.estimates import Estimate
from utils.files import write_text

Tables = Mapping[str, Mapping[str, float | Estimate]]  # row -> number -> value
LINE = 120  # characters; what does not fit becomes a second table
_GAP = "  "


def write_report(folder: Path, ext: str, settings: Mapping[str, Any], tables: Tables,
                 notes: Sequence[str] = ()) -> list[Path]:
    """Print ``tables`` and ``notes`` and write ``<folder>/<ext>.log`` and ``.json``; the two paths."""
    lines = [*table_lines(tables), *notes]
    print("\n".join(lines))
    paths = [folder / f"{ext}.log", folder / f"{ext}.json"]
    header = [f"{key}: {value}" for key, value in settings.items()]
    write_text(paths[0], "\n".join([*header, "", *lines, ""]))
    content = {"settings": {key: _plain(value) for key, value in settings.items()},
               "results": {row: {key: _plain(value) for key, value in numbers.items()}
                           for row, numbers in tables.items()},
               "notes": list(notes)}
    write_text(paths[1], json.dumps(content, indent=1, allow_nan=False) + "\n")
    print(f"-> {paths[0]}, {paths[1]}")
    return paths


def table_lines(tables: Tables) -> list[str]:
    """A row a line under the names of the numbers; a dash where a row has none of that name."""
    cells = {key: {row: _text(numbers[key]) if key in numbers else "-" for row, numbers in tables.items()}
             for key in _columns(tables)}
    first = max(map(len, tables), default=0)
    lines, block, room = [], [], LINE - first
    for key, column in [*cells.items(), ("", {})]:
        width = max(map(len, [key, *column.values()]))
        if block and (not column or room < len(_GAP) + width):
            lines += [f"{row:<{first}}" + "".join(_GAP + f"{column[row] if row else name:>{size}}"
                                                  for name, column, size in block) for row in ("", *tables)]
            block, room = [], LINE - first
        block.append((key, column, width))
        room -= len(_GAP) + width
    return lines


def _columns(tables: Tables) -> list[str]:
    """Names of all numbers; one that a later row brings in stands behind the one before it in that row."""
    columns: list[str] = []
    for numbers in tables.values():
        place = 0
        for key in numbers:
            if key not in columns:
                columns.insert(place, key)
            place = columns.index(key) + 1
    return columns


def _text(value: float | Estimate) -> str:
    return str(value) if isinstance(value, Estimate) else f"{value:.4g}"


def _plain(value: Any) -> Any:
    """What JSON takes: a number that is not finite becomes null, and anything it does not know a text."""
    if isinstance(value, Estimate):
        return value.plain()
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value if isinstance(value, (bool, int, str, type(None))) else str(value)
