"""Analyse bodies (motion quality, up axis, swapped sides), and combine upper and lower bodies.

Joints have shape (T, J, 3) and are y up unless stated otherwise. Length thresholds are fractions of leg length.
"""
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from motion.features import gaussian_smooth
from motion.foot import HEIGHT_LIMITS, floor_height, foot_joints, leg_length, legs_of, per_foot_joint, unit_vectors
from motion.rotation import quat_between, quat_conjugate, quat_rotate
from motion.skeleton import T2M, UP_AXES, Skeleton


def foot_skating(joints: np.ndarray, skeleton: Skeleton, fps: float) -> float:
    """Return the mean horizontal speed (m/s) of foot joints in contact with the floor, or 0 without contact.

    An ankle below 0.06 m or a toe below 0.03 m above the clip's floor is in contact, as in the published foot locking.
    This includes feet that swing low, so real motion scores about 0.2 m/s.
    """
    feet = np.asarray(joints, np.float64)[:, foot_joints(skeleton)]
    speed = np.linalg.norm(np.diff(feet[..., [0, 2]], axis=0), axis=-1) * fps
    contact = feet[:-1, :, 1] - floor_height(joints, skeleton) < per_foot_joint(skeleton, *HEIGHT_LIMITS)
    return float(speed[contact].mean()) if contact.any() else 0.0


def floor_penetration(joints: np.ndarray, floor: float = 0.0) -> float:
    """Return the mean depth of the lowest joint below ``floor`` over all frames, in the unit of the joints."""
    return float(np.maximum(floor - np.asarray(joints, np.float64)[..., 1].min(1), 0).mean())


def bone_length_drift(joints: np.ndarray, skeleton: Skeleton) -> float:
    """Return the mean relative deviation of bone lengths from their median over time."""
    joints = np.asarray(joints, np.float64)
    lengths = np.linalg.norm(joints[:, 1:] - joints[:, list(skeleton.parents[1:])], axis=-1)
    usual = np.median(lengths, axis=0)
    drift = np.abs(lengths - usual)[:, usual > 0] / usual[usual > 0]
    return float(drift.mean()) if drift.size else 0.0


def roughness(joints: np.ndarray) -> float:
    """Return the mean norm of the joints' third differences: the jerk per frame, which is large for jittery motion.

    Motion capture at 20 fps scores 0.001 m for standing and gesturing, 0.010 m for walking and 0.03 m for running.
    """
    jerk = np.diff(np.asarray(joints, np.float64), 3, axis=0)
    return float(np.linalg.norm(jerk, axis=-1).mean()) if len(jerk) else 0.0


HEAD_OVER_FEET = 0.75  # minimum cosine between the up axis and the line from ankles to head
LEGS_UPRIGHT = 0.85    # the same for the line from ankles to hips, which stays upright in a deep bow
USUALLY = 0.4          # minimum mean score of ``_upright_along`` for the up axis
CLEARLY = 0.2          # minimum margin of this score over any other axis
ON_FLOOR = 0.08        # tolerance for a floor that is approximately at 0
TRAVEL = 1.25          # maximum distance that a lying body travels, except along its length
LYING = 0.4            # maximum height of a lying body's pelvis above the floor
AT_ZERO = 0.003        # tolerance for a floor or pelvis that was moved to 0
SOMETIMES = 0.2        # minimum mean score along y of a body that lies down or gets up
BACKWARDS = -0.1       # ``Sides.facing`` below which the sides are swapped
BENT_BACK = -0.04      # the same for the knees alone
TWISTED = -0.2         # ``Sides.twist`` below which hips or shoulders are swapped


@dataclass(frozen=True)
class Stance:
    """Estimated up axis of a body. ``up`` is None if it is unclear; ``sure`` is False if another axis may be up."""

    up: str | None
    sure: bool


def find_stance(joints: np.ndarray, skeleton: Skeleton = T2M) -> Stance:
    """Estimate the up axis of a recording.

    If a body is upright along an axis other than y, either this axis is up or the body is lying. The body is not lying
    if it travels perpendicular to its length, or if the floor at 0 is below its feet rather than its back. A body that
    is upside down throughout has -y as its up axis, unless it may be in a handstand.
    """
    shares = _upright_along(joints, skeleton).mean(0)
    second, best = np.argsort(shares)[-2:]
    if not (shares[best] >= USUALLY and shares[best] - shares[second] >= CLEARLY):
        return Stance(None, sure=False)
    up = UP_AXES[best]
    if up == "y":
        return Stance(up, sure=True)
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


def _floor_at_0(joints: np.ndarray, leg: float) -> int:
    """Rate how close the lowest of ``joints`` (y up) is to height 0: 2 if almost exact, 1 if approximate, else 0."""
    distance = abs(joints[..., 1].min())
    return int(distance < ON_FLOOR * leg) + int(distance < AT_ZERO * leg)


def _may_lie(joints: np.ndarray, skeleton: Skeleton, up: str, leg: float) -> bool:
    """Return whether the body may be lying (its pelvis is low) or, for ``up`` = "-y", standing on its hands.

    Returns False if the pelvis is the origin of every frame, because its height is then unknown.
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
    """Return whether the body (y up) is never upright."""
    return not _upright_along(joints, skeleton)[:, 0].any()


@dataclass(frozen=True)
class Sides:
    """Measurements that indicate swapped left and right sides, averaged over ``frames`` frames."""

    frames: int
    twist: float   # cosine between the hip line and the shoulder line
    facing: float  # forward offset of knees and toes in leg lengths: normally 0.3 or more, -0.3 or less if mirrored

    def __add__(self, other: "Sides") -> "Sides":
        """Combine the measurements of two recordings."""
        frames = self.frames + other.frames
        share = other.frames / frames
        return Sides(frames, self.twist + share * (other.twist - self.twist),
                     self.facing + share * (other.facing - self.facing))

    @property
    def twist_fault(self) -> str | None:
        """Reason why the sides of arms or legs must be swapped, or None if nothing indicates a swap."""
        if self.twist < TWISTED:
            return "left and right are swapped in the arms or legs: hips and shoulders point in opposite directions"
        return None

    @property
    def fault(self) -> str | None:
        """Evidence that left and right (of the whole body or of a pair of limbs) are swapped, or None."""
        if self.twist_fault:
            return self.twist_fault
        if self.facing < BACKWARDS:
            return "left and right are swapped, or the axes are left-handed: knees and feet point backwards"
        return None


def find_sides(joints: np.ndarray, skeleton: Skeleton = T2M) -> Sides:
    """Compute the measurements that show whether left and right are swapped, for joints with right-handed axes.

    The forward direction is derived from the hips and legs only. Both knees and toes are measured, because toes alone
    are unreliable for runners, and knees alone for a stiff walk.
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


def knees_bend_backward(joints: np.ndarray) -> bool:
    """Return whether the knees clearly bend backward, which indicates swapped sides if toes were not captured."""
    joints = joints.copy()
    for leg in legs_of(T2M):
        joints[:, leg.foot[-1]] = joints[:, leg.foot[0]]
    return find_sides(joints).facing < BENT_BACK


def swapped_sides(joints: np.ndarray, skeleton: Skeleton = T2M) -> str | None:
    """Return the evidence that left and right are swapped in joints (T, J, 3), or None.

    The axes of the joints must be right-handed. KIT-ML does not document which side is left, so the facing direction is
    checked for ``T2M`` bodies only.
    """
    sides = find_sides(joints, skeleton)
    return sides.fault if skeleton == T2M else sides.twist_fault


def _upright_along(joints: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Score (T, 6) how upright the body is along each of ``UP_AXES``.

    A head above the feet and hips above the feet count 0.5 each.
    """
    legs = legs_of(skeleton)
    hips, ankles = (np.mean([joints[:, joint] for joint in pair], axis=0)
                    for pair in ([leg.hip for leg in legs], [leg.foot[0] for leg in legs]))
    head = unit_vectors(joints[:, _head(skeleton)] - ankles)
    legs_up = unit_vectors(hips - ankles)
    axes = ["xyz".index(axis[-1]) for axis in UP_AXES]
    signs = np.array([-1 if axis.startswith("-") else 1 for axis in UP_AXES])
    return ((signs * head[:, axes] > HEAD_OVER_FEET) * 0.5 + (signs * legs_up[:, axes] > LEGS_UPRIGHT) * 0.5)


def _head(skeleton: Skeleton) -> int:
    """Return the joint at the end of the trunk."""
    return next(chain[-1] for chain in skeleton.chains if chain[0] == 0 and chain[-1] not in skeleton.feet)


MAX_COORDINATE = 1e8  # 100 km in millimetres
TURNED = "rotated so that y is up"  # end of the remark about a rotated motion
NO_BODY_DRIFT = 0.2   # maximum bone length drift: noise has 0.28 or more, generated motions up to 0.1


class UncertainAxis(ValueError):
    """Raised if it is unclear whether the body is lying or has an up axis other than y."""


def _invalid(values: np.ndarray, too_large: str) -> Iterator[tuple[tuple[int, ...], str]]:
    """Yield the index and the fault of the first value that is not finite, then of the first that is too large."""
    for is_bad, complaint in ((~np.isfinite(values), "is not finite"), (np.abs(values) >= MAX_COORDINATE, too_large)):
        for index in np.argwhere(is_bad)[:1]:
            yield tuple(index), f"{complaint} ({values[tuple(index)]:g})"


def check_coordinates(joints: np.ndarray, names: Sequence[str]) -> None:
    """Raise a ``ValueError`` that names frame and joint if a value of joints (T, J, 3) is not finite or too large."""
    for (frame, joint, axis), complaint in _invalid(joints, "is too large for any unit"):
        raise ValueError(f"frame {frame}: {'xyz'[axis]} of {names[joint]} {complaint}")


def check_features(features: np.ndarray) -> None:
    """Raise a ``ValueError`` that names row and column if a value of features (T, d) is not finite or too large."""
    for (row, column), complaint in _invalid(features, "is too large"):
        raise ValueError(f"row {row}: column {column} {complaint}")


def stand_up(joints: np.ndarray, skeleton: Skeleton, up: str | None = None) -> tuple[np.ndarray, str | None]:
    """Rotate joints (T, J, 3) so that y is up. Also returns a remark, or None if there is nothing to report.

    All coordinates must be finite. ``up`` is the up axis, one of ``UP_AXES``; None estimates it. Raises ``ValueError``
    if the joints are not a human body or left and right are swapped, and ``UncertainAxis`` if the axis is ambiguous.
    """
    if not leg_length(joints, skeleton) > 0:
        raise ValueError("the legs have zero length")
    drift = bone_length_drift(joints, skeleton)
    if drift > NO_BODY_DRIFT:
        raise ValueError(f"not the joints of a body: bone lengths vary by {100 * drift:.0f} % on average")
    remark = None
    if up is None:
        stance = find_stance(joints, skeleton)
        if stance.up not in (None, "y") and not stance.sure:
            raise UncertainAxis(f"the body is upright along {stance.up}: either this axis is up, or the body is lying; "
                                f"rotate it so that y is up, or set the axis (--up={stance.up} or --up=y)")
        up = stance.up or "y"
        remark = f"{up} is up; {TURNED}" if up != "y" else None
    joints = to_y_up(joints, up)
    if up == "y" and lies_throughout(joints, skeleton):
        remark = "the body is lying or bent in every frame"
    fault = swapped_sides(joints, skeleton)
    if fault:
        raise ValueError(fault)
    return joints, remark


HIPS_SIGMA = 2.0  # std, in frames, of the Gaussian that smooths the heading of the hips


def combine_bodies(lower: np.ndarray, upper: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Combine the pelvis and legs of ``lower`` with all other joints of ``upper``, both (T, J, 3).

    The upper body is placed on the pelvis of ``lower`` and rotated so that the hips of both motions have the same
    heading. Raises ``ValueError`` if the motions have different lengths.
    """
    if lower.shape != upper.shape:
        raise ValueError(f"motions of {len(lower)} and {len(upper)} frames cannot be combined")
    below, above = (torch.as_tensor(joints, dtype=torch.float64) for joints in (lower, upper))
    onto, away = _hips_to_front(below, skeleton), _hips_to_front(above, skeleton)
    local = quat_rotate(away[:, None], above - above[:, :1])
    legs = {joint for leg in legs_of(skeleton) for joint in (leg.hip, leg.knee, *leg.foot)}
    chosen = [joint for joint in range(1, len(skeleton)) if joint not in legs]
    combined = below.clone()
    combined[:, chosen] = below[:, :1] + quat_rotate(quat_conjugate(onto)[:, None], local)[:, chosen]
    return combined.numpy().astype(lower.dtype)


def _hips_to_front(joints: Tensor, skeleton: Skeleton) -> Tensor:
    """Return the rotations (T, 4) about y that turn the smoothed heading of the hips to +z."""
    right, left = skeleton.face_joints[:2]
    across = joints[:, left] - joints[:, right]
    front = torch.stack([-across[:, 2], torch.zeros_like(across[:, 0]), across[:, 0]], -1)
    front = gaussian_smooth(torch.nn.functional.normalize(front, dim=-1), HIPS_SIGMA)
    return quat_between(front, front.new_tensor([0.0, 0.0, 1.0]))
