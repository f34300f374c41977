"""Bone directions, including bones of zero length: joints at the position of their parent, as in the collars of some
rigs.

A fixed rest direction in world axes would not turn with the body, so directions of such bones are derived from the
surrounding joints.
"""
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import normalize

from motion.skeleton import Skeleton

COINCIDENT = 0.005  # fraction of leg length below which a bone has no measurable direction
_SPREAD = 0.1       # fraction of leg length that such a bone gets while rotations are fitted
_FIXED = 2e-3       # radians within which a bone keeps its direction
_TURNS = 0.1        # radians by which neighbouring bones turn over the same time
_AWAY = 0.8         # or cosine to the direction of the neighbours
_NARROW = 0.05      # fraction of leg length below which hips or shoulders are too narrow for a direction


def bone_directions(joints: Tensor, skeleton: Skeleton) -> Tensor:
    """Unit vectors (T, J, 3) from the parent to each joint; zero for the root.

    Bones of zero length: those that point sideways in the rest pose (hips, collars) follow the line of the shoulders
    or, if the shoulders coincide, of the hips. Toes point forward at a right angle to the shin. Any other bone takes
    the direction of the nearest bone with a length in its chain, first towards the root.
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
    """(J,) whether each joint of ``joints`` (T, J, 3) coincides with its parent in most frames."""
    lengths = _bones(joints, skeleton).norm(dim=-1)
    short = lengths.median(0).values <= COINCIDENT * _leg_length(lengths, skeleton)
    short[0] = False
    return short


def fixed_bones(joints: Tensor, skeleton: Skeleton) -> list[int]:
    """Joints of trunk, hips and feet whose bones keep their rest direction, up to one rotation about y, in all frames
    of ``joints`` (T, J, 3), y up, although the body turns or faces elsewhere.

    Features have such bones if bones of zero length were given a rest direction in world axes.
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
        if rest[joint, 0]:  # measured at the other girdle, as the bone's own may be fixed too
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
    """Joints (T, J, 3) with every bone of zero length extended to a tenth of a leg, and a mask (J,) of these bones.

    All bones keep their directions. A body without such bones is unchanged.
    """
    short = coincident(joints, skeleton)
    if not short.any():
        return joints, short
    bones = _bones(joints, skeleton)
    length = _SPREAD * _leg_length(bones.norm(dim=-1), skeleton)
    bones = torch.where(short[:, None], length * bone_directions(joints, skeleton), bones)
    placed = {0: joints[:, 0]}
    for chain in skeleton.chains:
        for parent, joint in zip(chain, chain[1:], strict=False):
            placed[joint] = placed[parent] + bones[:, joint]
    return torch.stack([placed[joint] for joint in range(len(skeleton))], 1), short


def _bones(joints: Tensor, skeleton: Skeleton) -> Tensor:
    bones = joints - joints[:, list(skeleton.parents)]
    bones[:, 0] = 0
    return bones


def _leg_length(lengths: Tensor, skeleton: Skeleton) -> Tensor:
    return lengths[:, list(skeleton.leg_bones)].sum(-1).median()


def _stand_in(joint: int, directions: Tensor, short: Tensor, joints: Tensor, skeleton: Skeleton) -> Tensor:
    """Direction (T, 3) of a bone of zero length."""
    side, _, ahead = skeleton.raw_offsets[joint]
    if side:
        return _sideways(joint, joints, skeleton, upper=True)
    shin = skeleton.parents[joint]
    if ahead and joint in skeleton.feet and not skeleton.raw_offsets[shin][2]:
        return normalize(torch.linalg.cross(directions[:, shin], _across(joints, skeleton, upper=False)), dim=-1)
    chain = _chain(skeleton, joint)
    inward, outward = chain[chain.index(joint) - 1:0:-1], chain[chain.index(joint) + 1:]
    chosen = directions[:, joint]
    for other in reversed((*inward, *outward)):
        chosen = torch.where(short[:, other, None], chosen, directions[:, other])
    return chosen


def _sideways(joint: int, joints: Tensor, skeleton: Skeleton, upper: bool) -> Tensor:
    """``_across``, negated for a ``joint`` on the right side."""
    chain = _chain(skeleton, joint)
    place = next(place for place, face in enumerate(skeleton.face_joints) if face in chain)
    return _across(joints, skeleton, upper) * (1 if place % 2 else -1)


def _across(joints: Tensor, skeleton: Skeleton, upper: bool) -> Tensor:
    """Unit vectors (T, 3) to the left of the body: along the shoulders (``upper``) or the hips, or along the other pair
    if the two joints nearly coincide."""
    right_hip, left_hip, right_shoulder, left_shoulder = (joints[:, face] for face in skeleton.face_joints)
    first, second = left_shoulder - right_shoulder, left_hip - right_hip
    if not upper:
        first, second = second, first
    least = _NARROW * _leg_length(_bones(joints, skeleton).norm(dim=-1), skeleton)
    return normalize(first if first.norm(dim=-1).median() > least else second, dim=-1)


@cache
def _chain(skeleton: Skeleton, joint: int) -> tuple[int, ...]:
    return next(chain for chain in skeleton.chains if joint in chain[1:])
