"""Uploaded characters play the motion in the browser and can be saved with it."""
import math
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page
from pygltflib import GLTF2, Attributes, Mesh, Node, Primitive

from motion.bvh_fit import T2M_RIG, joints_to_bvh
from motion.foot import lock_feet
from motion.skeleton import T2M
from tests.browser import needs_chromium, open_browser, saved, show
from tests.figures import standing, walking
from tests.gltf import posed
from tests.sample_motion import angles
from visualization.glb import write_glb
from visualization.html import PageMotion

WALK = lock_feet(walking(30, 1.0, turn=1.0), T2M, 20.0)
LIMBS = [(16, 18), (18, 20), (17, 19), (19, 21), (1, 4), (4, 7), (2, 5), (5, 8)]
VRM = dict(zip(T2M_RIG.names, (
    "hips", "leftUpperLeg", "leftLowerLeg", "leftFoot", "leftToes", "rightUpperLeg", "rightLowerLeg", "rightFoot",
    "rightToes", "spine", "chest", "upperChest", "neck", "head", "leftShoulder", "leftUpperArm", "leftLowerArm",
    "leftHand", "rightShoulder", "rightUpperArm", "rightLowerArm", "rightHand"), strict=True))
UNREAL = {"Hips": "pelvis", "Spine": "spine_01", "Spine1": "spine_02", "Spine2": "spine_03", "Neck": "neck_01",
          "Head": "head"} | {f"{side}{ours}": f"{theirs}_{side[0].lower()}" for side in ("Left", "Right")
                             for ours, theirs in (("Shoulder", "clavicle"), ("Arm", "upperarm"), ("Hand", "hand"),
                                                  ("ForeArm", "lowerarm"), ("UpLeg", "thigh"), ("Leg", "calf"),
                                                  ("Foot", "foot"), ("Toe", "ball"))}
pytestmark = needs_chromium


def named(bone: str, rig: str) -> str:
    """Return the name of a bone in a rig."""
    mixamo = bone.replace("Toe", "ToeBase")
    return {"mixamo": f"mixamorig:{mixamo}", "numbered": f"mixamorig:{mixamo}_07", "unreal": UNREAL.get(bone, bone),
            "unreal_numbered": f"{UNREAL.get(bone, bone)}_07"}.get(rig, f"J_{mixamo}")


def character(folder: Path, rig: str) -> Path:
    """Write a character that is 30 % larger than the motion's body, with a rotated root as exporters write it."""
    write_glb(folder / "own.glb", joints_to_bvh(1.3 * standing(2), T2M, 20), T2M)
    gltf = GLTF2().load_binary(folder / "own.glb")
    for node in gltf.nodes:
        node.name = named(node.name, rig)
    first, *roots = gltf.scenes[0].nodes
    gltf.nodes.append(Node(name="Armature", rotation=[0, math.sin(0.9), 0, math.cos(0.9)], children=[first]))
    gltf.scenes[0].nodes = [*roots, len(gltf.nodes) - 1]
    bones = {VRM[name]: number for number, name in enumerate(T2M_RIG.names)}
    humanoid = {"vrm0": [{"bone": bone, "node": number} for bone, number in bones.items()],
                "vrm": {bone: {"node": number} for bone, number in bones.items()}}
    if rig in humanoid:
        name = {"vrm0": "VRM", "vrm": "VRMC_vrm"}[rig]
        gltf.extensionsUsed, gltf.extensions = [name], {name: {"humanoid": {"humanBones": humanoid[rig]}}}
    gltf.save_binary(folder / f"{rig}.{'vrm' if rig in humanoid else 'glb'}")
    return folder / f"{rig}.{'vrm' if rig in humanoid else 'glb'}"


def upload(page: Page, file: Path) -> None:
    page.locator("#upload").set_input_files(file)
    page.locator("#character", has_text=file.name).wait_for()
    assert page.locator("#fault").is_hidden()


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    path = tmp_path_factory.mktemp("character") / "a.html"
    with open_browser(420, 420, reduced_motion="reduce") as (page, faults):
        yield show(page, path, PageMotion("walk", "walks", WALK, WALK))
        assert faults == []


@pytest.fixture
def page(opened: Page) -> Page:
    """The page without a character."""
    opened.evaluate("viewer.setCharacter(null)")
    return opened


@pytest.mark.parametrize("rig", ["mixamo", "numbered", "vrm", "vrm0", "unreal", "unreal_numbered"])
def test_a_character_moves_as_the_motion_does_and_is_saved_with_it(page: Page, tmp_path: Path, rig: str) -> None:
    upload(page, character(tmp_path, rig))
    _, places = posed(saved(page, "your character", tmp_path))
    order = {joint: named(bone, rig) for bone, joint in zip(T2M_RIG.names, T2M_RIG.order, strict=True)}
    for start, end in LIMBS:
        ours, theirs = WALK[:, end] - WALK[:, start], places[order[end]] - places[order[start]]
        assert angles(ours, theirs).max() < 1
        assert np.linalg.norm(theirs, axis=-1) == pytest.approx(1.3 * np.linalg.norm(ours, axis=-1), rel=0.03)
    travel = places[order[0]][-1] - places[order[0]][0]
    assert travel[[0, 2]] == pytest.approx(1.3 * (WALK[-1, 0] - WALK[0, 0])[[0, 2]], rel=0.08, abs=0.02)
    page.locator("#character").click()
    assert page.locator("#character").text_content() == "Your character"


def test_a_pose_in_the_file_does_not_matter(page: Page, tmp_path: Path) -> None:
    upload(page, character(tmp_path, "mixamo"))
    expected = posed(saved(page, "your character", tmp_path))[1]
    gltf = GLTF2().load_binary(tmp_path / "mixamo.glb")
    for node in gltf.nodes:
        if node.name.endswith(("Arm", "Leg")):
            node.rotation = [0.5, 0.5, -0.5, 0.5]
    gltf.save_binary(tmp_path / "posed.glb")
    upload(page, tmp_path / "posed.glb")
    places = posed(saved(page, "your character", tmp_path))[1]
    assert max(np.abs(places[bone] - expected[bone]).max() for bone in expected) < 1e-3


LOWEST = """(() => {
  const { stage } = viewer, { figure, track } = stage.cast[0], at = new THREE.Vector3(), lowest = [];
  for (let frame = 0; frame < track.frames; frame++) {
    figure.pose(track, frame);
    figure.group.updateMatrixWorld(true);
    const heights = figure.meshes.flatMap((mesh) => Array.from({ length: mesh.geometry.attributes.position.count },
      (_, i) => mesh.getVertexPosition(i, at).applyMatrix4(mesh.matrixWorld).y));
    lowest.push(heights.reduce((low, height) => Math.min(low, height)));
  }
  return lowest;
})()"""


@pytest.mark.parametrize("toes", [True, False])
def test_soles_are_on_the_floor_and_scenery_is_hidden(page: Page, tmp_path: Path, toes: bool) -> None:
    gltf = GLTF2().load_binary(character(tmp_path, "mixamo"))
    for node in gltf.nodes:
        node.name = node.name if toes else node.name.replace("ToeBase", "Point")
    body = gltf.meshes[0].primitives[0].attributes
    gltf.meshes.append(Mesh(primitives=[Primitive(attributes=Attributes(POSITION=body.POSITION, NORMAL=body.NORMAL))]))
    gltf.scenes[0].nodes.append(len(gltf.nodes))
    gltf.nodes.append(Node(name="Ground", mesh=1, translation=[0, -2, 0], scale=[9, 1, 9]))
    gltf.save_binary(tmp_path / "scenery.glb")
    upload(page, tmp_path / "scenery.glb")
    assert page.evaluate("viewer.stage.character.group.getObjectByName('Ground').visible") is False
    lowest = np.array(page.evaluate(LOWEST))
    assert lowest.min() > -0.008 and np.median(lowest) < 0.015


def test_a_vrm_animation_has_the_joints_of_the_motion(page: Page, tmp_path: Path) -> None:
    path = saved(page, "VRM", tmp_path)
    gltf, places = GLTF2().load_binary(path), posed(path)[1]
    bones = gltf.extensions["VRMC_vrm_animation"]["humanoid"]["humanBones"]
    assert set(bones) == set(VRM.values())
    for bone, joint in zip(T2M_RIG.names, T2M_RIG.order, strict=True):
        below = joint in (0, 1, 2, 4, 5, 7, 8, 10, 11)  # rigidly connected to the pelvis
        assert np.abs(places[VRM[bone]] - WALK[:, joint]).max() < (0.01 if below else 0.02)
    rest = [np.array(gltf.nodes[bones[name]["node"]].translation) for name in ("leftLowerArm", "leftLowerLeg")]
    assert angles(rest[0], np.array([1.0, 0, 0])) < 1e-3 and angles(rest[1], np.array([0, -1.0, 0])) < 1e-3


@pytest.mark.parametrize(("content", "complaint"), [
    (b"hello", "is not a glTF binary"),
    (struct.pack("<4sII", b"glTF", 2, 24) + struct.pack("<I4s", 400, b"JSON") + b"{}  ", "is cut off"),
    (struct.pack("<4sII", b"glTF", 2, 24) + struct.pack("<I4s", 4, b"JSON") + b"{}  ", "has no hips"),
], ids=["other", "cut", "bones"])
def test_what_is_no_character_is_refused(page: Page, tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "<b>x.glb").write_bytes(content)
    page.locator("#upload").set_input_files(tmp_path / "<b>x.glb")
    page.locator("#fault", has_text=complaint).wait_for()
    assert page.evaluate("viewer.stage.character") is None
    assert page.locator("#fault b").count() == 0
