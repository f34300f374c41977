"""Convert joint positions to motion features and back.

Features are defined as in Guo et al. 2022, "Generating Diverse and Natural 3D Human Motions from Text". A motion of
T frames and J joints has T - 1 rows of 12 J - 1 features (263 for 22 joints, 251 for 21), in the unit of the joints.
Speeds are per frame. The columns are, with their widths:

    yaw speed 1, root velocity x z 2, root height 1, local positions 3 (J - 1), rotations 6 (J - 1),
    velocities 3 J, foot contacts 4

Headings are half angles a about y: the quaternion (cos a, 0, sin a, 0) rotates by 2 a.
"""
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import conv1d, normalize, pad

from motion.rotation import (
    bone_directions,
    cont6d_to_matrix,
    join_bones,
    quat_between,
    quat_conjugate,
    quat_multiply,
    quat_rotate,
    quat_to_cont6d,
    quat_to_matrix,
    yaw_quat,
)
from motion.skeleton import Skeleton

HEADING_SIGMA = 20  # std, in frames, of the Gaussian that smooths the heading
FEAT_BIAS = 5.0     # weight of root motion and contacts in the normalised features of a tokenizer


class FeatureGroups(NamedTuple):
    """Columns of each feature group."""

    yaw_speed: slice
    root_velocity: slice
    root_height: slice
    local_positions: slice
    rotations: slice
    velocities: slice
    contacts: slice


class RootMotion(NamedTuple):
    """Position and heading of the root, recovered from features."""

    quat: Tensor      # (..., T, 4) rotates the world so that the body faces +z
    position: Tensor  # (..., T, 3)


@dataclass(frozen=True)
class Processed:
    """Features of a clip and the intermediate results of computing them, float32."""

    uniform: Tensor          # (T, J, 3) with the bone lengths of the reference body
    positions: Tensor        # (T, J, 3) on the floor, at the origin and facing +z in frame 0
    local_positions: Tensor  # (T, J, 3) pelvis at x = z = 0 and facing +z in every frame
    features: Tensor         # (T - 1, 12 J - 1)


def feature_groups(joints_num: int) -> FeatureGroups:
    """Return the columns of each feature group for ``joints_num`` joints."""
    widths = (1, 2, 1, 3 * (joints_num - 1), 6 * (joints_num - 1), 3 * joints_num, 4)
    ends = np.cumsum(widths).tolist()
    return FeatureGroups(*(slice(end - width, end) for width, end in zip(widths, ends, strict=True)))


def joints_of(dim: int) -> int:
    """Return the number of joints for features of width ``dim``. Raises ``ValueError`` if no number fits."""
    if (dim + 1) % 12:
        raise ValueError(f"features of width {dim}: expected 12 J - 1 columns (263 for 22 joints, 251 for 21)")
    return (dim + 1) // 12


def joints_to_features(joints: ArrayLike | Tensor, skeleton: Skeleton, target_offsets: ArrayLike | None = None,
                       published_yaw: bool = False) -> Tensor:
    """Convert joints (T, J, 3) at any position, heading and size to features (T - 1, 12 J - 1) float32.

    Parameters and errors are as in ``process``.
    """
    return process(joints, skeleton, target_offsets, published_yaw).features


def process(joints: ArrayLike | Tensor, skeleton: Skeleton, target_offsets: ArrayLike | None = None,
            published_yaw: bool = False) -> Processed:
    """Convert joints (T, J, 3) to features and return all intermediate results.

    ``target_offsets`` (J, 3) are the bone vectors to which the motion is retargeted, by default those of the skeleton's
    reference body. If there is no reference body, each clip keeps its bone lengths. ``published_yaw`` reproduces
    a sign error of the published code: when the body turns past -z, the yaw speed of that frame is wrong, and motion
    recovered from the features drifts off course.

    Raises ``ValueError`` for a wrong shape, fewer than two frames, values that are not finite, or, if the motion is
    retargeted, legs of zero length in frame 0.
    """
    joints = torch.as_tensor(joints, dtype=torch.float32)
    if joints.ndim != 3 or joints.shape[1:] != (len(skeleton), 3):
        raise ValueError(f"joints of shape {tuple(joints.shape)}, expected (frames, {len(skeleton)}, 3)")
    if len(joints) < 2:
        raise ValueError(f"{len(joints)} frames; a motion needs at least 2")
    if not joints.isfinite().all():
        raise ValueError("some coordinates are not finite")
    if target_offsets is None:
        target_offsets = skeleton.target_offsets
    uniform = joints if target_offsets is None else uniform_skeleton(joints, skeleton, target_offsets)
    positions = canonical_positions(uniform, skeleton)
    root = heading(positions, skeleton, sigma=HEADING_SIGMA)
    return Processed(uniform, positions, local_positions(positions, root),
                     features_from_positions(positions, root, skeleton, published_yaw))


def uniform_skeleton(joints: Tensor, skeleton: Skeleton, target_offsets: ArrayLike) -> Tensor:
    """Retarget joints (T, J, 3) to the bone lengths of ``target_offsets`` (J, 3).

    Every bone keeps its direction, and the root trajectory is scaled by the ratio of leg lengths. This gives the
    same result as inverse kinematics followed by forward kinematics, which preserves bone directions.
    """
    target = torch.as_tensor(target_offsets, dtype=torch.float32, device=joints.device)
    legs = list(skeleton.leg_bones)
    source_legs = (joints[0, legs] - joints[0, [skeleton.parents[joint] for joint in legs]]).norm(dim=-1).sum()
    if source_legs == 0:
        raise ValueError("the legs have no length in frame 0")
    scale = target[legs].abs().amax(-1).sum() / source_legs
    bones = bone_directions(joints, skeleton) * target.norm(dim=-1, keepdim=True)
    return join_bones(joints[:, 0] * scale, bones, skeleton)


def canonical_positions(joints: Tensor, skeleton: Skeleton) -> Tensor:
    """Move joints (T, J, 3) to the floor (y = 0), with the root at x = z = 0 and the body facing +z in frame 0."""
    lowest = joints[..., 1].min()
    origin = torch.stack((joints[0, 0, 0], lowest, joints[0, 0, 2]))
    joints = joints - origin
    a, b, c, d = skeleton.face_joints
    first = joints[0]
    forward = _forward(first[a] - first[b] + first[c] - first[d])
    return quat_rotate(quat_between(forward, _z(joints)), joints)


def heading(joints: Tensor, skeleton: Skeleton, sigma: float | None = None) -> Tensor:
    """Return rotations (T, 4) about y that turn the body in ``joints`` (T, J, 3) to face +z. Frame 0 is the identity.

    As published, the hip and shoulder directions are added with opposite signs; the shoulders are wider and dominate.
    The direction is smoothed over time with a Gaussian of ``sigma`` frames.
    """
    a, b, c, d = skeleton.face_joints
    forward = _forward(joints[:, b] - joints[:, a] + joints[:, c] - joints[:, d])
    if sigma is not None:
        forward = gaussian_smooth(forward, sigma)
    root = quat_between(normalize(forward, dim=-1), _z(joints))
    root[0] = root.new_tensor((1.0, 0.0, 0.0, 0.0))
    return root


def gaussian_smooth(values: Tensor, sigma: float) -> Tensor:
    """Smooth values (T, C) over time with a Gaussian truncated at 4 ``sigma`` frames, padding with the end values."""
    radius = int(4 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64, device=values.device)
    kernel = torch.exp(-0.5 * (offsets / sigma).square())
    kernel = (kernel / kernel.sum())[None, None]
    padded = pad(values.double().T[:, None], (radius, radius), mode="replicate")  # (C, 1, T + 2 radius)
    return conv1d(padded, kernel)[:, 0].T.to(values.dtype)


def local_rotations(joints: Tensor, root: Tensor, skeleton: Skeleton) -> Tensor:
    """Return rotations (T, J, 4) of bones from the rest pose, relative to the previous bone in the chain or the root.

    The first is ``root`` (T, 4). World rotations depend only on a bone's own direction, so all are computed at once.
    """
    world = quat_between(joints.new_tensor(skeleton.raw_offsets)[1:], bone_directions(joints, skeleton)[:, 1:])
    world = torch.cat((root[:, None], world), 1)
    frames = world[:, list(skeleton.frame_parents)[1:]]
    return torch.cat((root[:, None], quat_multiply(quat_conjugate(frames), world[:, 1:])), 1)


def local_positions(joints: Tensor, root: Tensor) -> Tensor:
    """Move the root of joints (T, J, 3) to x = z = 0 and rotate them by ``root`` (T, 4)."""
    origin = joints[:, :1] * joints.new_tensor((1.0, 0.0, 1.0))
    return quat_rotate(root[:, None], joints - origin)


def foot_contacts(joints: Tensor, skeleton: Skeleton) -> Tensor:
    """Return contacts (T - 1, 4) of joints (T, J, 3): 1 where a foot barely moves until the next frame, else 0."""
    feet = joints[:, list(skeleton.feet)]
    return ((feet[1:] - feet[:-1]).square().sum(-1) < skeleton.contact_threshold).to(joints.dtype)


def features_from_positions(joints: Tensor, root: Tensor, skeleton: Skeleton, published_yaw: bool = False) -> Tensor:
    """Compute features (T - 1, 12 J - 1) of canonical joints (T, J, 3) with headings ``root`` (T, 4)."""
    steps = joints[1:] - joints[:-1]
    turn = quat_multiply(root[1:], quat_conjugate(root[:-1]))
    if not published_yaw:
        turn = torch.where(turn[:, :1] < 0, -turn, turn)
    rows = (turn[:, 2:3].clamp(-1, 1).asin(),
            quat_rotate(root[1:], steps[:, 0])[:, [0, 2]],
            joints[:-1, 0, 1:2],
            local_positions(joints, root)[:-1, 1:].flatten(1),
            quat_to_cont6d(local_rotations(joints, root, skeleton)[:-1, 1:]).flatten(1),
            quat_rotate(root[:-1, None], steps).flatten(1),
            foot_contacts(joints, skeleton))
    return torch.cat(rows, 1)


def root_motion(features: Tensor) -> RootMotion:
    """Recover the heading and trajectory of the root from features (..., T, d)."""
    yaw = pad(features[..., :-1, 0].cumsum(-1), (1, 0))
    quat = yaw_quat(yaw)
    x, z = features[..., :-1, 1], features[..., :-1, 2]
    steps = pad(torch.stack((x, torch.zeros_like(x), z), -1), (0, 0, 1, 0))
    path = quat_rotate(quat_conjugate(quat), steps).cumsum(-2)
    position = torch.stack((path[..., 0], features[..., 3], path[..., 2]), -1)
    return RootMotion(quat, position)


def features_to_joints(features: Tensor, skeleton: Skeleton) -> Tensor:
    """Recover joints (..., T, J, 3) from the local positions in unnormalised features (..., T, 12 J - 1).

    Differentiable. Raises ``ValueError`` if the feature width does not fit the skeleton.
    """
    groups = _groups_of(features, skeleton)
    root = root_motion(features)
    local = features[..., groups.local_positions].unflatten(-1, (-1, 3))
    others = quat_rotate(quat_conjugate(root.quat)[..., None, :], local)
    others = others + (root.position * features.new_tensor((1.0, 0.0, 1.0)))[..., None, :]
    return torch.cat((root.position[..., None, :], others), -2)


def features_to_joints_from_rotations(features: Tensor, skeleton: Skeleton,
                                      target_offsets: ArrayLike | None = None) -> Tensor:
    """Recover joints (..., T, J, 3) from unnormalised features (..., T, 12 J - 1) by forward kinematics.

    Differentiable. ``target_offsets`` (J, 3) are the bone vectors, by default those of the reference body. Raises
    ``ValueError`` if there are none or if the feature width does not fit the skeleton.
    """
    groups = _groups_of(features, skeleton)
    if target_offsets is None:
        target_offsets = skeleton.target_offsets
    if target_offsets is None:
        raise ValueError(f"the {skeleton.name} skeleton has no reference body; pass target_offsets")
    offsets = torch.as_tensor(target_offsets, dtype=features.dtype, device=features.device)
    root = root_motion(features)
    root_matrix = quat_to_matrix(root.quat)
    local = cont6d_to_matrix(features[..., groups.rotations].unflatten(-1, (-1, 6)))
    placed = {0: root.position}
    for chain in skeleton.chains:
        matrix = root_matrix
        for parent, joint in pairwise(chain):
            matrix = matrix @ local[..., joint - 1, :, :]
            placed[joint] = placed[parent] + matrix @ offsets[joint]
    return torch.stack([placed[joint] for joint in range(len(skeleton))], -2)


@dataclass(frozen=True)
class ColumnStatistics:
    """Mean and standard deviation of feature columns, as partial sums that can be added."""

    count: int
    mean: np.ndarray     # (d,) float64
    squares: np.ndarray  # (d,) float64 sum of squared distances from the mean

    @classmethod
    def of(cls, features: np.ndarray) -> "ColumnStatistics":
        """Compute the statistics of one clip (T, d)."""
        rows = np.asarray(features, np.float64)
        mean = rows.mean(0)
        return cls(len(rows), mean, np.square(rows - mean).sum(0))

    def __add__(self, other: "ColumnStatistics") -> "ColumnStatistics":
        """Merge the statistics of two sets of rows (Chan et al. 1979)."""
        count = self.count + other.count
        step = other.mean - self.mean
        return ColumnStatistics(count, self.mean + step * (other.count / count),
                                self.squares + other.squares + step * step * (self.count * other.count / count))

    def mean_std(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean (d,) and the population std (d,). The std is averaged within each feature group."""
        std = np.sqrt(self.squares / self.count)
        for group in feature_groups(joints_of(len(std))):
            std[group] = std[group].mean()
        return self.mean, std


def mean_std(clips: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Compute the mean (d,) and the std (d,) over all rows of ``clips`` (T, d).

    The std is averaged within each feature group. Empty clips and clips with values that are not finite are skipped.
    Raises ``ValueError`` if no clip is left.
    """
    total = None
    for clip in clips:
        if len(clip) and np.isfinite(clip).all():
            part = ColumnStatistics.of(clip)
            total = part if total is None else total + part
    if total is None:
        raise ValueError("no valid clips to compute statistics from")
    return total.mean_std()


def biased_std(std: np.ndarray, feat_bias: float = FEAT_BIAS) -> np.ndarray:
    """Divide ``std`` (d,) by ``feat_bias`` in the columns of root motion and foot contacts.

    This gives these few columns more weight after normalisation.
    """
    biased = np.array(std)
    groups = feature_groups(joints_of(len(biased)))
    for group in (groups.yaw_speed, groups.root_velocity, groups.root_height, groups.contacts):
        biased[group] /= feat_bias
    return biased


def _groups_of(features: Tensor, skeleton: Skeleton) -> FeatureGroups:
    if features.shape[-1] != 12 * len(skeleton) - 1:
        raise ValueError(f"features of width {features.shape[-1]}, expected {12 * len(skeleton) - 1} ({skeleton.name})")
    return feature_groups(len(skeleton))


def _forward(across: Tensor) -> Tensor:
    """Return the forward direction, the cross product of the y axis and ``across`` (..., 3), horizontal."""
    across = normalize(across, dim=-1)
    return torch.stack((across[..., 2], torch.zeros_like(across[..., 0]), -across[..., 0]), -1)


def _z(like: Tensor) -> Tensor:
    return like.new_tensor((0.0, 0.0, 1.0))


def time_warp(features: Tensor, speed: Tensor, length: int) -> Tensor:
    """Play features (b, t, d) ``speed`` (b,) times as fast and return the first ``length`` rows (b, length, d).

    Rows are interpolated linearly, velocities are multiplied by ``speed``, and contacts are copied from the nearer row.
    The features must be unnormalised, and t must be at least ``length * speed``.
    """
    at = torch.arange(length, device=features.device) * speed[:, None]  # (b, length) rows
    before = at.floor().long().clamp(max=features.shape[1] - 1)
    after = (before + 1).clamp(max=features.shape[1] - 1)
    share = (at - before)[..., None]
    rows = torch.arange(len(features), device=features.device)[:, None]
    warped = torch.lerp(features[rows, before], features[rows, after], share)
    groups = feature_groups(joints_of(features.shape[-1]))
    for columns in (groups.yaw_speed, groups.root_velocity, groups.velocities):
        warped[..., columns] *= speed[:, None, None]
    nearer = torch.where(share < 0.5, features[rows, before], features[rows, after])
    warped[..., groups.contacts] = nearer[..., groups.contacts]
    return warped


def add_turn(features: Tensor, rate: Tensor) -> Tensor:
    """Add a constant turn to features (b, t, d): ``rate`` (b,) radians per frame, positive to the left.

    The motion relative to the heading is unchanged, so the path bends. Contacts do not change. The features must be
    unnormalised.
    """
    groups = feature_groups(joints_of(features.shape[-1]))
    turned, half = features.clone(), -rate.to(features)[:, None, None] / 2
    turned[..., groups.yaw_speed] += half
    offsets = features[..., groups.local_positions].unflatten(-1, (-1, 3))
    offsets = pad(offsets, (0, 0, 1, 0))  # the root is on the axis
    steps = features[..., groups.velocities].unflatten(-1, (-1, 3))
    back = quat_conjugate(yaw_quat(half))
    turned[..., groups.velocities] = (quat_rotate(back, steps + offsets) - offsets).flatten(-2)
    return turned
