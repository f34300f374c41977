"""Physical quality metrics of motions (T, J, 3), y up: foot skating, floor penetration, bone length drift, jitter."""

import numpy as np

from motion.foot import HEIGHT_LIMITS, floor_height, foot_joints, per_foot_joint
from motion.skeleton import Skeleton

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
