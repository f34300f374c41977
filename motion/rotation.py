"""Rotations as quaternions (w, x, y, z), matrices and 6D vectors, and directions of bones.

Matrices act on column vectors. The 6D form of a rotation is the first two columns of its matrix, concatenated (Zhou et
al. 2019, "On the Continuity of Rotation Representations in Neural Networks"). In some rigs, a collar coincides with its
parent and has no direction; ``bone_directions`` derives such directions from other joints.
"""
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import normalize

from motion.skeleton import Skeleton

_NEAR = 1e-4  # radians between quaternions below which linear interpolation is accurate enough
_OPPOSITE = 1e-12  # squared length of the unnormalised quaternion between opposite unit vectors


def quat_multiply(a: Tensor, b: Tensor) -> Tensor:
    """Multiply quaternions (..., 4). The result rotates by ``b`` first and then by ``a``."""
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    return torch.stack((aw * bw - ax * bx - ay * by - az * bz,
                        aw * bx + ax * bw + ay * bz - az * by,
                        aw * by - ax * bz + ay * bw + az * bx,
                        aw * bz + ax * by - ay * bx + az * bw), -1)


def quat_conjugate(q: Tensor) -> Tensor:
    """Invert unit quaternions (..., 4)."""
    return torch.cat((q[..., :1], -q[..., 1:]), -1)


def quat_rotate(q: Tensor, v: Tensor) -> Tensor:
    """Rotate vectors (..., 3) by unit quaternions (..., 4); leading dimensions broadcast."""
    u = q[..., 1:]
    once = _cross(u, v)
    return v + 2 * (q[..., :1] * once + _cross(u, once))


def quat_between(a: Tensor, b: Tensor) -> Tensor:
    """Return the shortest rotation (..., 4) from the direction of ``a`` (..., 3) to the direction of ``b`` (..., 3).

    For opposite directions, the result is a half turn about the axis orthogonal to ``a`` that is closest to y, so
    horizontal vectors stay horizontal.
    """
    a, b = torch.broadcast_tensors(a, b)
    squares = (a * a).sum(-1, keepdim=True) * (b * b).sum(-1, keepdim=True)
    q = torch.cat((squares.sqrt() + (a * b).sum(-1, keepdim=True), _cross(a, b)), -1)
    opposite = (q * q).sum(-1, keepdim=True) <= _OPPOSITE * squares
    if opposite.any():
        q = torch.where(opposite, _half_turn(a), q)
    return normalize(q, dim=-1)


def quat_to_matrix(q: Tensor) -> Tensor:
    """Convert quaternions (..., 4) of any non-zero length to rotation matrices (..., 3, 3)."""
    w, x, y, z = q.unbind(-1)
    s = 2 / (q * q).sum(-1)
    rows = (1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w),
            s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w),
            s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y))
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def quat_to_cont6d(q: Tensor) -> Tensor:
    """Convert quaternions (..., 4) to 6D vectors (..., 6)."""
    return quat_to_matrix(q)[..., :2].transpose(-1, -2).flatten(-2)


def cont6d_to_matrix(cont6d: Tensor) -> Tensor:
    """Convert 6D vectors (..., 6) to rotation matrices (..., 3, 3) by Gram-Schmidt orthogonalisation."""
    x = normalize(cont6d[..., :3], dim=-1)
    z = normalize(_cross(x, cont6d[..., 3:]), dim=-1)
    return torch.stack((x, _cross(z, x), z), -1)


def matrix_to_quat(matrix: Tensor) -> Tensor:
    """Convert rotation matrices (..., 3, 3) to unit quaternions (..., 4) by a variant of Shepperd's method (1978).

    The quaternions q and -q are equivalent; the sign is chosen so that a component of large magnitude is positive.
    """
    (m00, m01, m02), (m10, m11, m12), (m20, m21, m22) = (row.unbind(-1) for row in matrix.unbind(-2))
    x2, y2, z2, w2 = 1 + m00 - m11 - m22, 1 - m00 + m11 - m22, 1 - m00 - m11 + m22, 1 + m00 + m11 + m22
    wx, wy, wz = m21 - m12, m02 - m20, m10 - m01
    xy, xz, yz = m01 + m10, m02 + m20, m12 + m21
    case = torch.where(m22 < 0, torch.where(m00 > m11, 0, 1), torch.where(m00 < -m11, 2, 3))
    candidates = torch.stack((torch.stack((wx, x2, xy, xz), -1), torch.stack((wy, xy, y2, yz), -1),
                              torch.stack((wz, xz, yz, z2), -1), torch.stack((w2, wx, wy, wz), -1)), -2)
    index = case[..., None, None].expand(*case.shape, 1, 4)
    return normalize(candidates.gather(-2, index).squeeze(-2), dim=-1)


def quat_continuous(q: Tensor) -> Tensor:
    """Choose the signs of quaternions (T, ..., 4) so that consecutive frames do not jump between q and -q."""
    flips = torch.where((q[1:] * q[:-1]).sum(-1, keepdim=True) < 0, -1.0, 1.0)
    return torch.cat((q[:1], q[1:] * flips.cumprod(0)))


def axis_angle_to_quat(turn: Tensor) -> Tensor:
    """Convert rotation vectors (..., 3) in radians to unit quaternions (..., 4)."""
    half = turn.norm(dim=-1, keepdim=True) / 2
    return torch.cat((half.cos(), turn / 2 * torch.sinc(half / torch.pi)), -1)


def yaw_quat(half_angle: Tensor) -> Tensor:
    """Return rotations (..., 4) about y by twice ``half_angle`` (...) in radians. Motion features store half angles."""
    zero = torch.zeros_like(half_angle)
    return torch.stack((half_angle.cos(), zero, half_angle.sin(), zero), -1)


def lerp(a: Tensor, b: Tensor, weight: float | Tensor) -> Tensor:
    """Interpolate linearly from ``a`` (weight 0) to ``b`` (weight 1)."""
    return a + weight * (b - a)


def slerp(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Interpolate unit quaternions (..., 4) along the shorter arc, from ``a`` (weight 0) to ``b`` (Shoemake 1985)."""
    cosine = (a * b).sum(-1, keepdim=True)
    b, cosine = torch.where(cosine < 0, -b, b), cosine.abs().clamp(max=1)
    angle = cosine.acos()
    near = angle < _NEAR
    sine = torch.where(near, 1.0, angle.sin())
    from_a = torch.where(near, 1 - weight, ((1 - weight) * angle).sin() / sine)
    from_b = torch.where(near, weight.expand_as(angle), (weight * angle).sin() / sine)
    return normalize(from_a * a + from_b * b, dim=-1)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    a, b = torch.broadcast_tensors(a, b)
    return torch.linalg.cross(a, b)


def _half_turn(a: Tensor) -> Tensor:
    """Return half turns (..., 4) about the axis orthogonal to ``a`` that is closest to y (or x if vertical)."""
    a = normalize(a, dim=-1)
    vertical = a[..., 1:2].abs() > 0.99
    axis = torch.where(vertical, a.new_tensor((1.0, 0.0, 0.0)), a.new_tensor((0.0, 1.0, 0.0)))
    axis = axis - (axis * a).sum(-1, keepdim=True) * a
    return torch.cat((torch.zeros_like(axis[..., :1]), axis), -1)


COINCIDENT = 0.005  # fraction of leg length below which a bone has no measurable direction
_SPREAD = 0.1       # fraction of leg length to which these bones are lengthened to fit rotations
_FIXED = 2e-3       # maximum variation in radians of the direction of a fixed bone
_TURNS = 0.1        # minimum turn of the expected direction of a fixed bone, in radians,
_AWAY = 0.8         # or cosine to the expected direction below which a bone is fixed anyway
_NARROW = 0.05      # fraction of leg length below which hips or shoulders are too narrow for a direction


def bone_directions(joints: Tensor, skeleton: Skeleton) -> Tensor:
    """Return unit vectors (T, J, 3) from each joint's parent to the joint; zeros for the root.

    The direction of a bone of zero length is derived from other joints. Bones that point sideways in the rest pose
    (hips, collars) follow the shoulder line, or the hip line if the shoulders coincide. Toes point forward, orthogonal
    to the shin. Any other bone copies the nearest bone of its chain with a length above zero, towards the root if
    possible.
    """
    bones = _bones(joints, skeleton)
    lengths = bones.norm(dim=-1, keepdim=True)
    directions = torch.where(lengths > 0, bones / lengths.clamp_min(torch.finfo(bones.dtype).tiny),
                             joints.new_tensor(skeleton.raw_offsets))
    short = lengths[..., 0] <= COINCIDENT * _leg_length(lengths[..., 0], skeleton)
    short[:, 0] = False
    filled = directions.clone() if short.any() else directions
    for joint in short.any(0).nonzero().flatten().tolist():
        chosen = _stand_in(joint, directions, short, joints, skeleton)
        filled[:, joint] = torch.where(short[:, joint, None], chosen, directions[:, joint])
    return filled


def coincident(joints: Tensor, skeleton: Skeleton) -> Tensor:
    """Return a mask (J,) of the joints that coincide with their parent in most frames of ``joints`` (T, J, 3)."""
    lengths = _bones(joints, skeleton).norm(dim=-1)
    short = lengths.median(0).values <= COINCIDENT * _leg_length(lengths, skeleton)
    short[0] = False
    return short


def fixed_bones(joints: Tensor, skeleton: Skeleton) -> list[int]:
    """Return the trunk, hip and foot joints whose bones do not turn with the body in ``joints`` (T, J, 3), y up.

    In all frames, such a bone has its rest direction, up to a constant rotation about y, although the body turns. This
    happens if features were computed with a world-axis rest direction for bones of zero length.
    """
    directions = bone_directions(joints, skeleton)
    mean = normalize(directions.mean(0), dim=-1)
    rest = joints.new_tensor(skeleton.raw_offsets)
    is_fixed = ((directions - mean).norm(dim=-1).amax(0) < _FIXED) & ((mean - rest)[:, 1].abs() < _FIXED)
    is_fixed &= rest[:, 1] >= 0  # limbs may hang straight down for a long time
    is_fixed[0] = False
    measured = torch.zeros_like(directions[..., 0], dtype=torch.bool)
    found = []
    for joint in is_fixed.nonzero().flatten().tolist():
        if rest[joint, 0]:  # compare hips with shoulders and vice versa, as the bone's own pair may be fixed too
            usual = _sideways(joint, joints, skeleton, upper=joint in skeleton.face_joints[:2])
        else:
            usual = _stand_in(joint, directions, measured, joints, skeleton)
        # A vertical bone shows how the body leans; the others show how it turns.
        seen = usual[:, 1:2].clamp(-1, 1).acos() if rest[joint, 1] else usual
        away = rest[joint, 0] != 0 and (normalize(usual.mean(0), dim=-1) * mean[joint]).sum() < _AWAY
        if away or (seen - seen.mean(0)).norm(dim=-1).amax(0) > _TURNS:
            found.append(joint)
    return found


def spread_joints(joints: Tensor, skeleton: Skeleton) -> tuple[Tensor, Tensor]:
    """Lengthen bones of zero length to a tenth of the leg length.

    Returns joints (T, J, 3) and a mask (J,) of the lengthened bones. They point as in ``bone_directions``; other
    bones do not change. A body without bones of zero length is returned unchanged.
    """
    short = coincident(joints, skeleton)
    if not short.any():
        return joints, short
    bones = _bones(joints, skeleton)
    length = _SPREAD * _leg_length(bones.norm(dim=-1), skeleton)
    bones = torch.where(short[:, None], length * bone_directions(joints, skeleton), bones)
    return join_bones(joints[:, 0], bones, skeleton), short


def join_bones(root: Tensor, bones: Tensor, skeleton: Skeleton) -> Tensor:
    """Compute joints (T, J, 3) from root positions (T, 3) and the vectors (T, J, 3) from each parent to its joint."""
    placed = {0: root}
    for chain in skeleton.chains:
        for parent, joint in pairwise(chain):
            placed[joint] = placed[parent] + bones[:, joint]
    return torch.stack([placed[joint] for joint in range(len(skeleton))], 1)


def _bones(joints: Tensor, skeleton: Skeleton) -> Tensor:
    bones = joints - joints[:, list(skeleton.parents)]
    bones[:, 0] = 0
    return bones


def _leg_length(lengths: Tensor, skeleton: Skeleton) -> Tensor:
    return lengths[:, list(skeleton.leg_bones)].sum(-1).median()


def _stand_in(joint: int, directions: Tensor, short: Tensor, joints: Tensor, skeleton: Skeleton) -> Tensor:
    """Return the direction (T, 3) to use for a bone of zero length, as described in ``bone_directions``."""
    side, _, ahead = skeleton.raw_offsets[joint]
    if side:
        return _sideways(joint, joints, skeleton, upper=True)
    shin = skeleton.parents[joint]
    if ahead and joint in skeleton.feet and not skeleton.raw_offsets[shin][2]:
        return normalize(torch.linalg.cross(directions[:, shin], _leftward(joints, skeleton, upper=False)), dim=-1)
    chain = _chain(skeleton, joint)
    inward, outward = chain[chain.index(joint) - 1:0:-1], chain[chain.index(joint) + 1:]
    chosen = directions[:, joint]
    for other in reversed((*inward, *outward)):
        chosen = torch.where(short[:, other, None], chosen, directions[:, other])
    return chosen


def _sideways(joint: int, joints: Tensor, skeleton: Skeleton, upper: bool) -> Tensor:
    """Return unit vectors (T, 3) towards the side of the body that ``joint`` is on, parallel to ``_leftward``."""
    chain = _chain(skeleton, joint)
    place = next(place for place, face in enumerate(skeleton.face_joints) if face in chain)
    return _leftward(joints, skeleton, upper) * (1 if place % 2 else -1)


def _leftward(joints: Tensor, skeleton: Skeleton, upper: bool) -> Tensor:
    """Return unit vectors (T, 3) towards the left of the body, along the shoulder line (``upper``) or the hip line.

    If the two joints of this line nearly coincide, the other line is used.
    """
    right_hip, left_hip, right_shoulder, left_shoulder = (joints[:, face] for face in skeleton.face_joints)
    first, second = left_shoulder - right_shoulder, left_hip - right_hip
    if not upper:
        first, second = second, first
    least = _NARROW * _leg_length(_bones(joints, skeleton).norm(dim=-1), skeleton)
    return normalize(first if first.norm(dim=-1).median() > least else second, dim=-1)


@cache
def _chain(skeleton: Skeleton, joint: int) -> tuple[int, ...]:
    return next(chain for chain in skeleton.chains if joint in chain[1:])
