"""Bone names of common rigs: a table with one row per naming convention.

A place is a bone, ``BONE/tip`` (its end site) or a weighted sum such as ``0.6*A+0.4*B``. ``|`` separates alternatives;
the first match is used. ``^`` is the nearest common ancestor of both hips, and ``{}`` stands for the side. Case,
punctuation, and prefixes or suffixes shared by all names are ignored.
"""
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

Place = Mapping[str, float]  # weights of bones, which sum to 1

TIP = "/tip"
SPINE = ("spine1", "spine2", "spine3")
LIMBS = ("hip", "knee", "ankle", "foot", "collar", "shoulder", "elbow", "wrist")
SIDES = ("left", "right")
NONE = "-"    # for a bone that a rig lacks
COMMON = "^"


@dataclass(frozen=True)
class KnownRig:
    """Bone names for each joint of a rig."""

    name: str
    pelvis: str
    neck: str
    head: str
    limbs: str                                          # of hip, knee, ankle, foot, collar, shoulder, elbow, wrist
    sides: tuple[str, str] | None = ("Left", "Right")   # None: any usual word for the side, at either end of a name
    spine: str = ""                                     # of spine1, spine2, spine3; else found between hips and neck
    marks: str = ""                                     # a bone that distinguishes it from rigs with the same names
    lacks: str = ""                                     # left bones that only other rigs with the same names have

    @cached_property
    def places(self) -> dict[str, tuple[Place, ...]]:
        """Alternative places of every joint that the rig names."""
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
    return tuple(_place(place) for place in text.split("|"))


def _place(text: str) -> Place:
    """Weights of ``A`` or ``0.4*A+0.6*B``."""
    parts = [part.rpartition("*") for part in text.split("+")]
    return {name: float(weight or 1) for weight, _, name in parts}


_UPPER_ARMS = "{}Arm|{}UpperArm|{}UpArm"  # in rigs with these bones, the shoulder is a collar
_UPPER = "{}UpLeg|{}UpperLeg|{}Thigh|" + _UPPER_ARMS
_CLAVICLES = "{}Collar|{}Clavicle"

# The first matching row is used. The last row has the common words for bones.
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
    KnownRig("H36M", "Hip|Hips|Pelvis", "Thorax", "Neck/Nose|Nose|Neck|Head",
             "{}Hip {}Knee {}Ankle|{}Foot {}Toe|{}ToeBase - {}Shoulder {}Elbow {}Wrist",
             lacks=f"{_CLAVICLES}|{_UPPER}"),
    KnownRig("H36M, short", "Hip|Hips|Pelvis", "Thorax", "Neck/Nose|Nose|Neck|Head",
             "{}Hip {}Knee {}Ankle|{}Foot {}Toe|{}ToeBase - {}Shoulder {}Elbow {}Wrist", ("L", "R"),
             lacks=f"{_CLAVICLES}|{_UPPER}"),
    KnownRig("Xsens BVH", "Hips|Hip", "Neck", "Head",
             "{}Hip {}Knee {}Ankle {}Toe {}Collar {}Shoulder {}Elbow {}Wrist", lacks=_UPPER),
    KnownRig("Xsens MVN", "Pelvis", "Neck", "Head",
             "{}UpperLeg {}LowerLeg {}Foot {}Toe {}Shoulder {}UpperArm {}ForeArm {}Hand"),
    KnownRig("Rokoko", "Hips|Hip", "Neck", "Head",
             "{}Thigh {}Shin {}Foot {}Toe|{}ToeBase {}Shoulder {}Arm {}ForeArm {}Hand"),
    KnownRig("SMPL", "Pelvis", "Neck", "Head",
             "{}_Hip {}_Knee {}_Ankle {}_Foot|{}_Toe {}_Collar|{}_Thorax {}_Shoulder {}_Elbow {}_Wrist",
             lacks=_UPPER),
    KnownRig("SMPL, short", "Pelvis", "Neck", "Head",
             "{}_Hip {}_Knee {}_Ankle {}_Foot|{}_Toe {}_Collar|{}_Thorax {}_Shoulder {}_Elbow {}_Wrist", ("L", "R"),
             lacks=_UPPER),
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
