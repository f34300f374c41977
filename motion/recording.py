"""Convert a recording of any rig to the 22 joints: resampling, joining, units and T-pose removal.

Joints have shape (T, 22, 3). They have the unit and axes of the file until they are converted to metres and y up.
"""
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from motion.body import bone_length_drift, knees_bend_backward, swapped_sides, unit_vectors
from motion.bvh import Bvh, chained
from motion.bvh_fit import headings
from motion.features import canonical_positions
from motion.foot import leg_length
from motion.rig_search import Place
from motion.rotation import lerp, matrix_to_quat, quat_multiply, quat_rotate, quat_to_matrix, slerp, yaw_quat
from motion.skeleton import T2M
from motion.source_rig import Placement, place_joints

FPS = 20.0
# In metres. "cmu" is the unit of the CMU database and of its common BVH conversion.
UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001, "inch": 0.0254, "cmu": 0.0254 / 0.45}
LEG_LENGTHS = (0.5, 1.2)   # range of human leg lengths (thigh plus shin), metres
TYPICAL_LEG = 0.82         # metres; decides between several plausible units
MAX_SPEED = 18.0           # m/s; faster joints are capture errors
MAX_ACCELERATION = 560.0   # m/s^2
MAX_BONE_DRIFT = 0.05      # maximum mean relative change of bone lengths in a joint array
T_POSE_ANGLE = 20.0        # maximum angle between the arms and the shoulder line, degrees
T_POSE_AFTER = 0.1         # maximum duration of the transition out of a T-pose, seconds

_JOINT = {name: number for number, name in enumerate(T2M.joint_names)}


@dataclass(frozen=True)
class RecordedPose:
    """Motion of a hierarchy as positions and rotations relative to each joint's parent."""

    places: np.ndarray  # (T, J, 3)
    quats: torch.Tensor  # (T, J, 4) float64

    def joints(self, bvh: Bvh, placement: Placement) -> np.ndarray:
        """Compute the 22 joints (T, 22, 3), in the unit of ``bvh``, from which this motion was read."""
        return placement.posed(bvh, self.places, quat_to_matrix(self.quats).numpy())


def resampled_pose(bvh: Bvh, first: int, end: int, fps: float = FPS) -> RecordedPose:
    """Resample the frames [``first``, ``end``) of a BVH file to ``fps``.

    Rotations are interpolated along the shorter arc and translations linearly. This happens before forward kinematics,
    so bone lengths stay constant.
    """
    places, turns = bvh.local_positions()[first:end], bvh.local_rotations()[first:end]
    last = len(places) - 1
    frames = np.arange(int(last * bvh.frame_time * fps) + 1) / (bvh.frame_time * fps)
    low = np.minimum(frames.astype(int), last)
    high, share = np.minimum(low + 1, last), frames - low
    quats = matrix_to_quat(torch.from_numpy(turns))
    quats = slerp(quats[low], quats[high], torch.from_numpy(share)[:, None, None])
    return RecordedPose(places[low] + (places[high] - places[low]) * share[:, None, None], quats)


def resampled(bvh: Bvh, placement: Placement, first: int, end: int, fps: float = FPS) -> np.ndarray:
    """Resample the frames [``first``, ``end``) and compute the 22 joints (T, 22, 3), in the unit of the file."""
    return resampled_pose(bvh, first, end, fps).joints(bvh, placement)


def joined(bvh: Bvh, placement: Placement, first: RecordedPose, second: RecordedPose, blend: int) -> np.ndarray:
    """Join two motions of the hierarchy ``bvh``, with ``blend`` frames in between. Returns joints (T, 22, 3), y up.

    ``second`` is rotated about y and moved on the floor to continue the heading and pelvis position of ``first``.
    Raises ``ValueError`` if the pelvis is not a single bone.
    """
    pelvis = np.flatnonzero(placement.weights[0])
    if len(pelvis) != 1:
        raise ValueError("cannot join recordings whose pelvis is not a single bone")
    first, second = (_freed(bvh, pose, int(pelvis[0])) for pose in (first, second))
    last, start = first.joints(bvh, placement)[-1:], second.joints(bvh, placement)[:1]
    turn = yaw_quat(torch.from_numpy(headings(last, T2M) - headings(start, T2M)) / 2)
    second = _moved(second, int(pelvis[0]), turn, start[0, 0], last[0, 0])
    steps = torch.arange(1, blend + 1, dtype=torch.float64)[:, None, None] / (blend + 1)
    ease = steps**2 * (3 - 2 * steps)
    between = RecordedPose(lerp(first.places[-1], second.places[0], ease.numpy()),
                   slerp(first.quats[-1:].expand(blend, -1, -1), second.quats[:1].expand(blend, -1, -1), ease))
    parts = (first, between, second)
    whole = RecordedPose(np.concatenate([part.places for part in parts]), torch.cat([part.quats for part in parts]))
    return whole.joints(bvh, placement)


def _freed(bvh: Bvh, pose: RecordedPose, pelvis: int) -> RecordedPose:
    """Transfer the translation and rotation of the pelvis' ancestors to the pelvis."""
    places, turns = chained(bvh.parents, pose.places, quat_to_matrix(pose.quats).numpy())
    freed, quats = pose.places.copy(), pose.quats.clone()
    freed[:, pelvis], quats[:, pelvis] = places[:, pelvis], matrix_to_quat(torch.from_numpy(turns[:, pelvis]))
    above = pelvis
    while (above := bvh.parents[above]) >= 0:
        freed[:, above], quats[:, above] = 0, torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
    return RecordedPose(freed, quats)


def _moved(pose: RecordedPose, pelvis: int, turn: torch.Tensor, origin: np.ndarray, place: np.ndarray) -> RecordedPose:
    """Rotate a pose about ``origin`` and move ``origin`` horizontally to ``place``."""
    places, quats = pose.places.copy(), pose.quats.clone()
    places[:, pelvis] = quat_rotate(turn, torch.from_numpy(places[:, pelvis] - origin)).numpy() + [
        place[0], origin[1], place[2]]
    quats[:, pelvis] = quat_multiply(turn.expand(len(quats), 4), quats[:, pelvis])
    return RecordedPose(places, quats)


@dataclass(frozen=True)
class Placed:
    """The 22 joints of a file whose rig was recognised."""

    joints: np.ndarray  # (T, 22, 3) at 20 fps, in the unit and axes of the file
    first: int          # first frame of the file that is used
    rig: str


def place_recording(bvh: Bvh, mapping: Mapping[str, str | Place] | None = None, keep_t_pose: bool = False) -> Placed:
    """Compute the 22 joints of a file. T-poses at the start and end are removed unless ``keep_t_pose`` is set.

    Raises ``ValueError`` if the rig is not recognised, if the file has no motion besides T-poses, or if a rig without
    toes has knees that bend backward.
    """
    placement = place_joints(bvh, mapping)
    joints = placement.posed(bvh, bvh.local_positions(), bvh.local_rotations())
    if placement.has_made_toes and knees_bend_backward(joints):
        raise ValueError("left and right are swapped, or the axes are left-handed: knees bend backward")
    first, end = (0, len(joints)) if keep_t_pose else t_pose_ends(joints, bvh.frame_time)
    return Placed(resampled(bvh, placement, first, end), first, placement.rig)


def t_pose_ends(joints: np.ndarray, frame_time: float) -> tuple[int, int]:
    """Return the first frame and the end (exclusive) of the motion between a leading and a trailing T-pose.

    ``joints`` (T, 22, 3) may use any axes. The short transition out of a leading T-pose is removed too. Raises
    ``ValueError`` if no motion is left.
    """
    is_t = _t_poses(joints)
    if is_t.all():
        raise ValueError("the whole file is a T-pose")
    start, end = int(np.argmin(is_t)), len(is_t) - int(np.argmin(is_t[::-1]))
    if start:
        start = start - 1 + max(round(T_POSE_AFTER / frame_time), 1)
    if start >= end:
        raise ValueError(f"the file has no motion besides a T-pose and the {T_POSE_AFTER:g} s after it")
    return start, end


def _t_poses(joints: np.ndarray) -> np.ndarray:
    """Return a mask (T,) of T-poses: straight legs, and both arms stretched out sideways in line with the shoulders."""
    def bone(start: str, end: str) -> np.ndarray:
        return unit_vectors(joints[:, _JOINT[end]] - joints[:, _JOINT[start]])

    across = bone("right_shoulder", "left_shoulder")
    cosine = np.cos(np.radians(T_POSE_ANGLE))
    is_t = np.ones(len(joints), bool)
    for side, sign in (("left", 1), ("right", -1)):
        for upper, lower in (("shoulder", "elbow"), ("elbow", "wrist")):
            is_t &= sign * (bone(f"{side}_{upper}", f"{side}_{lower}") * across).sum(-1) > cosine
        thigh, shin = bone(f"{side}_hip", f"{side}_knee"), bone(f"{side}_knee", f"{side}_ankle")
        is_t &= (thigh * shin).sum(-1) > cosine
    return is_t


def guess_unit(joints: np.ndarray) -> str:
    """Return the unit in which the legs of joints (T, 22, 3) have human length, else raise ``ValueError``."""
    length = leg_length(joints, T2M)
    if (unit := _fitting_unit(length)) is None:
        raise ValueError(f"legs of {length:.4g} units are not human in {', '.join(UNITS)}; {_scale_advice(length)}")
    return unit


def metres_per_unit(joints: np.ndarray, unit: str | float | None = None) -> tuple[str, float]:
    """Return the name of the length unit of ``joints`` (T, 22, 3) and its size in metres.

    ``unit`` is a key of ``UNITS`` or a number of metres; None estimates it. Raises ``ValueError`` if the legs do not
    have a human length in this unit.
    """
    if unit is None:
        unit = guess_unit(joints)
    metres = UNITS[unit] if isinstance(unit, str) else unit
    name = next((name for name, size in UNITS.items() if np.isclose(metres, size)), f"units of {metres:g} m")
    length = leg_length(joints, T2M)
    if not LEG_LENGTHS[0] <= length * metres <= LEG_LENGTHS[1]:
        likely = _fitting_unit(length)
        advice = f"the unit is likely {likely} ({length * UNITS[likely]:.2f} m)" if likely else _scale_advice(length)
        raise ValueError(f"legs of {length:.4g} units are {length * metres:.3g} m in {name}, not human; {advice}")
    return name, metres


def _fitting_unit(length: float) -> str | None:
    """Return the unit in which a leg of ``length`` is closest to the typical length. Returns None if no unit fits."""
    fitting = [unit for unit, metres in UNITS.items() if LEG_LENGTHS[0] <= length * metres <= LEG_LENGTHS[1]]
    return min(fitting, key=lambda unit: abs(np.log(length * UNITS[unit] / TYPICAL_LEG)), default=None)


def _scale_advice(length: float) -> str:
    if not length > 0:
        return "their length is zero"
    return f"set the unit in metres (--unit), about {TYPICAL_LEG / length:.2g}"


def check_body(joints: np.ndarray) -> None:
    """Raise ``ValueError`` if joints (T, 22, 3) in metres cannot belong to a person.

    Detects limb bones shorter than 1 cm, varying bone lengths, and swapped left and right sides.
    """
    lengths = np.median(np.linalg.norm(joints - joints[:, list(T2M.parents)], axis=-1), axis=0)
    for part in ("knee", "ankle", "elbow", "wrist", "foot"):
        for joint in (f"left_{part}", f"right_{part}"):
            if lengths[_JOINT[joint]] < 0.01:
                raise ValueError(f"the bone to {joint} has zero length")
    drift = bone_length_drift(joints, T2M)
    if drift > MAX_BONE_DRIFT:
        raise ValueError(f"bone lengths vary by {100 * drift:.0f} % on average")
    if reason := swapped_sides(joints):
        raise ValueError(reason)


def steady_runs(joints: np.ndarray, shortest: int) -> list[tuple[int, int]]:
    """Return the ranges of at least ``shortest`` frames without jumps, for joints (T, 22, 3) in metres at 20 fps."""
    steps = np.linalg.norm(np.diff(joints, axis=0), axis=-1).max(-1)                   # (T - 1,)
    bends = np.linalg.norm(np.diff(joints, 2, axis=0), axis=-1).max(-1)                # (T - 2,)
    bad = np.zeros(len(joints), bool)
    bad[1:-1] = bends * FPS**2 > MAX_ACCELERATION
    cuts = np.flatnonzero(steps * FPS > MAX_SPEED) + 1
    borders = np.unique(np.concatenate([[0, len(joints)], cuts, np.flatnonzero(bad), np.flatnonzero(bad) + 1]))
    return [(int(start), int(end)) for start, end in zip(borders, borders[1:], strict=False)
            if end - start >= shortest and not bad[start]]


def windows(start: int, end: int, longest: int, overlap: int) -> list[tuple[int, int]]:
    """Cover the frames [``start``, ``end``) with as few ranges of at most ``longest`` frames as possible.

    The ranges are evenly spaced, and neighbouring ranges share at least ``overlap`` frames.
    """
    frames = end - start
    if frames <= longest:
        return [(start, end)]
    count = -(-(frames - overlap) // (longest - overlap))
    starts = np.linspace(start, end - longest, count).astype(int).tolist()
    return [(first, first + longest) for first in starts]


def normalised(joints: np.ndarray) -> np.ndarray:
    """Move a motion (T, 22, 3) to the floor, with the pelvis above the origin and facing +z in frame 0. float32."""
    return canonical_positions(torch.as_tensor(np.ascontiguousarray(joints), dtype=torch.float32), T2M).numpy()
