"""Retargeting to another skeleton, without Blender."""
from collections.abc import Mapping

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from motion.bvh import Bvh
from motion.bvh_fit import joints_to_bvh
from motion.skeleton import T2M
from prepare.retarget import Character, SourceRecording, Transfer, retarget
from tests.figures import bowing, sitting, squatting, standing, walking

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
NAMES, PARENTS = BVHS["walk"].names, BVHS["walk"].parents
PARENT = {name: NAMES[parent] for name, parent in zip(NAMES, PARENTS, strict=True) if parent >= 0}
SOURCES = {name: recording(bvh) for name, bvh in BVHS.items()}
EVERY_MOTION = pytest.mark.parametrize("name", MOTIONS)


def about(axis: int, degrees: float) -> np.ndarray:
    return Rotation.from_euler("xyz"[axis], degrees, degrees=True).as_matrix()


def somebody(source: SourceRecording, arms_down: float = 0.0, facing: float = 0.0, unit: float = 1.0,
             longer: Mapping[str, float] | None = None) -> Character:
    """Return a character with the body of the source in another rest pose.

    Arms are lowered and the body is turned, both in degrees. ``longer`` has length factors of bones.
    """
    parents = PARENT | {"LeftToeEnd": "LeftToe", "RightToeEnd": "RightToe"}
    rest = {"Hips": np.zeros(3)}
    for bone, parent in parents.items():
        offset = np.array([0, -0.08, 0]) if bone.endswith("End") else source.rest[bone] - source.rest[parent]
        side = 1 if bone.startswith("Left") else -1
        if parent.endswith(("Arm", "Hand")):
            offset = about(1, side * arms_down) @ offset
        rest[bone] = rest[parent] + offset * (longer or {}).get(bone.removeprefix("Left").removeprefix("Right"), 1)
    floor = min(place[2] for place in rest.values()) - 0.02
    return Character({bone: unit * about(2, facing) @ place for bone, place in rest.items()}, unit * floor)


def posed(character: Character, transfer: Transfer) -> dict[str, np.ndarray]:
    """Return the bone positions (T, 3) of a retargeted character. Bones without a rotation follow their parent."""
    places, turns = {"Hips": transfer.hips}, dict(transfer.turns)
    for bone, parent in (PARENT | {"LeftToeEnd": "LeftToe", "RightToeEnd": "RightToe"}).items():
        if bone in character.rest:
            places[bone] = places[parent] + turns[parent] @ (character.rest[bone] - character.rest[parent])
            turns.setdefault(bone, turns[parent])
    return places


@EVERY_MOTION
def test_the_same_body_does_the_same(name: str) -> None:
    source = SOURCES[name]
    character = somebody(source)
    transfer = retarget(source, character)
    assert transfer.scale == pytest.approx(1)
    places = posed(character, transfer)
    lift = places["Hips"][0] - source.places["Hips"][0]
    np.testing.assert_allclose(lift[:2], 0, atol=1e-6)
    for bone in set(NAMES) - {"LeftToe", "RightToe"}:
        np.testing.assert_allclose(places[bone] - lift, source.places[bone], atol=1e-4)


@EVERY_MOTION
@pytest.mark.parametrize("other", [{"arms_down": 50.0}, {"facing": 180.0}, {"facing": -90.0, "arms_down": 30.0}])
def test_rest_pose_and_heading_of_a_character_do_not_matter(name: str, other: dict) -> None:
    source = SOURCES[name]
    expected, found = (posed(character, retarget(source, character))
                       for character in (somebody(source), somebody(source, **other)))
    for bone in set(NAMES) - {"LeftHand", "RightHand"}:
        np.testing.assert_allclose(found[bone], expected[bone], atol=1e-6)


@EVERY_MOTION
def test_ankles_travel_by_the_length_of_legs_whatever_the_proportions(name: str) -> None:
    source = SOURCES[name]
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
