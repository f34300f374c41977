"""Convert a recording of any rig to the 22 joints: resampling, units, T-poses and steady ranges.

Joints are (T, 22, 3). A recording has its own unit and axes until ``to_metres`` and ``to_y_up``.
"""
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from motion.body import bone_length_drift, knees_bend_backward, swapped_sides, unit_vectors
from motion.bvh import Bvh
from motion.features import canonical_positions
from motion.foot import leg_length
from motion.rig_search import Place
from motion.rotation import matrix_to_quat, quat_to_matrix, slerp
from motion.skeleton import T2M
from motion.source_rig import Placement, place_joints

FPS = 20.0
# In metres. "cmu" is the unit of the CMU database and of its common BVH conversion.
UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001, "inch": 0.0254, "cmu": 0.0254 / 0.45}
LEG_LENGTHS = (0.5, 1.2)   # human leg lengths in metres, from hip over knee to ankle
TYPICAL_LEG = 0.82         # metres; decides between two units that fit
MAX_SPEED = 18.0           # m/s of a joint; anything faster is a flip of the capture
MAX_ACCELERATION = 560.0   # m/s^2
MAX_BONE_DRIFT = 0.05      # mean relative change of bone lengths allowed in a joint array
T_POSE_ANGLE = 20.0        # degrees between the line of the shoulders and a straight arm
T_POSE_AFTER = 0.1         # longest time in seconds to leave an initial T-pose

_JOINT = {name: number for number, name in enumerate(T2M.joint_names)}


@dataclass(frozen=True)
class RecordedPose:
    """Motion of a hierarchy, relative to the parent of each joint."""

    places: np.ndarray  # (T, J, 3)
    quats: torch.Tensor  # (T, J, 4) float64

    def joints(self, bvh: Bvh, placement: Placement) -> np.ndarray:
        """The 22 joints (T, 22, 3) in the unit of ``bvh``, which has the same hierarchy."""
        return placement.posed(bvh, self.places, quat_to_matrix(self.quats).numpy())


def resampled_pose(bvh: Bvh, first: int, end: int, fps: float = FPS) -> RecordedPose:
    """Resample the frames from ``first`` to ``end`` of a file to ``fps``.

    Rotations take the shorter arc and translations are linear between frames, before forward kinematics, so that bones
    keep their length.
    """
    places, turns = bvh.local_positions()[first:end], bvh.local_rotations()[first:end]
    low, share = _between_frames(len(places), bvh.frame_time, fps)
    high = np.minimum(low + 1, len(places) - 1)
    quats = matrix_to_quat(torch.from_numpy(turns))
    quats = slerp(quats[low], quats[high], torch.from_numpy(share)[:, None, None])
    return RecordedPose(places[low] + (places[high] - places[low]) * share[:, None, None], quats)


def resampled(bvh: Bvh, placement: Placement, first: int, end: int, fps: float = FPS) -> np.ndarray:
    """Joints (T, 22, 3) of ``resampled_pose``, in the unit of the file."""
    return resampled_pose(bvh, first, end, fps).joints(bvh, placement)


@dataclass(frozen=True)
class Placed:
    """The 22 joints of a file with a known hierarchy."""

    joints: np.ndarray  # (T, 22, 3) at 20 fps, in the unit and axes of the file
    first: int          # first frame of the file that is used
    rig: str


def place_recording(bvh: Bvh, mapping: Mapping[str, str | Place] | None = None, keep_t_pose: bool = False) -> Placed:
    """The 22 joints of a file, without T-poses at its ends unless ``keep_t_pose``.

    Raises ``ValueError`` like ``place_joints`` and ``t_pose_ends``, and if knees bend backward in a body whose toes
    were derived from its rest pose.
    """
    placement = place_joints(bvh, mapping)
    joints = placement.posed(bvh, bvh.local_positions(), bvh.local_rotations())
    if placement.has_made_toes and knees_bend_backward(joints):
        raise ValueError("left and right are swapped, or the axes are left-handed: knees bend backward")
    first, end = (0, len(joints)) if keep_t_pose else t_pose_ends(joints, bvh.frame_time)
    return Placed(resampled(bvh, placement, first, end), first, placement.rig)


def _between_frames(frames: int, frame_time: float, fps: float) -> tuple[np.ndarray, np.ndarray]:
    """Previous source frame and interpolation weight of the next one, for each frame at ``fps``."""
    count = int((frames - 1) * frame_time * fps) + 1
    place = np.arange(count) / (frame_time * fps)
    low = np.minimum(place.astype(int), frames - 1)
    return low, place - low


def t_pose_ends(joints: np.ndarray, frame_time: float) -> tuple[int, int]:
    """First frame and end of the motion between T-poses at the start and end of (T, 22, 3) joints in any axes.

    The moment in which the body leaves a T-pose at the start is excluded too.
    """
    is_t = _t_poses(joints)
    if is_t.all():
        raise ValueError("the whole file is a T-pose")
    start, end = int(np.argmin(is_t)), len(is_t) - int(np.argmin(is_t[::-1]))
    if start:
        start = start - 1 + max(round(T_POSE_AFTER / frame_time), 1)
    if start >= end:
        raise ValueError(f"there is no motion except a T-pose and the {T_POSE_AFTER:g} s in which the body leaves it")
    return start, end


def _t_poses(joints: np.ndarray) -> np.ndarray:
    """(T,) whether both arms are stretched out sideways, in the line of the shoulders, above straight legs."""
    across = unit_vectors(_bone(joints, "right_shoulder", "left_shoulder"))
    cosine = np.cos(np.radians(T_POSE_ANGLE))
    is_t = np.ones(len(joints), bool)
    for side, sign in (("left", 1), ("right", -1)):
        for upper, lower in (("shoulder", "elbow"), ("elbow", "wrist")):
            along = unit_vectors(_bone(joints, f"{side}_{upper}", f"{side}_{lower}"))
            is_t &= sign * (along * across).sum(-1) > cosine
        thigh, shin = (unit_vectors(_bone(joints, f"{side}_{upper}", f"{side}_{lower}"))
                       for upper, lower in (("hip", "knee"), ("knee", "ankle")))
        is_t &= (thigh * shin).sum(-1) > cosine
    return is_t


def guess_unit(joints: np.ndarray) -> str:
    """Unit in which the legs of ``joints`` (T, 22, 3) have a human length. Raises ``ValueError`` if none fits."""
    length = leg_length(joints, T2M)
    unit = _fitting_unit(length)
    if unit is None:
        raise ValueError(f"legs {length:.4g} units long are not human in {', '.join(UNITS)}; {_scale_advice(length)}")
    return unit


def metres_per_unit(joints: np.ndarray, unit: str | float | None = None) -> tuple[str, float]:
    """Name and size in metres of the unit of ``joints`` (T, 22, 3): ``unit`` (one of ``UNITS`` or metres), or
    estimated.

    Raises ``ValueError`` if the legs do not have a human length in it.
    """
    if unit is None:
        unit = guess_unit(joints)
    metres = UNITS[unit] if isinstance(unit, str) else unit
    name = next((name for name, size in UNITS.items() if np.isclose(metres, size)), f"units of {metres:g} m")
    length = leg_length(joints, T2M)
    if not LEG_LENGTHS[0] <= length * metres <= LEG_LENGTHS[1]:
        likely = _fitting_unit(length)
        advice = f"the unit is likely {likely} ({length * UNITS[likely]:.2f} m)" if likely else _scale_advice(length)
        raise ValueError(f"legs {length:.4g} units long are {length * metres:.3g} m in {name}, not human; {advice}")
    return name, metres


def _fitting_unit(length: float) -> str | None:
    """Unit in which a leg of ``length`` is human; if several fit, the one closest to the typical length."""
    fitting = [unit for unit, metres in UNITS.items() if LEG_LENGTHS[0] <= length * metres <= LEG_LENGTHS[1]]
    return min(fitting, key=lambda unit: abs(np.log(length * UNITS[unit] / TYPICAL_LEG)), default=None)


def _scale_advice(length: float) -> str:
    if not length > 0:
        return "they have no length"
    return f"set the unit in metres (--unit), about {TYPICAL_LEG / length:.2g}"


def check_body(joints: np.ndarray) -> None:
    """Raise ``ValueError`` if joints (T, 22, 3) in metres cannot be a person: bones of zero or varying length, swapped
    sides."""
    if not np.isfinite(joints).all():
        raise ValueError("coordinates that are not finite")
    parents = list(T2M.parents)
    lengths = np.median(np.linalg.norm(joints - joints[:, parents], axis=-1), axis=0)
    for joint in ("left_knee", "right_knee", "left_ankle", "right_ankle", "left_elbow", "right_elbow", "left_wrist",
                  "right_wrist", "left_foot", "right_foot"):
        if lengths[_JOINT[joint]] < 0.01:
            raise ValueError(f"the bone to {joint} has no length")
    drift = bone_length_drift(joints, T2M)
    if drift > MAX_BONE_DRIFT:
        raise ValueError(f"bones change their length by {100 * drift:.0f} % on average")
    reason = swapped_sides(joints)
    if reason:
        raise ValueError(reason)


def steady_runs(joints: np.ndarray, shortest: int) -> list[tuple[int, int]]:
    """Ranges of at least ``shortest`` frames of joints (T, 22, 3), in metres at 20 fps, without flips."""
    steps = np.linalg.norm(np.diff(joints, axis=0), axis=-1).max(-1)                   # (T - 1,)
    bends = np.linalg.norm(np.diff(joints, 2, axis=0), axis=-1).max(-1)                # (T - 2,)
    bad = np.zeros(len(joints), bool)
    bad[1:-1] = bends * FPS**2 > MAX_ACCELERATION
    cuts = np.flatnonzero(steps * FPS > MAX_SPEED) + 1
    borders = np.unique(np.concatenate([[0, len(joints)], cuts, np.flatnonzero(bad), np.flatnonzero(bad) + 1]))
    return [(int(start), int(end)) for start, end in zip(borders, borders[1:], strict=False)
            if end - start >= shortest and not bad[start]]


def windows(start: int, end: int, longest: int, overlap: int) -> list[tuple[int, int]]:
    """Smallest number of ranges of at most ``longest`` frames that cover ``start`` to ``end`` evenly, with neighbours
    sharing at least ``overlap`` frames."""
    frames = end - start
    if frames <= longest:
        return [(start, end)]
    count = -(-(frames - overlap) // (longest - overlap))
    starts = np.linspace(start, end - longest, count).astype(int).tolist()
    return [(first, first + longest) for first in starts]


def normalised(joints: np.ndarray) -> np.ndarray:
    """Joints (T, 22, 3) float32 on the floor, with the pelvis at x = z = 0 and the body facing +z in frame 0."""
    return canonical_positions(torch.as_tensor(np.ascontiguousarray(joints), dtype=torch.float32), T2M).numpy()


def _bone(joints: np.ndarray, start: str, end: str) -> np.ndarray:
    return joints[:, _JOINT[end]] - joints[:, _JOINT[start]]
