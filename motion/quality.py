"""Physical faults of motions (T, J, 3), y up: sliding feet, feet under the floor, bones that change their length."""
from collections.abc import Sequence

import numpy as np

from motion.foot import HEIGHT_LIMITS, floor_height, foot_joints, per_foot_joint
from motion.skeleton import Skeleton

SEAM_FRAMES = 2          # on either side of a seam
WEIGHTED_HEIGHT = 0.025  # m at which a foot has ceased to skate


def foot_skating(joints: np.ndarray, skeleton: Skeleton, fps: float, held: np.ndarray | None = None) -> float:
    """Mean horizontal speed (m/s) of foot joints while they count as in contact; 0 where none ever does.

    In contact is an ankle below 0.06 m and a toe below 0.03 m over the clip's floor, as published foot locking has
    it. Swinging feet that pass so low count too, so that real motion has 0.2 m/s or so. Steps of ``held``
    (T - 1, F) count as if they were of no length.
    """
    height, speed = _foot_steps(joints, skeleton, fps, held)
    contact = height < per_foot_joint(skeleton, *HEIGHT_LIMITS)
    return float(speed[contact].mean()) if contact.any() else 0.0


def weighted_skating(joints: np.ndarray, skeleton: Skeleton, fps: float, held: np.ndarray | None = None) -> float:
    """Mean over foot joints and frames of v (2 - 2^(h / H)), in m/s, while h < H = 0.025 m (Zhang et al. 2018, MANN).

    v is the speed over the ground, h the height of a toe over the clip's floor, and of an ankle over the height at
    which one stands. So feet count less the higher they are. ``held`` as in ``foot_skating``.
    """
    height, speed = _foot_steps(joints, skeleton, fps, held)
    ankle, toe = HEIGHT_LIMITS
    over = np.clip((height - per_foot_joint(skeleton, ankle - toe, 0)) / WEIGHTED_HEIGHT, 0, 1)
    return float((speed * (2 - 2**over)).mean())


def _foot_steps(joints: np.ndarray, skeleton: Skeleton, fps: float,
                held: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Heights (m) over the clip's floor before each step (T - 1, F) of the foot joints, and their horizontal speeds."""
    feet = np.asarray(joints, np.float64)[:, foot_joints(skeleton)]
    speed = np.linalg.norm(np.diff(feet[..., [0, 2]], axis=0), axis=-1) * fps
    return feet[:-1, :, 1] - floor_height(joints, skeleton), speed if held is None else np.where(held, 0, speed)


def floor_penetration(joints: np.ndarray, floor: float = 0.0) -> float:
    """Mean over the frames of how far the lowest joint is under ``floor``, in the joints' unit."""
    return float(np.maximum(floor - np.asarray(joints, np.float64)[..., 1].min(1), 0).mean())


def bone_length_drift(joints: np.ndarray, skeleton: Skeleton) -> float:
    """Mean over bones and frames of how far a bone's length is from its median, as a share of the median."""
    joints = np.asarray(joints, np.float64)
    lengths = np.linalg.norm(joints[:, 1:] - joints[:, list(skeleton.parents[1:])], axis=-1)
    usual = np.median(lengths, axis=0)
    drift = np.abs(lengths - usual)[:, usual > 0] / usual[usual > 0]
    return float(drift.mean()) if drift.size else 0.0


def roughness(joints: np.ndarray) -> float:
    """Mean size in the joints' unit of a joint's jerk over one frame (its third difference), large where it jitters.

    Captured people at 20 frames a second: 0.001 m standing and gesturing, 0.010 walking, 0.03 running.
    """
    jerk = np.diff(np.asarray(joints, np.float64), 3, axis=0)
    return float(np.linalg.norm(jerk, axis=-1).mean()) if len(jerk) else 0.0


def seam_speed(joints: np.ndarray, seams: Sequence[int], usual: np.ndarray | None = None) -> float:
    """How fast a motion (T, J, 3) is at its seams, as a multiple of what is fast in it.

    The fastest step from a frame to the next within ``SEAM_FRAMES`` of the frames ``seams``, against the 95th
    percentile of the steps of ``usual`` (T', J, 3), by default the motion itself; a step is the mean distance over
    the joints. 0 where there is no seam; ``inf`` where ``usual`` stands still.
    """
    steps = _steps(joints)
    near = [steps[max(seam - SEAM_FRAMES, 0):seam + SEAM_FRAMES] for seam in seams if 0 < seam < len(joints)]
    if not near:
        return 0.0
    fast = float(np.percentile(_steps(joints if usual is None else usual), 95))
    return float(np.concatenate(near).max()) / fast if fast > 0 else np.inf


def _steps(joints: np.ndarray) -> np.ndarray:
    """Mean distance (T - 1,) of the joints from frame to frame."""
    return np.linalg.norm(np.diff(np.asarray(joints, np.float64), axis=0), axis=-1).mean(-1)
