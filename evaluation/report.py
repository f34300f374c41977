"""Results of an evaluation: printed, and kept as text and as JSON beside the model."""
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.files import write_text


def write_report(folder: Path, ext: str, settings: Mapping[str, Any],
                 tables: Mapping[str, Mapping[str, float]]) -> list[Path]:
    """Print ``tables`` (row -> number -> value) and write ``<folder>/<ext>.log`` and ``.json``; the two paths."""
    lines = [f"{row}: " + "  ".join(f"{key} {value:.4g}" for key, value in numbers.items())
             for row, numbers in tables.items()]
    print("\n".join(lines))
    paths = [folder / f"{ext}.log", folder / f"{ext}.json"]
    header = [f"{key}: {value}" for key, value in settings.items()]
    write_text(paths[0], "\n".join([*header, "", *lines, ""]))
    write_text(paths[1], json.dumps({"settings": {key: str(value) for key, value in settings.items()},
                                     "results": tables}, indent=1) + "\n")
    print(f"-> {paths[0]}, {paths[1]}")
    return paths
