"""The 22 joints are found in other skeletons, by the bone names of common programs or a mapping."""
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from motion.body import find_stance
from motion.bvh import Bvh, parse_bvh, read_bvh
from motion.bvh_fit import T2M_RIG, joints_to_bvh
from motion.recording import guess_unit, resampled, t_pose_ends
from motion.rig_search import UnknownRig
from motion.skeleton import T2M
from motion.source_rig import place_joints
from tests import figures
from tests.rigs import as_rig, inserted, leaf, moving, placed, renamed, without
from tests.toy import BVH_SAMPLES, needs

JOINT = {name: number for number, name in enumerate(T2M.joint_names)}
LIMBS = [number for name, number in JOINT.items() if any(
    name.endswith(part) for part in ("hip", "knee", "ankle", "shoulder", "elbow", "wrist"))]
LEFT = ("Left", "Right")
SMALL = ("left", "right")
CAPITAL = ("L", "R")
LETTER = ("l", "r")

# Bone names of programs and data sets: rig, trunk from hips to head, leg, arm, words for the sides.
# * marks an additional bone.
NAMES = {
    "Mixamo": ("Mixamo/LAFAN1", "Hips Spine Spine1 Spine2 Neck Head", "{}UpLeg {}Leg {}Foot {}ToeBase",
               "{}Shoulder {}Arm {}ForeArm {}Hand", LEFT),
    "Bandai-Namco": ("Bandai-Namco", "Hips Spine Chest Chest2 Neck Head", "UpperLeg_{} LowerLeg_{} Foot_{} Toes_{}",
                     "Shoulder_{} UpperArm_{} LowerArm_{} Hand_{}", CAPITAL),
    "CMU in Daz names": ("CMU/Daz", "hip abdomen chest chest2 neck head", "{}Thigh {}Shin {}Foot {}Toe",
                         "{}Collar {}Shldr {}ForeArm {}Hand", LETTER),
    "Xsens BVH": ("Xsens BVH", "Hips Chest Chest2 Chest3 *Chest4 Neck Head", "{}Hip {}Knee {}Ankle {}Toe",
                  "{}Collar {}Shoulder {}Elbow {}Wrist", LEFT),
    "Xsens MVN": ("Xsens MVN", "Pelvis L5 L3 *T12 T8 Neck Head", "{}UpperLeg {}LowerLeg {}Foot {}Toe",
                  "{}Shoulder {}UpperArm {}ForeArm {}Hand", LEFT),
    "Rokoko": ("Rokoko", "Hips Spine1 Spine2 Spine3 *Spine4 Neck Head", "{}Thigh {}Shin {}Foot {}Toe",
               "{}Shoulder {}Arm {}ForeArm {}Hand", LEFT),
    "SMPL": ("SMPL, short", "Pelvis Spine1 Spine2 Spine3 Neck Head", "{}_Hip {}_Knee {}_Ankle {}_Foot",
             "{}_Collar {}_Shoulder {}_Elbow {}_Wrist", CAPITAL),
    "SMPL-X": ("SMPL", "pelvis spine1 spine2 spine3 neck head", "{}_hip {}_knee {}_ankle {}_foot",
               "{}_collar {}_shoulder {}_elbow {}_wrist", SMALL),
    "Unreal 5": ("Unreal", "pelvis spine_01 spine_02 spine_03 *spine_04 *spine_05 neck_01 *neck_02 head",
                 "thigh_{} calf_{} foot_{} ball_{}", "clavicle_{} upperarm_{} lowerarm_{} hand_{}", LETTER),
    "3ds Max Biped": ("Biped", "Bip001_Pelvis Bip001_Spine Bip001_Spine1 Bip001_Spine2 Bip001_Neck Bip001_Head",
                      "Bip001_{}_Thigh Bip001_{}_Calf Bip001_{}_Foot Bip001_{}_Toe0",
                      "Bip001_{}_Clavicle Bip001_{}_UpperArm Bip001_{}_Forearm Bip001_{}_Hand", CAPITAL),
    "VRM, VRoid Studio": ("VRM", "J_Bip_C_Hips J_Bip_C_Spine J_Bip_C_Chest J_Bip_C_UpperChest J_Bip_C_Neck "
                          "J_Bip_C_Head",
                          "J_Bip_{}_UpperLeg J_Bip_{}_LowerLeg J_Bip_{}_Foot J_Bip_{}_ToeBase",
                          "J_Bip_{}_Shoulder J_Bip_{}_UpperArm J_Bip_{}_LowerArm J_Bip_{}_Hand", CAPITAL),
    "Unity humanoid": ("Unity humanoid", "Hips Spine Chest UpperChest Neck Head",
                       "{}UpperLeg {}LowerLeg {}Foot {}Toes", "{}Shoulder {}UpperArm {}LowerArm {}Hand", LEFT),
    "BioVision": ("BioVision", "Hips Chest Neck Head", "{}UpLeg {}LowLeg {}Foot", "{}Collar {}UpArm {}LowArm {}Hand",
                  LEFT),
    "Theia": ("common names", "pelvis thorax neck head", "{}_thigh {}_shank {}_foot {}_toes",
              "{}_clavicle {}_uarm {}_larm {}_hand", LETTER),
    "Poser": ("Poser", "Hip Abdomen Chest Neck Head", "{}_Thigh {}_Shin {}_Foot {}_Toe",
              "{}_Collar {}_Shoulder {}_Forearm {}_Hand", LEFT),
    "H36M, 17 joints": ("H36M", "Hip Spine Thorax Neck", "{}Hip {}Knee {}Ankle", "{}Shoulder {}Elbow {}Wrist", LEFT),
    "H36M, 17 short names": ("H36M, short", "Hip Spine Thorax Neck/Nose", "{}Hip {}Knee {}Foot",
                             "{}Shoulder {}Elbow {}Wrist", CAPITAL),
    "MakeHuman default": ("MakeHuman", "root spine05 spine04 spine03 *spine02 *spine01 neck01 *neck02 *neck03 head",
                          "*pelvis.{} upperleg01.{} *upperleg02.{} lowerleg01.{} *lowerleg02.{} foot.{} toe3-1.{}",
                          "clavicle.{} *shoulder01.{} upperarm01.{} *upperarm02.{} lowerarm01.{} *lowerarm02.{} "
                          "wrist.{}", CAPITAL),
    "OptiTrack Motive": ("OptiTrack", "Hip Ab Chest Neck Head", "{}Thigh {}Shin {}Foot {}Toe",
                         "{}Shoulder {}UArm {}FArm {}Hand", CAPITAL),
    "iPi": ("iPi", "Hip LowerSpine MiddleSpine Chest Neck Head", "{}Thigh {}Shin {}Foot {}Toe",
            "{}Clavicle {}Shoulder {}Forearm {}Hand", CAPITAL),
    "Cascadeur": ("Cascadeur", "pelvis stomach chest neck head", "thigh_{} calf_{} foot_{} toe_{}",
                  "clavicle_{} arm_{} forearm_{} hand_{}", LETTER),
    "DeepMotion": ("DeepMotion", "hips_JNT spine_JNT spine1_JNT spine2_JNT neck_JNT head_JNT",
                   "{}_upleg_JNT {}_leg_JNT {}_foot_JNT {}_toebase_JNT",
                   "{}_shoulder_JNT {}_arm_JNT {}_forearm_JNT {}_hand_JNT", LETTER),
    "MediaPipe, with hips and neck": ("MediaPipe", "hips neck nose", "{}_hip {}_knee {}_ankle {}_foot_index",
                                      "{}_shoulder {}_elbow {}_wrist", SMALL),
    "Kinect 2": ("Kinect", "SpineBase SpineMid SpineShoulder Neck Head", "Hip{} Knee{} Ankle{} Foot{}",
                 "Shoulder{} Elbow{} Wrist{}", LEFT),
    "Advanced Skeleton": ("Advanced Skeleton", "Root_M Spine1_M Spine2_M Chest_M Neck_M Head_M",
                          "Hip_{} Knee_{} Ankle_{} Toes_{}", "Scapula_{} Shoulder_{} Elbow_{} Wrist_{}", CAPITAL),
    "Rigify": ("Rigify", "DEF-spine DEF-spine.001 DEF-spine.002 DEF-spine.003 DEF-spine.004 *DEF-spine.005 "
               "DEF-spine.006",
               "DEF-thigh.{} *DEF-thigh.{}.001 DEF-shin.{} *DEF-shin.{}.001 DEF-foot.{} DEF-toe.{}",
               "DEF-shoulder.{} DEF-upper_arm.{} DEF-forearm.{} DEF-hand.{}", CAPITAL),
    "MikuMikuDance": ("MikuMikuDance", "下半身 上半身 上半身2 首 頭", "{}足 {}ひざ {}足首 {}つま先",
                      "{}肩 {}腕 {}ひじ {}手首", ("左", "右")),
    "Character Creator": ("common names", "CC_Base_Hip CC_Base_Waist CC_Base_Spine01 CC_Base_Spine02 "
                          "CC_Base_NeckTwist01 *CC_Base_NeckTwist02 CC_Base_Head",
                          "CC_Base_{}_Thigh CC_Base_{}_Calf CC_Base_{}_Foot CC_Base_{}_ToeBase",
                          "CC_Base_{}_Clavicle CC_Base_{}_Upperarm CC_Base_{}_Forearm CC_Base_{}_Hand", CAPITAL),
    "Daz Genesis 8": ("common names", "hip abdomenLower abdomenUpper chestLower *chestUpper neckLower *neckUpper head",
                      "{}ThighBend *{}ThighTwist {}Shin {}Foot *{}Metatarsals {}Toe",
                      "{}Collar {}ShldrBend *{}ShldrTwist {}ForearmBend *{}ForearmTwist {}Hand", LETTER),
    "Second Life": ("common names", "mPelvis mTorso mChest mNeck mHead", "mHip{} mKnee{} mAnkle{} mFoot{}",
                    "mCollar{} mShoulder{} mElbow{} mWrist{}", LEFT),
    "OpenPose": ("common names", "MidHip Neck Nose", "{}Hip {}Knee {}Ankle {}BigToe", "{}Shoulder {}Elbow {}Wrist",
                 CAPITAL),
}


@pytest.mark.parametrize("kind", NAMES)
def test_a_rig_is_recognised_by_the_names_of_its_documentation(kind: str) -> None:
    rig, trunk, leg, arm, sides = NAMES[kind]
    ours, joints = moving(4)
    bvh = parse_bvh(as_rig(ours, trunk, leg, arm, sides).text())
    assert place_joints(bvh).rig == rig
    assert place_joints(renamed(bvh, {name: f"Anna:{name}" for name in bvh.names})).rig == rig
    compared = [*LIMBS, JOINT["head"], JOINT["neck"]] + [0] * ("Daz names" not in kind)
    np.testing.assert_allclose(placed(bvh)[:, compared], joints[:, compared], atol=1e-4)
    toes = placed(bvh)[:, [JOINT["left_foot"], JOINT["right_foot"]], 2]
    assert (toes > placed(bvh)[:, [JOINT["left_ankle"], JOINT["right_ankle"]], 2] + 0.05).all()


def mixamo() -> Bvh:
    return as_rig(moving(4)[0], *NAMES["Mixamo"][1:])


@pytest.mark.parametrize("change", [
    lambda bvh: renamed(bvh, {name: f"mixamorig1:{name}" for name in bvh.names}),
    lambda bvh: renamed(bvh, {name: f"Armature|rig:{name}" for name in bvh.names}),
    lambda bvh: renamed(bvh, {name: f"Character1_{name}" for name in bvh.names}),
    lambda bvh: renamed(bvh, {name: name.upper() for name in bvh.names}),
    lambda bvh: renamed(bvh, {name: f"{name}_bind" for name in bvh.names}),
    lambda bvh: renamed(bvh, {name: name.replace("Left", "left ").replace("Right", "right ") for name in bvh.names}),
    lambda bvh: renamed(bvh, {name: f"x_{name}" for name in bvh.names if name != "Hips"} | {"Hips": "x_Hips"}),
    lambda bvh: inserted(bvh, "LeftForeArmRoll", "LeftHand"),
    lambda bvh: inserted(inserted(bvh, "LeftUpLegTwist", "LeftLeg"), "LeftLegTwist", "LeftFoot"),
    lambda bvh: leaf(leaf(bvh, "LeftHandThumb1", "LeftHand", (0.05, 0, 0.03)), "weapon", "RightHand", (0, 0.3, 0)),
    lambda bvh: leaf(bvh, "LeftHandIK", "Hips", (0, 1, 0)),
    lambda bvh: leaf(leaf(bvh, "LeftHeel", "LeftFoot", (0, -0.05, -0.05)), "LeftToe2", "LeftFoot", (0, 0, 0.1)),
], ids=["mixamorig1", "two namespaces", "prefix", "upper case", "suffix", "spaces", "short prefix", "roll bone",
        "twist bones", "fingers", "IK bones", "heel"])
def test_names_may_be_decorated_and_bones_added(change) -> None:
    bvh = change(mixamo())
    assert place_joints(bvh).rig == "Mixamo/LAFAN1"
    np.testing.assert_allclose(placed(bvh), moving(4)[1], atol=1e-4)


@pytest.mark.parametrize("spelling", ["Thigh.{}", "thigh_{}", "{}_Thigh", "{} thigh", "{}Thigh", "THIGH-{}"])
@pytest.mark.parametrize("sides", [CAPITAL, LETTER, LEFT, SMALL])
def test_sides_may_be_spelled_in_any_usual_way(spelling: str, sides: tuple[str, str]) -> None:
    ours, joints = moving(4)
    words = ("Thigh Shin Foot Toe", "Clavicle UpArm Elbow Wrist")
    leg, arm = (" ".join(spelling.replace("Thigh", word).replace("thigh", word).replace("THIGH", word).replace(" ", "_")
                         for word in chain.split()) for chain in words)
    bvh = as_rig(ours, "Pelvis Spine Chest Neck Head", leg, arm, sides)
    bvh = renamed(bvh, {name: name.replace("_", " ") for name in bvh.names})
    np.testing.assert_allclose(placed(bvh)[:, LIMBS], joints[:, LIMBS], atol=1e-4)


def test_a_root_on_the_floor_is_not_the_pelvis() -> None:
    ours, joints = moving(4)
    bvh = inserted(mixamo(), "Reference", "Hips", 0.0)
    bvh = replace(bvh, channels=((), *bvh.channels[1:]))
    np.testing.assert_allclose(placed(bvh)[:, 0], joints[:, 0], atol=1e-4)


@pytest.mark.parametrize("names", [
    {"LeftArm": "Oberarm li", "RightArm": "Oberarm re"}, {"RightArm": "LeftArm"}, {"RightArm": "Oberarm re"},
    {"LeftLeg": "Bein li", "RightLeg": "Bein re"}, {"RightUpLeg": "Right Oberschenkel"}])
def test_a_bone_of_another_name_is_not_passed_over(names: dict[str, str]) -> None:
    with pytest.raises(UnknownRig):
        place_joints(renamed(mixamo(), names))


def test_a_mapping_tells_bones_of_one_name_by_their_parents() -> None:
    bvh = renamed(mixamo(), {"RightArm": "LeftArm"})
    mapping = {joint: {f"{side}{bone}": 1.0} for side in LEFT for joint, bone in (
        (f"{side.lower()}_hip", "UpLeg"), (f"{side.lower()}_knee", "Leg"), (f"{side.lower()}_ankle", "Foot"),
        (f"{side.lower()}_elbow", "ForeArm"), (f"{side.lower()}_wrist", "Hand"))}
    mapping |= {"pelvis": "Hips", "neck": "Neck", "head": "Head", "left_shoulder": "LeftShoulder/LeftArm"}
    with pytest.raises(ValueError, match="2 bones are named LeftArm; use PARENT/LeftArm"):
        place_joints(bvh, mapping | {"right_shoulder": "LeftArm"})
    found = place_joints(bvh, mapping | {"right_shoulder": "RightShoulder/LeftArm"})
    joints = found.posed(bvh, bvh.local_positions(), bvh.local_rotations())
    np.testing.assert_allclose(joints[:, LIMBS], moving(4)[1][:, LIMBS], atol=1e-4)


@pytest.mark.parametrize("tip", [None, np.zeros(3)])
@pytest.mark.parametrize("turn", [np.eye(3), np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])])
def test_a_foot_without_toes_points_forward_at_a_right_angle_to_the_shin_at_rest(tip, turn: np.ndarray) -> None:
    bvh = mixamo()
    for side in ("Left", "Right"):
        bvh = without(bvh, f"{side}ToeBase")
        if tip is not None:
            bvh = replace(bvh, end_sites=bvh.end_sites | {bvh.names.index(f"{side}Foot"): tip})
    bvh = replace(bvh, offsets=bvh.offsets @ turn.T, values=np.zeros_like(bvh.values[:2]))
    placement = place_joints(bvh)
    assert placement.has_made_toes
    joints = placed(bvh)[0]
    for side in ("left", "right"):
        forward = (joints[JOINT[f"{side}_foot"]] - joints[JOINT[f"{side}_ankle"]]) @ turn
        np.testing.assert_allclose(forward[:2], 0, atol=0.001)
        assert 0.1 < forward[2] < 0.2


WAVE = joints_to_bvh(figures.waving("left", 60), T2M, 20)


def test_spine_joints_that_a_rig_has_not_are_placed_on_the_bone() -> None:
    pose = replace(WAVE, values=np.zeros((5, WAVE.values.shape[1])))
    two, one = without(pose, "Spine1"), without(without(pose, "Spine1"), "Spine")
    none = without(one, "Spine2")
    for bvh, kept in ((two, ("spine1", "spine3")), (one, ("spine3",)), (none, ())):
        joints = placed(bvh)
        for name in (*kept, "pelvis", "neck", "left_wrist", "right_foot"):
            np.testing.assert_allclose(joints[:, JOINT[name]], placed(pose)[:, JOINT[name]], atol=1e-6)
        spine = joints[0, [JOINT[name] for name in ("pelvis", "spine1", "spine2", "spine3", "neck")]]
        along = (spine - spine[0]) @ (spine[-1] - spine[0])
        assert (np.diff(along) > 0).all()


def test_a_mapping_names_bones_weights_and_tips() -> None:
    strange = renamed(WAVE, {name: f"bone{number}" for number, name in enumerate(WAVE.names)})
    with pytest.raises(ValueError, match="unknown joints"):
        place_joints(strange)
    mapping = {T2M.joint_names[joint]: f"bone{number}" for number, joint in enumerate(T2M_RIG.order)}
    place = place_joints(strange, mapping)
    assert place.rig == "mapping"
    between = place_joints(strange, mapping | {"head": {mapping["neck"]: 0.25, mapping["head"]: 0.75}})
    np.testing.assert_allclose(between.weights[JOINT["head"]],
                               0.25 * place.weights[JOINT["neck"]] + 0.75 * place.weights[JOINT["head"]])
    assert place_joints(WAVE, mapping).rig == "Mixamo/LAFAN1"
    with pytest.raises(ValueError, match="bone99 for head is not in the file"):
        place_joints(strange, mapping | {"head": "bone99"})
    with pytest.raises(ValueError, match="left_ankle .* is not below left_knee"):
        place_joints(strange, mapping | {"left_ankle": mapping["right_ankle"]})


def test_bones_that_are_named_twice_or_cannot_turn_are_refused() -> None:
    with pytest.raises(ValueError, match="2 bones are named"):
        place_joints(renamed(WAVE, {"Spine": "Neck"}))
    np.testing.assert_allclose(placed(renamed(WAVE, {"Spine": "Hips"})), placed(WAVE))
    stiff = list(WAVE.channels)
    stiff[WAVE.names.index("LeftArm")] = ()
    with pytest.raises(ValueError, match="LeftArm has no rotation channels"):
        place_joints(replace(WAVE, channels=tuple(stiff)))
    with pytest.raises(ValueError, match="position channels"):
        place_joints(replace(WAVE, channels=(WAVE.channels[0][3:], *WAVE.channels[1:])))


@needs(BVH_SAMPLES)
@pytest.mark.parametrize("path", sorted(BVH_SAMPLES.glob("*.bvh")), ids=lambda path: path.stem)
def test_sample_files_give_their_reference_joints(path: Path) -> None:
    bvh, reference = read_bvh(path), np.load(path.with_suffix(".npz"))
    placement = place_joints(bvh)
    first, end = t_pose_ends(placed(bvh), bvh.frame_time)
    assert (first, end) == (reference["first_frame"], len(bvh.values))
    joints = resampled(bvh, placement, first, end)
    assert (guess_unit(joints), find_stance(joints).up) == ("cm", "y")
    np.testing.assert_allclose(0.01 * joints, reference["joints22_20fps"], atol=1e-5)


@pytest.mark.parametrize(("factor", "unit"), [(1, "m"), (100, "cm"), (1000, "mm"), (39.37, "inch"), (17.717, "cmu"),
                                              (11, "cmu"), (25.8, "cmu"), (26.4, "inch")])
def test_units_are_found_by_the_length_of_legs(factor: float, unit: str) -> None:
    assert guess_unit(factor * figures.walking(40)) == unit
