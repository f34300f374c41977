"""Unroll looping motions in time, and apply filters to them without a seam."""
from collections.abc import Callable

import numpy as np

from motion.skeleton import Skeleton


def unrolled(joints: np.ndarray, skeleton: Skeleton, frames: int) -> np.ndarray:
    """Joints (T + 2 frames, J, 3): a loop (T, J, 3) of at least 2 frames, extended at both ends by its repetition.

    A loop that travels continues from where it arrives: the step over the seam repeats the last step of the body.
    """
    angle, place = _headings(joints, skeleton), joints[:, 0, [0, 2]]
    step = _turned(place[-1] - place[-2], -angle[-2])
    after_angle = 2 * angle[-1] - angle[-2]
    after_place = place[-1] + _turned(step, angle[-1])
    following = _moved(joints[:frames], angle[0], place[0], after_angle, after_place)
    before = _moved(joints[-frames:], after_angle, after_place, angle[0], place[0])
    return np.concatenate([before, joints, following])


def on_cycle(joints: np.ndarray, skeleton: Skeleton, frames: int,
             change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Apply ``change`` to a loop (T, J, 3) with ``frames`` frames of context before and after it."""
    frames = min(frames, len(joints))
    return change(unrolled(joints, skeleton, frames))[frames:frames + len(joints)]


def _headings(joints: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    right_hip, left_hip, right_shoulder, left_shoulder = skeleton.face_joints
    across = joints[:, left_hip] - joints[:, right_hip] + joints[:, left_shoulder] - joints[:, right_shoulder]
    return np.unwrap(np.arctan2(-across[:, 2], across[:, 0]))


def _turned(ground: np.ndarray, angle: float) -> np.ndarray:
    """Ground vectors (..., 2) as (x, z) rotated by an angle about y, from +z towards +x."""
    x, z = ground[..., 0], ground[..., 1]
    return np.stack([x * np.cos(angle) + z * np.sin(angle), z * np.cos(angle) - x * np.sin(angle)], -1)


def _moved(joints: np.ndarray, angle: float, place: np.ndarray, new_angle: float, new_place: np.ndarray) -> np.ndarray:
    """Move joints from ``place`` with heading ``angle`` to ``new_place`` with heading ``new_angle``."""
    moved = joints.copy()
    moved[..., [0, 2]] = _turned(joints[..., [0, 2]] - place, new_angle - angle) + new_place
    return moved
