"""Motions read from features, joints or BVH give the same features."""
import numpy as np
import pytest
import torch

from data.dataset import dataset_spec
from data.motion_files import read_motion
from motion.bvh_fit import joints_to_bvh
from motion.features import features_to_joints, joints_to_features
from motion.skeleton import KIT, T2M
from tests.figures import figure, walking, waving
from tests.sample_motion import sample_motion, turned, with_up, with_value
from utils import InputError

NOISE = np.random.default_rng(0)
FEATURES = joints_to_features(walking(30), T2M).numpy()
LYING = with_up(waving("left", 40) - np.float32([0, 0.9, 0.5]), "z")
SPEC, KIT_SPEC = dataset_spec("t2m"), dataset_spec("kit")


def saved(path, array):
    np.save(path, array)
    return path


def read_joints(path, spec=SPEC) -> np.ndarray:
    return features_to_joints(torch.from_numpy(read_motion(path, spec)), spec.skeleton).numpy()


@pytest.mark.parametrize("per_metre", [1, 100, 1000])
def test_joints_keep_all_frames_wherever_they_are_and_whatever_their_unit(tmp_path, per_metre):
    assert np.array_equal(read_motion(saved(tmp_path / "a.npy", np.float64(FEATURES)), SPEC), FEATURES)
    joints = walking(40)
    moved = per_metre * (turned(np.float64(joints), 2.0) + [3, 1, -2])
    read = read_joints(saved(tmp_path / "a.npy", moved))
    assert read.shape == joints.shape
    np.testing.assert_allclose(read, joints - joints[0, 0] * [1, 0, 1], atol=2e-4)


@pytest.mark.parametrize("per_metre", [1, 1000])
def test_joints_of_kit_come_out_in_millimetres(tmp_path, per_metre):
    joints = sample_motion(KIT, 30) / 500 * per_metre  # legs of 0.8 m
    read = read_joints(saved(tmp_path / "a.npy", joints), KIT_SPEC)
    assert read.shape == (30, 21, 3)
    for first, second in ((0, 4), (7, 15), (10, 20)):
        apart = np.linalg.norm(joints[:, first] - joints[:, second], axis=-1) * 1000 / per_metre
        np.testing.assert_allclose(np.linalg.norm(read[:, first] - read[:, second], axis=-1), apart, atol=0.5)


def test_bvh_of_another_rate_is_resampled(tmp_path):
    joints = walking(81)
    (tmp_path / "a.BVH").write_text(joints_to_bvh(100 * joints, T2M, 40).text())
    np.testing.assert_allclose(read_joints(tmp_path / "a.BVH"), joints[::2] - joints[0, 0] * [1, 0, 1], atol=1e-3)


@pytest.mark.parametrize(("name", "array", "complaint"), [
    ("a.npy", np.zeros((10, 251)), "shape"), ("a.npy", np.zeros((22, 3)), "shape (22, 3)"),
    ("a.npy", np.zeros((10, 22, 3)), "zero length"), ("a.npy", walking(30)[:1], "too few"),
    ("a.npy", np.full((10, 263), np.inf), "finite"), ("a.npy", np.zeros((0, 22, 3)), "0 frames are too few"),
    ("a.npy", with_value(walking(30), (7, 4, 1), np.nan), "frame 7: y of left_knee is not finite (nan)"),
    ("a.npy", with_value(walking(30), (7, 4, 0), 1e30), "frame 7: x of left_knee is too large for any unit (1e+30)"),
    ("a.npy", with_value(FEATURES, (3, 9), 1e30), "row 3: column 9 is too large (1e+30)"),
    ("a.npy", NOISE.integers(-9, 9, (30, 22, 3)), "not the joints of a body: bone lengths vary by"),
    ("a.npy", (FEATURES - FEATURES.mean(0)) / (FEATURES.std(0) + 0.01), "before normalisation"),
    ("a.npy", walking(30) * [-1, 1, 1], "left and right are swapped, or the axes are left-handed"),
    ("a.npy", joints_to_features(walking(30) * [-1, 1, 1], T2M).numpy(), "left and right are swapped"),
    ("a.npy", LYING, "either this axis is up, or the body is lying; rotate it so that y is up, or set the axis"),
    ("a.npy", np.array(["x"]), "real numbers"), ("a.npy", None, "missing"), ("a.bvh", None, "cannot read"),
    ("a.bvh", b"HIERARCHY\nROOT", "line 2"), ("a.fbx", b"", ".npy or a .bvh"),
    ("a.c3d", b"", "a.c3d: the file contains markers, not joints"),
    ("a.asf", b"", "a.asf: a skeleton without motion"),
    ("a.amc", b"", "no skeleton file found: put a.asf next to it"),
])
def test_invalid_motions_are_reported_in_one_line_with_their_path(tmp_path, name, array, complaint):
    path = tmp_path / name
    if isinstance(array, bytes):
        path.write_bytes(array)
    elif array is not None:
        np.save(path, array)
    with pytest.raises(InputError) as told:
        read_motion(path, SPEC)
    assert complaint in str(told.value) and str(told.value).count(str(path)) == 1


def test_bvh_of_another_rig_is_imported_without_its_t_pose(tmp_path):
    arms = np.concatenate([np.full(30, np.pi / 2), np.linspace(np.pi / 2, 0.2, 10), np.full(40, 0.2)])
    joints = figure(80, arms=(arms, arms))
    text = joints_to_bvh(100 * joints, T2M, 20).text()
    for ours, theirs in (("Hips", "mixamorig:Hips"), ("LeftToe", "mixamorig:LeftToeBase"),
                         ("RightToe", "mixamorig:RightToeBase")):
        text = text.replace(f" {ours}\n", f" {theirs}\n")
    (tmp_path / "a.bvh").write_text(text)
    said = []
    features = read_motion(tmp_path / "a.bvh", SPEC, say=said.append)
    assert said == [f"{tmp_path / 'a.bvh'}: joints of a Mixamo/LAFAN1 rig, {(80 - len(features)) / 20:.2f} s of T-pose "
                    f"left out"]
    assert 40 < len(features) < 50


@pytest.mark.parametrize("up", ["z", "x", "-y", "-z", "-x"])
def test_axes_are_found_and_reported_and_the_motion_is_turned(tmp_path, up):
    joints = walking(40)
    path, said = saved(tmp_path / "a.npy", with_up(joints, up)), []
    expected = read_motion(saved(tmp_path / "b.npy", joints), SPEC)
    np.testing.assert_allclose(read_motion(path, SPEC, say=said.append), expected, atol=1e-5)
    assert said == [f"{path}: {up} is up; rotated so that y is up"]
    assert read_motion(path, SPEC, up=up, say=said.append).shape == (40, 263)
    assert len(said) == 1


def test_a_given_axis_settles_what_the_body_leaves_open(tmp_path):
    path, said = saved(tmp_path / "a.npy", LYING), []
    read_motion(path, SPEC, up="y", say=said.append)
    assert said == [f"{path}: the body is lying or bent in every frame"]
    read_motion(path, SPEC, up="z", say=said.append)
    assert len(said) == 1
