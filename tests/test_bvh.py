"""BVH reading and writing, and continuous Euler angles."""
from itertools import permutations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from motion.bvh import euler_to_matrix, matrix_to_euler, parse_bvh, principal_euler, read_bvh
from motion.bvh_fit import T2M_RIG, bvh_to_joints, joints_to_bvh, rigid_joints
from motion.skeleton import T2M
from tests import figures
from tests.sample_motion import sample_motion

FPS = 20

MOTIONS = {
    "walk": figures.walking(),
    "walk in a circle": figures.walking(turn=2 * np.pi),
    "facing backwards": figures.walking(facing=np.pi),
    "half turn in one frame": figures.figure(20, yaw=np.repeat([0.0, np.pi], 10)),
    "arms up": figures.raising("both", top=2.4),
    "kick": figures.kicking("left"),
    "one pose": figures.standing(1),
    "limbs all over the place": sample_motion(T2M, 90, turn=5.0, sway=0.9),
}


def through_file(joints: np.ndarray, skeleton=T2M) -> np.ndarray:
    return bvh_to_joints(parse_bvh(joints_to_bvh(joints, skeleton, FPS).text()), skeleton)


@pytest.mark.parametrize("name", MOTIONS)
def test_joints_come_back_from_the_file(name):
    joints = MOTIONS[name]
    if "all over" in name:  # its hips are not rigid
        joints = rigid_joints(joints, T2M)
    np.testing.assert_allclose(through_file(joints), joints, atol=1e-5)


@pytest.mark.parametrize("name", MOTIONS)
def test_angles_are_the_nearest_ones_to_the_frame_before(name):
    bvh = joints_to_bvh(MOTIONS[name], T2M, FPS)
    angles = bvh.values[:, 3:].reshape(-1, 22, 3)
    steps = np.diff(angles, axis=0)
    assert np.abs(steps).max(initial=0) <= 180 + 1e-6
    others = angles[1:] * [1, -1, 1] + 180 - angles[:-1]
    others = (others + 180) % 360 - 180
    assert ((steps**2).sum(-1) <= (others**2).sum(-1) + 1e-3).all()


def test_bones_do_not_twist_about_themselves():
    """A raised arm rotates about one axis only, and the hand does not rotate."""
    bvh = joints_to_bvh(MOTIONS["arms up"], T2M, FPS)
    turns = bvh.local_rotations()
    for bone in ("LeftToe", "Head", "LeftHand", "RightHand"):
        np.testing.assert_allclose(turns[:, bvh.names.index(bone)], np.broadcast_to(np.eye(3), (60, 3, 3)), atol=1e-6)
    for bone in ("LeftLeg", "LeftForeArm", "RightForeArm"):
        joint = bvh.names.index(bone)
        axis = bvh.offsets[joint + 1] / np.linalg.norm(bvh.offsets[joint + 1])
        swing = Rotation.from_matrix(turns[:, joint]).as_rotvec() @ axis
        np.testing.assert_allclose(swing, 0, atol=1e-6)


def test_file_has_the_names_order_channels_and_rest_pose_of_the_published_ones():
    bvh = joints_to_bvh(MOTIONS["walk"], T2M, FPS)
    assert bvh.names == (
        "Hips", "LeftUpLeg", "LeftLeg", "LeftFoot", "LeftToe", "RightUpLeg", "RightLeg", "RightFoot", "RightToe",
        "Spine", "Spine1", "Spine2", "Neck", "Head", "LeftShoulder", "LeftArm", "LeftForeArm", "LeftHand",
        "RightShoulder", "RightArm", "RightForeArm", "RightHand")
    turns = ("Zrotation", "Yrotation", "Xrotation")
    assert bvh.channels == (("Xposition", "Yposition", "Zposition", *turns), *[turns] * 21)
    assert bvh.frame_time == 0.05
    assert "Frames: 80\nFrame Time: 0.050000\n" in bvh.text()
    assert {bvh.names[joint] for joint in bvh.end_sites} == {"LeftToe", "RightToe", "Head", "LeftHand", "RightHand"}
    lengths = np.linalg.norm(bvh.offsets, axis=-1, keepdims=True)
    published = lengths * T2M_RIG.rest / np.linalg.norm(T2M_RIG.rest, axis=-1, keepdims=True).clip(1e-9)
    for parent in range(22):
        children = [joint for joint, other in enumerate(T2M_RIG.parents) if other == parent]
        if len(children) == 1:
            np.testing.assert_allclose(bvh.offsets[children], published[children], atol=1e-6)
        # The children of a joint keep their shape, rotated as close as possible to the published one.
        np.testing.assert_allclose(np.cross(bvh.offsets[children], published[children]).sum(0), 0, atol=1e-6)


def test_an_independent_reader_sees_the_same_joints(tmp_path):
    bvhio = pytest.importorskip("bvhio")
    bvh = joints_to_bvh(MOTIONS["walk in a circle"], T2M, FPS)
    path = tmp_path / "walk.bvh"
    path.write_text(bvh.text())
    hierarchy = bvhio.readAsHierarchy(str(path))
    for frame in (0, 40, 79):
        hierarchy.loadPose(frame)
        places = {joint.Name: np.array(joint.PositionWorld) for joint, _, _ in hierarchy.layout()}
        theirs = np.stack([places[name] for name in bvh.names])
        np.testing.assert_allclose(bvh.joints()[frame], theirs, atol=1e-4)
        np.testing.assert_allclose(MOTIONS["walk in a circle"][frame, list(T2M_RIG.order)], theirs, atol=1e-4)


MIXED = """HIERARCHY
ROOT Hips { OFFSET 0 1 0
  CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation
  JOINT upper arm
  {
    OFFSET 2 0 0
    CHANNELS 6 xposition yposition zposition Yrotation Zrotation Xrotation
    End Site { OFFSET 0 3 0 }
  }
  JOINT bolt
  {
    OFFSET 0 0 1
    CHANNELS 0
  }
}
MOTION
Frames: 2
Frame Time: 0.0333333

0 0 0 0 0 0  2 0 0 0 0 0
1 2 3 90 0 0  5 0 0 0 90 0
"""


def test_any_channel_order_and_joints_with_positions_of_their_own():
    bvh = parse_bvh(MIXED)
    assert bvh.names == ("Hips", "upper arm", "bolt")
    assert bvh.parents == (-1, 0, 0)
    assert bvh.frame_time == pytest.approx(1 / 30, abs=1e-6)
    # After a quarter turn about z, the arm's +x points to +y. Its position channels replace its offset.
    np.testing.assert_allclose(bvh.joints(), [[[0, 0, 0], [2, 0, 0], [0, 0, 1]], [[1, 2, 3], [1, 7, 3], [1, 2, 4]]],
                               atol=1e-12)
    np.testing.assert_allclose(bvh.tips()[1], [[2, 3, 0], [1, 4, 3]], atol=1e-12)


@pytest.mark.parametrize(("wrong", "right", "line", "complaint"), [
    ("ROOT", "HIERARCHY", 1, "expected HIERARCHY"), ("OFFSET 2 0 nan", "OFFSET 2 0 0", 6, "not finite"),
    ("Wrotation", "Xrotation Yrotation", 3, "unknown channel 'Wrotation'"),
    ("BONE bolt", "JOINT bolt", 10, "'BONE' inside joint Hips"),
    ("Frames: two", "Frames: 2", 17, "'two' is not a whole number"),
    ("Frames: 3", "Frames: 2", 21, "2 rows of motion, but 3 frames are declared"),
    ("Frame Time: 0", "Frame Time: 0.0333333", 18, "2 frames of 0.0 s"),
    ("1 2 3 90 0 0  5 0 0 0 90", "1 2 3 90 0 0  5 0 0 0 90 0", 21, "11 values, but the hierarchy has 12 channels"),
    ("1 2 3 90 0 0  5 0 0 0 90 O", "1 2 3 90 0 0  5 0 0 0 90 0", 21, "'O' is not a number"),
])
def test_what_is_not_bvh_is_reported_with_file_and_line(tmp_path, wrong, right, line, complaint):
    path = tmp_path / "broken.bvh"
    path.write_text(MIXED.replace(right, wrong, 1))
    with pytest.raises(ValueError, match=f"broken.bvh, line {line}: .*{complaint}"):
        read_bvh(path)


@pytest.mark.parametrize("order", ["".join(axes) for axes in permutations("xyz")])
def test_angles_are_those_of_scipy_and_give_the_rotations_they_came_from(order):
    random = Rotation.random(40, random_state=0)
    np.testing.assert_allclose(principal_euler(random.as_matrix(), order), random.as_euler(order.upper(), degrees=True))
    rotations = random.as_matrix().reshape(20, 2, 3, 3)
    np.testing.assert_allclose(euler_to_matrix(matrix_to_euler(rotations, order), order), rotations, atol=1e-12)


def test_angles_pass_through_the_pole_without_a_jump():
    """Rotations about the middle axis pass 90 degrees, where the other two angles are not unique."""
    angles = np.stack([np.full(25, 10.0), np.linspace(0, 360, 25), np.full(25, -20.0)], -1)[:, None]
    rotations = euler_to_matrix(angles, "zyx")
    np.testing.assert_allclose(matrix_to_euler(rotations, "zyx"), angles, atol=1e-5)
    noisy = Rotation.from_matrix(rotations[:, 0]) * Rotation.from_rotvec(np.full((25, 3), 1e-7))
    np.testing.assert_allclose(matrix_to_euler(noisy.as_matrix()[:, None], "zyx"), angles, atol=0.1)
