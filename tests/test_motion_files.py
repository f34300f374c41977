"""A motion is read from features, joints or BVH, and comes to the same features."""
import numpy as np
import pytest
import torch

from data.motion_files import read_motion, resample
from data.specs import dataset_spec
from motion.bvh_fit import joints_to_bvh
from motion.features import features_to_joints, joints_to_features
from motion.skeleton import KIT, T2M
from tests.figures import walking
from tests.sample_motion import sample_motion, turned
from utils.errors import InputError

SPEC, KIT_SPEC = dataset_spec("t2m"), dataset_spec("kit")


def saved(path, array):
    np.save(path, array)
    return path


def read_joints(path, spec=SPEC) -> np.ndarray:
    return features_to_joints(torch.from_numpy(read_motion(path, spec)), spec.skeleton).numpy()


def test_features_are_taken_as_they_are(tmp_path):
    features = joints_to_features(walking(40), T2M).numpy()
    assert np.array_equal(read_motion(saved(tmp_path / "a.npy", np.float64(features)), SPEC), features)


@pytest.mark.parametrize("per_metre", [1, 100, 1000])
def test_joints_keep_all_frames_wherever_they_are_and_whatever_their_unit(tmp_path, per_metre):
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


def test_bvh_comes_to_the_features_of_its_joints(tmp_path):
    joints = walking(40)
    (tmp_path / "a.bvh").write_text(joints_to_bvh(joints, T2M, 20).text())
    np.testing.assert_allclose(read_joints(tmp_path / "a.bvh"), joints - joints[0, 0] * [1, 0, 1], atol=1e-3)


def test_bvh_of_another_rate_is_resampled(tmp_path):
    joints = walking(81)
    (tmp_path / "a.BVH").write_text(joints_to_bvh(100 * joints, T2M, 40).text())
    np.testing.assert_allclose(read_joints(tmp_path / "a.BVH"), joints[::2] - joints[0, 0] * [1, 0, 1], atol=1e-3)


def test_resampling_keeps_both_ends_and_straight_lines():
    line = np.linspace(0, 8, 9)[:, None, None] * np.ones((1, 2, 3))
    np.testing.assert_allclose(resample(line, 20, 30)[:, 0, 0], np.linspace(0, 8, 13))
    assert len(resample(line, 20, 20.1)) == 9
    np.testing.assert_allclose(resample(line[:1], 10, 20), line[:1])


@pytest.mark.parametrize(("name", "array", "complaint"), [
    ("a.npy", np.zeros((10, 251)), "shape"),
    ("a.npy", np.zeros((10, 21, 3)), "shape"),
    ("a.npy", np.zeros((10, 22, 3)), "no length"),
    ("a.npy", walking(30)[:1], "too few"),
    ("a.npy", np.full((10, 22, 3), np.nan), "finite"),
    ("a.npy", np.full((10, 263), np.inf), "finite"),
    ("a.npy", np.zeros((1, 263)), "fewer"),
    ("a.npy", np.array(["x"]), "real numbers"),
    ("a.npy", None, "missing"),
    ("a.bvh", None, "cannot read"),
    ("a.bvh", b"HIERARCHY\nROOT", "line 2"),
    ("a.bvh", b"\xff\xfe", "not a text file"),
    ("a.fbx", b"", ".npy or a .bvh"),
])
def test_what_is_no_motion_is_told_in_a_line_with_its_path(tmp_path, name, array, complaint):
    path = tmp_path / name
    if isinstance(array, bytes):
        path.write_bytes(array)
    elif array is not None:
        np.save(path, array)
    with pytest.raises(InputError) as told:
        read_motion(path, SPEC)
    assert complaint in str(told.value)
    assert str(told.value).count(str(path)) == 1


def test_bvh_of_another_skeleton_is_told(tmp_path):
    (tmp_path / "a.bvh").write_text(joints_to_bvh(sample_motion(KIT, 5), KIT, 20).text())
    with pytest.raises(InputError, match="not a BVH of the t2m skeleton"):
        read_motion(tmp_path / "a.bvh", SPEC)
