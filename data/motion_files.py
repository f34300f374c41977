"""Motions from a user's files: features or joints as ``.npy``, BVH, or ASF/AMC."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data.specs import MAX_MOTION_LENGTH, UNIT_LENGTH, DatasetSpec
from motion.asf_amc import read_amc
from motion.bvh import read_bvh
from motion.bvh_fit import bvh_to_joints, rig_of
from motion.features import features_to_joints, joints_to_features
from motion.orientation import check_coordinates, check_features, stand_up
from motion.recording import FPS, place_recording
from motion.rig_search import UnknownRig
from motion.skeleton import T2M, Skeleton
from utils.errors import InputError
from utils.files import read_npy, read_text

MOTION_SUFFIXES = (".npy", ".bvh", ".amc")
SKELETON = ".asf"    # belongs to .amc files
_MARKERS = ("a file of markers, which are not joints; solve a skeleton in the program that captured them or in "
            "Blender, and export BVH")
REFUSED = {".c3d": _MARKERS, ".trc": _MARKERS, SKELETON: "a skeleton without motion; give the .amc that goes with it"}
UNITS = {"metre": 1.0, "centimetre": 0.01, "millimetre": 0.001}  # that joints come in, in metres
LEG = 0.8            # metres of a thigh and a shin: which unit a file is in shows by its body's size
_WANTED = f"a motion is a {' or a '.join(MOTION_SUFFIXES)} file"
SAME_RATE = 0.01     # frame rates that differ by less than this share are one


def read_motion(path: str | Path, spec: DatasetSpec, up: str | None = None, say: Callable[[str], None] = print,
                trusted: bool = False) -> np.ndarray:
    """Features (T, d) float32, in their own units, of a motion file.

    ``.npy`` has either features (T, d) that are not normalised or joints (T, J, 3) at the data set's frame rate;
    ``.bvh`` has any frame rate and the joint names of ours or of another rig that ``motion.source_rig`` knows, and so
    has ``.amc``, with its skeleton beside it. Joints
    may be in any unit, anywhere and of any size; ``up`` is the axis that is up, found from the body by default.
    T frames of joints give T rows: the last frame continues the movement. ``say`` receives a line on every change.
    ``trusted`` motions, which a model of ours made, are y up and are not checked to be a person's.

    Raises ``InputError`` naming the file where it is missing, damaged or no such motion, where the axis that is up is
    not certain, and where left and right are swapped.
    """
    path = Path(path)
    if path.suffix.lower() not in MOTION_SUFFIXES:
        raise InputError(f"{path}: {REFUSED.get(path.suffix.lower(), _WANTED)}")
    remarks: list[str] = []
    try:
        features = _read(path, spec, up, remarks, trusted)
    except OSError as error:
        raise InputError(f"cannot read motion {path}: {error.strerror or error}") from error
    except UnknownRig as error:
        raise InputError(f"{path}: {error} to prepare/import_motion.py") from error
    except ValueError as error:
        raise InputError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from error
    for remark in remarks:
        say(f"{path}: {remark}")
    return features


def _read(path: Path, spec: DatasetSpec, up: str | None, remarks: list[str], trusted: bool) -> np.ndarray:
    if path.suffix.lower() != ".npy":
        return _from_joints(_hierarchy_joints(path, spec, remarks), spec, up, remarks, trusted)
    array = read_npy(path)
    if array.ndim == 2 and array.shape[1] == spec.dim_pose:
        return _from_features(array, spec, remarks, trusted)
    if array.ndim == 3 and array.shape[1:] == (spec.joints_num, 3):
        return _from_joints(array, spec, up, remarks, trusted)
    raise ValueError(f"shape {array.shape}: expected features (frames, {spec.dim_pose}) or joints "
                     f"(frames, {spec.joints_num}, 3)")


def _hierarchy_joints(path: Path, spec: DatasetSpec, remarks: list[str]) -> np.ndarray:
    """Joints (T, J, 3) of a BVH or AMC file, in its unit, at the data set's frame rate."""
    bvh = read_bvh(path) if path.suffix.lower() == ".bvh" else read_amc(path)
    if spec.skeleton != T2M or set(rig_of(spec.skeleton).names) <= set(bvh.names):
        return resample(bvh_to_joints(bvh, spec.skeleton), 1 / bvh.frame_time, spec.fps)
    placed = place_recording(bvh)
    left_out = (len(bvh.values) - 1) * bvh.frame_time - (len(placed.joints) - 1) / FPS
    remarks.append(f"joints of a {placed.rig} rig{f', {left_out:.2f} s of T-pose left out' * (left_out >= 1 / FPS)}")
    return resample(placed.joints, FPS, spec.fps)


def resample(joints: np.ndarray, from_fps: float, to_fps: float) -> np.ndarray:
    """Joints (T, J, 3) of one frame rate at another, in straight lines between frames."""
    if abs(from_fps / to_fps - 1) < SAME_RATE:
        return joints
    times = np.arange(int((len(joints) - 1) / from_fps * to_fps + 1e-6) + 1) * from_fps / to_fps  # in frames
    before = np.minimum(times.astype(int), max(len(joints) - 2, 0))
    after = np.minimum(before + 1, len(joints) - 1)
    share = (times - before)[:, None, None]
    return (1 - share) * joints[before] + share * joints[after]


def _from_joints(joints: np.ndarray, spec: DatasetSpec, up: str | None, remarks: list[str],
                 trusted: bool) -> np.ndarray:
    if len(joints) < 2:
        raise ValueError(f"{len(joints)} frames are too few, motion takes at least 2")
    joints = np.asarray(joints, np.float64)
    check_coordinates(joints, spec.skeleton.joint_names)
    if not trusted:
        joints = _standing(joints, spec, up, remarks)
    joints = joints * (_metres(joints, spec.skeleton) / spec.metres)
    joints = np.concatenate([joints, 2 * joints[-1:] - joints[-2:-1]])
    features = joints_to_features(joints, spec.skeleton).numpy()
    check_features(features)
    return features


def _from_features(array: np.ndarray, spec: DatasetSpec, remarks: list[str], trusted: bool) -> np.ndarray:
    if len(array) < 2:
        raise ValueError(f"{len(array)} rows of features, fewer than the 2 that motion takes")
    check_features(array)
    features = np.asarray(array, np.float32)
    if not trusted:
        joints = features_to_joints(torch.from_numpy(features), spec.skeleton).numpy()
        try:
            _standing(joints.astype(np.float64), spec, "y", remarks)
        except ValueError as error:
            raise ValueError(f"not features of a motion, before normalisation: {error}") from error
    return features


def _standing(joints: np.ndarray, spec: DatasetSpec, up: str | None, remarks: list[str]) -> np.ndarray:
    joints, remark = stand_up(joints, spec.skeleton, up)
    remarks += [remark] * (remark is not None)
    return joints


def _metres(joints: np.ndarray, skeleton: Skeleton) -> float:
    """Metres of the unit that ``joints`` (T, J, 3) are in."""
    legs = list(skeleton.leg_bones)
    bones = joints[:, legs] - joints[:, [skeleton.parents[joint] for joint in legs]]
    length = float(np.median(np.linalg.norm(bones, axis=-1).sum(-1)))
    return min(UNITS.values(), key=lambda metres: abs(np.log(length * metres / LEG)))


LOCKED = "_ik"  # ends the names of motions with locked feet, beside those as made


@dataclass(frozen=True)
class Part:
    """Frames [start, end) of a motion."""

    motion: int  # which of several
    start: int
    end: int


def motion_files(path: str | Path) -> list[Path]:
    """The file, or all motions in a folder and its subfolders, in order. Raises ``InputError`` if there is none.

    Marker files are included: reading one explains why it cannot be used. ``_ik`` twins of motions are left out.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path} is missing")
    listed = {*MOTION_SUFFIXES, *REFUSED} - {SKELETON}
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in listed and file.is_file()
                   and not any(part.startswith(".") for part in file.relative_to(path).parts))
    if not files:
        raise InputError(f"{path} contains no motion ({', '.join(MOTION_SUFFIXES)})")
    there = set(files)
    return [file for file in files if _as_made(file) == file or _as_made(file) not in there]


def _as_made(path: Path) -> Path:
    return path.with_stem(path.stem.removesuffix(LOCKED) or path.stem)


def prompt_of(path: Path) -> str | None:
    """Prompt of a motion: the first line of the ``.txt`` file of the same name, None if there is none."""
    file = _as_made(path).with_suffix(".txt")
    if not file.is_file():
        return None
    return next(iter(read_text(file, "prompt").splitlines()), "").strip() or None


def read_clip(path: Path, spec: DatasetSpec, up: str | None = None, say: Callable[[str], None] = print,
              trusted: bool = False) -> np.ndarray:
    """Features (T, d), not normalised, of a motion that is at least a token long; ``InputError`` otherwise.

    Parameters are those of ``read_motion``.
    """
    features = read_motion(path, spec, up, say, trusted)
    if len(features) < UNIT_LENGTH:
        raise InputError(f"{path}: {len(features)} frames are too few, {UNIT_LENGTH} are a token of motion")
    return features


def read_clips(files: Sequence[Path], spec: DatasetSpec, up: str | None = None) -> dict[Path, np.ndarray]:
    """Features of the motions among ``files``, in order. What cannot be read is skipped with a line on it;
    ``InputError`` where nothing can."""
    clips: dict[Path, np.ndarray] = {}
    errors = []
    for file in files:
        try:
            clips[file] = read_clip(file, spec, up)
        except InputError as error:
            errors.append(error)
    if not clips:
        raise errors[0]
    for error in errors:
        print(f"skipped {error}")
    return clips


def parts_of(motions: Sequence[np.ndarray]) -> list[Part]:
    """Every motion (T, d) in the fewest parts of at most 196 frames, those of one motion of like length."""
    parts = []
    for number, motion in enumerate(motions):
        count = -(-len(motion) // MAX_MOTION_LENGTH)
        edges = np.linspace(0, len(motion), count + 1).round().astype(int).tolist()
        parts += [Part(number, start, end) for start, end in zip(edges[:-1], edges[1:], strict=True)]
    return parts
