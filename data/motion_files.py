"""Read motion files: ``.npy`` with features or joints, BVH, and ASF/AMC."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data.dataset import LOCKED, MAX_MOTION_LENGTH, UNIT_LENGTH, DatasetSpec
from motion.asf_amc import read_amc
from motion.body import check_coordinates, check_features, stand_up
from motion.bvh import read_bvh
from motion.bvh_fit import bvh_to_joints, rig_of
from motion.features import features_to_joints, joints_to_features
from motion.foot import leg_length
from motion.recording import FPS, place_recording
from motion.rig_search import UnknownRig
from motion.skeleton import T2M, Skeleton
from utils import InputError
from utils.files import read_npy, read_text

MOTION_SUFFIXES = (".npy", ".bvh", ".amc")
SKELETON = ".asf"    # file with the skeleton of .amc files
_MARKERS = ("the file contains markers, not joints; solve a skeleton in your capture software or in Blender, and "
            "export BVH")
REFUSED = {".c3d": _MARKERS, ".trc": _MARKERS, SKELETON: "a skeleton without motion; use the .amc file instead"}
UNITS = {"metre": 1.0, "centimetre": 0.01, "millimetre": 0.001}  # supported units of joints, in metres
LEG = 0.8            # m: typical length of a leg, from which the unit is detected
_WANTED = f"a motion is a {', '.join(MOTION_SUFFIXES[:-1])} or {MOTION_SUFFIXES[-1]} file"
SAME_RATE = 0.01     # relative difference below which frame rates count as equal


def read_motion(path: str | Path, spec: DatasetSpec, up: str | None = None, say: Callable[[str], None] = print,
                trusted: bool = False) -> np.ndarray:
    """Read a motion file. Returns unnormalised features (T, d), float32.

    ``.npy`` files contain unnormalised features (T, d) or joints (T, J, 3) at the frame rate of the data set. ``.bvh``
    files, and ``.amc`` files with an ``.asf`` file in the same or the parent folder, may have any frame rate. Their rig
    may be any that ``motion.source_rig`` knows; for KIT-ML, it must have the joint names of generated BVH files.

    Args:
        up: vertical axis of files other than features. If it is None, it is detected from the body.
        say: function that is called with a message about each change made to the motion.
        trusted: whether to skip checks, for motions that this project has generated.

    Raises ``InputError`` if the file is missing or not a valid motion.
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
    """Read joints (T, J, 3) from a BVH or AMC file, in its unit, resampled to the frame rate of the data set."""
    bvh = read_bvh(path) if path.suffix.lower() == ".bvh" else read_amc(path)
    if spec.skeleton != T2M or set(rig_of(spec.skeleton).names) <= set(bvh.names):
        return resample(bvh_to_joints(bvh, spec.skeleton), 1 / bvh.frame_time, spec.fps)
    placed = place_recording(bvh)
    left_out = (len(bvh.values) - 1) * bvh.frame_time - (len(placed.joints) - 1) / FPS
    remarks.append(f"joints of a {placed.rig} rig{f', {left_out:.2f} s of T-pose left out' * (left_out >= 1 / FPS)}")
    return resample(placed.joints, FPS, spec.fps)


def resample(joints: np.ndarray, from_fps: float, to_fps: float) -> np.ndarray:
    """Resample joints (T, J, 3) to another frame rate by linear interpolation."""
    if abs(from_fps / to_fps - 1) < SAME_RATE:
        return joints
    times = np.arange(int((len(joints) - 1) / from_fps * to_fps + 1e-6) + 1) * from_fps / to_fps  # in source frames
    before = np.minimum(times.astype(int), max(len(joints) - 2, 0))
    after = np.minimum(before + 1, len(joints) - 1)
    share = (times - before)[:, None, None]
    return (1 - share) * joints[before] + share * joints[after]


def _from_joints(joints: np.ndarray, spec: DatasetSpec, up: str | None, remarks: list[str],
                 trusted: bool) -> np.ndarray:
    if len(joints) < 2:
        raise ValueError(f"{len(joints)} frames are too few; a motion needs at least 2")
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
        raise ValueError(f"{len(array)} rows of features are too few; a motion needs at least 2")
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
    """Return the unit of ``joints`` (T, J, 3), in metres, as detected from the leg length."""
    length = leg_length(joints, skeleton)
    return min(UNITS.values(), key=lambda metres: abs(np.log(length * metres / LEG)))


@dataclass(frozen=True)
class MotionPart:
    """Part of a motion: frames ``start`` to ``end`` (exclusive)."""

    motion: int  # index of the motion
    start: int
    end: int


def motion_files(path: str | Path) -> list[Path]:
    """List the motion files in a folder and its subfolders, or return the file ``path`` itself.

    Marker files are included, because the error on reading them explains what to do. A version with foot locking
    (``_ik``) is left out if the original is present. Raises ``InputError`` if there is no motion.
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
    """Read the prompt of a motion from the ``.txt`` file with the same name, apart from ``_ik``.

    Returns None if there is no prompt.
    """
    file = _as_made(path).with_suffix(".txt")
    if not file.is_file():
        return None
    return next(iter(read_text(file, "prompt").splitlines()), "").strip() or None


def read_clip(path: Path, spec: DatasetSpec, up: str | None = None, say: Callable[[str], None] = print,
              trusted: bool = False) -> np.ndarray:
    """Read a motion file as ``read_motion`` does. Raises ``InputError`` if the motion is shorter than one token."""
    features = read_motion(path, spec, up, say, trusted)
    if len(features) < UNIT_LENGTH:
        raise InputError(f"{path}: {len(features)} frames are too few; at least {UNIT_LENGTH} are needed")
    return features


def read_clips(files: Sequence[Path], spec: DatasetSpec, up: str | None = None) -> dict[Path, np.ndarray]:
    """Read motion files, skipping unreadable ones with a message. Raises ``InputError`` if none can be read."""
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


def parts_of(motions: Sequence[np.ndarray]) -> list[MotionPart]:
    """Divide each motion (T, d) into the fewest parts of at most 196 frames, of similar length."""
    parts = []
    for number, motion in enumerate(motions):
        count = -(-len(motion) // MAX_MOTION_LENGTH)
        edges = np.linspace(0, len(motion), count + 1).round().astype(int).tolist()
        parts += [MotionPart(number, start, end) for start, end in zip(edges[:-1], edges[1:], strict=True)]
    return parts
