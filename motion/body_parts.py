"""Combine the upper body of one motion with the pelvis and legs of another."""
import numpy as np
import torch
from torch import Tensor

from motion.features import gaussian_smooth
from motion.foot import legs_of
from motion.rotation import quat_between, quat_conjugate, quat_rotate
from motion.skeleton import Skeleton

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
