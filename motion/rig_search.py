"""Recognise the rig of a hierarchy by bone names and structure, with a table of the naming conventions of common rigs.

In the table, a joint's place is given as a bone, ``BONE/tip`` (its end site) or a weighted sum such as ``0.6*A+0.4*B``.
Alternatives are separated by ``|``; the first match is used. ``^`` is the nearest common ancestor of both hips, and
``{}`` stands for the side. Case, punctuation, and prefixes or suffixes shared by all names are ignored.
"""
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from os.path import commonprefix

import numpy as np

from motion.bvh import Bvh
from motion.skeleton import T2M

Place = Mapping[str, float]  # weights of bones, which sum to 1

TIP = "/tip"
SPINE = ("spine1", "spine2", "spine3")
LIMBS = ("hip", "knee", "ankle", "foot", "collar", "shoulder", "elbow", "wrist")
SIDES = ("left", "right")
NONE = "-"    # marks a bone that a rig lacks
COMMON = "^"


@dataclass(frozen=True)
class KnownRig:
    """Bone names of each joint in a rig."""

    name: str
    pelvis: str
    neck: str
    head: str
    limbs: str                                          # hip, knee, ankle, foot, collar, shoulder, elbow, wrist
    sides: tuple[str, str] | None = ("Left", "Right")   # None: common side words, at either end of a name
    spine: str = ""                                     # spine1, spine2, spine3; "": found between hips and neck
    marks: str = ""                                     # a bone that distinguishes it from rigs with the same names
    lacks: str = ""                                     # left bones that only other rigs with the same names have

    @cached_property
    def places(self) -> dict[str, tuple[Place, ...]]:
        """Alternative places of each joint, in order of preference."""
        named = {"pelvis": self.pelvis, "neck": self.neck, "head": self.head}
        named |= dict(zip(SPINE, self.spine.split(), strict=bool(self.spine)))
        places = {joint: _alternatives(text) for joint, text in named.items()}
        for number, side in enumerate(SIDES):
            for joint, text in zip(LIMBS, self.limbs.split(), strict=True):
                if text != NONE:
                    places[f"{side}_{joint}"] = self._sided(text, number)
        return places

    def _sided(self, text: str, number: int) -> tuple[Place, ...]:
        if self.sides is not None:
            return _alternatives(text.replace("{}", self.sides[number]))
        word = SIDES[number]
        spellings = (f"{word}{{}}", f"{{}}{word}", f"{word[0]}{{}}", f"{{}}{word[0]}")
        return tuple({spelling.format(bone): 1.0} for bone in text.split("|") for spelling in spellings)


def _alternatives(text: str) -> tuple[Place, ...]:
    """Parse places such as ``A`` or ``0.4*A+0.6*B``, separated by ``|``, into weights keyed by bone name."""
    return tuple({name: float(weight or 1) for weight, _, name in (part.rpartition("*") for part in place.split("+"))}
                 for place in text.split("|"))


def weights_of(place: str | Place) -> Place:
    """Return the bone weights of ``place`` in a mapping. A string is the name of a single bone."""
    return {place: 1.0} if isinstance(place, str) else place


_UPPER_ARMS = "{}Arm|{}UpperArm|{}UpArm"  # in rigs with these bones, the shoulder is a collar
_UPPER = "{}UpLeg|{}UpperLeg|{}Thigh|" + _UPPER_ARMS
_LONG, _SHORT = ("Left", "Right"), ("L", "R")

# The first matching row is used. The last row lists common words for bones.
KNOWN_RIGS = (
    # The neck and shoulders may coincide with the bone below, and the first spine bone with the hips.
    KnownRig("CMU MotionBuilder", "Hips", "Neck1", "Head",
             "{}UpLeg {}Leg {}Foot {}ToeBase 0.6*{}Shoulder+0.4*{}Arm {}Arm {}ForeArm {}Hand", marks="LHipJoint"),
    KnownRig("Mixamo/LAFAN1", "Hips|Hip", "Neck", "Head",
             "{}UpLeg {}Leg {}Foot {}ToeBase|{}Toe {}Shoulder {}Arm {}ForeArm {}Hand"),
    KnownRig("Bandai-Namco", "Hips", "Neck", "Head",
             "UpperLeg_{} LowerLeg_{} Foot_{} Toes_{} Shoulder_{} UpperArm_{} LowerArm_{} Hand_{}", ("L", "R")),
    # The root is above the thighs instead of between them.
    KnownRig("CMU/Daz", "0.275*lThigh+0.275*rThigh+0.45*abdomen", "neck", "head",
             "{}Thigh {}Shin {}Foot {}Toe {}Collar {}Shldr {}ForeArm {}Hand", ("l", "r")),
    # The thorax is at the base of the neck, the neck behind the nose.
    *(KnownRig(name, "Hip|Hips|Pelvis", "Thorax", "Neck/Nose|Nose|Neck|Head",
               "{}Hip {}Knee {}Ankle|{}Foot {}Toe|{}ToeBase - {}Shoulder {}Elbow {}Wrist", sides,
               lacks=f"{{}}Collar|{{}}Clavicle|{_UPPER}")
      for name, sides in (("H36M", _LONG), ("H36M, short", _SHORT))),
    KnownRig("Xsens BVH", "Hips|Hip", "Neck", "Head",
             "{}Hip {}Knee {}Ankle {}Toe {}Collar {}Shoulder {}Elbow {}Wrist", lacks=_UPPER),
    KnownRig("Xsens MVN", "Pelvis", "Neck", "Head",
             "{}UpperLeg {}LowerLeg {}Foot {}Toe {}Shoulder {}UpperArm {}ForeArm {}Hand"),
    KnownRig("Rokoko", "Hips|Hip", "Neck", "Head",
             "{}Thigh {}Shin {}Foot {}Toe|{}ToeBase {}Shoulder {}Arm {}ForeArm {}Hand"),
    *(KnownRig(name, "Pelvis", "Neck", "Head",
               "{}_Hip {}_Knee {}_Ankle {}_Foot|{}_Toe {}_Collar|{}_Thorax {}_Shoulder {}_Elbow {}_Wrist", sides,
               lacks=_UPPER) for name, sides in (("SMPL", _LONG), ("SMPL, short", _SHORT))),
    KnownRig("Unreal", "pelvis", "neck_01|neck", "head",
             "thigh_{} calf_{} foot_{} ball_{} clavicle_{} upperarm_{} lowerarm_{} hand_{}", ("l", "r")),
    KnownRig("Biped", "Pelvis", "Neck", "Head",
             "{}Thigh {}Calf {}Foot {}Toe0 {}Clavicle {}UpperArm {}Forearm {}Hand", ("L", "R")),
    KnownRig("CMU ASF/AMC", "root", "upperneck", "0.5*head+0.5*head/tip",
             "{}femur {}tibia {}foot {}toes 0.6*{}clavicle+0.4*{}humerus {}humerus {}radius {}wrist", ("l", "r"),
             spine="upperback thorax 0.5*thorax+0.5*lowerneck"),
    KnownRig("VRM", "J_Bip_C_Hips", "J_Bip_C_Neck", "J_Bip_C_Head",
             "J_Bip_{}_UpperLeg J_Bip_{}_LowerLeg J_Bip_{}_Foot J_Bip_{}_ToeBase J_Bip_{}_Shoulder J_Bip_{}_UpperArm "
             "J_Bip_{}_LowerArm J_Bip_{}_Hand", ("L", "R")),
    KnownRig("Unity humanoid", "Hips|Hip", "Neck", "Head",
             "{}UpperLeg {}LowerLeg {}Foot {}Toes {}Shoulder {}UpperArm {}LowerArm {}Hand"),
    KnownRig("BioVision", "Hips|Hip", "Neck", "Head",
             "{}UpLeg {}LowLeg {}Foot {}Toe {}Collar {}UpArm {}LowArm {}Hand"),
    KnownRig("Poser", "Hip|Hips", "Neck", "Head",
             "{}_Thigh {}_Shin {}_Foot {}_Toe {}_Collar {}_Shoulder {}_Forearm {}_Hand", lacks=_UPPER_ARMS),
    KnownRig("OptiTrack", "Hip", "Neck", "Head",
             "{}Thigh {}Shin {}Foot {}Toe {}Shoulder {}UArm {}FArm {}Hand", ("L", "R")),
    KnownRig("iPi", "Hip", "Neck", "Head",
             "{}Thigh {}Shin {}Foot {}Toe {}Clavicle {}Shoulder {}Forearm {}Hand", ("L", "R"), lacks=_UPPER_ARMS),
    KnownRig("Cascadeur", "pelvis", "neck", "head",
             "thigh_{} calf_{} foot_{} toe_{} clavicle_{} arm_{} forearm_{} hand_{}", ("l", "r")),
    KnownRig("DeepMotion", "hips_JNT", "neck_JNT", "head_JNT",
             "{}_upleg_JNT {}_leg_JNT {}_foot_JNT {}_toebase_JNT {}_shoulder_JNT {}_arm_JNT {}_forearm_JNT {}_hand_JNT",
             ("l", "r")),
    KnownRig("MakeHuman", "root", "neck01", "head",
             "upperleg01.{} lowerleg01.{} foot.{} toe3-1.{}|toe2-1.{} clavicle.{} upperarm01.{} lowerarm01.{} wrist.{}",
             ("L", "R")),
    KnownRig("Kinect", "SpineBase|HipCenter|Hip_Center", "Neck|ShoulderCenter|Shoulder_Center", "Head",
             "Hip{} Knee{} Ankle{} Foot{} Clavicle{} Shoulder{} Elbow{} Wrist{}"),
    KnownRig("MediaPipe", "mid_hip|hip_center|pelvis|hips|0.5*left_hip+0.5*right_hip",
             "neck|mid_shoulder|shoulder_center|0.5*left_shoulder+0.5*right_shoulder",
             "head|nose|0.5*left_ear+0.5*right_ear",
             "{}_hip {}_knee {}_ankle {}_foot_index - {}_shoulder {}_elbow {}_wrist", ("left", "right"),
             marks="left_foot_index"),
    KnownRig("Advanced Skeleton", "Root_M", "Neck_M", "Head_M",
             "Hip_{} Knee_{} Ankle_{} Toes_{} Scapula_{} Shoulder_{} Elbow_{} Wrist_{}", ("L", "R")),
    KnownRig("Rigify", "spine", "spine.004", "spine.006",
             "thigh.{} shin.{} foot.{} toe.{} shoulder.{} upper_arm.{} forearm.{} hand.{}", ("L", "R")),
    KnownRig("MikuMikuDance", "下半身", "首", "頭",
             "{}足 {}ひざ {}足首 {}つま先 {}肩 {}腕 {}ひじ {}手首", ("左", "右")),
    KnownRig("common names", "hips|pelvis|hip|midhip|hipcenter|spinebase|^",
             "neck|neck01|neck1|necklower|lowerneck|neckbase|necktwist01|midshoulder|shouldercenter",
             "head|skull|nose|headend|neck/tip|neck1/tip|neck01/tip",
             "thigh|upleg|upperleg|uleg|thighbend|thigh01|upperleg01|upperleg1|legupper|femur|hip|hipjoint|leg "
             "shin|calf|lowerleg|lowleg|lleg|shin01|lowerleg01|lowerleg1|leglower|knee|kne|shank|tibia|crus|leg "
             "ankle|ank|foot toebase|toe|toes|ball|toe0|toe1|toe01|bigtoe|footindex|metatarsals "
             "collar|clavicle|clav|scapula|shoulder "
             "upperarm|uparm|uarm|shldr|shldrbend|upperarm01|upperarm1|armupper|humerus|arm|shoulder|sho "
             "forearm|lowerarm|lowarm|farm|larm|forearmbend|lowerarm01|lowerarm1|armlower|elbow|elb|radius|arm "
             "wrist|wri|hand", sides=None),
)


Affix = tuple[str, str]         # text before and after the names of all bones
Places = dict[str, dict[int, float]]  # weights of points, keyed by joint

BONES = "_bones"                # key under which a draft mapping lists the names of all bones
OPTIONAL = {*SPINE, *(f"{side}_{joint}" for side in SIDES for joint in ("foot", "collar"))}
MAX_LISTED = 4

_ANCHORS = ("hips", "pelvis", "hip", "head", "neck")
# Each joint must be above (closer to the root than) another, which is found first; a foot must be below the ankle.
_ABOVE = {"knee": "ankle", "hip": "knee", "elbow": "wrist", "shoulder": "elbow", "collar": "shoulder"}
_BENDING = ("hip", "knee", "shoulder", "elbow")
_PARTS = ("twist", "roll")  # words in the names of twist bones, which rotate part of another bone
_LIMB_ORDER = ("ankle", "knee", "hip", "foot", "wrist", "elbow", "shoulder", "collar")
_ORDER = (*(f"{side}_{joint}" for side in SIDES for joint in _LIMB_ORDER), "head", "neck", *SPINE, "pelvis")


class UnknownRig(ValueError):
    """Raised if no known rig fits. ``begun`` is a draft mapping; joints that were not found map to ""."""

    def __init__(self, message: str, begun: Mapping[str, object]):
        super().__init__(message)
        self.begun = dict(begun)

    def __reduce__(self) -> tuple:
        return UnknownRig, (str(self), self.begun)


class RigBones:
    """Index of the points of a hierarchy by name. Points are numbered: first joints, then end sites."""

    def __init__(self, bvh: Bvh):
        self.bvh = bvh
        self.tips = {joint: len(bvh.names) + number for number, joint in enumerate(bvh.end_sites)}
        self.exact: dict[str, list[int]] = defaultdict(list)
        self.plain: dict[str, list[int]] = defaultdict(list)
        for joint, name in enumerate(bvh.names):
            self.exact[name].append(joint)
            self.plain[_plain(name)].append(joint)
        below = [_plain(name) for name in bvh.names[1:]]
        prefix = commonprefix(below) if len(below) > 1 else ""
        around = {tuple(name.split(anchor, 1)) for anchor in _ANCHORS for name in self.plain if anchor in name}
        self.affixes = sorted({("", ""), (prefix, ""), *around}, key=lambda affix: (len("".join(affix)), affix))

    def find(self, name: str, affix: Affix | None = None) -> list[int]:
        """Return the indices of the points named ``name``, with ``affix`` or with any affix found in this hierarchy."""
        bone = name.removesuffix(TIP)
        joints = self.exact.get(bone, [])
        for before, after in (self.affixes if affix is None else (affix,)):
            joints = joints or self.plain.get(f"{before}{_plain(bone)}{after}", [])
        return [tip for joint in joints if (tip := self.tip(joint)) is not None] if name.endswith(TIP) else joints

    def only(self, name: str) -> int | None:
        """Return the index of the point ``name``, which may be PARENT/NAME. Returns None if it is missing.

        Raises ``ValueError`` if it is ambiguous.
        """
        found = self.find(name)
        parent, _, own = name.removesuffix(TIP).rpartition("/")
        if not found and parent:
            tip = TIP * name.endswith(TIP)
            bones = [joint for joint in self.find(own) if self.bvh.parents[joint] in self.find(parent)]
            found = [point for joint in bones if (point := self.tip(joint) if tip else joint) is not None]
        if len(found) > 1:
            raise ValueError(f"{len(found)} bones are named {own}; use PARENT/{own}")
        return found[0] if found else None

    def tip(self, joint: int) -> int | None:
        """Return the index of the end site of ``joint``, or None if there is none or if its length is zero."""
        return self.tips[joint] if joint in self.tips and np.any(self.bvh.end_sites[joint]) else None

    def above(self, joint: int) -> list[int]:
        """Return ``joint`` and its ancestors, up to the root."""
        path = [joint]
        while (joint := self.bvh.parents[joint]) >= 0:
            path.append(joint)
        return path

    def below(self, joint: int) -> list[int]:
        return [child for child, parent in enumerate(self.bvh.parents) if parent == joint]

    def name(self, point: int) -> str:
        """Return the name of a point as written in a mapping."""
        if point < len(self.bvh.names):
            return self.bvh.names[point]
        return self.bvh.names[list(self.bvh.end_sites)[point - len(self.bvh.names)]] + TIP


@cache
def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", re.split(r"[:|]", name)[-1].lower())


@dataclass
class Match:
    rig: KnownRig
    places: Places = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)

    @property
    def lacking(self) -> int:
        """Number of required joints that are missing or ambiguous."""
        return len(self.missing) + len(self.repeated)


def recognised(bones: RigBones) -> tuple[str, Places]:
    """Return the name of the first known rig whose required joints are all present, and the places of its joints.

    Raises ``UnknownRig`` if there is none.
    """
    tried = [(rig, affix) for rig in KNOWN_RIGS for affix in bones.affixes]
    for rig, affix in tried:
        match = _match(bones, rig, affix, at_once=True)
        if not match.lacking:
            return rig.name, match.places
    raise _unknown(bones, [_match(bones, rig, affix) for rig, affix in tried])


def _match(bones: RigBones, rig: KnownRig, affix: Affix, at_once: bool = False) -> Match:
    """Find the joints of ``rig``. ``at_once`` stops at the first missing joint."""
    match = Match(rig)
    besides = rig.lacks.replace("{}", rig.sides[0]).split("|") if rig.lacks else ()
    marked = bool(not rig.marks or bones.find(rig.marks, affix)) and not any(
        bones.find(name, affix) for name in besides)
    chosen: dict[str, int] = {}
    for joint in sorted(rig.places, key=_ORDER.index):
        found = [_resolved(bones, place, affix, match.places) for place in rig.places[joint]]
        fitting = [number for number, place in enumerate(found)
                   if isinstance(place, dict) and _hangs(bones, rig, joint, place, match.places)]
        if joint.startswith("right") and joint not in OPTIONAL:  # same words on both sides
            fitting = [number for number in fitting if number == chosen.get(joint.replace("right", "left"), number)]
        repeated = [name for name in found if isinstance(name, str)]
        if fitting and marked:
            match.places[joint], chosen[joint] = found[fitting[0]], fitting[0]
        elif joint not in OPTIONAL and repeated:
            match.repeated.append(repeated[0])
        elif joint not in OPTIONAL:
            misplaced = any(isinstance(place, dict) for place in found) and marked
            match.missing.append(" and ".join(rig.places[joint][0]) + " in its place" * misplaced)
        if at_once and match.lacking:
            break
    return match


def _resolved(bones: RigBones, place: Place, affix: Affix, places: Places) -> dict[int, float] | str | None:
    """Look up the bones that ``place`` names. Returns the weight of each point by its index.

    The result is an error message if several bones share a name, and None if a bone is missing.
    """
    weights = {}
    for name, weight in place.items():
        points = _above_hips(bones, places) if name == COMMON else bones.find(name, affix)
        if len(points) != 1:
            return f"{len(points)} bones are named {name}" if points else None
        weights[points[0]] = weight
    return weights


def _above_hips(bones: RigBones, places: Places) -> list[int]:
    left, right = (places.get(f"{side}_hip", {}) for side in SIDES)
    if len(left) != 1 or len(right) != 1:
        return []
    paths = [bones.above(*place)[1:] for place in (left, right)]
    return [joint for joint in paths[0] if joint in paths[1]][:1]


def _hangs(bones: RigBones, rig: KnownRig, joint: str, place: Mapping[int, float], places: Places) -> bool:
    """Return whether the bone of ``joint`` is above the next joint's bone or, for a foot, below the ankle's bone.

    Returns True if a place is missing or a weighted sum, as nothing can then be checked. If the rig was recognised by
    common words only, bones between the two must be twist bones or have zero length.
    """
    side, _, part = joint.partition("_")
    if part == "foot":
        upper, lower = places.get(f"{side}_ankle"), place
    else:
        upper, lower = place, places.get("left_hip" if joint == "pelvis" else f"{side}_{_ABOVE.get(part)}")
    if lower is None or upper is None or len(upper) > 1 or len(lower) > 1:
        return True
    (above,), (below,) = upper, lower
    path = bones.above(below)[1:]
    if above not in path:
        return False
    return rig.sides is not None or part not in _BENDING or all(
        _is_part(bones, joint, above) for joint in path[:path.index(above)])


def _is_part(bones: RigBones, joint: int, whole: int) -> bool:
    """Return whether a bone is a twist bone of another bone, judging by its name, or has zero length."""
    word, of = (re.sub(r"\d", "", _plain(bones.bvh.names[bone])) for bone in (joint, whole))
    return of in word or any(part in word for part in _PARTS) or not np.any(bones.bvh.offsets[joint])


def _unknown(bones: RigBones, matches: list[Match]) -> UnknownRig:
    nearest = min(matches, key=lambda match: (match.rig.sides is None, match.lacking, match.rig.marks))
    general = min((match for match in matches if match.rig.sides is None), key=lambda match: match.lacking)
    here = ", ".join(bones.bvh.names[:MAX_LISTED])
    reasons = list(nearest.repeated)
    if nearest.missing:
        more = ", ..." * (len(nearest.missing) > MAX_LISTED)
        reasons.append(f"there is no {', '.join(nearest.missing[:MAX_LISTED])}{more}")
    used = {point for place in nearest.places.values() for point in place}
    places = {joint: place for joint, place in general.places.items() if not used & place.keys()} | nearest.places
    begun = {joint: _written(bones, places.get(joint)) for joint in T2M.joint_names
             if joint in places or joint not in OPTIONAL}
    return UnknownRig(f"unknown joints ({here}, ...): the closest rig is {nearest.rig.name}, but "
                      f"{' and '.join(reasons)}; use a --mapping", begun | {BONES: list(bones.bvh.names)})


def _written(bones: RigBones, place: Mapping[int, float] | None) -> str | dict[str, float]:
    """Return a place as written in a mapping file: a bone name, weights keyed by bone name, or "" for None."""
    if place is None:
        return ""
    weights = {bones.name(point): weight for point, weight in place.items()}
    return weights if len(weights) > 1 else next(iter(weights))
