"""Fit a BVH rig to joint positions. Bone lengths are measured in the clip, and rotations follow bone directions.

Joint positions determine bone directions but not their twist. The pelvis and the chest have several children, so a
rigid fit determines their full rotation. Every other bone takes the shortest rotation from its parent's frame; along
the spine, this frame is interpolated between pelvis and chest. If bone lengths vary over the clip, the error is
distributed over the joints of a limb.

This module also adds root bones for game engines, exports AMASS arrays, and repeats loops.
"""
from collections.abc import Callable, Iterable
from functools import cache

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn.functional import normalize

from motion.bvh import POSITIONS, Bvh, matrix_to_euler
from motion.features import gaussian_smooth
from motion.rotation import (
    join_bones,
    lerp,
    matrix_to_quat,
    quat_between,
    quat_conjugate,
    quat_multiply,
    quat_rotate,
    quat_to_matrix,
    spread_joints,
    yaw_quat,
)
from motion.skeleton import KIT, T2M, Skeleton


class Rig:
    """Bones of a skeleton's BVH files in file order, with parents before children.

    ``order`` lists the skeleton's joint of each bone, ``parents`` the index of its parent bone (-1 for the root), and
    ``rest`` (J, 3) its offset from the parent in the rest pose.
    """

    def __init__(self, skeleton: Skeleton, bones: Iterable[tuple[str, int, tuple[float, float, float]]]) -> None:
        self.names, self.order, rest = zip(*bones, strict=True)
        self.rest = np.array(rest, np.float64)
        self.parents = tuple(self.order.index(parent) if (parent := skeleton.parents[joint]) >= 0 else -1
                             for joint in self.order)


# Body of the published BVH files, in metres, so that setups made for those files still fit.
T2M_RIG = Rig(T2M, (
    ("Hips", 0, (0.0, 0.0, 0.0)),
    ("LeftUpLeg", 1, (0.069520, -0.091406, -0.006815)),
    ("LeftLeg", 4, (0.034277, -0.375199, -0.004496)),
    ("LeftFoot", 7, (-0.013596, -0.397961, -0.043693)),
    ("LeftToe", 10, (0.026358, -0.055791, 0.119288)),
    ("RightUpLeg", 2, (-0.067670, -0.090522, -0.004320)),
    ("RightLeg", 5, (-0.038290, -0.382569, -0.008850)),
    ("RightFoot", 8, (0.015774, -0.398415, -0.042312)),
    ("RightToe", 11, (-0.025372, -0.048144, 0.123348)),
    ("Spine", 3, (-0.002533, 0.108963, -0.026696)),
    ("Spine1", 6, (0.005487, 0.135180, 0.001092)),
    ("Spine2", 9, (0.001457, 0.052922, 0.025425)),
    ("Neck", 12, (-0.002778, 0.213870, -0.042857)),
    ("Head", 15, (0.005152, 0.064970, 0.051349)),
    ("LeftShoulder", 13, (0.078845, 0.121749, -0.034090)),
    ("LeftArm", 16, (0.090977, 0.030469, -0.008868)),
    ("LeftForeArm", 18, (0.259612, -0.012772, -0.027456)),
    ("LeftHand", 20, (0.249234, 0.008986, -0.001171)),
    ("RightShoulder", 14, (-0.081759, 0.118833, -0.038615)),
    ("RightArm", 17, (-0.096012, 0.032551, -0.009143)),
    ("RightForeArm", 19, (-0.253742, -0.013329, -0.021401)),
    ("RightHand", 21, (-0.255298, 0.007772, -0.005559)),
))

KIT_BONES = ("Hips", "Spine", "Spine1", "Neck", "Head", "LeftArm", "LeftForeArm", "LeftHand",
             "RightArm", "RightForeArm", "RightHand", "LeftUpLeg", "LeftLeg", "LeftFoot", "LeftMidFoot", "LeftToe",
             "RightUpLeg", "RightLeg", "RightFoot", "RightMidFoot", "RightToe")


@cache
def rig_of(skeleton: Skeleton) -> Rig:
    """Return the rig of a skeleton: ``T2M_RIG``, or a rig with the joints chain by chain and their rest directions.

    For KIT-ML, bones are named as in ``KIT_BONES`` and the rest pose is a T-pose.
    """
    if skeleton == T2M:
        return T2M_RIG
    names, rest = skeleton.joint_names, dict(enumerate(skeleton.raw_offsets))
    if skeleton == KIT:
        names = KIT_BONES
        rest |= {joint: rest[arm[1]] for arm in skeleton.chains[3:] for joint in arm[1:]}
    order = dict.fromkeys(joint for chain in skeleton.chains for joint in chain)
    return Rig(skeleton, ((names[joint], joint, rest[joint]) for joint in order))


_EULER_ORDER = "zyx"
_TURNS = tuple(f"{axis.upper()}rotation" for axis in _EULER_ORDER)
_SHAPE_ROUNDS = 5  # iterations of fitting shape and rotations; a rigid shape converges after one
_CHAIN_ROUNDS = 8  # optimisation passes over the bones of a chain


def joints_to_bvh(joints: ArrayLike | Tensor, skeleton: Skeleton, fps: float) -> Bvh:
    """Convert joints (T, J, 3) to a BVH in the same unit, with the names and T-pose of the skeleton's rig.

    Bones have their median length over the clip. Sibling bones have the angles of the clip, other bones the rig's rest
    direction. If the bone lengths and the angles between sibling bones are constant, the joints are reproduced up to
    rounding errors. If bone lengths vary, bones still point towards their joints.

    Raises ``ValueError`` for a wrong shape or for values that are not finite.
    """
    rig = rig_of(skeleton)
    joints = torch.as_tensor(joints, dtype=torch.float64)
    if joints.ndim != 3 or joints.shape[1:] != (len(skeleton), 3) or not len(joints):
        raise ValueError(f"joints of shape {tuple(joints.shape)}, expected (frames, {len(skeleton)}, 3)")
    if not joints.isfinite().all():
        raise ValueError("some joints are not finite")
    spread, short = spread_joints(joints, skeleton)
    joints, spread = joints[:, list(rig.order)], spread[:, list(rig.order)]
    offsets, clusters = _rest_pose(spread, rig)
    local = _rotations(spread, rig, offsets, clusters)
    offsets[short[list(rig.order)]] = 0
    angles = matrix_to_euler(quat_to_matrix(local).numpy(), _EULER_ORDER)
    tips = set(range(len(rig.order))) - set(rig.parents)
    return Bvh(
        names=rig.names, parents=rig.parents, offsets=offsets.numpy(),
        channels=(POSITIONS + _TURNS, *[_TURNS] * (len(rig.order) - 1)),
        values=np.concatenate([joints[:, 0].numpy(), angles.reshape(len(angles), -1)], 1),
        frame_time=1 / fps, end_sites={joint: np.zeros(3) for joint in sorted(tips)})


def _rest_pose(joints: Tensor, rig: Rig) -> tuple[Tensor, dict[int, Tensor]]:
    """Return the rest offsets (J, 3) of the clip's body, and the rotations (T, 4) of joints with several children.

    The rotations are keyed by joint.
    """
    parents = list(rig.parents)
    bones = joints - joints[:, parents]
    bones[:, 0] = 0
    lengths = bones.norm(dim=-1).median(0).values
    offsets = normalize(torch.from_numpy(rig.rest), dim=-1) * lengths[:, None]
    clusters = {}
    for joint in range(len(parents)):
        children = [child for child, parent in enumerate(parents) if parent == joint]
        if len(children) > 1:
            shape = _shape(bones[:, children], offsets[children])
            offsets[children] = shape
            clusters[joint] = matrix_to_quat(_rigid_fit(shape, bones[:, children]))
    return offsets, clusters


def _shape(bones: Tensor, rest: Tensor) -> Tensor:
    """Return the mean directions of ``bones`` (T, C, 3) after rigid alignment, with the lengths of ``rest`` (C, 3).

    They are rotated to match ``rest``.
    """
    lengths = rest.norm(dim=-1, keepdim=True)
    shape = rest
    for _ in range(_SHAPE_ROUNDS):
        shape = normalize((bones @ _rigid_fit(shape, bones)).mean(0), dim=-1) * lengths
    return shape @ _rigid_fit(shape, rest).mT


def _rigid_fit(shape: Tensor, bones: Tensor) -> Tensor:
    """Return the rotations (..., 3, 3) that best align ``shape`` (C, 3) with ``bones`` (..., C, 3) (Kabsch 1976)."""
    u, _, vh = torch.linalg.svd(bones.mT @ shape)
    mirrored = torch.linalg.det(u @ vh).sign()
    return torch.cat((u[..., :2], u[..., 2:] * mirrored[..., None, None]), -1) @ vh


def _rotations(joints: Tensor, rig: Rig, offsets: Tensor, clusters: dict[int, Tensor]) -> Tensor:
    """Return local rotations (T, J, 4) that align the bones with ``_directions``."""
    parents = rig.parents
    directions = _directions(joints, rig, offsets, clusters)
    frames = _twist_frames(rig, clusters)
    world, local = {}, []
    for joint, parent in enumerate(parents):
        children = [child for child, other in enumerate(parents) if other == joint]
        world[joint] = clusters[joint] if joint in clusters else frames.get(joint, world.get(parent))
        if len(children) == 1:
            swing = quat_between(quat_rotate(world[joint], offsets[children[0]]), directions[children[0]])
            world[joint] = quat_multiply(swing, world[joint])
        local.append(world[joint] if parent < 0 else quat_multiply(quat_conjugate(world[parent]), world[joint]))
    return torch.stack(local, 1)


def _directions(joints: Tensor, rig: Rig, offsets: Tensor, clusters: dict[int, Tensor]) -> dict[int, Tensor]:
    """Return the directions (T, 3) of bones without siblings, keyed by joint and fitted chain by chain."""
    place, directions = {0: joints[:, 0]}, {}
    for joint, parent in enumerate(rig.parents):
        if joint in place:
            continue
        if parent in clusters:
            place[joint] = place[parent] + quat_rotate(clusters[parent], offsets[joint])
            continue
        chain = [joint]
        while chain[-1] not in clusters and chain[-1] in rig.parents:
            chain.append(rig.parents.index(chain[-1]))
        lengths = offsets[chain].norm(dim=-1, keepdim=True)
        fitted = _chain_directions(place[parent], joints[:, chain], lengths)
        directions |= dict(zip(chain, fitted.unbind(1), strict=True))
        places = place[parent][:, None] + (fitted * lengths).cumsum(1)
        place |= dict(zip(chain, places.unbind(1), strict=True))
    return directions


def _chain_directions(start: Tensor, targets: Tensor, lengths: Tensor) -> Tensor:
    """Return bone directions (T, N, 3) of a chain from ``start`` (T, 3) whose joints best fit ``targets`` (T, N, 3).

    ``lengths`` (N, 1) are the bone lengths. Bones first point at their targets, then are optimised one at a time.
    """
    place, directions = start, []
    for target, length in zip(targets.unbind(1), lengths, strict=True):
        directions.append(normalize(target - place, dim=-1))
        place = place + length * directions[-1]
    for _ in range(_CHAIN_ROUNDS):
        for bone in range(len(directions)):
            places = start[:, None] + (torch.stack(directions, 1) * lengths).cumsum(1)
            missing = (targets - places)[:, bone:].sum(1)
            beyond = len(directions) - bone
            directions[bone] = normalize(missing + beyond * lengths[bone] * directions[bone], dim=-1)
    return torch.stack(directions, 1)


def _twist_frames(rig: Rig, clusters: dict[int, Tensor]) -> dict[int, Tensor]:
    """Interpolate the rotations (T, 4) of joints between two ``clusters``. Returns them keyed by joint."""
    frames = {}
    for joint in clusters:
        between = []
        above = rig.parents[joint]
        while above >= 0 and above not in clusters:
            between.append(above)
            above = rig.parents[above]
        if above >= 0:
            first, last = clusters[above], clusters[joint]
            last = torch.where((first * last).sum(-1, keepdim=True) < 0, -last, last)
            for place, inner in enumerate(reversed(between), 1):
                frames[inner] = normalize(lerp(first, last, place / (len(between) + 1)), dim=-1)
    return frames


def bvh_to_joints(bvh: Bvh, skeleton: Skeleton) -> np.ndarray:
    """Compute joints (T, J, 3) in the order of ``skeleton`` from a BVH with the joint names of the skeleton's rig.

    Raises ``ValueError`` if a name is missing.
    """
    rig = rig_of(skeleton)
    missing = [name for name in rig.names if name not in bvh.names]
    if missing:
        raise ValueError(f"not a BVH of the {skeleton.name} skeleton: it has no joint {', '.join(missing)}")
    return bvh.joints()[:, [bvh.names.index(rig.names[bone]) for bone in np.argsort(rig.order)]]


def rigid_joints(joints: ArrayLike | Tensor, skeleton: Skeleton) -> np.ndarray:
    """Fit constant bone lengths to joints (T, J, 3), as ``joints_to_bvh`` does."""
    return bvh_to_joints(joints_to_bvh(joints, skeleton, fps=1), skeleton)


ROOT_NAME = "Root"
HEADING_SIGMA = 5.0  # std, in frames, of the Gaussian that smooths the root heading, so that it does not sway


def in_place(joints: np.ndarray) -> np.ndarray:
    """Remove the horizontal travel of joints (T, J, 3) by moving the pelvis above the origin in every frame."""
    return joints - joints[:, :1] * np.array([1, 0, 1], joints.dtype)


def with_root_bone(bvh: Bvh, joints: np.ndarray, skeleton: Skeleton) -> Bvh:
    """Add a bone ``Root`` on the ground under the pelvis.

    It has the smoothed heading of the body in ``joints`` (T, J, 3). All other joints keep their world positions.
    """
    places, turns = bvh.local_positions(), bvh.local_rotations()
    front = normalize(torch.as_tensor(_front(joints, skeleton), dtype=torch.float64), dim=-1)
    angle = _angles(gaussian_smooth(front, HEADING_SIGMA).numpy())
    yaw = quat_to_matrix(yaw_quat(torch.from_numpy(angle / 2))).numpy()
    ground = places[:, 0] * [1, 0, 1]
    hips = np.einsum("tji,tj->ti", yaw, places[:, 0] - ground)
    hips_turn = yaw.transpose(0, 2, 1) @ turns[:, 0]
    angles = matrix_to_euler(np.stack([yaw, hips_turn], 1), _EULER_ORDER)
    moved = [ground, angles[:, 0], hips, angles[:, 1], bvh.values[:, bvh.columns[0].stop:]]
    return Bvh(
        names=(ROOT_NAME, *bvh.names), parents=(-1, *(parent + 1 for parent in bvh.parents)),
        offsets=np.concatenate([np.zeros((1, 3)), bvh.offsets]),
        channels=(POSITIONS + _TURNS, POSITIONS + _TURNS, *bvh.channels[1:]),
        values=np.concatenate(moved, 1), frame_time=bvh.frame_time,
        end_sites={joint + 1: tip for joint, tip in bvh.end_sites.items()})


SMPLH_JOINTS = 52     # includes hands, which stay in the rest pose
SHAPES = 16
# Rotates y up to z up, as in AMASS: (x, y, z) becomes (x, -z, y).
TO_Z_UP = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])


def amass_arrays(bvh: Bvh, joints: np.ndarray, skeleton: Skeleton) -> dict[str, np.ndarray]:
    """Convert a BVH, written by ``joints_to_bvh`` from joints (T, 22, 3) in metres, to the arrays of an AMASS archive.

    ``poses`` (T, 156) are axis angles of the 52 joints of SMPL-H, and ``trans`` (T, 3) are pelvis positions, both z up.
    The rig has SMPL's T-pose, so the rotations fit any SMPL body. Further arrays, y up, allow forward kinematics
    without a body model: ``rest_joints`` (22, 3) is the rest pose with constant bone lengths and reproduces the BVH;
    ``offsets`` (T, 22, 3) from each parent, in the parent's frame, reproduce ``joints``. ``fit_error`` (2,) is the mean
    and largest distance in metres between the joints of the BVH and ``joints``.
    """
    # ``own`` rearranges joints from the order of the BVH to that of the skeleton.
    own, parents = np.argsort(rig_of(skeleton).order), list(skeleton.parents)
    places, frames = (part[:, own] for part in bvh.forward_kinematics())
    turns, bones = bvh.local_rotations()[:, own], torch.from_numpy(bvh.offsets[own])[None]
    rest = join_bones(torch.zeros_like(bones[:, 0]), bones, skeleton)[0].numpy()
    offsets = np.einsum("tnji,tnj->tni", frames[:, parents], joints - joints[:, parents])
    offsets[:, 0] = 0
    turns[:, 0] = TO_Z_UP @ turns[:, 0]
    poses = np.zeros((len(places), SMPLH_JOINTS, 3))
    poses[:, :len(skeleton)] = Rotation.from_matrix(turns.reshape(-1, 3, 3)).as_rotvec().reshape(len(places), -1, 3)
    away = np.linalg.norm(places - joints, axis=-1)
    rate = np.array(1 / bvh.frame_time)
    flat = poses.reshape(len(poses), -1)
    return {"poses": flat, "trans": places[:, 0] @ TO_Z_UP.T, "betas": np.zeros(SHAPES), "gender": np.array("neutral"),
            "mocap_frame_rate": rate, "mocap_framerate": rate, "root_orient": flat[:, :3],
            "pose_body": flat[:, 3:3 * len(skeleton)], "rest_joints": rest, "parents": np.array(skeleton.parents),
            "offsets": offsets, "fit_error": np.array([away.mean(), away.max()])}


def unrolled(joints: np.ndarray, skeleton: Skeleton, frames: int) -> np.ndarray:
    """Extend a loop (T, J, 3) of at least 2 frames by ``frames`` repeated frames at each end.

    The repeated frames keep moving as the loop does: the step across each seam repeats the last step of the loop.
    """
    angle, place = headings(joints, skeleton), joints[:, 0, [0, 2]]
    step = _turned(place[-1] - place[-2], -angle[-2])
    after_angle = 2 * angle[-1] - angle[-2]
    after_place = place[-1] + _turned(step, angle[-1])
    following = _moved(joints[:frames], angle[0], place[0], after_angle, after_place)
    before = _moved(joints[-frames:], after_angle, after_place, angle[0], place[0])
    return np.concatenate([before, joints, following])


def on_cycle(joints: np.ndarray, skeleton: Skeleton, frames: int,
             change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Apply ``change`` to a loop (T, J, 3), with up to ``frames`` frames of context before and after it."""
    frames = min(frames, len(joints))
    return change(unrolled(joints, skeleton, frames))[frames:frames + len(joints)]


def _front(joints: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Return the forward direction (T, 2) of the body as (x, z), not normalised."""
    right_hip, left_hip, right_shoulder, left_shoulder = skeleton.face_joints
    across = joints[:, left_hip] - joints[:, right_hip] + joints[:, left_shoulder] - joints[:, right_shoulder]
    return np.stack([-across[:, 2], across[:, 0]], -1)


def _angles(front: np.ndarray) -> np.ndarray:
    return np.unwrap(np.arctan2(front[:, 0], front[:, 1]))


def headings(joints: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Return the heading (T,) of the body in radians about y, from +z towards +x, averaged over hips and shoulders."""
    return _angles(_front(joints, skeleton))


def _turned(ground: np.ndarray, angle: float) -> np.ndarray:
    """Rotate ground vectors (..., 2) as (x, z) by an angle about y, from +z towards +x."""
    x, z = ground[..., 0], ground[..., 1]
    return np.stack([x * np.cos(angle) + z * np.sin(angle), z * np.cos(angle) - x * np.sin(angle)], -1)


def _moved(joints: np.ndarray, angle: float, place: np.ndarray, new_angle: float, new_place: np.ndarray) -> np.ndarray:
    """Move joints from ``place`` and heading ``angle`` to ``new_place`` and heading ``new_angle``."""
    moved = joints.copy()
    moved[..., [0, 2]] = _turned(joints[..., [0, 2]] - place, new_angle - angle) + new_place
    return moved
