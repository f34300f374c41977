"""Where the 22 joints lie in somebody else's skeleton: known rigs by the names of their bones, or a given mapping.

A joint's place is a weighted mean of bones; ``BONE/tip`` is the end site of a bone. Rigs differ most in the spine, so
no names are needed there: the bones between the hips and the neck are found in the hierarchy.
"""
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os.path import commonprefix

import numpy as np

from motion.bvh import Bvh, chained
from motion.skeleton import T2M

TIP = "/tip"
Place = Mapping[str, float]  # weights of bones, which sum to 1

_TRUNK = ("pelvis", "neck", "head")
_LIMB = ("hip", "knee", "ankle", "foot", "collar", "shoulder", "elbow", "wrist")
_SPINE = ("spine1", "spine2", "spine3")
_OPTIONAL = {*_SPINE, "left_foot", "right_foot", "left_collar", "right_collar"}
_CHAINS = (("hip", "knee", "ankle"), ("shoulder", "elbow", "wrist"))

# Shares of the way from the pelvis at which the reference body has its spine joints, up to the neck.
_SPINE_SHARES = np.cumsum([T2M.target_lengths[T2M.joint_names.index(name)] for name in (*_SPINE, "neck")])


@dataclass(frozen=True)
class KnownRig:
    """Bone names of a common rig; ``|`` stands between alternatives, ``{}`` for the side."""

    name: str
    trunk: tuple[str | Place, str, str]  # pelvis, neck, head
    limbs: str                           # of hip, knee, ankle, foot, collar, shoulder, elbow, wrist
    sides: tuple[str, str] = ("left", "right")

    @cached_property
    def places(self) -> dict[str, Place | tuple[str, ...]]:
        """Place of every named joint, or the names that its bone may have."""
        places: dict[str, Place | tuple[str, ...]] = {}
        for joint, place in zip(_TRUNK, self.trunk, strict=True):
            places[joint] = (place,) if isinstance(place, str) else place
        for side, word in zip(("left", "right"), self.sides, strict=True):
            for joint, names in zip(_LIMB, self.limbs.split(), strict=True):
                places[f"{side}_{joint}"] = tuple(names.format(word, word).split("|"))
        return places


_DAZ_PELVIS = {"lThigh": 0.275, "rThigh": 0.275, "abdomen": 0.45}  # the root is not between the thighs but above them

KNOWN_RIGS = (
    KnownRig("Mixamo/LAFAN1", ("Hips", "Neck", "Head"),
             "{}UpLeg {}Leg {}Foot {}ToeBase|{}Toe {}Shoulder {}Arm {}ForeArm {}Hand"),
    KnownRig("Bandai-Namco", ("Hips", "Neck", "Head"),
             "UpperLeg_{} LowerLeg_{} Foot_{} Toes_{} Shoulder_{} UpperArm_{} LowerArm_{} Hand_{}", ("L", "R")),
    KnownRig("CMU/Daz", (_DAZ_PELVIS, "neck", "head"),
             "{}Thigh {}Shin {}Foot {}Toe {}Collar {}Shldr {}ForeArm {}Hand", ("l", "r")),
    KnownRig("Xsens BVH", ("Hips", "Neck", "Head"),
             "{}Hip {}Knee {}Ankle {}Toe {}Collar {}Shoulder {}Elbow {}Wrist"),
    KnownRig("Xsens MVN", ("Pelvis", "Neck", "Head"),
             "{}UpperLeg {}LowerLeg {}Foot {}Toe {}Shoulder {}UpperArm {}ForeArm {}Hand"),
    KnownRig("Rokoko", ("Hips", "Neck", "Head"),
             "{}Thigh {}Shin {}Foot {}Toe|{}ToeBase {}Shoulder {}Arm {}ForeArm {}Hand"),
    KnownRig("SMPL", ("Pelvis", "Neck", "Head"),
             "{}_Hip {}_Knee {}_Ankle {}_Foot|{}_Toe {}_Collar|{}_Thorax {}_Shoulder {}_Elbow {}_Wrist"),
    KnownRig("SMPL, short", ("Pelvis", "Neck", "Head"),
             "{}_Hip {}_Knee {}_Ankle {}_Foot|{}_Toe {}_Collar|{}_Thorax {}_Shoulder {}_Elbow {}_Wrist", ("L", "R")),
    KnownRig("Unreal", ("pelvis", "neck_01", "head"),
             "thigh_{} calf_{} foot_{} ball_{} clavicle_{} upperarm_{} lowerarm_{} hand_{}", ("l", "r")),
    KnownRig("Biped", ("Pelvis", "Neck", "Head"),
             "{}Thigh {}Calf {}Foot {}Toe0 {}Clavicle {}UpperArm {}Forearm {}Hand", ("L", "R")),
)


@dataclass(frozen=True)
class Placement:
    """How the 22 joints come out of the points of one skeleton."""

    rig: str
    weights: np.ndarray  # (22, J + end sites), rows sum to 1

    def joints(self, points: np.ndarray) -> np.ndarray:
        """(T, 22, 3) of points (T, J + end sites, 3)."""
        return np.einsum("jp,tpk->tjk", self.weights, points)


def place_joints(bvh: Bvh, mapping: Mapping[str, str | Place] | None = None) -> Placement:
    """Find the 22 joints in a BVH's hierarchy, by ``mapping`` or by the names of a known rig.

    Raises ``ValueError`` where no rig fits, a bone that is needed is missing or named twice, a limb's bones do not
    hang in each other, or a bone that must turn or travel has no channels for it.
    """
    bones = _Bones(bvh)
    rig, places = ("mapping", _mapped(bones, mapping)) if mapping is not None else _recognised(bones)
    _complete(bones, places)
    _check_limbs(bones, places)
    weights = np.zeros((len(T2M), len(bvh.names) + len(bvh.end_sites)))
    for row, joint in enumerate(T2M.joint_names):
        for point, weight in places[joint].items():
            weights[row, point] += weight
    return Placement(rig, weights)


def points_of(bvh: Bvh, places: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Joints and then end sites (T, J + end sites, 3) in the world, of a pose in parents' frames, (T, J, 3) and
    (T, J, 3, 3)."""
    places, turns = chained(bvh.parents, places, turns)
    tips = [places[:, joint] + turns[:, joint] @ offset for joint, offset in bvh.end_sites.items()]
    return np.concatenate([places, *(tip[:, None] for tip in tips)], 1)


class _Bones:
    """Points of a hierarchy by name."""

    def __init__(self, bvh: Bvh):
        self.bvh = bvh
        self.tips = {joint: len(bvh.names) + number for number, joint in enumerate(bvh.end_sites)}
        plain = [_plain(name) for name in bvh.names]
        below = plain[1:]
        prefix = commonprefix(below) if len(below) > 1 else ""
        self.spellings = [list(bvh.names), plain, [name.removeprefix(prefix) for name in plain]]
        self.counts = [Counter(names) for names in self.spellings]

    def find(self, name: str) -> int | None:
        """Number of the point ``name``, None where there is none. ``ValueError`` where there are several."""
        bone = name.removesuffix(TIP)
        for names, counts, wanted in zip(self.spellings, self.counts, (bone, _plain(bone), _plain(bone)), strict=True):
            if counts[wanted] > 1:
                raise ValueError(f"{counts[wanted]} bones are named {bone}")
            if counts[wanted]:
                joint = names.index(wanted)
                return self.tip(joint) if name.endswith(TIP) else joint
        return None

    def tip(self, joint: int) -> int | None:
        """Point of the end site of ``joint``, None where it has none or one of no length."""
        return self.tips[joint] if joint in self.tips and np.any(self.bvh.end_sites[joint]) else None

    def above(self, joint: int) -> list[int]:
        """``joint`` and the joints that it hangs in, up to the root."""
        path = [joint]
        while (joint := self.bvh.parents[joint]) >= 0:
            path.append(joint)
        return path


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", re.split(r"[:|]", name)[-1].lower())


def _recognised(bones: _Bones) -> tuple[str, dict[str, dict[int, float]]]:
    """The known rig that has all its names here, and its places."""
    nearest: tuple[int, str, list[str]] | None = None
    for rig in KNOWN_RIGS:
        places, missing = {}, []
        for joint, place in rig.places.items():
            if isinstance(place, tuple):
                found = [point for name in place if (point := bones.find(name)) is not None]
                resolved = {found[0]: 1.0} if found else None
            else:
                points = {name: bones.find(name) for name in place}
                resolved = None if None in points.values() else {points[name]: place[name] for name in place}
            if resolved:
                places[joint] = resolved
            elif joint not in _OPTIONAL:
                missing.append(place[0] if isinstance(place, tuple) else " or ".join(place))
        if not missing:
            return rig.name, places
        if nearest is None or len(missing) < nearest[0]:
            nearest = len(missing), rig.name, missing
    _, name, missing = nearest
    here = ", ".join(bones.bvh.names[:6])
    raise ValueError(f"unknown joints ({here}, ...): the nearest rig, {name}, also has {', '.join(missing[:4])}"
                     f"{', ...' * (len(missing) > 4)}; give a mapping")


def _mapped(bones: _Bones, mapping: Mapping[str, str | Place]) -> dict[str, dict[int, float]]:
    places: dict[str, dict[int, float]] = {}
    for joint, place in mapping.items():
        places[joint] = {}
        for name, weight in ({place: 1.0} if isinstance(place, str) else place).items():
            point = bones.find(name)
            if point is None:
                raise ValueError(f"the mapping's bone {name} for {joint} is not in the file")
            places[joint][point] = weight
    return places


def _complete(bones: _Bones, places: dict[str, dict[int, float]]) -> None:
    """Place what a rig does not name: the spine, toes at the end sites of the feet, collars before the shoulders."""
    for side in ("left", "right"):
        foot, ankle = f"{side}_foot", _bone(places[f"{side}_ankle"])
        if foot not in places:
            tip = None if ankle is None else bones.tip(ankle)
            if tip is None:
                raise ValueError(f"there is neither a {side} toe bone nor an end site that tells where the foot points")
            places[foot] = {tip: 1.0}
        if f"{side}_collar" not in places:
            places[f"{side}_collar"] = _between(places["neck"], places[f"{side}_shoulder"], 0.5)
    if any(joint not in places for joint in _SPINE):
        places |= dict(zip(_SPINE, _spine(bones, places), strict=True))


def _spine(bones: _Bones, places: dict[str, dict[int, float]]) -> list[dict[int, float]]:
    neck, hip = _bone(places["neck"]), _bone(places["left_hip"])
    if neck is None or hip is None:
        raise ValueError("the mapping names no spine joints, and no single bones for neck and hip to find them by")
    legs = set(bones.above(hip))
    spine = [joint for joint in reversed(bones.above(neck)[1:]) if joint not in legs]
    if len(spine) > 2:
        return [{spine[0]: 1.0}, {spine[len(spine) // 2]: 1.0}, {spine[-1]: 1.0}]
    if len(spine) == 2:
        return [{spine[0]: 1.0}, {spine[0]: 0.5, spine[1]: 0.5}, {spine[1]: 1.0}]
    top, shares = ({spine[0]: 1.0}, _SPINE_SHARES / _SPINE_SHARES[2]) if spine else (
        places["neck"], _SPINE_SHARES / _SPINE_SHARES[3])
    return [_between(places["pelvis"], top, share) for share in shares[:3]]


def _between(a: Mapping[int, float], b: Mapping[int, float], share: float) -> dict[int, float]:
    """A ``share`` of the way from ``a`` to ``b``."""
    return {point: (1 - share) * a.get(point, 0.0) + share * b.get(point, 0.0) for point in {**a, **b}}


def _bone(place: Mapping[int, float]) -> int | None:
    return next(iter(place)) if len(place) == 1 else None


def _check_limbs(bones: _Bones, places: Mapping[str, Mapping[int, float]]) -> None:
    turning, travelling = [], []
    for side in ("left", "right"):
        for chain in _CHAINS:
            joints = [f"{side}_{part}" for part in chain]
            found = [_bone(places[joint]) for joint in joints]
            if None in found:
                continue
            for (upper, above), (lower, below) in zip(zip(joints, found, strict=True),
                                                      list(zip(joints, found, strict=True))[1:], strict=False):
                if above not in bones.above(below):
                    raise ValueError(f"{lower} ({bones.bvh.names[below]}) does not hang in {upper} "
                                     f"({bones.bvh.names[above]})")
            turning += found[:2]
    for joint in turning:
        if not _has(bones.bvh.channels[joint], "rotation"):
            raise ValueError(f"joint {bones.bvh.names[joint]} has no rotation channels")
    hip = _bone(places["left_hip"])
    if hip is not None:
        travelling = bones.above(hip)
        if not any(_has(bones.bvh.channels[joint], "position") for joint in travelling):
            raise ValueError("no bone from the root to the hips has position channels")


def _has(channels: Sequence[str], kind: str) -> bool:
    return any(channel.endswith(kind) for channel in channels)
