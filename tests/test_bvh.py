"""BVH and ASF/AMC files, continuous Euler angles, bone maps, and files for game engines and robots."""
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from data.dataset import dataset_spec
from motion import bvh_fit
from motion.asf_amc import find_asf
from motion.bvh import chained, euler_to_matrix, matrix_to_euler, parse_bvh, read_bvh
from motion.bvh_fit import T2M_RIG, bvh_to_joints, joints_to_bvh, rigid_joints
from motion.recording import UNITS, normalised
from motion.skeleton import T2M
from prepare.bone_maps import PREFIXES, bone_map
from prepare.importing import ImportJob, import_motion
from prepare.motion_sources import Reader, read_amass
from tests import figures
from tests.acclaim import amc_text, asf_text, motion, world
from tests.figures import walking
from tests.sample_motion import sample_motion
from tests.toy import ACCLAIM_SAMPLES, ROOT, needs
from visualization.outputs import Formats, Made, write_motion

FPS = 20

MOTIONS = {
    "walk": figures.walking(),
    "walk in a circle": figures.walking(turn=2 * np.pi),
    "half turn in one frame": figures.figure(20, yaw=np.repeat([0.0, np.pi], 10)),
    "arms up": figures.raising("both", top=2.4),
    "one pose": figures.standing(1),
    "limbs all over the place": sample_motion(T2M, 90, turn=5.0, sway=0.9),
}


@pytest.mark.parametrize("name", MOTIONS)
def test_joints_come_back_from_the_file(name):
    joints = MOTIONS[name]
    if "all over" in name:  # its hips are not rigid
        joints = rigid_joints(joints, T2M)
    read = parse_bvh(joints_to_bvh(joints, T2M, FPS).text())
    np.testing.assert_allclose(bvh_to_joints(read, T2M), joints, atol=1e-5)


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


def test_file_has_the_names_order_and_channels_of_the_published_ones():
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


MIXED = (ROOT / "tests" / "mixed.bvh").read_text()


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
    ("OFFSET 2 0 nan", "OFFSET 2 0 0", 6, "not finite"), ("BONE bolt", "JOINT bolt", 10, "'BONE' inside joint Hips"),
    ("Wrotation", "Xrotation Yrotation", 3, "unknown channel 'Wrotation'"),
    ("Frames: 3", "Frames: 2", 21, "2 rows of motion, but 3 frames are declared"),
    ("1 2 3 90 0 0  5 0 0 0 90", "1 2 3 90 0 0  5 0 0 0 90 0", 21, "11 values, but the hierarchy has 12 channels"),
])
def test_what_is_not_bvh_is_reported_with_file_and_line(tmp_path, wrong, right, line, complaint):
    path = tmp_path / "broken.bvh"
    path.write_text(MIXED.replace(right, wrong, 1))
    with pytest.raises(ValueError, match=f"broken.bvh, line {line}: .*{complaint}"):
        read_bvh(path)


def test_angles_pass_through_the_pole_without_a_jump():
    """Rotations about the middle axis pass 90 degrees, where the other two angles are not unique."""
    angles = np.stack([np.full(25, 10.0), np.linspace(0, 360, 25), np.full(25, -20.0)], -1)[:, None]
    rotations = euler_to_matrix(angles, "zyx")
    np.testing.assert_allclose(matrix_to_euler(rotations, "zyx"), angles, atol=1e-5)
    noisy = Rotation.from_matrix(rotations[:, 0]) * Rotation.from_rotvec(np.full((25, 3), 1e-7))
    np.testing.assert_allclose(matrix_to_euler(noisy.as_matrix()[:, None], "zyx"), angles, atol=0.1)


@pytest.mark.parametrize("name", PREFIXES)
def test_the_file_is_what_the_script_makes(name: str) -> None:
    assert json.loads((ROOT / "assets" / name).read_text()) == bone_map(name)


JOINTS = bvh_fit.rigid_joints(walking(60, turn=1.0), T2M)


def test_a_root_bone_carries_the_way_and_nothing_else_moves() -> None:
    made = parse_bvh(bvh_fit.with_root_bone(bvh_fit.joints_to_bvh(JOINTS, T2M, 20.0), JOINTS, T2M).text())
    assert made.names[:2] == (bvh_fit.ROOT_NAME, "Hips")
    np.testing.assert_allclose(bvh_fit.bvh_to_joints(made, T2M), JOINTS, atol=1e-5)
    np.testing.assert_allclose(made.values[:, :3], JOINTS[:, 0] * [1, 0, 1], atol=1e-5)  # on the ground
    assert np.abs(made.values[:, [6, 8]]).max() < 1e-6                                   # above the root


def read_back(arrays: dict[str, np.ndarray], rigid: bool) -> np.ndarray:
    """Compute joints (T, 22, 3), y up, of an archive, with constant or with varying bone lengths."""
    rest, parents = arrays["rest_joints"], [int(parent) for parent in arrays["parents"]]
    places = np.repeat((rest - rest[parents])[None], len(arrays["trans"]), 0) if rigid else arrays["offsets"].copy()
    places[:, 0] = rest[0] + arrays["trans"]
    turns = Rotation.from_rotvec(arrays["poses"][:, :66].reshape(-1, 3)).as_matrix().reshape(-1, 22, 3, 3)
    return chained(parents, places, turns)[0] @ bvh_fit.TO_Z_UP


def test_an_archive_follows_a_body_whose_bones_change_their_length() -> None:
    rng = np.random.default_rng(0)
    bones = JOINTS[:, 1:] - JOINTS[:, list(T2M.parents[1:])]
    bones = bones * (1 + 0.02 * rng.standard_normal((len(bones), 21, 1)))
    joints = JOINTS.copy()
    for chain in T2M.chains:
        for parent, joint in zip(chain, chain[1:], strict=False):
            joints[:, joint] = joints[:, parent] + bones[:, joint - 1]
    bvh = bvh_fit.joints_to_bvh(joints, T2M, 20.0)
    arrays = bvh_fit.amass_arrays(bvh, joints, T2M)
    made = read_back(arrays, rigid=True)
    np.testing.assert_allclose(made, bvh_fit.bvh_to_joints(bvh, T2M), atol=1e-6)  # as in the .bvh
    np.testing.assert_allclose(read_back(arrays, rigid=False), joints, atol=1e-6)
    away = np.linalg.norm(made - joints, axis=-1)
    np.testing.assert_allclose(arrays["fit_error"], [away.mean(), away.max()], atol=1e-6)
    assert 0 < away.mean() < 0.01


def test_files_are_written_without_travel(tmp_path: Path) -> None:
    formats = Formats(video=False, in_place=True, root_bone=True, npz=True)
    motion = write_motion(tmp_path, Made(0, 0, "a person walks", JOINTS), dataset_spec("t2m"), formats)
    joints = np.load(tmp_path / motion.plain_files[0])
    np.testing.assert_allclose(joints[:, 0, [0, 2]], 0, atol=1e-6)
    np.testing.assert_allclose(joints, bvh_fit.in_place(np.float32(JOINTS)), atol=1e-6)
    bvh = read_bvh(next(tmp_path.rglob("*_len60.bvh")))
    np.testing.assert_allclose(bvh.values[:, :3], JOINTS[:, 0] * [1, 0, 1], atol=1e-5)  # travel is in the root bone
    amass = read_amass(next(tmp_path.rglob("*_len60.npz")))
    assert amass.fps == 20
    assert np.abs(amass.trans[:, :2]).max() < 1e-5


def test_a_loop_goes_on_before_its_start_and_after_its_end() -> None:
    period = walking(41)[:40]
    longer = bvh_fit.unrolled(period, T2M, 10)
    assert len(longer) == 60
    np.testing.assert_array_equal(longer[10:50], period)
    np.testing.assert_array_equal(bvh_fit.on_cycle(period, T2M, 10, lambda joints: joints), period)
    roots = np.diff(longer[:, 0, [0, 2]], axis=0)
    assert np.linalg.norm(roots[[9, 49]], axis=-1).max() < 2 * np.linalg.norm(roots, axis=-1).mean()


WALK = motion(30)
LONG = motion(300)  # long enough for a clip


@pytest.fixture
def trial(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "01.asf").write_text(asf_text())
    (folder / "01_02.amc").write_text(amc_text(WALK))
    return folder / "01_02.amc"


def expected(ends: dict[str, np.ndarray]) -> np.ndarray:
    """Return the 22 joints (T, 22, 3) for the end points of the bones."""
    joints = {"pelvis": ends["root"], "spine1": ends["lowerback"], "spine2": ends["upperback"],
              "spine3": (ends["upperback"] + ends["thorax"]) / 2, "neck": ends["lowerneck"],
              "head": (ends["upperneck"] + ends["head"]) / 2}
    for side in ("left", "right"):
        for joint, bone in (("hip", "hipjoint"), ("knee", "femur"), ("ankle", "tibia"), ("foot", "foot"),
                            ("shoulder", "clavicle"), ("elbow", "humerus"), ("wrist", "radius")):
            joints[f"{side}_{joint}"] = ends[f"{side[0]}{bone}"]
        joints[f"{side}_collar"] = 0.6 * ends["thorax"] + 0.4 * ends[f"{side[0]}clavicle"]
    return np.stack([joints[name] for name in T2M.joint_names], 1)


def test_a_trial_is_imported_at_20_frames_a_second_in_metres(trial: Path) -> None:
    trial.write_text(amc_text(LONG))
    (clip,) = import_motion(ImportJob(trial.parent, trial.parent.parent / "out"), quiet=True).clips
    assert (clip.rig, clip.unit, clip.up, clip.end) == ("CMU ASF/AMC", "cmu", "y", 2.5)
    joints = np.load(trial.parent.parent / "out" / "joints" / "01_02.npy")
    np.testing.assert_allclose(joints, normalised(UNITS["cmu"] * expected(world(LONG))[::6]), atol=1e-4)


def variants() -> dict[str, tuple[str, str]]:
    amc, asf = amc_text(WALK), asf_text()
    radians = {name: np.concatenate([values[:, :3], np.radians(values[:, 3:])], 1) if name == "root" else
               np.radians(values) for name, values in WALK.items()}
    still = {name: values for name, values in WALK.items() if name not in ("head", "lowerneck", "lwrist")}
    return {
        "first frame 135": (asf, amc_text(WALK, first=135)),
        "Windows, with blank lines": (asf.replace("\n", "\r\n"), "\ufeff" + amc.replace("\n", "\r\n\r\n")),
        "comments": (asf.replace("  end\n", "  end # of a bone\n"), amc.replace("\n2\n", "\n# next\n2\n")),
        "motion in radians": (asf, amc_text(radians, header=":RADIANS\n")),
        "both in radians, the motion does not state it": (asf_text(radians=True), amc_text(radians, header="")),
        "bones that do not move left out": (asf, amc_text(still)),
    }


@pytest.mark.parametrize("kind", variants())
def test_files_may_be_written_in_other_ways(trial: Path, kind: str) -> None:
    plain = Reader().read(trial).joints
    asf, amc = variants()[kind]
    trial.with_name("01.asf").write_text(asf, newline="")
    trial.write_text(amc, newline="")
    np.testing.assert_allclose(Reader().read(trial).joints, plain, atol=1e-3)


def damaged() -> dict[str, tuple[str, str, str]]:
    asf, amc = asf_text(), amc_text(WALK)
    first = "ltibia " + amc.split("ltibia ")[1].split("\n")[0]
    return {
        "unknown bone": (asf, amc.replace("ltibia", "tail"), r"01_02.*line \d+: tail is not a bone of 01.asf"),
        "too many values": (asf, amc.replace(first, first + " 1 2"), r"line \d+: expected 1 finite numbers"),
        "missing in a frame": (asf, amc.replace("\n" + first, "", 1), r"ltibia is (missing|in 29)"),
        "lost frames": (asf, amc.replace("\n7\n", "\n9\n"), r"line \d+: frame 9 follows frame 6"),
        "strange freedom": (asf.replace("dof rx\n", "dof l\n"), amc, r"01.asf, line \d+: degrees of freedom l"),
        "a bone nowhere": (asf.replace("lfemur ltibia\n", "lfemur\n"), amc, "ltibia is not in the hierarchy"),
    }


@pytest.mark.parametrize("kind", damaged())
def test_what_is_wrong_is_named_with_file_and_line(trial: Path, kind: str) -> None:
    asf, amc, reason = damaged()[kind]
    trial.with_name("01.asf").write_text(asf)
    trial.write_text(amc)
    with pytest.raises(ValueError, match=reason):
        Reader().read(trial)


def test_the_skeleton_is_the_subjects_in_the_same_folder_or_the_one_above(tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    trial = tmp_path / "trials" / "01_02.amc"
    for path in ("1.asf", "011.asf", "trials/02.asf"):
        (tmp_path / path).write_text("")
    with pytest.raises(ValueError, match="no skeleton file found: put 01.asf next to it"):
        find_asf(trial)
    for path in ("01.ASF", "trials/01.asf", "trials/01_02.asf"):
        (tmp_path / path).write_text("")
        assert find_asf(trial) == tmp_path / path
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "body.asf").write_text("")
    assert find_asf(tmp_path / "one" / "walk.amc") == tmp_path / "one" / "body.asf"


@needs(ACCLAIM_SAMPLES)
@pytest.mark.parametrize("path", sorted(ACCLAIM_SAMPLES.glob("*.amc")), ids=lambda path: path.stem)
def test_cmu_trials_give_their_reference_joints(path: Path) -> None:
    recording = Reader(keep_t_pose=True).read(path)
    reference = np.load(ACCLAIM_SAMPLES / "joints_20fps.npz")[path.stem]
    np.testing.assert_allclose(recording.joints * recording.unit, reference, atol=1e-5)
