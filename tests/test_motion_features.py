"""Conversion of joints to features and back: round trips and invariances."""
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d

from motion.features import (
    feature_groups,
    features_to_joints,
    features_to_joints_from_rotations,
    gaussian_smooth,
    joints_to_features,
    process,
    time_warp,
)
from motion.rotation import cont6d_to_matrix
from motion.skeleton import KIT, SKELETONS, T2M, Skeleton, mirror, pose_offsets
from tests.figures import walking
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
