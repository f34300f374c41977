"""Checks of imported motions before features are computed: finite numbers, a human body, axes, sides."""
from collections.abc import Sequence

import numpy as np

from motion.orientation import find_sides, find_stance, lies_throughout, to_y_up
from motion.quality import bone_length_drift
from motion.skeleton import T2M, Skeleton

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
    legs = list(skeleton.leg_bones)
    lengths = np.linalg.norm(joints[:, legs] - joints[:, [skeleton.parents[joint] for joint in legs]], axis=-1)
    if not np.median(lengths.sum(-1)) > 0:
        raise ValueError("the body's legs have no length")
    drift = bone_length_drift(joints, skeleton)
    if drift > NO_BODY_DRIFT:
        raise ValueError(f"not the joints of a body: bones change their length by {100 * drift:.0f} % on average")
