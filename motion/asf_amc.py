"""Read Acclaim motion capture, the format of the CMU database: a skeleton (``.asf``) and its motion (``.amc``).

Each bone has an ``axis``, the rotation C from world axes to bone axes, and up to three rotational degrees of freedom,
which form the rotation R about the bone axes. Its world rotation is G = G_parent C R C^-1, and it ends at the end of
its parent plus length * G direction (J. Lander, "Working with Motion Capture File Formats", Game Developer, January
1998). The result is a ``Bvh`` whose joints are the start points of the bones and are named after them.
"""
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from motion.bvh import POSITIONS, Bvh, euler_to_matrix, matrix_to_euler

FPS = 120.0   # frame rate of the CMU database; files rarely state it
INCH = 0.0254
ROOT = "root"
_EULER = ("Zrotation", "Yrotation", "Xrotation")
_MOVES = ("tx", "ty", "tz", "rx", "ry", "rz")


@dataclass
class AsfBone:
    """A bone in the rest pose. The root has length 0."""

    name: str
    direction: np.ndarray                   # (3,) from its start to its end, in world coordinates
    axis: np.ndarray                        # (3, 3) the rotation C
    length: float = 0.0
    order: str = "xyz"                      # order in which rotations are applied
    moves: tuple[str, ...] = ()             # degrees of freedom in the order of the motion file
    parent: str | None = None


@dataclass(frozen=True)
class Asf:
    """An Acclaim skeleton. In ``bones``, every parent comes before its children."""

    path: Path
    bones: dict[str, AsfBone]
    metres: float | None  # per unit of length; None if the file does not state it
    degrees: bool


def find_asf(amc: Path) -> Path:
    """Find the skeleton file of a motion file (``01.asf`` for ``01_02.amc``) in its folder or the parent folder.

    The name of the skeleton file must equal the name of the motion file or be a prefix of it. Otherwise, a folder's
    only skeleton file is used, unless its name is a number. Raises ``ValueError`` if no file fits.
    """
    for folder in (amc.parent, amc.parent.parent):
        skeletons = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".asf")
        fitting = [path for path in skeletons if _begins(amc.stem, path.stem)]
        if fitting:
            return max(fitting, key=lambda path: len(path.stem))
        if len(skeletons) == 1 and not skeletons[0].stem.isdecimal():
            return skeletons[0]
    name = amc.stem.rpartition("_")[0] or amc.stem
    raise ValueError(f"no skeleton file found: put {name}.asf next to it")


def _begins(name: str, start: str) -> bool:
    name, start = name.lower(), start.lower()
    return name == start or (name.startswith(start) and not name[len(start)].isalnum())


def read_asf(path: str | Path) -> Asf:
    """Read a skeleton file.

    Raises a ``ValueError`` that names the file and line if its content is invalid, and ``OSError`` if it cannot be
    read.
    """
    return _AsfParser(Path(path)).parse()


def read_amc(path: str | Path, skeleton: Asf | None = None, fps: float | None = None) -> Bvh:
    """Read a motion file for ``skeleton`` (by default, the one from ``find_asf``), in the unit of this skeleton.

    The frame rate is ``fps`` if given, else the rate in the file, else 120. Raises a ``ValueError`` that names the file
    and line if the motion does not fit the skeleton, and ``OSError`` if a file cannot be read.
    """
    path = Path(path)
    skeleton = skeleton or read_asf(find_asf(path))
    motion = _AmcParser(path, skeleton)
    return _bvh(skeleton, motion.parse(), 1 / (fps or motion.fps), motion.degrees)


def _bvh(skeleton: Asf, motion: dict[str, np.ndarray], frame_time: float, degrees: bool) -> Bvh:
    bones, names = list(skeleton.bones.values()), list(skeleton.bones)
    tips = [bone.length * bone.direction for bone in bones]
    parents = [-1 if bone.parent is None else names.index(bone.parent) for bone in bones]
    offsets = np.array([np.zeros(3) if parent < 0 else tips[parent] for parent in parents])
    frames = max((len(values) for values in motion.values()), default=0)
    channels, values = [], []
    for bone, offset in zip(bones, offsets, strict=True):
        move = dict(zip(bone.moves, motion.get(bone.name, np.zeros((frames, len(bone.moves)))).T, strict=True))
        kinds = {kind[0] for kind in bone.moves}
        channels.append((POSITIONS if "t" in kinds else ()) + (_EULER if "r" in kinds else ()))
        if "t" in kinds:
            shift = np.stack([move.get(f"t{axis}", np.zeros(frames)) for axis in "xyz"], -1)
            values.append(offset + shift @ (np.eye(3) if bone.parent is None else bone.axis).T)
        if "r" in kinds:
            angles = np.stack([move.get(f"r{axis}", np.zeros(frames)) for axis in reversed(bone.order)], -1)
            turn = euler_to_matrix(angles if degrees else np.degrees(angles), bone.order[::-1])
            values.append(matrix_to_euler((bone.axis @ turn @ bone.axis.T)[:, None], "zyx")[:, 0])
    leaves = set(range(len(bones))) - set(parents)
    return Bvh(tuple(names), tuple(parents), offsets, tuple(channels), np.concatenate(values, -1), frame_time,
               {joint: tips[joint] for joint in sorted(leaves)})


class _Lines:
    """Iterator over the words of each line that is neither empty nor a comment."""

    def __init__(self, path: Path):
        self.path, self.line = path, 0
        try:
            self.text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not a text file (byte {error.start})") from error

    def __iter__(self) -> Iterator[list[str]]:
        for number, line in enumerate(self.text.splitlines(), 1):
            self.line = number
            words = line.partition("#")[0].split()
            if words:
                yield words

    def error(self, message: str) -> ValueError:
        return ValueError(f"{self.path}, line {self.line}: {message}")

    def numbers(self, words: list[str], count: int) -> list[float]:
        try:
            values = [float(word) for word in words]
        except ValueError as error:
            raise self.error(str(error).replace("could not convert string to float", "not a number")) from None
        if len(values) != count or not np.isfinite(values).all():
            raise self.error(f"expected {count} finite numbers, found {' '.join(words) or 'nothing'}")
        return values


class _AsfParser(_Lines):
    def parse(self) -> Asf:
        self.degrees, self.metres = True, None
        self.root = AsfBone(ROOT, np.zeros(3), np.eye(3), moves=_MOVES)
        self.bones = {ROOT: self.root}
        self.fields: dict[str, list[str]] | None = None
        section, children = "", {}
        for words in self:
            word = words[0].lower()
            if word.startswith(":"):
                section = word
            elif section == ":units":
                self.unit(word, words[1:])
            elif section == ":root":
                self.root_line(word, words[1:])
            elif section == ":bonedata":
                self.bone_line(word, words[1:])
            elif section == ":hierarchy" and word not in ("begin", "end"):
                children[words[0]] = [self.known(name) for name in words[1:]]
        return Asf(self.path, self.ordered_bones(children), self.metres, self.degrees)

    def unit(self, word: str, values: list[str]) -> None:
        if word == "length":
            (length,) = self.numbers(values, 1)
            self.metres = INCH / length if length > 0 else None
        elif word == "angle" and values:
            self.degrees = values[0].lower().startswith("deg")

    def root_line(self, word: str, values: list[str]) -> None:
        if word == "order":
            self.root.moves = self.moves(values)
        elif word == "axis" and values:
            self.root.order = self.order(values[0])
        elif word == "orientation":
            self.root.axis = self.rotation(values, self.root.order)

    def bone_line(self, word: str, values: list[str]) -> None:
        if word == "begin":
            self.fields = {}
        elif self.fields is None:
            raise self.error(f"expected begin, found {word!r}")
        elif word == "end":
            self.add_bone(self.fields)
            self.fields = None
        else:
            self.fields[word] = values

    def add_bone(self, fields: dict[str, list[str]]) -> None:
        missing = [name for name in ("name", "direction", "length") if not fields.get(name)]
        if missing:
            raise self.error(f"a bone has no {', '.join(missing)}")
        name, axis = fields["name"][0], fields.get("axis", ["0", "0", "0"])
        if name in self.bones:
            raise self.error(f"two bones are named {name}")
        direction = np.array(self.numbers(fields["direction"], 3))
        order = self.order(axis[3]) if len(axis) > 3 else "xyz"
        self.bones[name] = AsfBone(name, direction / max(np.linalg.norm(direction), 1e-12),
                                   self.rotation(axis[:3], order), self.numbers(fields["length"], 1)[0], order,
                                   self.moves(fields.get("dof", [])))

    def moves(self, words: list[str]) -> tuple[str, ...]:
        moves = tuple(word.lower() for word in words)
        strange = [word for word in moves if word not in _MOVES]
        if strange or len(set(moves)) < len(moves):
            raise self.error(f"degrees of freedom {' '.join(words)}: expected some of {' '.join(_MOVES)}")
        return moves

    def order(self, word: str) -> str:
        if sorted(word.lower()) != ["x", "y", "z"]:
            raise self.error(f"{word} is not an order of axes")
        return word.lower()

    def rotation(self, words: list[str], order: str) -> np.ndarray:
        angles = np.array(self.numbers(words, 3)[::-1])
        return euler_to_matrix(angles if self.degrees else np.degrees(angles), order[::-1])

    def known(self, name: str) -> str:
        if name not in self.bones:
            raise self.error(f"{name} is in the hierarchy but not in the bone data")
        return name

    def ordered_bones(self, children: dict[str, list[str]]) -> dict[str, AsfBone]:
        """Set the parent of each bone and return all bones in depth-first order from the root, as in a BVH file."""
        ordered, waiting = {}, [ROOT]
        while waiting:
            name = waiting.pop()
            if name in ordered:
                raise self.error(f"{name} is in the hierarchy twice")
            ordered[name] = self.bones[name]
            for child in reversed(children.get(name, ())):
                self.bones[child].parent = name
                waiting.append(child)
        if len(ordered) < len(self.bones) or len(ordered) == 1:
            lost = next((name for name in self.bones if name not in ordered), None)
            raise self.error(f"{lost} is not in the hierarchy" if lost else "no bones")
        return ordered


class _AmcParser(_Lines):
    def __init__(self, path: Path, skeleton: Asf):
        super().__init__(path)
        self.skeleton, self.fps, self.degrees = skeleton, FPS, skeleton.degrees

    def parse(self) -> dict[str, np.ndarray]:
        """Return the values (T, degrees of freedom) of each bone in the file, keyed by bone name."""
        rows: dict[str, list[tuple[int, list[str]]]] = {}  # line and words of each frame, keyed by bone
        frames, previous = 0, None
        for words in self:
            if words[0].startswith(":"):
                self.header(words)
            elif len(words) == 1 and words[0].isdecimal():
                number = int(words[0])
                if previous is not None and number != previous + 1:
                    raise self.error(f"frame {number} follows frame {previous}")
                frames, previous = frames + 1, number
            elif not frames:
                raise self.error(f"expected a frame number, found {words[0]!r}")
            else:
                name = words[0]
                if name not in self.skeleton.bones:
                    raise self.error(f"{name} is not a bone of {self.skeleton.path.name}")
                values = rows.setdefault(name, [])
                if len(values) >= frames:
                    raise self.error(f"{name} is in the frame twice")
                if len(values) < frames - 1:
                    raise self.error(f"{name} is missing in the previous frame")
                values.append((self.line, words[1:]))
        for name, values in rows.items():
            if len(values) != frames:
                raise self.error(f"{name} is in {len(values)} of {frames} frames")
        if not frames:
            raise self.error("no frames")
        return {name: self.array(values, len(self.skeleton.bones[name].moves)) for name, values in rows.items()}

    def header(self, words: list[str]) -> None:
        word = words[0].lower()
        if word in (":degrees", ":radians"):
            self.degrees = word == ":degrees"
        elif word == ":samples-per-second":
            (self.fps,) = self.numbers(words[1:], 1)
            if self.fps <= 0:
                raise self.error(f"invalid rate of {self.fps:g} samples per second")

    def array(self, rows: list[tuple[int, list[str]]], count: int) -> np.ndarray:
        try:
            values = np.array([words for _, words in rows], dtype=np.float64)
            if values.shape == (len(rows), count) and np.isfinite(values).all():
                return values
        except ValueError:
            pass
        for self.line, words in rows:  # slow, but finds the invalid line
            self.numbers(words, count)
        return np.zeros((len(rows), 0))
