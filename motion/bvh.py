"""Read and write BVH files.

Angles are in degrees. The rotations of a joint are multiplied from left to right in channel order and act on column
vectors. Position channels replace the offset of a joint. This module does not import torch, so that Blender's Python
can use it.
"""
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

_POLE = 1e-4  # cosine of the middle angle below which a rotation is in gimbal lock


def euler_to_matrix(degrees: np.ndarray, order: str) -> np.ndarray:
    """Convert Euler angles (..., n) in degrees to matrices (..., 3, 3). The axis ``order`` "zyx" means Rz Ry Rx."""
    matrix = np.broadcast_to(np.eye(3), (*degrees.shape[:-1], 3, 3))
    for angle, axis in zip(np.moveaxis(np.radians(degrees), -1, 0), order, strict=True):
        i, j = (("xyz".index(axis) + step) % 3 for step in (1, 2))
        turn = np.zeros((*angle.shape, 3, 3))
        turn[..., 3 - i - j, 3 - i - j] = 1
        turn[..., i, i] = turn[..., j, j] = np.cos(angle)
        turn[..., j, i] = np.sin(angle)
        turn[..., i, j] = -turn[..., j, i]
        matrix = matrix @ turn
    return matrix


def matrix_to_euler(matrix: np.ndarray, order: str) -> np.ndarray:
    """Convert rotations (T, J, 3, 3) to Euler angles (T, J, 3) in degrees that are continuous over the T frames.

    Two angle triples describe the same rotation, and any angle may be shifted by full turns. Each frame uses the triple
    closest to that of the previous frame. At gimbal lock (middle angle of 90 degrees), the last angle is interpolated
    from the surrounding frames.
    """
    angles = principal_euler(matrix, order)
    return np.stack([_continuous(angles[:, joint], matrix[:, joint], order) for joint in range(angles.shape[1])], 1)


def principal_euler(matrix: np.ndarray, order: str) -> np.ndarray:
    """Convert rotations (..., 3, 3) to Euler angles (..., 3) in degrees, with the middle angle in [-90, 90]."""
    i, j, k = ("xyz".index(axis) for axis in order)
    sign = 1 if (j - i) % 3 == 1 else -1
    first = np.arctan2(-sign * matrix[..., j, k], matrix[..., k, k])
    middle = np.arctan2(sign * matrix[..., i, k], np.hypot(matrix[..., i, i], matrix[..., i, j]))
    last = np.arctan2(-sign * matrix[..., i, j], matrix[..., i, i])
    return np.degrees(np.stack([first, middle, last], -1))


def _continuous(angles: np.ndarray, matrix: np.ndarray, order: str) -> np.ndarray:
    """Make the Euler angles (T, 3) of one joint continuous in time. ``matrix`` (T, 3, 3) are its rotations."""
    angles = angles.copy()
    pole = np.abs(np.cos(np.radians(angles[:, 1]))) < _POLE
    frames = np.arange(len(angles))
    known = frames[:1] if pole.all() else frames[~pole]
    angles[known] = _unwrapped(angles[known])
    if pole.any():
        middle, last = (np.interp(frames[pole], known, angles[known, column]) for column in (1, 2))
        angles[pole, 1] += 360 * np.rint((middle - angles[pole, 1]) / 360)
        angles[pole, 2] = last
        rest = matrix[pole] @ euler_to_matrix(angles[pole, 1:], order[1:]).swapaxes(-1, -2)
        i, j = (("xyz".index(order[0]) + step) % 3 for step in (1, 2))
        angles[pole, 0] = np.degrees(np.arctan2(rest[:, j, i] - rest[:, i, j], rest[:, i, i] + rest[:, j, j]))
        angles[:, 0] = np.unwrap(angles[:, 0], period=360)
    return angles


def _unwrapped(angles: np.ndarray) -> np.ndarray:
    other = angles * [1, -1, 1] + 180
    stay, change = (((step + 180) % 360 - 180) for step in (np.diff(angles, axis=0), other[1:] - angles[:-1]))
    # Whether to change triples between two frames does not depend on which one the first frame uses, so the parity
    # of the changes decides.
    changes = (change**2).sum(-1) < (stay**2).sum(-1)
    odd = np.concatenate([[False], np.cumsum(changes) % 2 == 1])
    return np.unwrap(np.where(odd[:, None], other, angles), axis=0, period=360)


POSITIONS = ("Xposition", "Yposition", "Zposition")
ROTATIONS = ("Xrotation", "Yrotation", "Zrotation")
MAX_FRAME_TIME = 0.5  # seconds; larger values are probably milliseconds or frame rates
_NAMING = (b"ROOT", b"JOINT")
_CHANNELS = {name.lower(): name for name in POSITIONS + ROTATIONS}


@dataclass(frozen=True)
class Bvh:
    """A hierarchy of J joints in file order, and its motion over T frames."""

    names: tuple[str, ...]
    parents: tuple[int, ...]                # -1 for the root; a parent comes before its children
    offsets: np.ndarray                     # (J, 3) from the parent in the rest pose
    channels: tuple[tuple[str, ...], ...]   # of each joint, in file order
    values: np.ndarray                      # (T, number of channels)
    frame_time: float                       # seconds
    end_sites: dict[int, np.ndarray] = field(default_factory=dict)  # (3,) tip offsets, keyed by joint

    @cached_property
    def columns(self) -> tuple[slice, ...]:
        """Columns of ``values`` that belong to each joint."""
        ends = np.cumsum([len(channels) for channels in self.channels]).tolist()
        return tuple(slice(end - len(channels), end) for end, channels in zip(ends, self.channels, strict=True))

    def local_positions(self) -> np.ndarray:
        """Return the position (T, J, 3) of each joint relative to its parent: its offset, or its position channels."""
        places = np.repeat(self.offsets[None], len(self.values), 0)
        for joint, (channels, columns) in enumerate(zip(self.channels, self.columns, strict=True)):
            for channel, column in zip(channels, self.values[:, columns].T, strict=True):
                if channel in POSITIONS:
                    places[:, joint, POSITIONS.index(channel)] = column
        return places

    def local_rotations(self) -> np.ndarray:
        """Return the rotation (T, J, 3, 3) of each joint relative to its parent."""
        turns = np.empty((len(self.values), len(self.names), 3, 3))
        for joint, (channels, columns) in enumerate(zip(self.channels, self.columns, strict=True)):
            rotations = [place for place, channel in enumerate(channels) if channel in ROTATIONS]
            order = "".join(channels[place][0].lower() for place in rotations)
            turns[:, joint] = euler_to_matrix(self.values[:, columns][:, rotations], order)
        return turns

    def forward_kinematics(self) -> tuple[np.ndarray, np.ndarray]:
        """Compute world positions (T, J, 3) and rotations (T, J, 3, 3) of all joints."""
        return chained(self.parents, self.local_positions(), self.local_rotations())

    def joints(self) -> np.ndarray:
        """Compute world positions (T, J, 3) of all joints, in the unit of the file."""
        return self.forward_kinematics()[0]

    def tips(self) -> dict[int, np.ndarray]:
        """Compute world positions (T, 3) of the end sites, keyed by joint."""
        places, turns = self.forward_kinematics()
        return {joint: places[:, joint] + turns[:, joint] @ offset for joint, offset in self.end_sites.items()}

    def text(self) -> str:
        """Format the motion as a BVH file, with six decimals."""
        return self.header() + "".join(f"{_numbers(row)}\n" for row in self.values)

    def header(self) -> str:
        """Format the BVH file up to the rows of values: hierarchy, number of frames and frame time."""
        lines = ["HIERARCHY", *self._joint_lines(0), "MOTION", f"Frames: {len(self.values)}",
                 f"Frame Time: {self.frame_time:.6f}"]
        return "\n".join(lines) + "\n"

    def _joint_lines(self, joint: int) -> Iterator[str]:
        yield f"{'ROOT' if self.parents[joint] < 0 else 'JOINT'} {self.names[joint]}"
        yield "{"
        yield "\tOFFSET " + _numbers(self.offsets[joint])
        yield f"\tCHANNELS {len(self.channels[joint])} {' '.join(self.channels[joint])}"
        for child, parent in enumerate(self.parents):
            if parent == joint:
                yield from (f"\t{line}" for line in self._joint_lines(child))
        if joint in self.end_sites:
            yield from ("\tEnd Site", "\t{", "\t\tOFFSET " + _numbers(self.end_sites[joint]), "\t}")
        yield "}"


def chained(parents: Sequence[int], places: np.ndarray, turns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Convert positions (T, J, 3) and rotations (T, J, 3, 3) from parent to world coordinates.

    Parents must come before their children.
    """
    places, turns = places.copy(), turns.copy()
    for joint, parent in enumerate(parents):
        if parent >= 0:
            places[:, joint] = places[:, parent] + np.einsum("tij,tj->ti", turns[:, parent], places[:, joint])
            turns[:, joint] = turns[:, parent] @ turns[:, joint]
    return places, turns


def read_bvh(path: str | Path, fps: float | None = None) -> Bvh:
    """Read a BVH file with any hierarchy and channels. ``fps`` overrides the frame time of the file.

    Raises a ``ValueError`` that names the file and line if its content is invalid, and ``OSError`` if it cannot be
    read.
    """
    return parse_bvh(_text(Path(path)), str(path), fps)


def parse_bvh(text: str, source: str = "BVH", fps: float | None = None) -> Bvh:
    """Parse the content of a BVH file, named ``source`` in error messages. Raises ``ValueError`` like ``read_bvh``."""
    return _Parser(text, source, fps).parse()


def _text(path: Path) -> str:
    """Read a text file as UTF-8. Lines with joint names may be in Shift JIS or Latin-1."""
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if b"\0" in data or not all(line.isascii() or line.lstrip().upper().startswith(_NAMING)
                                    for line in data.splitlines()):
            raise ValueError(f"{path}: not a text file (byte {error.start})") from error
    try:
        return data.decode("shift_jis")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _numbers(row: np.ndarray) -> str:
    return " ".join(["%.6f"] * len(row)) % tuple(row)


class _Parser:
    """BVH parser that reads the hierarchy word by word and the motion line by line."""

    def __init__(self, text: str, source: str, fps: float | None):
        self.source, self.fps = source, fps
        self.lines = text.splitlines()
        self.words = ((number, word) for number, line in enumerate(self.lines, 1)
                      for word in re.sub(r"^(\s*(?:frames|frame time):)", r"\1 ", line, flags=re.I).split())
        self.line = 1
        self.names: list[str] = []
        self.parents: list[int] = []
        self.offsets: list[list[float]] = []
        self.channels: list[tuple[str, ...]] = []
        self.end_sites: dict[int, np.ndarray] = {}

    def parse(self) -> Bvh:
        self.expect("HIERARCHY")
        self.expect("ROOT")
        self.joint(-1)
        self.expect("MOTION", " (only one skeleton per file is supported)")
        self.expect("Frames:")
        frames = self.number(int)
        self.expect("Frame")
        self.expect("Time:")
        frame_time = self.frame_time(frames)
        return Bvh(tuple(self.names), tuple(self.parents), np.array(self.offsets), tuple(self.channels),
                   self.motion(frames), frame_time, self.end_sites)

    def frame_time(self, frames: int) -> float:
        """Return the seconds per frame, from ``fps`` if given, else from the file."""
        stated = self.number(float)
        frame_time = stated if self.fps is None else 1 / self.fps
        if frames < 1 or frame_time <= 0:
            raise self.error(f"{frames} frames of {frame_time} s")
        if frame_time > MAX_FRAME_TIME:
            raise self.error(f"a frame time of {stated:g} s, more than {MAX_FRAME_TIME:g} s: it is probably in "
                             f"milliseconds ({1000 / stated:g} fps) or a rate ({stated:g} fps); correct it, or import "
                             "with --fps")
        return frame_time

    def joint(self, parent: int) -> None:
        """Read a joint up to its closing brace, including nested joints. Iterative, so any depth works."""
        open_joints = [self.open(parent)]
        while open_joints:
            joint, word = open_joints[-1], self.next().upper()
            if word == "OFFSET":
                self.offsets[joint] = self.vector()
            elif word == "CHANNELS":
                self.channels[joint] = tuple(self.channel() for _ in range(self.number(int)))
            elif word == "JOINT":
                open_joints.append(self.open(joint))
            elif word == "END":
                for expected in ("Site", "{", "OFFSET"):
                    self.expect(expected)
                self.end_sites[joint] = np.array(self.vector())
                self.expect("}")
            elif word == "}":
                if not self.offsets[joint]:
                    raise self.error(f"joint {self.names[joint]} has no OFFSET")
                open_joints.pop()
            else:
                raise self.error(f"{word!r} inside joint {self.names[joint]}")

    def open(self, parent: int) -> int:
        name = []
        while (word := self.next()) != "{":
            name.append(word)
        if not name:
            raise self.error("a joint has no name")
        self.names.append(" ".join(name))
        self.parents.append(parent)
        self.offsets.append([])
        self.channels.append(())
        return len(self.names) - 1

    def motion(self, frames: int) -> np.ndarray:
        width = sum(len(channels) for channels in self.channels)
        below = enumerate(self.lines[self.line :], self.line + 1)
        rows = [(number, line.split()) for number, line in below if line.strip()]
        for self.line, row in rows[:frames]:
            if len(row) != width:
                raise self.error(f"{len(row)} values, but the hierarchy has {width} channels")
        if len(rows) != frames:
            raise self.error(f"{len(rows)} rows of motion, but {frames} frames are declared")
        try:
            values = np.array([row for _, row in rows], dtype=np.float64)
        except ValueError:
            values = np.array([np.nan])
        if np.isfinite(values).all():
            return values
        # Slow, but finds the invalid value.
        return np.array([[self.to_number(word, float, number) for word in row] for number, row in rows])

    def next(self) -> str:
        try:
            self.line, word = next(self.words)
        except StopIteration:
            self.line = len(self.lines)
            raise self.error("the file ends too early") from None
        return word

    def expect(self, expected: str, reason: str = "") -> None:
        if (word := self.next()).lower() != expected.lower():
            raise self.error(f"expected {expected}, found {word!r}{reason if word.upper() == 'ROOT' else ''}")

    def number(self, kind: type) -> float:
        return self.to_number(self.next(), kind, self.line)

    def to_number(self, word: str, kind: type, line: int) -> float:
        self.line = line
        try:
            value = kind(word)
        except ValueError:
            raise self.error(f"{word!r} is not {'a whole' if kind is int else 'a'} number") from None
        if not np.isfinite(value):
            raise self.error(f"{word} is not finite")
        return value

    def vector(self) -> list[float]:
        return [self.number(float) for _ in range(3)]

    def channel(self) -> str:
        word = self.next()
        if word.lower() not in _CHANNELS:
            raise self.error(f"unknown channel {word!r}")
        return _CHANNELS[word.lower()]

    def error(self, message: str) -> ValueError:
        return ValueError(f"{self.source}, line {self.line}: {message}")
