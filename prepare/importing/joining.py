"""Join two recordings of one body, aligning the second with the end of the first and blending between them."""
import numpy as np
import torch

from motion.bvh import Bvh, chained
from motion.recording import Pose
from motion.rotation import lerp, matrix_to_quat, quat_multiply, quat_rotate, quat_to_matrix, slerp, yaw_quat
from motion.skeleton import T2M
from motion.source_rig import Placement


def joined(bvh: Bvh, placement: Placement, first: Pose, second: Pose, blend: int) -> np.ndarray:
    """Joints (T, 22, 3), y up: ``first``, ``blend`` frames between, ``second``, both with the hierarchy of ``bvh``.

    The second part is rotated about y and translated over the floor so that the heading of hips and shoulders and the
    position of the pelvis continue from the last frame of the first. Between them, rotations take the shorter arc and
    positions are linear, with ease-in and ease-out. Raises ``ValueError`` if the pelvis is not a single bone.
    """
    pelvis = np.flatnonzero(placement.weights[0])
    if len(pelvis) != 1:
        raise ValueError("recordings of a rig whose pelvis is not one bone cannot be joined")
    first, second = (_freed(bvh, pose, int(pelvis[0])) for pose in (first, second))
    last = first.joints(bvh, placement)[-1]
    start = second.joints(bvh, placement)[0]
    turn = yaw_quat(torch.tensor((_heading(last) - _heading(start)) / 2, dtype=torch.float64))
    second = _moved(second, int(pelvis[0]), turn, start[0], last[0])
    steps = torch.arange(1, blend + 1, dtype=torch.float64)[:, None, None] / (blend + 1)
    ease = steps**2 * (3 - 2 * steps)
    between = Pose(lerp(first.places[-1], second.places[0], ease.numpy()),
                   slerp(first.quats[-1:].expand(blend, -1, -1), second.quats[:1].expand(blend, -1, -1), ease))
    parts = (first, between, second)
    whole = Pose(np.concatenate([part.places for part in parts]), torch.cat([part.quats for part in parts]))
    return whole.joints(bvh, placement)


def _freed(bvh: Bvh, pose: Pose, pelvis: int) -> Pose:
    """The same motion with all travel in the pelvis and none in its ancestors."""
    places, turns = chained(bvh.parents, pose.places, quat_to_matrix(pose.quats).numpy())
    freed, quats = pose.places.copy(), pose.quats.clone()
    freed[:, pelvis], quats[:, pelvis] = places[:, pelvis], matrix_to_quat(torch.from_numpy(turns[:, pelvis]))
    above = pelvis
    while (above := bvh.parents[above]) >= 0:
        freed[:, above], quats[:, above] = 0, torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
    return Pose(freed, quats)


def _moved(pose: Pose, pelvis: int, turn: torch.Tensor, origin: np.ndarray, place: np.ndarray) -> Pose:
    """Rotate a pose about ``origin`` and move ``origin`` over or under ``place``."""
    places, quats = pose.places.copy(), pose.quats.clone()
    places[:, pelvis] = quat_rotate(turn, torch.from_numpy(places[:, pelvis] - origin)).numpy() + [
        place[0], origin[1], place[2]]
    quats[:, pelvis] = quat_multiply(turn.expand(len(quats), 4), quats[:, pelvis])
    return Pose(places, quats)


def _heading(joints: np.ndarray) -> float:
    """Heading of a body (22, 3) about y, from +z, from hips and shoulders together."""
    a, b, c, d = T2M.face_joints
    across = joints[b] - joints[a] + joints[d] - joints[c]
    return float(np.arctan2(-across[2], across[0]))
