"""Root bone on the ground for game engines: it carries travel and heading, the hips carry all other movement."""
import numpy as np
import torch

from motion.bvh import POSITIONS, ROTATIONS, Bvh
from motion.euler import matrix_to_euler
from motion.features import gaussian_smooth
from motion.rotation import quat_to_matrix, yaw_quat
from motion.skeleton import Skeleton

ROOT_NAME = "Root"
HEADING_SIGMA = 5.0  # frames; smoothing of the root heading, so that it turns but does not sway
_ORDER = "zyx"


def in_place(joints: np.ndarray) -> np.ndarray:
    """Joints (T, J, 3) without travel: the pelvis above the origin in every frame, with unchanged heights and
    headings."""
    return joints - joints[:, :1] * np.array([1, 0, 1], joints.dtype)


def smooth_heading(joints: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Heading angles (T,) of hips and shoulders in radians about y, from +z towards +x, smoothed over time."""
    right_hip, left_hip, right_shoulder, left_shoulder = skeleton.face_joints
    across = (joints[:, left_hip] - joints[:, right_hip] + joints[:, left_shoulder] - joints[:, right_shoulder])
    front = torch.as_tensor(np.stack([-across[:, 2], across[:, 0]], -1), dtype=torch.float64)
    front = gaussian_smooth(torch.nn.functional.normalize(front, dim=-1), HEADING_SIGMA).numpy()
    return np.unwrap(np.arctan2(front[:, 0], front[:, 1]))


def with_root_bone(bvh: Bvh, joints: np.ndarray, skeleton: Skeleton) -> Bvh:
    """BVH of joints (T, J, 3) with a bone ``Root`` at y = 0 under the pelvis, facing the heading of the body.

    All other joints keep their world positions.
    """
    places, turns = bvh.local_positions(), bvh.local_rotations()
    angle = smooth_heading(joints, skeleton)
    yaw = quat_to_matrix(yaw_quat(torch.from_numpy(angle / 2))).numpy()
    ground = places[:, 0] * [1, 0, 1]
    hips = np.einsum("tji,tj->ti", yaw, places[:, 0] - ground)
    hips_turn = yaw.transpose(0, 2, 1) @ turns[:, 0]
    rotations = tuple(f"{axis.upper()}rotation" for axis in _ORDER)
    assert set(rotations) == set(ROTATIONS)
    root = np.concatenate([ground, matrix_to_euler(yaw[:, None], _ORDER)[:, 0]], 1)
    hips_values = np.concatenate([hips, matrix_to_euler(hips_turn[:, None], _ORDER)[:, 0]], 1)
    return Bvh(
        names=(ROOT_NAME, *bvh.names), parents=(-1, *(parent + 1 for parent in bvh.parents)),
        offsets=np.concatenate([np.zeros((1, 3)), bvh.offsets]),
        channels=(POSITIONS + rotations, POSITIONS + rotations, *bvh.channels[1:]),
        values=np.concatenate([root, hips_values, bvh.values[:, bvh.columns[0].stop:]], 1),
        frame_time=bvh.frame_time, end_sites={joint + 1: tip for joint, tip in bvh.end_sites.items()})
