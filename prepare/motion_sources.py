"""Read motion capture files (BVH, ASF/AMC, joint arrays, AMASS archives) as the 22 joints at 20 fps.

AMASS archives have poses of SMPL bodies (Loper et al. 2015). The first 22 joints of SMPL, SMPL-H and SMPL-X are those
of HumanML3D, in the same order. They depend on shape and rotations only, so no skinning is needed.
"""
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from data.motion_files import REFUSED, resample
from motion.asf_amc import find_asf, read_amc, read_asf
from motion.body import check_coordinates
from motion.bvh import Bvh, chained, read_bvh
from motion.foot import leg_length
from motion.recording import FPS, LEG_LENGTHS, place_recording, t_pose_ends
from motion.rig_search import BONES, OPTIONAL, Place, weights_of
from motion.rotation import axis_angle_to_quat, quat_to_matrix
from motion.skeleton import T2M
from motion.source_rig import Placement
from utils import InputError
from utils.files import npy_fault, read_text

BODY_JOINTS = len(T2M)


@dataclass(frozen=True)
class BodyModel:
    """Joints of a body model, and their dependence on the shape parameters."""

    rest: np.ndarray           # (22, 3) metres, mean body
    shapes: np.ndarray         # (22, 3, B) displacement per shape parameter
    parents: tuple[int, ...]   # -1 for the root

    def joints(self, poses: np.ndarray, trans: np.ndarray, betas: np.ndarray) -> np.ndarray:
        """Compute joints (T, 22, 3) from axis angles (T, 66 or more), root ``trans`` (T, 3) and ``betas`` (b,)."""
        count = min(len(betas), self.shapes.shape[-1])
        rest = self.rest + self.shapes[..., :count] @ betas[:count]
        turns = torch.as_tensor(poses[:, :3 * BODY_JOINTS], dtype=torch.float64).unflatten(-1, (-1, 3))
        offsets = rest - rest[list(self.parents)]
        offsets[0] = rest[0]
        places = np.repeat(offsets[None], len(poses), 0)
        places[:, 0] += trans
        return chained(self.parents, places, quat_to_matrix(axis_angle_to_quat(turns)).numpy())[0]


SUFFIXES = (".bvh", ".amc", ".npy", ".npz")
MAX_BYTES = 1 << 30                 # maximum size of a file, or of an array in an archive
SMPL_COUNTS = (22, 24, 52, 55)      # joint counts of SMPL arrays, whose first 22 joints are used
MODEL_NAMES = ("{gender}/model.npz", "SMPLH_{GENDER}.npz", "SMPLX_{GENDER}.npz", "smplh/{gender}/model.npz",
               "smplh/SMPLH_{GENDER}.npz", "smplx/SMPLX_{GENDER}.npz")


@dataclass(frozen=True)
class Recording:
    """Motion of one file, in its own unit and axes."""

    joints: np.ndarray  # (T, 22, 3) at 20 fps
    start: float        # time of frame 0 in the file, seconds
    seconds: float      # duration of the whole file
    rig: str
    up: str | None = None  # None: not defined by the file format
    unit: str | float | None = None  # None: not defined by the file format


@dataclass(frozen=True)
class Amass:
    """Motion data of an AMASS archive, z up."""

    poses: np.ndarray  # (T, 66 or more) axis angles
    trans: np.ndarray  # (T, 3) metres
    betas: np.ndarray  # (b,) shape
    fps: float
    gender: str


@dataclass(frozen=True)
class Reader:
    mapping: Mapping[str, str | Place] | None = None
    fps: float | None = None         # overrides the rate of BVH and AMC files; rate of joint arrays (20 if None)
    body_models: Path | None = None  # folder of SMPL-H or SMPL-X models
    keep_t_pose: bool = False

    def read(self, path: Path) -> Recording:
        """Read a motion file. Raises ``ValueError`` or ``OSError`` with the reason if it cannot be used."""
        suffix = path.suffix.lower()
        if suffix in REFUSED:
            raise ValueError(REFUSED[suffix])
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ValueError(f"{size / MAX_BYTES:.1f} GB is too large for a motion file (1 GB at most)")
        if not size:
            raise ValueError("the file is empty")
        kinds = {".bvh": self._read_bvh, ".amc": self._read_amc, ".npy": self._read_array, ".npz": self._read_amass}
        with np.errstate(all="ignore"):  # overflowing numbers become infinite and are refused later
            recording = kinds[suffix](path)
            check_coordinates(recording.joints, T2M.joint_names)
        return recording

    def _read_bvh(self, path: Path) -> Recording:
        try:
            bvh = read_bvh(path, self.fps)
        except ValueError as error:
            raise ValueError(str(error).removeprefix(str(path)).lstrip(",: ")) from error
        return self._of_hierarchy(bvh)

    def _read_amc(self, path: Path) -> Recording:
        skeleton = read_asf(find_asf(path))
        recording = self._of_hierarchy(read_amc(path, skeleton, self.fps))
        leg = leg_length(recording.joints, T2M) * (skeleton.metres or 0)
        return replace(recording, unit=skeleton.metres) if LEG_LENGTHS[0] <= leg <= LEG_LENGTHS[1] else recording

    def _of_hierarchy(self, bvh: Bvh) -> Recording:
        placed = place_recording(bvh, self.mapping, self.keep_t_pose)
        return Recording(placed.joints, placed.first * bvh.frame_time, (len(bvh.values) - 1) * bvh.frame_time,
                         placed.rig)

    def _read_array(self, path: Path) -> Recording:
        array = read_real_array(path)
        if array.ndim != 3 or array.shape[2] != 3 or not len(array):
            raise ValueError(f"array of shape {array.shape}, expected (frames, joints, 3)")
        if self.mapping is not None:
            placement = _array_placement(array.shape[1], self.mapping)
        elif array.shape[1] in SMPL_COUNTS:
            placement = Placement(f"{array.shape[1]} joints", np.eye(BODY_JOINTS, array.shape[1]))
        else:
            raise ValueError(f"unknown joints: {array.shape[1]}, but SMPL has "
                             f"{', '.join(map(str, SMPL_COUNTS))}; use a --mapping")
        return self._of_joints(placement.joints(array.astype(np.float64)), self.fps or FPS, placement.rig)

    def _read_amass(self, path: Path) -> Recording:
        amass = read_amass(path)
        if self.body_models is None:
            raise ValueError("AMASS needs a body model (SMPL-H or SMPL-X, from its website): set its folder "
                             "with --body_models")
        joints = read_body_model(self.body_models, amass.gender).joints(amass.poses, amass.trans, amass.betas)
        return self._of_joints(joints, amass.fps, "AMASS", up="z", unit="m")

    def _of_joints(self, joints: np.ndarray, fps: float, rig: str, **known: str) -> Recording:
        first, end = (0, len(joints)) if self.keep_t_pose else t_pose_ends(joints, 1 / fps)
        kept = resample(joints[first:end], fps, FPS)
        return Recording(kept, first / fps, (len(joints) - 1) / fps, rig, **known)


def read_amass(path: Path) -> Amass:
    """Read an AMASS archive. Raises ``ValueError`` or ``OSError`` if it is invalid."""
    arrays = read_archive(path, ("poses", "trans", "betas", "gender", "mocap_framerate", "mocap_frame_rate"))
    if not {"poses", "trans"} <= arrays.keys():
        raise ValueError("not an AMASS archive: poses or trans are missing")
    poses, trans = arrays["poses"], arrays["trans"]
    rate = arrays.get("mocap_framerate", arrays.get("mocap_frame_rate"))
    if rate is None or rate.size != 1 or rate.dtype.kind not in "fiu" or not rate.item() > 0:
        raise ValueError("the archive has no positive frame rate")
    if poses.ndim != 2 or poses.shape[1] < 3 * BODY_JOINTS or trans.shape != (len(poses), 3) or not len(poses):
        raise ValueError(f"poses of shape {poses.shape} and trans of shape {trans.shape}")
    return Amass(poses, trans, arrays.get("betas", np.zeros(0)).reshape(-1).astype(float), float(rate.item()),
                 _text(arrays.get("gender", np.array("neutral"))))


@lru_cache(maxsize=4)
def read_body_model(folder: Path, gender: str) -> BodyModel:
    """Read the body model for ``gender``, or the neutral one if it is missing.

    Raises ``ValueError`` if both are missing or the file is invalid.
    """
    wanted = [name.format(gender=kind, GENDER=kind.upper()) for kind in (gender, "neutral") for name in MODEL_NAMES]
    path = next((folder / name for name in wanted if (folder / name).is_file()), None)
    if path is None:
        raise ValueError(f"no body model for {gender} in {folder}: looked for {', '.join(wanted[:3])}")
    names = ("v_template", "shapedirs", "J_regressor", "kintree_table")
    arrays = read_archive(path, names)
    if missing := {*names} - arrays.keys():
        raise ValueError(f"{path} is not a body model: {', '.join(sorted(missing))} missing")
    template, shapes, regressor, tree = (arrays[name] for name in names)  # (V, 3), (V, 3, B), (J, V), (2, J) or (J,)
    parents = (tree[0] if tree.ndim == 2 else tree).astype(np.int64)
    if not (template.ndim == 2 and template.shape[1] == 3 and shapes.ndim == 3 and shapes.shape[:2] == template.shape
            and regressor.ndim == 2 and regressor.shape[1] == len(template) and len(regressor) >= BODY_JOINTS
            and parents.shape == (len(regressor),)):
        raise ValueError(f"not a body model: template {template.shape}, shapes {shapes.shape}, "
                         f"regressor {regressor.shape}, parents {parents.shape}")
    parents = (-1, *parents[1:BODY_JOINTS].tolist())
    if any(not 0 <= parent < joint for joint, parent in enumerate(parents) if joint):
        raise ValueError("not a body model: a joint precedes its parent")
    rows = regressor[:BODY_JOINTS]
    return BodyModel(rows @ template, np.einsum("jv,vkb->jkb", rows, shapes), parents)


def read_real_array(path: Path) -> np.ndarray:
    """Read an array of real numbers from a ``.npy`` file. Raises ``ValueError`` if it is invalid or truncated."""
    try:
        array = np.load(path, mmap_mode="r")
    except Exception as error:  # a damaged header can raise almost any exception in NumPy
        raise ValueError(f"not a readable .npy file ({npy_fault(error)})") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise ValueError("not an array of real numbers")
    return np.array(array)


def read_archive(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Read the arrays ``names`` of an ``.npz`` archive, skipping missing ones.

    Raises ``ValueError`` if the file is not an archive of arrays, or a member is too large or has a path outside the
    archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        for member in members:
            parts = PurePosixPath(member.filename.replace("\\", "/"))
            if parts.is_absolute() or ".." in parts.parts:
                raise ValueError(f"the member {member.filename!r} points outside the archive")
            if member.file_size > MAX_BYTES:
                raise ValueError(f"the member {member.filename!r} is {member.file_size / MAX_BYTES:.1f} GB large")
        with np.load(path) as arrays:
            return {name: arrays[name] for name in names if name in arrays}
    except OSError:
        raise
    except Exception as error:  # damaged archives can raise almost any exception in zipfile and NumPy
        raise ValueError(f"not a readable .npz file ({_first_line(error)})") from error


def read_mapping(path: Path) -> dict[str, str | Place]:
    """Read a mapping file: a JSON object with a bone for each of the 22 joints.

    A bone is ``"NAME"``, ``"NAME/tip"`` (its end site) or a weighted sum ``{"NAME": weight, ...}``. Spine, collars and
    feet may be omitted. Raises ``InputError`` if the mapping is invalid.
    """
    try:
        mapping = json.loads(read_text(path, "mapping"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"mapping {path} is not JSON: {_first_line(error)}") from error
    if not isinstance(mapping, dict):
        raise InputError(f"mapping {path} is not a JSON object")
    mapping.pop(BONES, None)
    if empty := [joint for joint, place in mapping.items() if place == ""]:
        raise InputError(f"mapping {path}: the bones of {', '.join(empty)} are empty")
    places = {}
    for joint, place in mapping.items():
        if joint not in T2M.joint_names:
            raise InputError(f"mapping {path}: {joint} is not one of {', '.join(T2M.joint_names)}")
        places[joint] = _place(path, joint, place)
    if missing := [joint for joint in T2M.joint_names if joint not in places and joint not in OPTIONAL]:
        raise InputError(f"mapping {path} lacks {', '.join(missing)}")
    return places


def _place(path: Path, joint: str, place: object) -> str | Place:
    if isinstance(place, str | int) and not isinstance(place, bool):
        return str(place)
    if isinstance(place, dict) and place and all(type(weight) in (int, float) for weight in place.values()):
        total = sum(place.values())
        if abs(total - 1) > 1e-6:
            raise InputError(f"mapping {path}: the weights of {joint} sum to {total:g}, not 1")
        return {str(name): float(weight) for name, weight in place.items()}
    raise InputError(f"mapping {path}: {joint} has neither a bone name nor bone weights")


def _array_placement(count: int, mapping: Mapping[str, str | Place]) -> Placement:
    weights = np.zeros((BODY_JOINTS, count))
    for row, joint in enumerate(T2M.joint_names):
        if joint not in mapping:
            raise ValueError(f"the mapping lacks {joint}; a mapping for arrays must name all joints")
        for name, weight in weights_of(mapping[joint]).items():
            if not name.isdecimal() or int(name) >= count:
                raise ValueError(f"the mapping's {name} for {joint} is not a joint of an array of {count} joints")
            weights[row, int(name)] = weight
    return Placement("mapping", weights)


def _text(array: np.ndarray) -> str:
    value = array.reshape(-1)[0] if array.size else "neutral"
    return (value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)).strip().lower()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
