"""Joints survive writing to and reading from BVH; any BVH can be read; rotations are continuous over time."""
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from motion.bvh import Bvh, euler_to_matrix, matrix_to_euler, parse_bvh, read_bvh
from motion.bvh_fit import T2M_RIG, bvh_to_joints, joints_to_bvh, rig_of, rigid_joints
from motion.skeleton import KIT, SKELETONS, T2M
from tests import figures
from tests.sample_motion import sample_motion, turned

FPS = 20

MOTIONS = {
    "walk": figures.walking(),
    "walk in a circle": figures.walking(turn=2 * np.pi),
    "walk to the right in two circles": figures.walking(turn=-4 * np.pi),
    "facing backwards": figures.walking(facing=np.pi),
    "facing left": figures.walking(facing=np.pi / 2),
    "half turn in one frame": figures.figure(20, yaw=np.repeat([0.0, np.pi], 10)),
    "bow": figures.bowing(),
    "arms up": figures.raising("both", top=2.4),
    "sit": figures.sitting(),
    "kick": figures.kicking("left"),
    "one pose": figures.standing(1),
    "limbs all over the place": sample_motion(T2M, 90, turn=5.0, sway=0.9),
}


def through_file(joints: np.ndarray, skeleton=T2M) -> np.ndarray:
    return bvh_to_joints(parse_bvh(joints_to_bvh(joints, skeleton, FPS).text()), skeleton)


def rotation_steps(rotations: np.ndarray) -> np.ndarray:
    """Degrees from each frame to the next, (T - 1, J), of rotations (T, J, 3, 3)."""
    steps = Rotation.from_matrix((rotations[1:] @ rotations[:-1].swapaxes(-1, -2)).reshape(-1, 3, 3))
    return np.degrees(steps.magnitude()).reshape(len(rotations) - 1, -1)


@pytest.mark.parametrize("name", MOTIONS)
def test_joints_come_back_from_the_file(name):
    joints = MOTIONS[name]
    if "all over" in name:  # the hips move relative to the pelvis, which a rigid body cannot reproduce
        joints = rigid_joints(joints, T2M)
    np.testing.assert_allclose(through_file(joints), joints, atol=1e-5)


def test_kit_joints_come_back_in_their_own_unit():
    joints = rigid_joints(sample_motion(KIT, 40), KIT)
    np.testing.assert_allclose(through_file(joints, KIT), joints, atol=1e-2)  # millimetres


def test_bones_that_change_their_length_cost_no_more_than_they_change():
    joints = figures.walking() + np.random.default_rng(0).normal(0, 0.004, (80, 22, 3))
    error = np.linalg.norm(through_file(joints) - joints, axis=-1)
    assert error.mean() < 0.008
    assert error.max() < 0.04


def test_no_turn_of_a_limb_brings_a_body_of_uneven_bones_nearer():
    """The fit is optimal: rotating any bone slightly, with its descendants, does not reduce the distances."""
    rng = np.random.default_rng(0)
    joints = sample_motion(T2M, 30) + rng.normal(0, 0.03, (30, 22, 3))
    fitted = rigid_joints(joints, T2M)
    for chain in ((2, 5, 8, 11), (1, 4, 7, 10), (14, 17, 19, 21), (13, 16, 18, 20)):
        limb, target = fitted[:, chain], joints[:, chain]
        apart = np.square(limb - target).sum((1, 2))
        for bone in range(3):
            for turn in 0.03 * rng.normal(size=(20, 3)):
                turned_limb = limb.copy()
                turned_limb[:, bone:] = limb[:, bone:bone + 1] + Rotation.from_rotvec(turn).apply(
                    (limb[:, bone:] - limb[:, bone:bone + 1]).reshape(-1, 3)).reshape(30, -1, 3)
                assert (np.square(turned_limb - target).sum((1, 2)) > apart - 1e-5).all()


@pytest.mark.parametrize("name", ["walk", "walk in a circle", "walk to the right in two circles", "facing backwards",
                                  "facing left", "bow", "arms up", "kick"])
def test_rotations_run_on_over_time(name):
    rotations = joints_to_bvh(MOTIONS[name], T2M, FPS).local_rotations()
    assert rotation_steps(rotations).max() < 30


@pytest.mark.parametrize("name", MOTIONS)
def test_angles_are_the_nearest_ones_to_the_frame_before(name):
    bvh = joints_to_bvh(MOTIONS[name], T2M, FPS)
    angles = bvh.values[:, 3:].reshape(-1, 22, 3)
    steps = np.diff(angles, axis=0)
    assert np.abs(steps).max(initial=0) <= 180 + 1e-6
    others = angles[1:] * [1, -1, 1] + 180 - angles[:-1]
    others = (others + 180) % 360 - 180
    assert ((steps**2).sum(-1) <= (others**2).sum(-1) + 1e-3).all()


@pytest.mark.parametrize("turns", [1, -2])
def test_somebody_upright_who_turns_round_and_round_turns_about_one_axis_only(turns):
    """The middle angle passes 90 degrees, where the other two could jump."""
    rest = np.zeros((22, 3))
    for bone, parent in enumerate(T2M_RIG.parents):
        rest[T2M_RIG.order[bone]] = T2M_RIG.rest[bone] + (rest[T2M_RIG.order[parent]] if parent >= 0 else 0)
    yaw = np.linspace(0, 2 * np.pi * turns, 73)
    bvh = joints_to_bvh(turned(np.repeat(rest[None], 73, 0), yaw[:, None]), T2M, FPS)
    expected = np.zeros((73, 66))
    expected[:, 1] = np.degrees(yaw)
    np.testing.assert_allclose(bvh.values[:, 3:], expected, atol=1e-3)


def test_bones_do_not_twist_about_themselves():
    """An arm lifted straight up sideways turns about one axis only; the hand does not rotate."""
    bvh = joints_to_bvh(MOTIONS["arms up"], T2M, FPS)
    turns = bvh.local_rotations()
    for bone in ("LeftToe", "Head", "LeftHand", "RightHand"):
        np.testing.assert_allclose(turns[:, bvh.names.index(bone)], np.broadcast_to(np.eye(3), (60, 3, 3)), atol=1e-6)
    for bone in ("LeftLeg", "LeftForeArm", "RightForeArm"):
        joint = bvh.names.index(bone)
        axis = bvh.offsets[joint + 1] / np.linalg.norm(bvh.offsets[joint + 1])
        swing = Rotation.from_matrix(turns[:, joint]).as_rotvec() @ axis
        np.testing.assert_allclose(swing, 0, atol=1e-6)


def test_the_spine_shares_the_turn_between_pelvis_and_chest():
    joints = np.float64(figures.standing(20))
    chest = [T2M.joint_names.index(name) for name in ("neck", "head", "left_collar", "right_collar", "left_shoulder",
                                                      "right_shoulder", "left_elbow", "right_elbow", "left_wrist",
                                                      "right_wrist")]
    centre = joints[:1, 9:10]
    joints[:, chest] = turned(joints[:, chest] - centre, 0.9 * np.linspace(0, 1, 20)[:, None]) + centre
    bvh = joints_to_bvh(joints, T2M, FPS)
    turns = rotation_steps(bvh.local_rotations()[[0, -1]])[0]
    for bone in ("Spine", "Spine1", "Spine2"):
        assert turns[bvh.names.index(bone)] == pytest.approx(np.degrees(0.9) / 3, abs=1)


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


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS)
def test_every_skeleton_has_a_rig_whose_parents_come_first(skeleton):
    rig = rig_of(skeleton)
    assert sorted(rig.order) == list(range(len(skeleton)))
    assert all(parent < bone for bone, parent in enumerate(rig.parents))
    assert len(set(rig.names)) == len(skeleton)


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
    # Turned by a quarter about z, the arm's own +x points to +y; its position channels replace its offset.
    np.testing.assert_allclose(bvh.joints(), [[[0, 0, 0], [2, 0, 0], [0, 0, 1]], [[1, 2, 3], [1, 7, 3], [1, 2, 4]]],
                               atol=1e-12)
    np.testing.assert_allclose(bvh.tips()[1], [[2, 3, 0], [1, 4, 3]], atol=1e-12)


def test_a_file_written_again_is_the_same():
    bvh = parse_bvh(MIXED)
    again = parse_bvh(bvh.text())
    assert (again.names, again.parents, again.channels) == (bvh.names, bvh.parents, bvh.channels)
    np.testing.assert_allclose(again.values, bvh.values, atol=1e-6)
    np.testing.assert_allclose(again.offsets, bvh.offsets, atol=1e-6)


@pytest.mark.parametrize(("wrong", "right", "line", "complaint"), [
    ("ROOT", "HIERARCHY", 1, "HIERARCHY expected"),
    ("OFFSET 2 0 x", "OFFSET 2 0 0", 6, "'x' is not a number"),
    ("OFFSET 2 0 nan", "OFFSET 2 0 0", 6, "not finite"),
    ("Wrotation", "Xrotation Yrotation", 3, "unknown channel 'Wrotation'"),
    ("BONE bolt", "JOINT bolt", 10, "'BONE' inside joint Hips"),
    ("JOINT {", "JOINT upper arm\n  {", 4, "without a name"),
    ("Frames: two", "Frames: 2", 17, "'two' is not a whole number"),
    ("Frames: 3", "Frames: 2", 21, "2 rows of motion, 3 frames are declared"),
    ("Frame Time: 0", "Frame Time: 0.0333333", 18, "2 frames of 0.0 s"),
    ("1 2 3 90 0 0  5 0 0 0 90", "1 2 3 90 0 0  5 0 0 0 90 0", 21, "11 values, the hierarchy has 12 channels"),
    ("1 2 3 90 0 0  5 0 0 0 90 O", "1 2 3 90 0 0  5 0 0 0 90 0", 21, "'O' is not a number"),
    ("1 2 3 90 0 0  5 0 0 0 inf 0", "1 2 3 90 0 0  5 0 0 0 90 0", 21, "not finite"),
])
def test_what_is_not_bvh_is_reported_with_file_and_line(tmp_path, wrong, right, line, complaint):
    path = tmp_path / "broken.bvh"
    path.write_text(MIXED.replace(right, wrong, 1))
    with pytest.raises(ValueError, match=f"broken.bvh, line {line}: .*{complaint}"):
        read_bvh(path)


def test_headers_may_be_written_in_other_ways():
    plain = parse_bvh(MIXED)
    for text in (MIXED.replace("Frames: ", "Frames:").replace("Frame Time: ", "Frame Time:"),
                 MIXED.replace("JOINT", "Joint").replace("End Site", "END SITE").replace("OFFSET", "Offset"),
                 MIXED.replace("\n", "\r\n\r\n"), MIXED.replace("\t", "    ").replace("\n", " \n")):
        other = parse_bvh(text)
        assert (other.names, other.frame_time) == (plain.names, plain.frame_time)
        np.testing.assert_array_equal(other.joints(), plain.joints())


@pytest.mark.parametrize(("name", "encoding"), [("左腕", "shift_jis"), ("Straße_é", "latin-1"), ("首", "utf-8")])
def test_names_may_be_in_an_older_encoding(tmp_path, name, encoding):
    first = parse_bvh(MIXED).names[1]
    (tmp_path / "old.bvh").write_bytes(MIXED.replace(f"JOINT {first}", f"JOINT {name}", 1).encode(encoding))
    assert read_bvh(tmp_path / "old.bvh").names[1] == name


def test_a_second_skeleton_is_named():
    with pytest.raises(ValueError, match="MOTION expected, 'ROOT' found .one skeleton a file"):
        parse_bvh(MIXED.replace("MOTION", MIXED[MIXED.index("ROOT"):MIXED.index("MOTION")] + "MOTION"))


def test_a_file_that_ends_early_or_is_no_text_is_reported(tmp_path):
    (tmp_path / "short.bvh").write_text(MIXED[:150])
    with pytest.raises(ValueError, match="short.bvh, line 7: the file ends too early"):
        read_bvh(tmp_path / "short.bvh")
    (tmp_path / "bytes.bvh").write_bytes(b"HIERARCHY\n\xff\xfe")
    with pytest.raises(ValueError, match="bytes.bvh: not a text file"):
        read_bvh(tmp_path / "bytes.bvh")


@pytest.mark.parametrize(("joints", "complaint"), [
    (np.zeros((5, 21, 3)), "22"), (np.zeros((0, 22, 3)), "frames"), (np.full((5, 22, 3), np.nan), "finite")])
def test_joints_that_are_none_are_refused(joints, complaint):
    with pytest.raises(ValueError, match=complaint):
        joints_to_bvh(joints, T2M, FPS)


def test_a_bvh_of_another_body_is_not_taken_for_joints():
    with pytest.raises(ValueError, match="LeftUpLeg"):
        bvh_to_joints(parse_bvh(MIXED), T2M)


@pytest.mark.parametrize("order", ["zyx", "xyz", "zxy", "yxz"])
def test_angles_give_the_rotations_they_came_from(order):
    rotations = Rotation.random(40, random_state=0).as_matrix().reshape(20, 2, 3, 3)
    np.testing.assert_allclose(euler_to_matrix(matrix_to_euler(rotations, order), order), rotations, atol=1e-12)


def test_angles_pass_through_the_pole_without_a_jump():
    """A rotation about the middle axis past 90 degrees, where the other two angles are not determined."""
    angles = np.stack([np.full(25, 10.0), np.linspace(0, 360, 25), np.full(25, -20.0)], -1)[:, None]
    rotations = euler_to_matrix(angles, "zyx")
    np.testing.assert_allclose(matrix_to_euler(rotations, "zyx"), angles, atol=1e-5)
    noisy = Rotation.from_matrix(rotations[:, 0]) * Rotation.from_rotvec(np.full((25, 3), 1e-7))
    np.testing.assert_allclose(matrix_to_euler(noisy.as_matrix()[:, None], "zyx"), angles, atol=0.1)


def test_a_body_that_stays_at_the_pole_is_no_trouble():
    rotations = euler_to_matrix(np.repeat([[[30.0, 90.0, 0.0]]], 4, 0), "zyx")
    np.testing.assert_allclose(euler_to_matrix(matrix_to_euler(rotations, "zyx"), "zyx"), rotations, atol=1e-9)


def test_columns_and_channels_belong_together():
    bvh = Bvh(("a", "b"), (-1, 0), np.zeros((2, 3)), (("Xrotation",), ("Zrotation", "Yrotation")),
              np.array([[90.0, 0.0, 90.0]]), 0.1)
    assert bvh.columns == (slice(0, 1), slice(1, 3))
    np.testing.assert_allclose(bvh.local_rotations()[0, 1] @ [1, 0, 0], [0, 0, -1], atol=1e-12)
