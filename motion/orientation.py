"""Body orientation of a motion (up axis, lying bodies, swapped left and right), and checks of imported joints.

Joints are (T, J, 3) of any skeleton, in any unit. Lengths below are fractions of leg length.
"""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from motion.foot import leg_length, legs_of
from motion.quality import bone_length_drift
from motion.skeleton import T2M, UP_AXES, Skeleton

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
