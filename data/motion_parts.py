"""Long motions in parts that models can read, and folders of motions."""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.motion_files import MOTION_SUFFIXES, read_motion
from data.specs import MAX_MOTION_LENGTH, UNIT_LENGTH, DatasetSpec
from utils.errors import InputError
from utils.files import read_text

LOCKED = "_ik"  # ends the names of motions with locked feet, beside those as made


@dataclass(frozen=True)
class Part:
    """Frames [start, end) of a motion."""

    motion: int  # which of several
    start: int
    end: int


def motion_files(path: str | Path) -> list[Path]:
    """The file, or every motion in the folder and those in it, in order. ``InputError`` where there is none.

    Of a motion that lies there as made and with locked feet (``..._ik``), the one as made.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path} is missing")
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in MOTION_SUFFIXES and file.is_file()
                   and not any(part.startswith(".") for part in file.relative_to(path).parts))
    if not files:
        raise InputError(f"{path} holds no motion ({', '.join(MOTION_SUFFIXES)})")
    there = set(files)
    return [file for file in files if _as_made(file) == file or _as_made(file) not in there]


def _as_made(path: Path) -> Path:
    return path.with_stem(path.stem.removesuffix(LOCKED) or path.stem)


def prompt_of(path: Path) -> str | None:
    """What a motion was made from, where a ``.txt`` of its name beside it tells: its first line."""
    file = _as_made(path).with_suffix(".txt")
    if not file.is_file():
        return None
    return next(iter(read_text(file, "prompt").splitlines()), "").strip() or None


def read_clip(path: Path, spec: DatasetSpec) -> np.ndarray:
    """Features (T, d), not normalised, of a motion that is at least a token long; ``InputError`` otherwise."""
    features = read_motion(path, spec)
    if len(features) < UNIT_LENGTH:
        raise InputError(f"{path}: {len(features)} frames are too few, {UNIT_LENGTH} are a token of motion")
    return features


def parts_of(motions: Sequence[np.ndarray]) -> list[Part]:
    """Every motion (T, d) in the fewest parts of at most 196 frames, those of one motion of like length."""
    parts = []
    for number, motion in enumerate(motions):
        count = -(-len(motion) // MAX_MOTION_LENGTH)
        edges = np.linspace(0, len(motion), count + 1).round().astype(int).tolist()
        parts += [Part(number, start, end) for start, end in zip(edges[:-1], edges[1:], strict=True)]
    return parts
