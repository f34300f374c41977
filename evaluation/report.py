"""Results of an evaluation: confidence intervals, timing, and reports on the screen and on disk."""
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from utils.cpu import processor, usable_cores
from utils.files import write_text

WIDTH = 1.96  # standard deviations of the mean on either side hold 95 %


@dataclass(frozen=True)
class Estimate:
    """Mean over the repeats that gave a finite number, with its 95 % interval."""

    mean: float             # NaN where no repeat gave a number
    interval: float | None  # half its width, 1.96 sd / sqrt(repeats) as in published tables; None without a second one
    repeats: int            # that gave a finite number
    not_finite: int = 0     # repeats that did not; they are in neither mean nor interval

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        """The estimate of one value a repeat."""
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
        """The same for JSON, which has no NaN: None stands for it."""
        return {"mean": self.mean if self.repeats else None, "interval": self.interval, "repeats": self.repeats,
                "not_finite": self.not_finite}


def estimates(draws: Sequence[dict[str, float]]) -> dict[str, Estimate]:
    """Estimates by name of numbers by name, one dictionary a repeat."""
    return {key: Estimate.of([draw[key] for draw in draws]) for key in draws[0]} if draws else {}


Item = TypeVar("Item")
TIMED = 10  # items


def seconds_each(action: Callable[[Item], object], items: Sequence[Item]) -> float:
    """Median seconds of ``action`` on each of the first items by itself, after one that does not count."""
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
    """What computes: the GPU or the processor by name, cores and threads, and the version of torch."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{processor()}, {usable_cores()} cores, {torch.get_num_threads()} threads"
    return f"{name}, torch {torch.__version__}"


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
