"""Checks of what the page sends. Errors are one line and name no path of the server."""
import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.motion_files import read_clip
from data.specs import DatasetSpec
from data.text import clean_caption
from models.motion_edit import Part
from options.generate import section
from utils.errors import InputError


@dataclass(frozen=True)
class Limits:
    """Limits of one request."""

    letters: int = 300        # of a text
    seconds: float = 30.0     # of a generated motion
    samples: int = 4
    guidance: float = 10.0
    seed: int = 2**31 - 1
    sections: int = 8
    upload_bytes: int = 16 << 20
    upload_seconds: float = 120.0
    captions: int = 5
    found: int = 12


@dataclass(frozen=True)
class Kept:
    """A motion generated in the app: joints (T, J, 3) in a ``.npy``."""

    label: str
    path: Path


def checked_text(text: str | None, letters: int, what: str) -> str:
    """The text without surrounding spaces. Raises ``InputError`` if it has no words or too many letters."""
    text = (text or "").strip()
    if len(text) > letters:
        raise InputError(f"{what} has {len(text)} letters; {letters} are the most")
    if not clean_caption(text):
        raise InputError(f"{what} has no words")
    return text


def checked_number(value: float | None, low: float, high: float, what: str) -> float:
    """The number. Raises ``InputError`` unless it is from ``low`` to ``high``."""
    if not isinstance(value, (int, float)) or not math.isfinite(value) or not low <= value <= high:
        raise InputError(f"{what} must be from {low:g} to {high:g}, not {'nothing' if value is None else value}")
    return value


def checked_count(value: float | None, high: int, what: str, low: int = 1) -> int:
    """The number as an int. Raises ``InputError`` unless it is whole and from ``low`` to ``high``."""
    number = checked_number(value, low, high, what)
    if number != int(number):
        raise InputError(f"{what} must be a whole number, not {number:g}")
    return int(number)


def read_source(upload: str | None, chosen: str | None, kept: Sequence[Kept], spec: DatasetSpec,
                limits: Limits) -> tuple[str, np.ndarray]:
    """Name and features (T, d) of the uploaded motion or, without an upload, of the chosen one.

    What reading it changed, such as its axes, is added to the name.
    """
    if upload is not None:
        path, name = Path(upload), Path(upload).name
        if not path.is_file():
            raise InputError(f"{name} has expired; upload it again")
        if path.stat().st_size > limits.upload_bytes:
            raise InputError(f"{name} is larger than {limits.upload_bytes >> 20} MB")
    else:
        one = next((one for one in kept if one.label == chosen), None)
        if one is None:
            raise InputError("upload a motion, or choose one that was made here")
        if not one.path.is_file():
            raise InputError(f"{one.label} has expired; generate it again")
        path, name = one.path, one.label
    try:
        remarks: list[str] = []
        features = read_clip(path, spec, say=remarks.append, trusted=upload is None)
    except InputError as error:
        raise InputError(str(error).replace(str(path), name)) from error
    if len(features) > limits.upload_seconds * spec.fps:
        raise InputError(f"{name} lasts {len(features) / spec.fps:.0f} s; {limits.upload_seconds:.0f} are the most")
    heard = "; ".join(remark.removeprefix(f"{path}: ") for remark in remarks)
    return f"{name} ({heard})" if heard else name, features


def parse_parts(sections: str, frames: int, unit: int, text: str, fps: float, limits: Limits) -> list[Part]:
    """Parts of a motion of ``frames`` frames, given as shares or tokens as in ``edit_t2m.py``."""
    words = (sections or "").split()
    if not 1 <= len(words) <= limits.sections:
        raise InputError(f"name 1 to {limits.sections} parts, such as 0.3,0.6")
    parts = []
    for word in words:
        try:
            chosen = section(word)
        except argparse.ArgumentTypeError as error:
            raise InputError(f"a part {error}") from error
        if chosen.stop * unit > limits.upload_seconds * fps:
            raise InputError(f"part {word} ends after more than {limits.upload_seconds:.0f} s")
        parts.append(Part(*chosen.tokens(frames // unit), text))
    return parts
