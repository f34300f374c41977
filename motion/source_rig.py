"""Locate the 22 joints in any BVH skeleton, by the bone names of known rigs or by a user mapping.

Rigs differ most in the spine, so spine names are optional: spine bones are found in the hierarchy between hips and
neck. If a foot has no toe, a toe is added in front of the ankle.
"""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from motion.bvh import POSITIONS, ROTATIONS, Bvh, chained
from motion.rig_search import SIDES, SPINE, Place, Places, RigBones, recognised, weights_of
from motion.skeleton import T2M

_CHAINS = (("hip", "knee", "ankle"), ("shoulder", "elbow", "wrist"))
_LENGTHS = dict(zip(T2M.joint_names, T2M.target_lengths, strict=True))  # of the reference body

# Distances of the reference body's spine joints and neck from the pelvis, along the spine.
_SPINE_SHARES = np.cumsum([_LENGTHS[name] for name in (*SPINE, "neck")])
_FOOT_SHARE = _LENGTHS["left_foot"] / _LENGTHS["left_ankle"]  # fraction of a shin
_TOE_WORDS = ("toe", "ball")
_COINCIDENT = 1e-6  # fraction of the largest offset below which an offset counts as zero
_MIN_ANGLE = 0.3    # minimum sine of the angle between shin and hip line in a pose with a clear front
_TOE_FRAMES = 50    # maximum number of frames used to find the front
_AGREE = 0.7        # minimum cosine between the forward directions of rest pose and motion
_CLEAR = 0.1        # minimum length of the mean of forward unit vectors


@dataclass(frozen=True)
class Placement:
    """The 22 joints as weighted sums of points of a skeleton: its joints, its end sites, and added points."""

    rig: str
    weights: np.ndarray  # (22, points), rows sum to 1
    added: tuple[tuple[int, np.ndarray], ...] = ()  # joint and offset (3,) of each added point

    @property
    def has_made_toes(self) -> bool:
        """Whether toes were added because the file has none."""
        return bool(self.added)

    def joints(self, points: np.ndarray) -> np.ndarray:
        """Compute joints (T, 22, 3) from points (T, points, 3)."""
        return np.einsum("jp,tpk->tjk", self.weights, points)

    def posed(self, bvh: Bvh, places: np.ndarray, turns: np.ndarray) -> np.ndarray:
        """Compute joints (T, 22, 3) from positions (T, J, 3) and rotations (T, J, 3, 3) relative to the parents."""
        places, turns = chained(bvh.parents, places, turns)
        rigid = [*bvh.end_sites.items(), *self.added]
        tips = [places[:, joint] + turns[:, joint] @ offset for joint, offset in rigid]
        return self.joints(np.concatenate([places, *(tip[:, None] for tip in tips)], 1))


def place_joints(bvh: Bvh, mapping: Mapping[str, str | Place] | None = None) -> Placement:
    """Find the 22 joints in the hierarchy of a BVH file, by ``mapping`` or by the bone names of a known rig.

    ``mapping`` is ignored if most of its bones are missing in ``bvh``, because it was probably written for other files.

    Raises ``UnknownRig`` if no rig fits, and ``ValueError`` if a required bone is missing or ambiguous, the bones of a
    limb are not connected, or a bone lacks the rotation or position channels it needs.
    """
    bones = RigBones(bvh)
    rig, places = ("mapping", _mapped(bones, mapping)) if mapping and _is_of(bones, mapping) else recognised(bones)
    rest = replace(bvh, values=bvh.values[:1]).local_positions()[0]  # joint offsets, (J, 3)
    added = _complete(bones, places, rest)
    _check_limbs(bones, places)
    weights = np.zeros((len(T2M), len(bvh.names) + len(bvh.end_sites) + len(added)))
    for row, joint in enumerate(T2M.joint_names):
        for point, weight in places[joint].items():
            weights[row, point] += weight
    return Placement(rig, weights, tuple(added))


def _is_of(bones: RigBones, mapping: Mapping[str, str | Place]) -> bool:
    names = [name for place in mapping.values() for name in weights_of(place)]
    return sum(bool(bones.find(name)) for name in names) >= len(names) / 2


def _mapped(bones: RigBones, mapping: Mapping[str, str | Place]) -> Places:
    places: Places = {}
    for joint, place in mapping.items():
        places[joint] = {}
        for name, weight in weights_of(place).items():
            point = bones.only(name)
            if point is None:
                raise ValueError(f"the mapping's bone {name} for {joint} is not in the file")
            places[joint][point] = weight
    return places


def _complete(bones: RigBones, places: Places, rest: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Add to ``places`` the toes, collars and spine joints that a rig does not name. Returns the added toes."""
    added = []
    for side in SIDES:
        if f"{side}_foot" not in places:
            toe = _toe(bones, places, side, rest)
            if isinstance(toe, tuple):
                toe, point = {len(bones.bvh.names) + len(bones.bvh.end_sites) + len(added): 1.0}, toe
                added.append(point)
            places[f"{side}_foot"] = toe
        if f"{side}_collar" not in places:
            places[f"{side}_collar"] = _between(places["neck"], places[f"{side}_shoulder"], 0.5)
    if any(joint not in places for joint in SPINE):
        places |= dict(zip(SPINE, _spine(bones, places, rest), strict=True))
    return added


def _toe(bones: RigBones, places: Places, side: str, rest: np.ndarray) -> dict[int, float] | tuple[int, np.ndarray]:
    """Return the weights of a toe's points. If there is no toe, return the ankle and the offset of an added toe."""
    ankle = _bone(places[f"{side}_ankle"])
    if ankle is None:
        raise ValueError(f"the mapping has no {side}_foot; to add one, {side}_ankle must be a single bone")
    below = _ends_below(bones, ankle, rest)
    named = [point for point in below if any(word in bones.name(point).lower() for word in _TOE_WORDS)]
    chosen = named or [point for point in below if "heel" not in bones.name(point).lower()]
    if named or len(chosen) == 1:
        return {point: 1 / len(chosen) for point in chosen}
    return _made_toe(bones, places, side, rest)


def _ends_below(bones: RigBones, joint: int, rest: np.ndarray) -> list[int]:
    """Return the nearest points below ``joint`` that do not coincide with it."""
    points = []
    for child in bones.below(joint):
        near = np.linalg.norm(rest[child]) <= _COINCIDENT * np.abs(bones.bvh.offsets).max()
        points += _ends_below(bones, child, rest) if near else [child]
    tip = bones.tip(joint)
    return points if points or tip is None else [tip]


def _made_toe(bones: RigBones, places: Places, side: str, rest: np.ndarray) -> tuple[int, np.ndarray]:
    """Place a toe in front of the ankle in the rest pose, orthogonal to the shin and to the line between the hips.

    If this direction disagrees with the motion, the rest pose is not a standing pose, and the motion is used instead.
    Returns the ankle and the offset of the toe. Raises ``ValueError`` if the direction of the foot is unclear.
    """
    bvh = bones.bvh
    joints = [_bone(places[name]) for name in ("left_hip", "right_hip", f"{side}_knee", f"{side}_ankle")]
    if None in joints:
        raise ValueError(f"the mapping has no {side}_foot; to add one, hips, knee and ankle must be single bones")
    some = replace(bvh, values=bvh.values[::-(-len(bvh.values) // _TOE_FRAMES)])
    moving = _front_of_ankle(bvh, joints, some.local_positions(), some.local_rotations())
    resting = _front_of_ankle(bvh, joints, rest[None], np.broadcast_to(np.eye(3), (1, len(rest), 3, 3)))
    front = resting if resting @ moving > _AGREE * np.linalg.norm(moving) else moving
    if not np.linalg.norm(front) > _CLEAR:
        raise ValueError(f"the rig has no {side} toe, and the direction of the foot is unclear; use a --mapping with "
                         f"{side}_foot")
    ankle = joints[-1]
    length = _FOOT_SHARE * np.linalg.norm(rest[ankle])
    return ankle, length * front / np.linalg.norm(front)


def _front_of_ankle(bvh: Bvh, joints: Sequence[int], places: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Return the mean forward direction (3,) in the frame of the ankle, or zeros if it is undefined.

    ``places`` and ``turns`` are relative to the parents. ``joints`` are left hip, right hip, knee and ankle.
    """
    places, turns = chained(bvh.parents, places, turns)
    left, right, knee, ankle = (places[:, joint] for joint in joints)
    front = np.cross(left - right, knee - ankle)
    size = np.linalg.norm(left - right, axis=-1) * np.linalg.norm(knee - ankle, axis=-1)
    clear = np.linalg.norm(front, axis=-1) > _MIN_ANGLE * size
    front[clear] /= np.linalg.norm(front[clear], axis=-1, keepdims=True)
    front[~clear] = 0
    return np.einsum("tji,tj->i", turns[:, joints[-1]], front) / len(front)


def _spine(bones: RigBones, places: Places, rest: np.ndarray) -> list[dict[int, float]]:
    neck, hip = _bone(places["neck"]), _bone(places["left_hip"])
    if neck is None or hip is None:
        raise ValueError("the mapping has no spine joints; to find them, neck and hips must be single bones")
    legs = set(bones.above(hip))
    spine = [joint for joint in reversed(bones.above(neck)[1:]) if joint not in legs and rest[joint].any()]
    if len(spine) > 2:
        return [{spine[0]: 1.0}, {spine[len(spine) // 2]: 1.0}, {spine[-1]: 1.0}]
    if len(spine) == 2:
        return [{spine[0]: 1.0}, {spine[0]: 0.5, spine[1]: 0.5}, {spine[1]: 1.0}]
    top, shares = ({spine[0]: 1.0}, _SPINE_SHARES / _SPINE_SHARES[2]) if spine else (
        places["neck"], _SPINE_SHARES / _SPINE_SHARES[3])
    return [_between(places["pelvis"], top, share) for share in shares[:3]]


def _between(a: Mapping[int, float], b: Mapping[int, float], share: float) -> dict[int, float]:
    """Return the weights of the point at the fraction ``share`` of the way from ``a`` to ``b``."""
    return {point: (1 - share) * a.get(point, 0.0) + share * b.get(point, 0.0) for point in {**a, **b}}


def _bone(place: Mapping[int, float]) -> int | None:
    return next(iter(place)) if len(place) == 1 else None


def _check_limbs(bones: RigBones, places: Mapping[str, Mapping[int, float]]) -> None:
    names, channels, turning = bones.bvh.names, bones.bvh.channels, []
    for side in SIDES:
        for chain in _CHAINS:
            joints = [f"{side}_{part}" for part in chain]
            found = [_bone(places[joint]) for joint in joints]
            if None in found:
                continue
            for (upper, above), (lower, below) in pairwise(zip(joints, found, strict=True)):
                if above not in bones.above(below):
                    raise ValueError(f"{lower} ({names[below]}) is not below {upper} ({names[above]})")
            turning += found[:2]
    for joint in turning:
        if not {*ROTATIONS} & {*channels[joint]}:
            raise ValueError(f"joint {names[joint]} has no rotation channels")
    hip = _bone(places["left_hip"])
    if hip is not None and not any({*POSITIONS} & {*channels[joint]} for joint in bones.above(hip)):
        raise ValueError("no bone from the root to the hips has position channels")
