"""Motion files of every kind give the same features, up axes and swapped sides are detected, and galleries searched."""
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from data.dataset import dataset_spec
from data.motion_files import MotionPart, motion_files, parts_of, prompt_of, read_clips, read_motion
from evaluation.search import encode_motions, nearest, open_gallery
from motion.body import Stance, find_stance, lies_throughout, swapped_sides, to_y_up
from motion.bvh_fit import joints_to_bvh
from motion.features import features_to_joints, joints_to_features
from motion.skeleton import KIT, T2M, UP_AXES, mirror
from storage.generation import LoadedLaMP, load_lamp
from tests import figures
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
    ("a.npy", np.zeros((10, 22, 3)), "zero length"), ("a.npy", walking(30)[:1], "1 frames are too few"),
    ("a.npy", np.full((10, 263), np.inf), "finite"),
    ("a.npy", with_value(walking(30), (7, 4, 1), np.nan), "frame 7: y of left_knee is not finite (nan)"),
    ("a.npy", with_value(walking(30), (7, 4, 0), 1e30), "frame 7: x of left_knee is too large for any unit (1e+30)"),
    ("a.npy", with_value(FEATURES, (3, 9), 1e30), "row 3: column 9 is too large (1e+30)"),
    ("a.npy", NOISE.integers(-9, 9, (30, 22, 3)), "not the joints of a body: bone lengths vary by"),
    ("a.npy", (FEATURES - FEATURES.mean(0)) / (FEATURES.std(0) + 0.01), "before normalisation"),
    ("a.npy", walking(30) * [-1, 1, 1], "left and right are swapped, or the axes are left-handed"),
    ("a.npy", joints_to_features(walking(30) * [-1, 1, 1], T2M).numpy(), "left and right are swapped"),
    ("a.npy", LYING, "either this axis is up, or the body is lying; rotate it so that y is up, or set the axis"),
    ("a.npy", np.array(["x"]), "real numbers"), ("a.npy", None, "missing"), ("a.bvh", None, "cannot read"),
    ("a.bvh", b"HIERARCHY\nROOT", "line 2"), ("a.fbx", b"", ".npy, .bvh or .amc"),
    ("a.asf", b"", "a.asf: a skeleton without motion"), ("a.amc", b"", "no skeleton file found: put a.asf next to it"),
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


def tilted(joints: np.ndarray, angle: np.ndarray, axis: str) -> np.ndarray:
    """Rotate the body about a horizontal axis through its floor point by ``angle`` (T,), with the lowest joint at 0."""
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    x, y, z = np.moveaxis(joints - joints[:1, :1] * [1, 0, 1], -1, 0)
    moved = (x, cos * y - sin * z, sin * y + cos * z) if axis == "x" else (cos * x - sin * y, sin * x + cos * y, z)
    moved = np.stack(moved, -1)
    return moved - moved[..., 1].min() * np.array([0, 1, 0])


def crawling(frames: int = 60) -> np.ndarray:
    """Return a figure on hands and knees: horizontal trunk, vertical thighs and arms, shins on the floor."""
    swing = 0.3 * np.sin(np.linspace(0, 12, frames))
    joints = figures.figure(frames, pitch=1.5, thighs=(swing, -swing), knees=(1.5 + swing, 1.5 - swing))
    for shoulder, rest in ((16, (18, 20)), (17, (19, 21))):  # arms reach down to the floor
        for number, joint in enumerate(rest, 1):
            joints[:, joint] = joints[:, shoulder] - number * np.array([0, 0.25, 0])
    return joints - joints[..., 1].min() * np.array([0, 1, 0], np.float32)


QUARTER = np.full(60, np.pi / 2)
ODD = {
    "bows deep throughout": figures.figure(60, pitch=1.9),
    "squats": figures.squatting(),
    "crawls sideways in the world": crawling() @ np.array([[0, 0, -1], [0, 1, 0], [1, 0, 0]]),
    "lies down and gets up": tilted(
        figures.standing(60), np.interp(np.arange(60), [0, 20, 40, 59], [0, 1.5, 1.5, 0]), "x"),
    "falls": tilted(figures.standing(60), np.linspace(0, np.pi / 2, 60), "z"),
    "turns over forwards": tilted(figures.standing(60), np.linspace(0, 2 * np.pi, 60), "x"),
    "lies on its back": tilted(figures.kicking("left", 60), -QUARTER, "x"),
    "lies on its side": tilted(figures.kicking("right", 60), QUARTER, "z"),
    "kicks": figures.kicking("left"),
    "jumps": figures.jumping(),
    "runs in a circle": figures.walking(80, 4.0, 6.0),
    "walks backwards": figures.walking(80, -1.2),
    "stands in a handstand": tilted(figures.figure(60, arms=(3.0, 3.0)), np.full(60, np.pi), "x"),
}


@pytest.mark.parametrize("what", ODD)
def test_what_does_not_stand_is_not_called_turned_or_swapped(what: str) -> None:
    stance = find_stance(ODD[what])
    assert stance.up in ("y", None) or not stance.sure
    assert swapped_sides(ODD[what]) is None
    assert swapped_sides(mirror(ODD[what], T2M)) is None


@pytest.mark.parametrize("up", UP_AXES)
@pytest.mark.parametrize("joints", [
    figures.walking(), figures.waving("both") + [0, 0, 0.3], figures.bowing() + [0.5, 0, 1], figures.sitting()])
def test_the_axis_of_a_standing_body_is_found(joints: np.ndarray, up: str) -> None:
    stored = with_up(joints, up)
    np.testing.assert_array_equal(to_y_up(stored, up), joints)
    assert find_stance(stored) == Stance(up, sure=True)
    assert find_stance(80 * stored) == Stance(up, sure=True)


def test_a_moment_of_standing_is_enough_not_to_lie() -> None:
    assert not lies_throughout(ODD["lies down and gets up"]) and not lies_throughout(ODD["bows deep throughout"])
    assert lies_throughout(ODD["lies on its back"])


def test_arms_on_the_other_sides_are_found() -> None:
    arms = [13, 14, 16, 17, 18, 19, 20, 21]
    joints = figures.walking()
    joints[:, arms] = joints[:, [T2M.mirror_order[joint] for joint in arms]]
    assert "hips and shoulders point in opposite directions" in swapped_sides(joints)


@pytest.fixture(scope="module")
def lamp(toy_models: Path) -> LoadedLaMP:
    return load_lamp("lamp", SPEC, toy_models)


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    folder = tmp_path / "motions"
    (folder / "more").mkdir(parents=True)
    for name, speed, frames in (("slow", 0.3, 60), ("fast", 1.5, 60), ("more/long", 1.0, 300)):
        np.save(folder / f"{name}.npy", walking(frames, speed))
    return folder


def test_the_nearest_are_those_of_a_full_sort_and_long_motions_fall_into_like_parts() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(500, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    groups = generator.integers(100, size=500)
    query = vectors[7]
    order = np.argsort(-(vectors @ query))
    assert [hit.row for hit in nearest(query, vectors, 10)] == order[:10].tolist()
    best = list(dict.fromkeys(groups[order].tolist()))
    assert [int(groups[hit.row]) for hit in nearest(query, vectors, 10, groups)] == best[:10]

    parts = parts_of([np.zeros((frames, 1)) for frames in (4, 196, 197, 500)])
    assert parts[:4] == [MotionPart(0, 0, 4), MotionPart(1, 0, 196), MotionPart(2, 0, 98), MotionPart(2, 98, 197)]
    assert [part.end - part.start for part in parts[4:]] == [167, 166, 167]
    assert (parts[4].start, parts[-1].end) == (0, 500)


def test_a_gallery_has_every_part_of_every_motion(gallery: Path, lamp: LoadedLaMP) -> None:
    found = open_gallery(gallery, lamp, SPEC, quiet=True)
    assert [path.relative_to(gallery).as_posix() for path in found.files] == ["fast.npy", "more/long.npy", "slow.npy"]
    assert [part.motion for part in found.parts] == [0, 1, 1, 2]
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-5)
    for number, path in enumerate(found.files):
        alone = encode_motions([path], lamp, SPEC)
        rows = [row for row, part in enumerate(found.parts) if part.motion == number]
        np.testing.assert_allclose(found.vectors[rows], alone.vectors, atol=1e-5)


def test_only_files_that_changed_are_encoded_again(gallery: Path, lamp: LoadedLaMP, capsys) -> None:
    def encoded() -> str:
        open_gallery(gallery, lamp, SPEC)
        return capsys.readouterr().out

    assert encoded().startswith("3 of 3 motions encoded")
    assert gallery.with_name("motions.gallery.pt").is_file()
    assert encoded() == ""
    before = open_gallery(gallery, lamp, SPEC).vectors
    np.save(gallery / "slow.npy", walking(60, -1.0))
    assert encoded().startswith("1 of 3")
    after = open_gallery(gallery, lamp, SPEC).vectors
    assert np.array_equal(before[:3], after[:3])
    assert not np.allclose(before[3], after[3], atol=1e-6)
    os.remove(gallery / "fast.npy")
    assert encoded().startswith("0 of 2")
    np.save(gallery / "new.npy", walking(50, 0.5))
    assert encoded().startswith("1 of 3")


def test_another_model_or_a_damaged_cache_encodes_all(gallery: Path, lamp: LoadedLaMP, tmp_path: Path, capsys) -> None:
    cache = tmp_path / "kept.pt"
    open_gallery(gallery, lamp, SPEC, cache)
    cache.write_bytes(cache.read_bytes()[:100])
    capsys.readouterr()
    open_gallery(gallery, lamp, SPEC, cache)
    assert capsys.readouterr().out.startswith("3 of 3")
    content = torch.load(lamp.source.file, weights_only=True)
    content["motion_qformer"]["motion_proj.bias"] += 1
    shutil.copytree(lamp.source.folder.parents[1], tmp_path / "checkpoints")
    torch.save(content, tmp_path / "checkpoints" / "t2m" / "lamp" / "model" / "latest.tar")
    open_gallery(gallery, load_lamp("lamp", SPEC, tmp_path / "checkpoints"), SPEC, cache)
    assert capsys.readouterr().out.startswith("3 of 3")


def test_of_twins_the_motion_as_made_is_taken_and_its_prompt_is_known(tmp_path: Path) -> None:
    for name in ("a.npy", "a_ik.npy", "more/b_ik.npy", "_ik.npy", "a_ik.bvh"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    taken = [path.relative_to(tmp_path).as_posix() for path in motion_files(tmp_path)]
    assert taken == ["_ik.npy", "a.npy", "a_ik.bvh", "more/b_ik.npy"]
    assert motion_files(tmp_path / "a_ik.npy") == [tmp_path / "a_ik.npy"]
    (tmp_path / "a.txt").write_text("a person walks\n")
    assert prompt_of(tmp_path / "a.npy") == prompt_of(tmp_path / "a_ik.npy") == "a person walks"
    assert prompt_of(tmp_path / "_ik.npy") is None


def test_files_without_motion_are_left_out_and_reported(gallery: Path, lamp: LoadedLaMP, capsys) -> None:
    for name, joints in (("nan", walking(40) * np.nan), ("short", walking(3))):
        np.save(gallery / f"{name}.npy", joints)
    files = motion_files(gallery)
    assert [path.stem for path in read_clips(files, SPEC)] == ["fast", "long", "slow"]
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"skipped {gallery / 'nan.npy'}: frame 0: x of pelvis is not finite (nan)"
    assert second == f"skipped {gallery / 'short.npy'}: 3 frames are too few; at least 4 are needed"
    with pytest.raises(InputError, match="nan.npy: frame 0"):
        read_clips([gallery / "nan.npy", gallery / "short.npy"], SPEC)
    assert len(open_gallery(gallery, lamp, SPEC).files) == 3
    assert "skipped 2 files" in capsys.readouterr().out
    for path in files:
        np.save(path, np.zeros(3))
    with pytest.raises(InputError, match="contains no readable motion"):
        open_gallery(gallery, lamp, SPEC)
