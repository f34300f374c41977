"""Convert the entries of constraint files and flags to differentiable constraints on frames."""
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.interpolate import CubicSpline, PchipInterpolator
from torch import Tensor

from data.constraints import LAST, Entry
from data.dataset import DatasetSpec
from data.motion_files import read_motion
from models.control.constraints import (
    GROUND,
    Constraint,
    Contacts,
    GroundHeight,
    Heading,
    JointTarget,
    Pose,
    RootPath,
    forward,
)
from motion.features import features_to_joints
from utils import InputError
from utils.files import read_npy

FACING = math.radians(20)  # radians: tolerance of the heading of a body on a path
FINE = 64             # samples of a curve between two points
MOVING = 0.01         # m per frame: minimum speed at which a body or path has a direction
SMOOTH = 11           # frames over which the speed of a body is averaged


@dataclass(frozen=True)
class Stretch:
    """Part of a motion: ``count`` frames starting at ``first``. Times of constraints are relative to ``first``."""

    first: int
    count: int
    fps: float


def place_constraints(entries: Sequence[Entry], stretch: Stretch, joints: Tensor,
                      spec: DatasetSpec) -> list[Constraint]:
    """Create constraints for a motion whose initial version has ``joints`` (T, J, 3) in metres.

    On a path without times, the body keeps the speed profile of the initial motion. On any path, it keeps its average
    orientation relative to the direction of travel, unless ``face`` is "free".

    Raises an ``InputError`` that names the position of an entry that does not match the motion.
    """
    placed: list[Constraint] = []
    for entry in entries:
        placed += _MAKERS[entry.kind](entry, stretch, joints, spec)
    return placed


def _frames(entry: Entry, stretch: Stretch) -> list[int]:
    """List the frames that an entry constrains, by default the whole stretch."""
    for name, value in entry.fields.items():
        if name in ("time", "frame"):
            first, last = (_frame(entry, name, moment, stretch) for moment in value)
            return list(range(first, last + 1))
        if name in ("times", "frames"):
            found = [_frame(entry, f"{name}[{number}]", moment, stretch) for number, moment in enumerate(value)]
            wrong = next((number for number in range(1, len(found)) if found[number] <= found[number - 1]), None)
            if wrong is not None:
                raise InputError(f"{entry.place}.{name}[{wrong}]: {value[wrong]} is not after {value[wrong - 1]}")
            return found
    return list(range(stretch.first, stretch.first + stretch.count))


def _frame(entry: Entry, name: str, moment: float, stretch: Stretch) -> int:
    seconds = name.startswith("time")
    if moment == LAST:
        return stretch.first + stretch.count - 1
    if moment > (stretch.count / stretch.fps if seconds else stretch.count - 1):
        length = f"{stretch.count / stretch.fps:g} s" if seconds else f"{stretch.count} frames, counted from 0"
        raise InputError(f"{entry.place}.{name}: {moment:g} is outside a motion of {length}")
    frame = round(moment * stretch.fps) if seconds else int(moment)
    return stretch.first + min(frame, stretch.count - 1)


def _tensor(frames: Sequence[int], joints: Tensor) -> Tensor:
    return torch.tensor(frames, dtype=torch.int64, device=joints.device)


def _path(entry: Entry, stretch: Stretch, joints: Tensor, spec: DatasetSpec) -> list[Constraint]:
    points, frames = np.array(entry.fields["points"]), _frames(entry, stretch)
    timed = [name for name in ("times", "frames") if name in entry.fields]
    if timed and len(frames) != len(points):
        raise InputError(f"{entry.place}.{timed[0]}: {len(frames)} times for {len(points)} points")
    if timed and len(points) > 1:
        between = np.arange(frames[0], frames[-1] + 1)
        places, frames = PchipInterpolator(frames, points)(between), between.tolist()
    elif not timed:
        if frames[0] == 0 and np.linalg.norm(points[0]) > MOVING:
            points = np.concatenate([[[0.0, 0.0]], points])
        places = _along(points, _pace(joints[frames, 0][:, GROUND].double().cpu().numpy(), points))
    else:
        places = points
    tolerance = entry.fields.get("tolerance", 0.0)
    made: list[Constraint] = [RootPath(_tensor(frames, joints), torch.from_numpy(places).to(joints), tolerance,
                                       f"{entry.place} path")]
    if entry.fields.get("face", "along") == "along" and len(frames) > 2:
        made += _facing(entry, frames, places, joints, spec)
    return made


def _pace(own: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Compute the progress (T,) along ``points`` from 0 to 1, with the speed profile of the path ``own`` (T, 2).

    If ``own`` is less than half as long as the path through ``points``, the profile is blended with a uniform speed.
    """
    even = np.linspace(0, 1, len(own))
    if len(own) < 3:
        return even
    width = min(SMOOTH, len(own))
    steps = np.linalg.norm(np.diff(own, axis=0), axis=-1)
    steps = np.convolve(np.pad(steps, width // 2, mode="edge"), np.ones(width) / width, "same")
    steps = steps[width // 2:width // 2 + len(own) - 1]
    length = np.linalg.norm(np.diff(points, axis=0), axis=-1).sum()
    share = min(1.0, steps.sum() / max(0.5 * length, 1e-9))
    paced = np.concatenate([[0], steps.cumsum()]) / max(steps.sum(), 1e-9)
    return share * paced + (1 - share) * even


def _along(points: np.ndarray, progress: np.ndarray) -> np.ndarray:
    """Compute positions (T, 2) on a smooth curve through ``points`` (k, 2), at fractions ``progress`` of its length."""
    chords = np.linalg.norm(np.diff(points, axis=0), axis=-1)
    kept = np.concatenate([[True], chords > 1e-6])
    points, chords = points[kept], chords[chords > 1e-6]
    if len(points) == 1:
        return np.repeat(points, len(progress), 0)
    knots = np.concatenate([[0], np.sqrt(chords).cumsum()])  # centripetal parametrisation, which avoids loops
    fine = CubicSpline(knots, points, bc_type="natural")(np.interp(np.linspace(0, len(chords), FINE * len(chords) + 1),
                                                      np.arange(len(knots)), knots))
    length = np.concatenate([[0], np.linalg.norm(np.diff(fine, axis=0), axis=-1).cumsum()])
    return np.stack([np.interp(progress * length[-1], length, axis) for axis in fine.T], -1)


def _facing(entry: Entry, frames: Sequence[int], places: np.ndarray, joints: Tensor,
            spec: DatasetSpec) -> list[Constraint]:
    """Create headings that keep the body's average angle to its direction of travel, as in walking backwards."""
    steps = np.gradient(places, axis=0)
    going = np.linalg.norm(steps, axis=-1) > MOVING
    if not going.any():
        return []
    own = joints[frames].double()
    way = np.gradient(own[:, 0, GROUND].cpu().numpy(), axis=0)
    faced = forward(own, spec.skeleton).cpu().numpy()
    walks = np.linalg.norm(way, axis=-1) > MOVING
    aside = np.angle(np.sum((faced[walks, 1] + 1j * faced[walks, 0])
                            * np.conj(way[walks, 1] + 1j * way[walks, 0]))) if walks.any() else 0.0
    angles = np.arctan2(steps[going, 0], steps[going, 1]) + aside
    chosen = [frame for frame, moves in zip(frames, going, strict=True) if moves]
    return [Heading(_tensor(chosen, joints), torch.from_numpy(angles).to(joints), FACING, f"{entry.place} facing")]


def _waypoint(entry: Entry, stretch: Stretch, joints: Tensor, _spec: DatasetSpec) -> list[Constraint]:
    frames = _frames(entry, stretch)
    points = joints.new_tensor(entry.fields["point"]).expand(len(frames), 2)
    return [RootPath(_tensor(frames, joints), points, entry.fields.get("tolerance", 0.0), f"{entry.place} waypoint")]


def _heading(entry: Entry, stretch: Stretch, joints: Tensor, _spec: DatasetSpec) -> list[Constraint]:
    frames = _frames(entry, stretch)
    angles = joints.new_full((len(frames),), math.radians(entry.fields["degrees"]))
    tolerance = math.radians(entry.fields.get("tolerance", 0.0))
    return [Heading(_tensor(frames, joints), angles, tolerance, f"{entry.place} heading")]


def _joint(entry: Entry, stretch: Stretch, joints: Tensor, spec: DatasetSpec) -> list[Constraint]:
    frames, fields = _frames(entry, stretch), entry.fields
    if ("position" in fields) == ("positions" in fields):
        raise InputError(f"{entry.place}: a joint needs position, or positions with times or frames")
    if "positions" in fields:
        places = joints.new_tensor(fields["positions"])
        if len(places) != len(frames):
            raise InputError(f"{entry.place}.positions: {len(places)} positions for {len(frames)} frames")
    else:
        places = joints.new_tensor(fields["position"]).expand(len(frames), 3)
    if bool(places.isnan().all()):
        raise InputError(f"{entry.place}: all axes are null")
    joint = spec.skeleton.joint_names.index(fields["joint"])
    return [JointTarget(_tensor(frames, joints), joint, places, f"{entry.place} joint {fields['joint']}")]


def _pose(entry: Entry, stretch: Stretch, joints: Tensor, spec: DatasetSpec) -> list[Constraint]:
    fields = entry.fields
    if ("joints" in fields) == ("file" in fields):
        raise InputError(f"{entry.place}: a pose needs either joints or a file")
    if "file" in fields:
        motion, number = _joints_of(fields["file"], spec), fields.get("file_frame", 0)
        if number >= len(motion):
            raise InputError(f"{entry.place}.file_frame: {fields['file']} has {len(motion)} frames, counted from 0")
        pose = motion[number].to(joints)
    else:
        pose = joints.new_tensor(fields["joints"])
    frames = _frames(entry, stretch)
    return [Pose(_tensor(frames, joints), pose.expand(len(frames), -1, -1), fields.get("in_body", False),
                 f"{entry.place} pose")]


def _joints_of(path: Path, spec: DatasetSpec) -> Tensor:
    """Read joints (T, J, 3) in metres from a motion file. Arrays of joints are used unchanged."""
    array = read_npy(path) if path.suffix.lower() == ".npy" else None
    if array is not None and array.ndim == 3 and array.shape[1:] == (spec.joints_num, 3):
        if not np.isfinite(array).all():
            raise InputError(f"{path} has coordinates that are not finite")
        return torch.from_numpy(array.astype(np.float64))
    return spec.metres * features_to_joints(torch.from_numpy(read_motion(path, spec)), spec.skeleton)


def _ground(entry: Entry, stretch: Stretch, joints: Tensor, _spec: DatasetSpec) -> list[Constraint]:
    return [GroundHeight(_tensor(_frames(entry, stretch), joints), entry.fields["height"], f"{entry.place} ground")]


def _contacts(entry: Entry, stretch: Stretch, joints: Tensor, spec: DatasetSpec) -> list[Constraint]:
    feet = joints[:, list(spec.skeleton.feet)]
    frames = [frame for frame in _frames(entry, stretch) if frame + 1 < len(joints)]
    steps = (feet[1:] - feet[:-1]) / spec.metres
    held = (steps.square().sum(-1) < spec.skeleton.contact_threshold).to(joints)
    return [Contacts(_tensor(frames, joints), held[frames], f"{entry.place} contacts")]


_MAKERS = {"path": _path, "waypoint": _waypoint, "heading": _heading, "joint": _joint, "pose": _pose,
           "ground": _ground, "contacts": _contacts}
