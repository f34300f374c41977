"""Evaluation reports: confidence intervals, timing, and tables for the screen and files."""
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from utils import processor, usable_cores
from utils.files import write_text

WIDTH = 1.96  # half width of a 95 % interval in standard errors


@dataclass(frozen=True)
class Estimate:
    """Mean of a metric over repeats, with its 95 % confidence interval. Values that are not finite are excluded."""

    mean: float             # NaN if no repeat has a finite value
    interval: float | None  # half width 1.96 std / sqrt(repeats), as in published tables; None with one repeat
    repeats: int            # number of repeats with a finite value
    not_finite: int = 0     # number of excluded repeats

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        """Create an estimate from one value per repeat."""
        given = np.asarray(values, np.float64)
        good = given[np.isfinite(given)]
        interval = WIDTH * float(good.std()) / len(good) ** 0.5 if len(good) > 1 else None
        return cls(float(good.mean()) if len(good) else float("nan"), interval, len(good), len(given) - len(good))

    def __str__(self) -> str:
        if not self.repeats:
            return "not finite"
        text = f"{self.mean:.4g}" + (f" ±{self.interval:.2g}" if self.interval is not None else "")
        return f"{text} ({self.not_finite} not finite)" if self.not_finite else text

    def plain(self) -> dict[str, float | int | None]:
        """Convert to a dictionary for JSON, with None for NaN."""
        return {"mean": self.mean if self.repeats else None, "interval": self.interval, "repeats": self.repeats,
                "not_finite": self.not_finite}


def estimates(draws: Sequence[dict[str, float]]) -> dict[str, Estimate]:
    """Create estimates, keyed by metric name, from one dictionary of values per repeat."""
    return {key: Estimate.of([draw[key] for draw in draws]) for key in draws[0]} if draws else {}


Item = TypeVar("Item")
TIMED = 10  # maximum number of timed items


def seconds_each(action: Callable[[Item], object], items: Sequence[Item]) -> float:
    """Return the median time in seconds of calling ``action`` on one of the first ``TIMED`` items, after a warm-up."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    action(items[0])
    times = []
    for item in items[:TIMED]:
        start = time.perf_counter()
        action(item)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def hardware(device: torch.device) -> str:
    """Describe the hardware and the torch version: the GPU, or the CPU with its numbers of cores and threads."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{processor()}, {usable_cores()} cores, {torch.get_num_threads()} threads"
    return f"{name}, torch {torch.__version__}"


Tables = Mapping[str, Mapping[str, float | Estimate]]  # row -> metric -> value
LINE = 120  # maximum line width; wider tables are split
_GAP = "  "


def write_report(folder: Path, ext: str, settings: Mapping[str, Any], tables: Tables,
                 notes: Sequence[str] = ()) -> list[Path]:
    """Print ``tables`` and ``notes`` and write them to ``<folder>/<ext>.log`` and ``.json``. Returns the two paths."""
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
    print(f"wrote {paths[0]} and {paths[1].name}")
    return paths


def table_lines(tables: Tables) -> list[str]:
    """Format tables as lines of text, with a dash for missing values."""
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
    """Return the names of all columns.

    A column that first appears in a later row is inserted after the column that precedes it in that row.
    """
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
    """Convert a value for JSON: numbers that are not finite become None, unknown types become strings."""
    if isinstance(value, Estimate):
        return value.plain()
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value if isinstance(value, (bool, int, str, type(None))) else str(value)
