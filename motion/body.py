"""Bodies in motion: quality measures, orientation (up axis, lying, swapped sides), and combined upper and lower bodies.

Joints are (T, J, 3), y up unless found otherwise. The lengths of orientation are fractions of leg length, for any unit.
"""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from motion.features import gaussian_smooth
from motion.foot import HEIGHT_LIMITS, floor_height, foot_joints, leg_length, legs_of, per_foot_joint
from motion.rotation import quat_between, quat_conjugate, quat_rotate
from motion.skeleton import T2M, UP_AXES, Skeleton

WEIGHTED_HEIGHT = 0.025  # m above which a foot does not skate


def foot_skating(joints: np.ndarray, skeleton: Skeleton, fps: float, held: np.ndarray | None = None) -> float:
    """Mean horizontal speed (m/s) of foot joints in contact; 0 without any contact.

    A foot is in contact if the ankle is below 0.06 m or the toe below 0.03 m above the floor of the clip, as in
    published foot locking. Low swinging feet count too, so real motion has about 0.2 m/s. Steps in ``held`` (T - 1, F)
    count as 0.
    """
    height, speed = _foot_steps(joints, skeleton, fps, held)
    contact = height < per_foot_joint(skeleton, *HEIGHT_LIMITS)
    return float(speed[contact].mean()) if contact.any() else 0.0


def weighted_skating(joints: np.ndarray, skeleton: Skeleton, fps: float, held: np.ndarray | None = None) -> float:
    """Mean over foot joints and frames of v (2 - 2^(h / H)), in m/s, while h < H = 0.025 m (Zhang et al. 2018, MANN).

    v is the horizontal speed; h is the height of a toe above the floor of the clip, or of an ankle above its standing
    height. Higher feet count less. ``held`` as in ``foot_skating``.
    """
    height, speed = _foot_steps(joints, skeleton, fps, held)
    ankle, toe = HEIGHT_LIMITS
    over = np.clip((height - per_foot_joint(skeleton, ankle - toe, 0)) / WEIGHTED_HEIGHT, 0, 1)
    return float((speed * (2 - 2**over)).mean())


def _foot_steps(joints: np.ndarray, skeleton: Skeleton, fps: float,
                held: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Heights (m) of the foot joints above the floor before each step (T - 1, F), and their horizontal speeds."""
    feet = np.asarray(joints, np.float64)[:, foot_joints(skeleton)]
    speed = np.linalg.norm(np.diff(feet[..., [0, 2]], axis=0), axis=-1) * fps
    return feet[:-1, :, 1] - floor_height(joints, skeleton), speed if held is None else np.where(held, 0, speed)


def floor_penetration(joints: np.ndarray, floor: float = 0.0) -> float:
    """Mean depth of the lowest joint below ``floor`` over the frames, in the unit of the joints."""
    return float(np.maximum(floor - np.asarray(joints, np.float64)[..., 1].min(1), 0).mean())


def bone_length_drift(joints: np.ndarray, skeleton: Skeleton) -> float:
    """Mean deviation of bone lengths from their medians over bones and frames, relative to the median."""
    joints = np.asarray(joints, np.float64)
    lengths = np.linalg.norm(joints[:, 1:] - joints[:, list(skeleton.parents[1:])], axis=-1)
    usual = np.median(lengths, axis=0)
    drift = np.abs(lengths - usual)[:, usual > 0] / usual[usual > 0]
    return float(drift.mean()) if drift.size else 0.0


def roughness(joints: np.ndarray) -> float:
    """Mean norm of the third differences of the joints, in their unit: the jerk per frame, large for jitter.

    Captured motion at 20 fps: 0.001 m standing and gesturing, 0.010 m walking, 0.03 m running.
    """
    jerk = np.diff(np.asarray(joints, np.float64), 3, axis=0)
    return float(np.linalg.norm(jerk, axis=-1).mean()) if len(jerk) else 0.0


HEAD_OVER_FEET = 0.75  # cosine between an axis and the line from ankles to head in a body upright along it
LEGS_UPRIGHT = 0.85    # same for the line from ankles to hips, which stays upright in a deep bow
USUALLY = 0.4          # fraction of frames in which a body is upright along the up axis
CLEARLY = 0.2          # margin of that fraction over any other axis
ON_FLOOR = 0.08        # distance from 0 of a floor at 0
TRAVEL = 1.25          # distance that a lying body does not travel, except lengthwise
LYING = 0.4            # height of a lying body's pelvis above the floor
AT_ZERO = 0.003        # same for a floor or pelvis that was moved to 0
SOMETIMES = 0.2        # fraction of upright frames of a body that lies down or gets up
BACKWARDS = -0.1       # mean distance that knees and toes point to the front if the sides are swapped
BENT_BACK = -0.04      # same for the knees alone
TWISTED = -0.2         # cosine between the lines of hips and shoulders if one of them is swapped


@dataclass(frozen=True)
class Stance:
    """Up axis of a body, None if no axis stands out; ``sure`` if the body cannot be lying."""

    up: str | None
    sure: bool


def guess_up(joints: np.ndarray, skeleton: Skeleton = T2M) -> str | None:
    """Axis of ``UP_AXES`` along which a body is upright in most frames, None if unclear."""
    return _clearly_up(_upright_along(joints, skeleton).mean(0))


def find_stance(joints: np.ndarray, skeleton: Skeleton = T2M) -> Stance:
    """Estimate the up axis of a recording.

    A body that is upright along an axis other than y either has that axis up or is lying. It is not lying if it travels
    crosswise to its length, or if the floor at 0 is under its feet and not under its back. A body that is upside down
    throughout is not expected, except in a handstand.
    """
    shares = _upright_along(joints, skeleton).mean(0)
    up = _clearly_up(shares)
    if up in (None, "y"):
        return Stance(up, sure=up is not None)
    if shares[0] > SOMETIMES:
        return Stance("y", sure=False)
    leg = leg_length(joints, skeleton)
    turned = to_y_up(joints, up)
    travel = np.ptp(turned[:, 0, [0, 2]], axis=0).max()
    below_feet, below_back = _floor_at_0(turned, leg), _floor_at_0(joints, leg)
    if not _may_lie(joints, skeleton, up, leg):
        below_back = 0
    if travel > TRAVEL * leg or below_feet > below_back or below_feet == below_back == 1:
        return Stance(up, sure=True)
    if below_back > below_feet:
        return Stance("y", sure=False)
    return Stance(up, sure=up == "-y" and not below_back)


def _clearly_up(shares: np.ndarray) -> str | None:
    second, best = np.argsort(shares)[-2:]
    is_clear = shares[best] >= USUALLY and shares[best] - shares[second] >= CLEARLY
    return UP_AXES[best] if is_clear else None


def _floor_at_0(joints: np.ndarray, leg: float) -> int:
    """Whether the lowest joint, y up, is at 0: 2 exactly, 1 approximately, 0 not."""
    distance = abs(joints[..., 1].min())
    return int(distance < ON_FLOOR * leg) + int(distance < AT_ZERO * leg)


def _may_lie(joints: np.ndarray, skeleton: Skeleton, up: str, leg: float) -> bool:
    """Whether a body, y up, is as low as a lying one, or on its hands if ``up`` is -y.

    Cannot be seen if the pelvis is the origin of every frame.
    """
    hand = next(chain[-1] for chain in skeleton.chains if chain[0] != 0)
    hips, wrist, head = (joints[:, joint] for joint in (0, hand, _head(skeleton)))
    if np.abs(hips).max() < AT_ZERO * leg:
        return False
    if up == "-y":
        return bool(np.median(wrist[:, 1]) < np.median(head[:, 1]))
    return bool(np.median(hips[:, 1]) - joints[..., 1].min() < LYING * leg)


def to_y_up(joints: np.ndarray, up: str) -> np.ndarray:
    """Rotate joints (..., 3), without mirroring, so that the axis ``up`` becomes y."""
    x, y, z = np.moveaxis(joints, -1, 0)
    turned = {"y": (x, y, z), "z": (x, z, -y), "x": (-y, x, z),
              "-y": (x, -y, -z), "-z": (x, -z, y), "-x": (y, -x, z)}[up]
    return np.stack(turned, -1)


def lies_throughout(joints: np.ndarray, skeleton: Skeleton = T2M) -> bool:
    """Whether a body, y up, is upright in no frame."""
    return not _upright_along(joints, skeleton)[:, 0].any()


@dataclass(frozen=True)
class Sides:
    """Evidence for swapped left and right sides, averaged over ``frames``."""

    frames: int
    twist: float   # cosine between the lines of hips and shoulders
    facing: float  # leg lengths that knees and toes point forward: people 0.3 or more, mirrored -0.3

    def __add__(self, other: "Sides") -> "Sides":
        """Combined evidence of both recordings."""
        frames = self.frames + other.frames
        share = other.frames / frames
        return Sides(frames, self.twist + share * (other.twist - self.twist),
                     self.facing + share * (other.facing - self.facing))

    @property
    def twist_fault(self) -> str | None:
        """Reason why left and right must be swapped in a part of the body, or None."""
        if self.twist < TWISTED:
            return "left and right are swapped in the arms or legs: hips and shoulders point in opposite directions"
        return None

    @property
    def fault(self) -> str | None:
        """Reason why left and right must be swapped, or None."""
        if self.twist_fault:
            return self.twist_fault
        if self.facing < BACKWARDS:
            return "left and right are swapped, or the axes are left-handed: knees and feet point backwards"
        return None


def find_sides(joints: np.ndarray, skeleton: Skeleton = T2M) -> Sides:
    """Evidence for swapped sides of a body in right-handed axes.

    The front is derived from the line of the hips and from the legs, independently of the trunk. Toes alone fail on
    runners, and knees alone on a stiff walk.
    """
    legs = legs_of(skeleton)
    right_hip, left_hip, right_shoulder, left_shoulder = (joints[:, joint] for joint in skeleton.face_joints)
    hips, shoulders = unit_vectors(left_hip - right_hip), unit_vectors(left_shoulder - right_shoulder)
    ankles = np.mean([joints[:, leg.foot[0]] for leg in legs], axis=0)
    front = unit_vectors(np.cross(hips, unit_vectors((left_hip + right_hip) / 2 - ankles)))
    forward = 0.0
    for leg in legs:
        hip, knee, ankle, toe = (joints[:, joint] for joint in (leg.hip, leg.knee, leg.foot[0], leg.foot[-1]))
        forward += np.mean(((toe - ankle + 2 * knee - hip - ankle) * front).sum(-1))
    return Sides(len(joints), float(np.mean((hips * shoulders).sum(-1))),
                 float(forward / max(leg_length(joints, skeleton), 1e-12)))


def knees_bend_backward(joints: np.ndarray, skeleton: Skeleton = T2M) -> bool:
    """Whether the knees clearly bend backward: a sign of swapped sides if toes were not captured."""
    joints = joints.copy()
    for leg in legs_of(skeleton):
        joints[:, leg.foot[-1]] = joints[:, leg.foot[0]]
    return find_sides(joints, skeleton).facing < BENT_BACK


def swapped_sides(joints: np.ndarray, skeleton: Skeleton = T2M) -> str | None:
    """Reason why left and right of a recording (T, J, 3) in right-handed axes must be swapped, or None."""
    return find_sides(joints, skeleton).fault


def _upright_along(joints: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """(T, 6) how upright a body is along each of ``UP_AXES``: 1 with head over hips over feet, 0.5 with one of them."""
    legs = legs_of(skeleton)
    hips, ankles = (np.mean([joints[:, joint] for joint in pair], axis=0)
                    for pair in ([leg.hip for leg in legs], [leg.foot[0] for leg in legs]))
    head = unit_vectors(joints[:, _head(skeleton)] - ankles)
    legs_up = unit_vectors(hips - ankles)
    axes = ["xyz".index(axis[-1]) for axis in UP_AXES]
    signs = np.array([-1 if axis.startswith("-") else 1 for axis in UP_AXES])
    return ((signs * head[:, axes] > HEAD_OVER_FEET) * 0.5 + (signs * legs_up[:, axes] > LEGS_UPRIGHT) * 0.5)


def _head(skeleton: Skeleton) -> int:
    """Joint at the end of the trunk."""
    return next(chain[-1] for chain in skeleton.chains if chain[0] == 0 and chain[-1] not in skeleton.feet)


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Vectors (..., n) scaled to length 1; zero vectors stay zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


MAX_COORDINATE = 1e8  # 100 km in millimetres
TURNED = "turned so that y is"  # ends the remark on a motion in other axes
NO_BODY_DRIFT = 0.2   # mean relative change of bone lengths: noise has 0.28 or more, generated motions up to 0.1


class UncertainAxis(ValueError):
    """The body is upright along an axis other than y, or is lying."""


def check_coordinates(joints: np.ndarray, names: Sequence[str] | None = None) -> None:
    """Raise ``ValueError`` naming the first frame and joint of (T, J, 3) that is not finite or is too large."""
    for is_bad, complaint in ((~np.isfinite(joints), "is not finite"),
                              (np.abs(joints) >= MAX_COORDINATE, "is too large for any unit")):
        if is_bad.any():
            frame, joint, axis = np.argwhere(is_bad)[0]
            name = names[joint] if names else f"joint {joint}"
            raise ValueError(f"frame {frame}: {'xyz'[axis]} of {name} {complaint} ({joints[frame, joint, axis]:g})")


def check_features(features: np.ndarray) -> None:
    """Raise ``ValueError`` naming the first row and column of (T, d) that is not finite or is too large."""
    for is_bad, complaint in ((~np.isfinite(features), "is not finite"),
                              (np.abs(features) >= MAX_COORDINATE, "is too large")):
        if is_bad.any():
            row, column = np.argwhere(is_bad)[0]
            raise ValueError(f"row {row}: column {column} {complaint} ({features[row, column]:g})")


def stand_up(joints: np.ndarray, skeleton: Skeleton, up: str | None = None) -> tuple[np.ndarray, str | None]:
    """Finite joints (T, J, 3) turned y up, and a remark if they were turned or the body is lying.

    ``up`` is the up axis, one of ``UP_AXES``; by default it is estimated from the body. Raises ``ValueError`` if the
    joints are not a human body or left and right are swapped, ``UncertainAxis`` if the axis is ambiguous.
    """
    _check_bones(joints, skeleton)
    remark = None
    if up is None:
        stance = find_stance(joints, skeleton)
        if stance.up not in (None, "y") and not stance.sure:
            raise UncertainAxis(f"the body is upright along {stance.up}: either that axis is up, or the body is lying; "
                                f"turn it so that y is up, or set the axis (--up={stance.up} or --up=y)")
        up = stance.up or "y"
        remark = f"{up} is up; {TURNED}" if up != "y" else None
    joints = to_y_up(joints, up)
    if up == "y" and lies_throughout(joints, skeleton):
        remark = "the body is lying or bent in every frame"
    fault = sides_fault(joints, skeleton)
    if fault:
        raise ValueError(fault)
    return joints, remark


def sides_fault(joints: np.ndarray, skeleton: Skeleton) -> str | None:
    """Reason why left and right must be swapped, or None.

    KIT-ML does not document which side is left, so the facing direction is checked for ``T2M`` bodies only.
    """
    sides = find_sides(joints, skeleton)
    return sides.fault if skeleton == T2M else sides.twist_fault


def _check_bones(joints: np.ndarray, skeleton: Skeleton) -> None:
    if not leg_length(joints, skeleton) > 0:
        raise ValueError("the body's legs have no length")
    drift = bone_length_drift(joints, skeleton)
    if drift > NO_BODY_DRIFT:
        raise ValueError(f"not the joints of a body: bones change their length by {100 * drift:.0f} % on average")


HIPS_SIGMA = 2.0  # frames over which the heading of the hips is smoothed


def upper_joints(skeleton: Skeleton) -> list[int]:
    """Joints above the pelvis: all except the pelvis and the legs."""
    below = {0, *(joint for leg in legs_of(skeleton) for joint in (leg.hip, leg.knee, *leg.foot))}
    return [joint for joint in range(len(skeleton)) if joint not in below]


def combine_bodies(lower: np.ndarray, upper: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Joints (T, J, 3) with the pelvis and legs of ``lower`` and everything above from ``upper``, both (T, J, 3).

    The upper body keeps its position relative to the pelvis, in the heading of the hips. Raises ``ValueError`` for
    motions of different lengths.
    """
    if lower.shape != upper.shape:
        raise ValueError(f"motions of {len(lower)} and {len(upper)} frames cannot share a body")
    below, above = (torch.as_tensor(joints, dtype=torch.float64) for joints in (lower, upper))
    onto, away = _hips_to_front(below, skeleton), _hips_to_front(above, skeleton)
    local = quat_rotate(away[:, None], above - above[:, :1])
    chosen = upper_joints(skeleton)
    combined = below.clone()
    combined[:, chosen] = below[:, :1] + quat_rotate(quat_conjugate(onto)[:, None], local)[:, chosen]
    return combined.numpy().astype(lower.dtype)


def _hips_to_front(joints: Tensor, skeleton: Skeleton) -> Tensor:
    """Rotations about y (T, 4) that turn the hips to face +z."""
    right, left = skeleton.face_joints[:2]
    across = joints[:, left] - joints[:, right]
    front = torch.stack([-across[:, 2], torch.zeros_like(across[:, 0]), across[:, 0]], -1)
    front = gaussian_smooth(torch.nn.functional.normalize(front, dim=-1), HIPS_SIGMA)
    return quat_between(front, front.new_tensor([0.0, 0.0, 1.0]))
