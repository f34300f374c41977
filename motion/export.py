"""What exported files need: a root bone for game engines, AMASS archives, and loops unrolled in time."""
from collections.abc import Callable

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from motion.bvh import POSITIONS, ROTATIONS, Bvh, matrix_to_euler
from motion.bvh_fit import rig_of
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


SMPLH_JOINTS = 52     # AMASS bodies have hands; our hands stay in the rest pose
SHAPES = 16
# From our y-up axes to z up, as in AMASS: (x, y, z) becomes (x, -z, y).
TO_Z_UP = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])


def amass_arrays(bvh: Bvh, skeleton: Skeleton) -> dict[str, np.ndarray]:
    """Arrays of an AMASS archive for a BVH written by ``joints_to_bvh`` from joints in metres.

    ``poses`` (T, 156) are axis angles of the 52 joints of SMPL-H and ``trans`` (T, 3) pelvis positions, both z up. Our
    rig has SMPL's T-pose, so the rotations fit any SMPL body. ``rest_joints`` (22, 3) and ``parents`` (22,) describe
    the rest pose of this body, y up; with them, forward kinematics restores the motion without a body model.
    """
    order = list(rig_of(skeleton).order)
    places, turns = bvh.local_positions(), bvh.local_rotations()
    rotations, offsets = np.empty_like(turns), np.empty_like(bvh.offsets)
    rotations[:, order], offsets[order] = turns, bvh.offsets
    rotations[:, 0] = TO_Z_UP @ rotations[:, 0]
    rest = np.zeros((len(skeleton), 3))
    for chain in skeleton.chains:
        for parent, joint in zip(chain, chain[1:], strict=False):
            rest[joint] = rest[parent] + offsets[joint]
    poses = np.zeros((len(places), SMPLH_JOINTS, 3))
    turns = Rotation.from_matrix(rotations.reshape(-1, 3, 3)).as_rotvec()
    poses[:, :len(skeleton)] = turns.reshape(len(places), -1, 3)
    rate = np.array(1 / bvh.frame_time)
    flat = poses.reshape(len(poses), -1)
    return {"poses": flat, "trans": places[:, 0] @ TO_Z_UP.T, "betas": np.zeros(SHAPES), "gender": np.array("neutral"),
            "mocap_frame_rate": rate, "mocap_framerate": rate, "root_orient": flat[:, :3],
            "pose_body": flat[:, 3:3 * len(skeleton)], "rest_joints": rest, "parents": np.array(skeleton.parents)}


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
