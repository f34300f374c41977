"""The 22 joints are found in other skeletons, and motions are retargeted to other bodies."""
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from motion.body import find_stance
from motion.bvh import Bvh, parse_bvh, read_bvh
from motion.bvh_fit import T2M_RIG, joints_to_bvh
from motion.recording import guess_unit, resampled, t_pose_ends
from motion.rig_search import UnknownRig
from motion.skeleton import T2M
from motion.source_rig import place_joints
from prepare.retarget import Character, SourceRecording, Transfer, retarget
from tests import figures
from tests.figures import bowing, sitting, squatting, standing, walking
from tests.rigs import as_rig, inserted, leaf, moving, placed, renamed, without
from tests.toy import BVH_SAMPLES, needs

JOINT = {name: number for number, name in enumerate(T2M.joint_names)}
LIMBS = [number for name, number in JOINT.items() if any(
    name.endswith(part) for part in ("hip", "knee", "ankle", "shoulder", "elbow", "wrist"))]
LEFT = ("Left", "Right")

def read_names() -> dict[str, tuple[str, ...]]:
    """Read the bone names of programs and data sets: rig, trunk, leg, arm, and words for the sides."""
    lines = Path(__file__).with_name("rig_names.txt").read_text(encoding="utf-8").splitlines()
    rows = (line.split(" | ") for line in lines if not line.startswith("#"))
    return {kind: (*names, tuple(sides.split())) for kind, *names, sides in rows}


NAMES = read_names()


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
    lambda bvh: renamed(bvh, {name: name.upper() for name in bvh.names}),
    lambda bvh: renamed(bvh, {name: f"{name}_bind" for name in bvh.names}),
    lambda bvh: renamed(bvh, {name: name.replace("Left", "left ").replace("Right", "right ") for name in bvh.names}),
    lambda bvh: renamed(bvh, {name: f"x_{name}" for name in bvh.names if name != "Hips"} | {"Hips": "x_Hips"}),
    lambda bvh: inserted(inserted(bvh, "LeftUpLegTwist", "LeftLeg"), "LeftLegTwist", "LeftFoot"),
    lambda bvh: leaf(leaf(bvh, "LeftHandThumb1", "LeftHand", (0.05, 0, 0.03)), "weapon", "RightHand", (0, 0.3, 0)),
    lambda bvh: leaf(bvh, "LeftHandIK", "Hips", (0, 1, 0)),
    lambda bvh: leaf(leaf(bvh, "LeftHeel", "LeftFoot", (0, -0.05, -0.05)), "LeftToe2", "LeftFoot", (0, 0, 0.1)),
], ids=["mixamorig1", "two namespaces", "upper case", "suffix", "spaces", "short prefix", "twist bones", "fingers",
        "IK bones", "heel"])
def test_names_may_be_decorated_and_bones_added(change) -> None:
    bvh = change(mixamo())
    assert place_joints(bvh).rig == "Mixamo/LAFAN1"
    np.testing.assert_allclose(placed(bvh), moving(4)[1], atol=1e-4)


@pytest.mark.parametrize("spelling", ["Thigh.{}", "thigh_{}", "{}_Thigh", "{} thigh", "{}Thigh", "THIGH-{}"])
@pytest.mark.parametrize("sides", [("L", "R"), ("l", "r"), LEFT, ("left", "right")])
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


def test_bones_of_one_name_are_distinguished_by_their_parents() -> None:
    mapping = {T2M.joint_names[joint]: WAVE.names[number] for number, joint in enumerate(T2M_RIG.order)}
    twice, bvh = mapping | {"left_shoulder": "LeftShoulder/LeftArm"}, renamed(WAVE, {"RightArm": "LeftArm"})
    found = place_joints(bvh, twice | {"right_shoulder": "RightShoulder/LeftArm"})
    np.testing.assert_allclose(found.weights, place_joints(WAVE, mapping).weights)
    with pytest.raises(ValueError, match="2 bones are named LeftArm; use PARENT/LeftArm"):
        place_joints(bvh, twice | {"right_shoulder": "LeftArm"})


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


FPS = 20
TO_Z_UP = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
MOTIONS = {"walk": walking(40, turn=2.0), "facing back": walking(40, facing=np.pi), "bow": bowing(),
           "sit": sitting(), "squat": squatting(), "stand": standing(20)}


def recording(bvh: Bvh) -> SourceRecording:
    rest = np.zeros((len(bvh.names), 3))
    for joint, parent in enumerate(bvh.parents):
        rest[joint] = bvh.offsets[joint] + (rest[parent] if parent >= 0 else 0)
    places, turns = bvh.forward_kinematics()
    return SourceRecording(dict(zip(bvh.names, rest @ TO_Z_UP.T, strict=True)),
                     dict(zip(bvh.names, (places @ TO_Z_UP.T).swapaxes(0, 1), strict=True)),
                     dict(zip(bvh.names, (TO_Z_UP @ turns @ TO_Z_UP.T).swapaxes(0, 1), strict=True)), FPS)


BVHS = {name: joints_to_bvh(joints, T2M, FPS) for name, joints in MOTIONS.items()}
BONES, PARENTS = BVHS["walk"].names, BVHS["walk"].parents
PARENT = {name: BONES[parent] for name, parent in zip(BONES, PARENTS, strict=True) if parent >= 0} | {
    "LeftToeEnd": "LeftToe", "RightToeEnd": "RightToe"}
SOURCES = {name: recording(bvh) for name, bvh in BVHS.items()}


def about(axis: int, degrees: float) -> np.ndarray:
    return Rotation.from_euler("xyz"[axis], degrees, degrees=True).as_matrix()


def somebody(source: SourceRecording, arms_down: float = 0.0, facing: float = 0.0,
             longer: Mapping[str, float] | None = None) -> Character:
    """Return a character with the body of the source.

    At rest, its arms are lowered and its body is turned, both in degrees. ``longer`` has length factors of bones.
    """
    rest = {"Hips": np.zeros(3)}
    for bone, parent in PARENT.items():
        offset = np.array([0, -0.08, 0]) if bone.endswith("End") else source.rest[bone] - source.rest[parent]
        if parent.endswith(("Arm", "Hand")):
            offset = about(1, arms_down if bone.startswith("Left") else -arms_down) @ offset
        rest[bone] = rest[parent] + offset * (longer or {}).get(bone.removeprefix("Left").removeprefix("Right"), 1)
    floor = min(place[2] for place in rest.values()) - 0.02
    return Character({bone: about(2, facing) @ place for bone, place in rest.items()}, floor)


def posed(character: Character, transfer: Transfer) -> dict[str, np.ndarray]:
    """Return the bone positions (T, 3) of a retargeted character. Bones without a rotation follow their parent."""
    places, turns = {"Hips": transfer.hips}, dict(transfer.turns)
    for bone, parent in PARENT.items():
        if bone in character.rest:
            places[bone] = places[parent] + turns[parent] @ (character.rest[bone] - character.rest[parent])
            turns.setdefault(bone, turns[parent])
    return places


@pytest.mark.parametrize("name", MOTIONS)
def test_the_same_body_does_the_same_whatever_its_rest_pose_and_ankles_travel_by_the_length_of_legs(name: str) -> None:
    source = SOURCES[name]
    expected, *found = (posed(body, retarget(source, body)) for body in (
        somebody(source), somebody(source, 50), somebody(source, facing=180), somebody(source, 30, -90)))
    lift = expected["Hips"][0] - source.places["Hips"][0]
    np.testing.assert_allclose(lift[:2], 0, atol=1e-6)
    for bone in set(BONES) - {"LeftToe", "RightToe"}:
        np.testing.assert_allclose(expected[bone] - lift, source.places[bone], atol=1e-4)
    for bone in set(BONES) - {"LeftHand", "RightHand"}:
        np.testing.assert_allclose([places[bone] for places in found], [expected[bone]] * 3, atol=1e-6)
    character = somebody(source, longer={"Leg": 1.3, "Foot": 1.1, "UpLeg": 1.2, "Spine1": 0.8})
    transfer = retarget(source, character)
    assert transfer.scale == pytest.approx(1.2, abs=0.01)
    places = posed(character, transfer)
    for bone in ("LeftFoot", "RightFoot"):
        ours, theirs = source.places[bone], places[bone]
        np.testing.assert_allclose(theirs - theirs[0], transfer.scale * (ours - ours[0]), atol=0.01)


@pytest.mark.parametrize("pitch", [-10.0, 0.0, 25.0])
def test_a_standing_foot_is_as_level_and_as_high_as_at_rest(pitch: float) -> None:
    joints = MOTIONS["stand"].copy()
    for ankle, toe in ((7, 10), (8, 11)):
        length = np.linalg.norm(joints[0, toe] - joints[0, ankle])
        joints[:, toe] = joints[:, ankle] + about(0, pitch) @ [0, 0, length]
    source = recording(joints_to_bvh(joints, T2M, FPS))
    character = somebody(source)
    places = posed(character, retarget(source, character))
    for bone in ("LeftFoot", "LeftToe", "RightFoot", "RightToe", "LeftToeEnd"):
        np.testing.assert_allclose(places[bone][:, 2], character.rest[bone][2] - character.floor, atol=0.01)


@pytest.mark.parametrize(("whose", "complaint"), [("motion", "the motion has no bone LeftLeg"),
                                                  ("character", "the character has no bone LeftLeg")])
def test_a_bone_that_is_needed_and_missing_is_named(whose: str, complaint: str) -> None:
    source = SOURCES["walk"]
    character = somebody(source)
    fewer = {bone: place for bone, place in source.rest.items() if bone != "LeftLeg"}
    if whose == "motion":
        source = SourceRecording(fewer, source.places, source.turns, FPS)
    else:
        character = Character(fewer, character.floor)
    with pytest.raises(ValueError, match=complaint):
        retarget(source, character)
