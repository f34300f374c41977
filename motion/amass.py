"""AMASS export: SMPL rotations and root translation, z up, for retargeting tools and robots."""
import numpy as np
import torch

from motion.bvh import Bvh, chained
from motion.bvh_fit import rig_of
from motion.rotation import axis_angle_to_quat, matrix_to_quat, quat_to_matrix
from motion.skeleton import Skeleton

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
    poses[:, :len(skeleton)] = _axis_angles(rotations)
    rate = np.array(1 / bvh.frame_time)
    flat = poses.reshape(len(poses), -1)
    return {"poses": flat, "trans": places[:, 0] @ TO_Z_UP.T, "betas": np.zeros(SHAPES), "gender": np.array("neutral"),
            "mocap_frame_rate": rate, "mocap_framerate": rate, "root_orient": flat[:, :3],
            "pose_body": flat[:, 3:3 * len(skeleton)], "rest_joints": rest, "parents": np.array(skeleton.parents)}


def amass_joints(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Joints (T, 22, 3) in metres, y up, from the arrays of ``amass_arrays`` by forward kinematics."""
    rest, parents = np.asarray(arrays["rest_joints"]), [int(parent) for parent in arrays["parents"]]
    poses = torch.as_tensor(arrays["poses"], dtype=torch.float64)[:, :3 * len(rest)].unflatten(-1, (-1, 3))
    offsets = rest - rest[parents]
    places = np.repeat(offsets[None], len(poses), 0)
    places[:, 0] = rest[0] + arrays["trans"]
    return chained(parents, places, quat_to_matrix(axis_angle_to_quat(poses)).numpy())[0] @ TO_Z_UP


def _axis_angles(matrices: np.ndarray) -> np.ndarray:
    """Axis angles (..., 3) of rotation matrices (..., 3, 3), at most half a turn."""
    quat = matrix_to_quat(torch.from_numpy(matrices))
    quat = torch.where(quat[..., :1] < 0, -quat, quat)
    sine = quat[..., 1:].norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(sine, quat[..., :1])
    return (quat[..., 1:] * torch.where(sine > 1e-9, angle / sine.clamp_min(1e-12), 2.0)).numpy()
