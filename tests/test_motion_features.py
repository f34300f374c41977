"""Features, rotations, and joints that coincide with their parents: round trips, invariances and SciPy."""
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation, Slerp

from motion import rotation
from motion.bvh_fit import bvh_to_joints, joints_to_bvh
from motion.features import (
    feature_groups,
    features_to_joints,
    features_to_joints_from_rotations,
    gaussian_smooth,
    joints_to_features,
    process,
    time_warp,
)
from motion.rotation import bone_directions, cont6d_to_matrix
from motion.skeleton import KIT, SKELETONS, T2M, Skeleton, mirror, pose_offsets
from tests.figures import figure, walking
from tests.sample_motion import sample_lengths, sample_motion, turned

SEEDS = range(4)
BOTH = pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS.keys())


def _offsets(skeleton: Skeleton) -> np.ndarray:
    return np.float32(skeleton.raw_offsets) * sample_lengths(skeleton)[:, None]


def _size(skeleton: Skeleton) -> float:
    return float(sample_lengths(skeleton).max())


def _close(actual: torch.Tensor, expected: torch.Tensor | np.ndarray, atol: float) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)


@BOTH
@pytest.mark.parametrize("seed", SEEDS)
def test_features_give_the_joints_back(skeleton: Skeleton, seed: int):
    stages = process(sample_motion(skeleton, seed=seed), skeleton, _offsets(skeleton))
    joints = features_to_joints(stages.features, skeleton)
    _close(joints, stages.positions[:-1], atol=1e-5 * _size(skeleton))


@BOTH
def test_place_and_heading_do_not_matter(skeleton: Skeleton):
    joints = sample_motion(skeleton)
    moved = turned(joints, 2.0) + np.float32([3, -1, 2]) * _size(skeleton)
    features = joints_to_features(joints, skeleton, _offsets(skeleton))
    _close(joints_to_features(moved, skeleton, _offsets(skeleton)), features, atol=1e-4 * max(1, _size(skeleton)))


def test_without_a_reference_body_a_clip_keeps_its_own_bones():
    joints = sample_motion(KIT)
    assert KIT.target_offsets is None
    _close(pose_offsets(process(joints, KIT).positions[5], KIT), pose_offsets(joints[5], KIT), atol=1e-3)
    with pytest.raises(ValueError, match="target_offsets"):
        features_to_joints_from_rotations(torch.zeros(4, 251), KIT)


@pytest.mark.parametrize("frames", [2, 30, 300])
def test_smoothing_is_that_of_scipy(frames: int):
    values = torch.randn(frames, 3, generator=torch.Generator().manual_seed(0))
    expected = gaussian_filter1d(values.numpy(), 20, axis=0, mode="nearest", truncate=4.0)
    _close(gaussian_smooth(values, 20), expected, atol=1e-6)


@BOTH
def test_the_features_of_the_mirrored_motion_are_the_mirrored_features(skeleton: Skeleton):
    order = list(skeleton.mirror_order)
    lengths = (sample_lengths(skeleton) + sample_lengths(skeleton)[order]) / 2  # symmetric
    joints = sample_motion(skeleton, lengths=lengths)
    offsets = np.float32(skeleton.raw_offsets) * lengths[:, None]
    plain = joints_to_features(joints, skeleton, offsets)
    mirrored = joints_to_features(mirror(joints, skeleton), skeleton, offsets)
    groups = feature_groups(len(skeleton))
    flip = torch.tensor([-1.0, 1.0, 1.0])
    others = [joint - 1 for joint in order[1:]]
    size = max(1, _size(skeleton))
    _close(mirrored[:, groups.yaw_speed], -plain[:, groups.yaw_speed], atol=1e-5)
    _close(mirrored[:, groups.root_velocity], plain[:, groups.root_velocity] * flip[:2], atol=1e-5 * size)
    _close(mirrored[:, groups.root_height], plain[:, groups.root_height], atol=1e-5 * size)
    for group, joint_order in ((groups.local_positions, others), (groups.velocities, order)):
        before, after = (features[:, group].unflatten(-1, (-1, 3)) for features in (plain, mirrored))
        _close(after, before[:, joint_order] * flip, atol=1e-5 * size)
    before, after = (cont6d_to_matrix(features[:, groups.rotations].unflatten(-1, (-1, 6)))
                     for features in (plain, mirrored))
    _close(after, flip.diag() @ before[:, others] @ flip.diag(), atol=1e-4)
    _close(mirrored[:, groups.contacts], plain[:, groups.contacts][:, [2, 3, 0, 1]], atol=0)


def test_turning_past_half_way_round_keeps_the_path_unless_published_features_are_asked_for():
    joints = sample_motion(T2M, frames=120, turn=12.0, sway=0.2)
    stages = process(joints, T2M)
    _close(features_to_joints(stages.features, T2M), stages.positions[:-1], atol=1e-5)
    published = joints_to_features(joints, T2M, published_yaw=True)
    wrong = (published - stages.features).abs().amax(-1) > 1e-3
    assert 0 < wrong.sum() <= 2
    _close(published[:, 1:], stages.features[:, 1:], atol=0)
    _close(published[wrong, 0], -stages.features[wrong, 0], atol=1e-6)


@pytest.mark.parametrize(("joints", "reason"), [
    (np.zeros((10, 21, 3)), r"\(10, 21, 3\)"),
    (np.zeros((10, 22)), r"\(10, 22\)"),
    (np.zeros((1, 22, 3)), "1 frames; a motion needs at least 2"),
    (np.full((10, 22, 3), np.nan), "not finite"),
    (np.zeros((10, 22, 3)), "legs"),
])
def test_joints_that_are_no_motion_are_refused(joints: np.ndarray, reason: str):
    with pytest.raises(ValueError, match=reason):
        joints_to_features(joints, T2M)


def test_a_warped_window_is_the_motion_at_another_speed() -> None:
    skeleton = SKELETONS["t2m"]
    features = torch.as_tensor(joints_to_features(walking(90, 1.0, turn=0.5), skeleton))[None]
    speed = torch.tensor([1.25])
    warped = time_warp(features, speed, 60)
    slow, fast = (features_to_joints(x, skeleton)[0, :, 0] for x in (features, warped))
    assert warped.shape == (1, 60, features.shape[-1])
    # Frame 56 at 1.25 times the speed is frame 70, up to the error of summing speeds.
    assert torch.dist(fast[56], slow[70]) < 0.02 * slow[70].norm()
    assert torch.equal(time_warp(features, torch.ones(1), 60), features[:, :60])


@pytest.mark.parametrize("direction", [(0, 0, 1), (1, 0, 0), (0, 1, 0), (0, -1, 0), (0.6, 0, 0.8), (0.6, 0.8, 0)])
def test_between_opposite_directions_is_a_half_turn(direction: tuple[float, ...]):
    a = torch.tensor(direction, dtype=torch.float32)
    q = rotation.quat_between(a, -a)
    _close(q.norm(), torch.tensor(1.0), 1e-5)
    _close(rotation.quat_rotate(q, a), -a, 1e-5)
    if a[1] == 0:
        _close(q.abs(), torch.tensor([0.0, 0.0, 1.0, 0.0]), 1e-5)


def test_axis_angles_are_those_of_scipy():
    turns = np.random.default_rng(3).normal(size=(50, 3)) * np.linspace(0, 2, 50)[:, None]
    quats = rotation.axis_angle_to_quat(torch.from_numpy(turns))
    np.testing.assert_allclose(rotation.quat_to_matrix(quats), Rotation.from_rotvec(turns).as_matrix(), atol=1e-12)


def test_the_shorter_arc_is_that_of_scipy():
    a, b = (Rotation.random(20, rng=seed) for seed in (0, 1))
    weights = np.linspace(0, 1, 20)
    quats = [torch.from_numpy(turn.as_quat()[:, [3, 0, 1, 2]]) for turn in (a, b)]
    for sign in (1, -1):
        got = rotation.slerp(quats[0], sign * quats[1], torch.from_numpy(weights)[:, None])
        expected = [Slerp([0, 1], Rotation.concatenate([a[k], b[k]]))(weights[k]).as_matrix() for k in range(20)]
        np.testing.assert_allclose(rotation.quat_to_matrix(got), expected, atol=1e-9)
    still = rotation.slerp(quats[0], quats[0], torch.full((20, 1), 0.3, dtype=torch.float64))
    np.testing.assert_allclose(rotation.quat_to_matrix(still), a.as_matrix(), atol=1e-9)


CASES = {
    "collars": ("left_collar", "right_collar"),
    "one collar": ("left_collar",),
    "neck": ("neck",),
    "neck and collars": ("neck", "left_collar", "right_collar"),
    "head": ("head",),
    "spine": ("spine1", "spine2"),
    "whole spine": ("spine1", "spine2", "spine3"),
    "shoulders": ("left_shoulder", "right_shoulder"),
    "hips": ("left_hip", "right_hip"),
    "toes": ("left_foot", "right_foot"),
}


def with_coinciding(joints: np.ndarray, case: str) -> np.ndarray:
    """Move the joints of a case, with their descendants, onto their parents."""
    moved = joints.copy()
    for joint in map(T2M.joint_names.index, CASES[case]):
        bone = moved[:, joint] - moved[:, T2M.parents[joint]]
        for other in range(len(T2M)):
            above = other
            while above > 0 and above != joint:
                above = T2M.parents[above]
            if above == joint:
                moved[:, other] -= bone
        moved[:, joint] = moved[:, T2M.parents[joint]]
    return moved


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("noise", [0.0, 1e-6])
def test_bones_of_no_length_turn_with_the_body(case: str, noise: float) -> None:
    joints = np.float64(with_coinciding(sample_motion(T2M, sway=0.2), case))
    joints += noise * np.random.default_rng(0).standard_normal(joints.shape)
    angle = np.linspace(0, 4, len(joints))[:, None]
    directions = bone_directions(torch.from_numpy(joints), T2M)
    of_turned = bone_directions(torch.from_numpy(turned(joints, angle)), T2M).numpy()
    np.testing.assert_allclose(of_turned, turned(directions.numpy(), angle), atol=1e-4 if noise else 1e-9)
    np.testing.assert_allclose(np.linalg.norm(of_turned[:, 1:], axis=-1), 1)


@pytest.mark.parametrize("case", CASES)
def test_bvh_files_of_such_bodies_keep_joints_and_turn_smoothly(case: str) -> None:
    yaw, lean = np.linspace(0, 3, 60), 0.4 * np.sin(np.linspace(0, 6, 60))
    joints = with_coinciding(figure(60, yaw=yaw, pitch=lean, thighs=(lean, -lean)), case)
    bvh = joints_to_bvh(joints, T2M, 20)
    np.testing.assert_allclose(bvh_to_joints(bvh, T2M), joints, atol=1e-4)
    cosine = (np.einsum("tjkl,tjkl->tj", bvh.local_rotations()[1:], bvh.local_rotations()[:-1]) - 1) / 2
    assert cosine.min() > np.cos(0.2)
