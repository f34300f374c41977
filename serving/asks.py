"""Validated requests. Equal requests give equal motions.

Each error message is a single line that can be shown to users.
"""
import argparse
import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np

from data.dataset import DatasetSpec
from data.motion_files import read_clip
from data.text import clean_caption
from models.motion_edit import TimelinePart
from options.generate import section
from utils import InputError

DEEPEST = 8  # maximum nesting of edits


@dataclass(frozen=True)
class Limits:
    """Limits for a single request."""

    letters: int = 300        # characters in a text
    seconds: float = 30.0     # seconds of a generated motion
    samples: int = 4
    guidance: float = 10.0
    seed: int = 2**31 - 1
    sections: int = 8
    blocks: int = 12          # blocks per timeline track
    waypoints: int = 12
    constraints: int = 20
    metres: float = 20.0      # maximum distance of a waypoint from the start, along each axis
    upload_bytes: int = 16 << 20
    upload_seconds: float = 120.0
    captions: int = 5
    found: int = 12


LIMITS = Limits()
FORMATS = ("bvh", "mp4", "glb")  # of files, in addition to .npy


@dataclass(frozen=True)
class Block:
    """A prompt in a timeline, from ``start`` to ``end`` in seconds."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Waypoint:
    """A position on the floor, in metres, at a time in seconds."""

    x: float
    z: float
    time: float


@dataclass(frozen=True)
class Remake:
    """Request to regenerate a timeline block with a new seed. ``track`` is "body" or "upper"."""

    track: str
    block: int
    seed: int


@dataclass(frozen=True)
class Ask:
    """Request for a motion: a prompt, an edit of ``source`` (with ``sections``), or a timeline (with ``blocks``)."""

    seed: int
    guidance: float
    prompt: str = ""
    seconds: float | None = None         # length; None: chosen by the model
    sections: str = ""                   # as in edit_t2m.py
    source: Mapping[str, Any] | None = None  # motion to edit: a request, or an upload {"upload": name, "room": id}
    blocks: tuple[Block, ...] = ()
    upper: tuple[Block, ...] = ()
    waypoints: tuple[Waypoint, ...] = ()
    remakes: tuple[Remake, ...] = ()
    constraints: tuple[Mapping[str, Any], ...] = ()  # as in --constraints of gen_t2m.py

    @property
    def title(self) -> str:
        """All prompts, joined into one string."""
        title = ", then ".join(block.text for block in self.blocks) or self.prompt
        return title + "".join(f"; upper body: {block.text}" for block in self.upper)

    @property
    def stem(self) -> str:
        """File name without suffix, such as ``a-person-waves_s3407``."""
        letters = unicodedata.normalize("NFKD", self.title.lower()).encode("ascii", "ignore").decode()
        return f"{'-'.join(re.findall('[a-z0-9]+', letters))[:60].strip('-') or 'motion'}_s{self.seed}"

    @property
    def from_upload(self) -> bool:
        """Whether an uploaded file is needed to generate the motion again."""
        return self.source is not None and ("upload" in self.source or Ask.read(self.source).from_upload)

    def record(self) -> dict[str, Any]:
        """Return the seed, the guidance and all non-default values as a JSON-serialisable dict."""
        found = asdict(self)
        return {field.name: found[field.name] for field in fields(self)
                if field.name in ("seed", "guidance") or getattr(self, field.name) != field.default}

    def query(self) -> str:
        """Return the request as a URL query string."""
        return urlencode({name: value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
                          for name, value in self.record().items()})

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> "Ask":
        """Parse a URL query string created by ``query``. Raises ``InputError`` if it is invalid."""
        texts, names = ("prompt", "sections"), {field.name for field in fields(cls)}
        record: dict[str, Any] = {"seed": 0, "guidance": 4.0}
        for name, value in query.items():
            if name in names:
                try:
                    record[name] = value if name in texts else json.loads(value)
                except ValueError as error:
                    raise InputError(f"{name} in the link cannot be read: {value[:40]}") from error
        return cls.read(record)

    @classmethod
    def read(cls, record: Any, depth: int = 0) -> "Ask":
        """Parse and validate a JSON object. Raises an ``InputError`` that names the invalid value."""
        if not isinstance(record, Mapping) or depth > DEEPEST:
            raise InputError(f"a request must be a JSON object with at most {DEEPEST} nested edits")
        unknown = sorted(map(str, set(record) - {field.name for field in fields(cls)}))
        if unknown:
            known = ", ".join(field.name for field in fields(cls))
            raise InputError(f"{unknown[0][:40]!r} is unknown; a request has {known}")
        blocks, upper = (_blocks(record.get(name), name) for name in ("blocks", "upper"))
        idle = [name for name in ("upper", "waypoints", "remakes") if record.get(name) and not blocks]
        idle += ["source"] * bool(record.get("source") and not record.get("sections"))
        if idle:
            raise InputError(f"{idle[0]} needs {'sections' if idle[0] == 'source' else 'blocks'}")
        source = record.get("source")
        source = None if source is None else read_source(source, depth)
        seconds = record.get("seconds")
        if seconds is not None:
            seconds = checked_number(seconds, 0.2, LIMITS.seconds, "the length in seconds")
        return cls(
            checked_count(record.get("seed"), LIMITS.seed, "the seed", low=0),
            float(checked_number(record.get("guidance"), 0.0, LIMITS.guidance, "guidance")),
            "" if blocks else checked_text(record.get("prompt"), LIMITS.letters, "the prompt"), seconds,
            checked_text(record.get("sections"), 200, "the parts", words=False), source,
            blocks, upper, _listed(record.get("waypoints"), "waypoints", LIMITS.waypoints, _waypoint),
            _remakes(record.get("remakes")),
            _listed(record.get("constraints"), "constraints", LIMITS.constraints, lambda value, _: value))


def _listed(values: Any, what: str, most: int, read: Any) -> tuple:
    if values is None:
        return ()
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) > most:
        raise InputError(f"{what} must be a list of at most {most}")
    found = []
    for number, value in enumerate(values, 1):
        if not isinstance(value, Mapping):
            raise InputError(f"{what} {number} must be a JSON object")
        found.append(read(value, f"{what} {number}"))
    return tuple(found)


def _blocks(values: Any, what: str) -> tuple[Block, ...]:
    def read(value: Mapping[str, Any], place: str) -> Block:
        start, end = (checked_number(value.get(name), 0.0, LIMITS.seconds, f"{place}: {name}")
                      for name in ("start", "end"))
        if end - start < 0.2:
            raise InputError(f"{place} must last at least 0.2 s, not {end - start:g}")
        return Block(checked_text(value.get("text"), LIMITS.letters, f"{place}: the prompt"), start, end)

    blocks = tuple(sorted(_listed(values, what, LIMITS.blocks, read), key=lambda block: block.start))
    for before, after in zip(blocks, blocks[1:], strict=False):
        if after.start < before.end - 1e-6:
            raise InputError(f"“{before.text}” and “{after.text}” overlap")
    return blocks


def _waypoint(value: Mapping[str, Any], place: str) -> Waypoint:
    x, z = (checked_number(value.get(name), -LIMITS.metres, LIMITS.metres, f"{place}: {name}") for name in "xz")
    return Waypoint(x, z, checked_number(value.get("time"), 0.0, LIMITS.seconds, f"{place}: time"))


def _remake(value: Mapping[str, Any], place: str) -> Remake:
    if value.get("track") not in ("body", "upper"):
        raise InputError(f"{place}: track must be body or upper")
    return Remake(value["track"], checked_count(value.get("block"), LIMITS.blocks, f"{place}: block", low=0),
                  checked_count(value.get("seed"), LIMITS.seed, f"{place}: seed", low=0))


def _remakes(values: Any) -> tuple[Remake, ...]:
    remakes = _listed(values, "remakes", 2 * LIMITS.blocks, _remake)
    if len({(remake.track, remake.block) for remake in remakes}) < len(remakes):
        raise InputError("remakes must be of different blocks")
    return remakes


def read_source(source: Any, depth: int = 0) -> dict[str, Any]:
    """Validate the source of an edit. Raises an ``InputError`` that names the invalid value."""
    if isinstance(source, Mapping) and "upload" in source:
        return {name: checked_text(source.get(name), 300, f"source: {name}", words=False)
                for name in ("upload", "room")}
    return Ask.read(source, depth + 1).record()


def checked_formats(formats: Any) -> list[str]:
    """Return the formats. Raises ``InputError`` unless all are in ``FORMATS``."""
    if not isinstance(formats, Sequence) or isinstance(formats, str) or not all(name in FORMATS for name in formats):
        raise InputError(f"formats must be a list of {', '.join(FORMATS)}, not {str(formats)[:40]}")
    return list(formats)


def checked_text(text: Any, letters: int, what: str, words: bool = True) -> str:
    """Strip and return the text. Raises ``InputError`` if it is not valid text or is too long.

    If ``words`` is True, a text without words is also an error.
    """
    text = "" if text is None else text
    if not isinstance(text, str) or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise InputError(f"{what} must be text, not {ascii(text)[:40]}")
    text = text.strip()
    if len(text) > letters:
        raise InputError(f"{what} has {len(text)} characters; the maximum is {letters}")
    if words and not clean_caption(text):
        raise InputError(f"{what} has no words")
    return text


def checked_number(value: Any, low: float, high: float, what: str) -> float:
    """Return the number. Raises ``InputError`` unless it is between ``low`` and ``high``."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value <= high:
        given = "nothing" if value is None else repr(value)[:40]
        raise InputError(f"{what} must be from {low:.10g} to {high:.10g}, not {given}")
    return value


def checked_count(value: Any, high: int, what: str, low: int = 1) -> int:
    """Return the number as an int. Raises ``InputError`` unless it is whole and between ``low`` and ``high``."""
    number = checked_number(value, low, high, what)
    if number != int(number):
        raise InputError(f"{what} must be a whole number, not {number:g}")
    return int(number)


def read_upload(upload: str | None, spec: DatasetSpec) -> tuple[str, np.ndarray, list[str]]:
    """Read an uploaded motion. Returns its name, features (T, d), and notes on conversions such as rotated axes.

    Raises ``InputError`` if the file has expired, is too large or too long, or is not a motion.
    """
    if upload is None:
        raise InputError("upload a motion, or choose a generated one")
    path = Path(upload)
    name = path.name
    if not path.is_file():
        raise InputError(f"{name} has expired; upload it again")
    if path.stat().st_size > LIMITS.upload_bytes:
        raise InputError(f"{name} is larger than {LIMITS.upload_bytes >> 20} MB")
    remarks: list[str] = []
    try:
        features = read_clip(path, spec, say=remarks.append)
    except InputError as error:
        raise InputError(str(error).replace(str(path), name)) from error
    if len(features) > LIMITS.upload_seconds * spec.fps:
        raise InputError(f"{name} lasts {len(features) / spec.fps:.0f} s; the maximum is {LIMITS.upload_seconds:.0f} s")
    return name, features, [remark.removeprefix(f"{path}: ") for remark in remarks]


def parse_parts(sections: str, frames: int, unit: int, text: str, fps: float) -> list[TimelinePart]:
    """Parse the parts of a motion to regenerate, given in fractions or tokens, as in ``edit_t2m.py``."""
    words = (sections or "").split()
    if not 1 <= len(words) <= LIMITS.sections:
        raise InputError(f"name 1 to {LIMITS.sections} parts, such as 0.3,0.6")
    parts = []
    for word in words:
        try:
            chosen = section(word)
        except argparse.ArgumentTypeError as error:
            raise InputError(f"a part {error}") from error
        if chosen.stop * unit > LIMITS.upload_seconds * fps:
            raise InputError(f"part {word} ends after more than {LIMITS.upload_seconds:.0f} s")
        parts.append(TimelinePart(*chosen.tokens(frames // unit), text))
    return parts
