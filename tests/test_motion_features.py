"""Joints to features and back: round trips, invariances, properties of the representation."""
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d

from motion.features import (
    ColumnStatistics,
    biased_std,
    feature_groups,
    features_to_joints,
    features_to_joints_from_rotations,
    gaussian_smooth,
    heading,
    joints_of,
    joints_to_features,
    mean_std,
    process,
    root_motion,
    time_warp,
)
from motion.rotation import cont6d_to_matrix, quat_conjugate, quat_rotate
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
def test_every_joint_but_the_root_has_a_parent_and_a_rest_direction_of_length_one(skeleton: Skeleton):
    assert [joint for joint, parent in enumerate(skeleton.parents) if parent < 0] == [0]
    lengths = np.linalg.norm(skeleton.raw_offsets, axis=-1)
    assert lengths.tolist() == [0.0] + [1.0] * (len(skeleton) - 1)


@BOTH
def test_features_have_12_columns_a_joint_less_one_and_a_row_less_than_frames(skeleton: Skeleton):
    features = joints_to_features(sample_motion(skeleton), skeleton)
    assert features.shape == (59, 12 * len(skeleton) - 1)
    assert features.dtype == torch.float32
    groups = feature_groups(len(skeleton))
    assert groups[0].start == 0
    assert [group.stop for group in groups[:-1]] == [group.start for group in groups[1:]]
    assert groups[-1].stop == features.shape[-1]


@BOTH
@pytest.mark.parametrize("seed", SEEDS)
def test_features_give_the_joints_back(skeleton: Skeleton, seed: int):
    stages = process(sample_motion(skeleton, seed=seed), skeleton, _offsets(skeleton))
    joints = features_to_joints(stages.features, skeleton)
    _close(joints, stages.positions[:-1], atol=1e-5 * _size(skeleton))


@BOTH
@pytest.mark.parametrize("seed", SEEDS)
def test_rotations_tell_the_same_joints_as_positions(skeleton: Skeleton, seed: int):
    stages = process(sample_motion(skeleton, seed=seed, sway=0.8), skeleton, _offsets(skeleton))
    joints = features_to_joints_from_rotations(stages.features, skeleton, _offsets(skeleton))
    _close(joints, stages.positions[:-1], atol=2e-5 * _size(skeleton))


@BOTH
def test_features_of_recovered_joints_are_the_features(skeleton: Skeleton):
    """For a body that does not turn, because smoothing the heading would miss the last frame the second time."""
    joints = sample_motion(skeleton, turn=0.0, sway=0.0)
    features = joints_to_features(joints, skeleton)
    again = joints_to_features(features_to_joints(features, skeleton), skeleton)
    _close(again, features[:-1], atol=2e-5 * _size(skeleton))


@BOTH
def test_place_and_heading_do_not_matter(skeleton: Skeleton):
    joints = sample_motion(skeleton)
    moved = turned(joints, 2.0) + np.float32([3, -1, 2]) * _size(skeleton)
    features = joints_to_features(joints, skeleton, _offsets(skeleton))
    _close(joints_to_features(moved, skeleton, _offsets(skeleton)), features, atol=1e-4 * max(1, _size(skeleton)))


@BOTH
def test_size_does_not_matter_where_there_is_a_reference_body(skeleton: Skeleton):
    joints = sample_motion(skeleton)
    features, larger = (joints_to_features(scale * joints, skeleton, _offsets(skeleton)) for scale in (1, 1.7))
    _close(larger, features, atol=1e-4 * max(1, _size(skeleton)))


def test_clips_get_the_bones_of_the_reference_body():
    lengths = sample_lengths(T2M) * np.linspace(0.8, 1.3, 22, dtype=np.float32)
    stages = process(sample_motion(T2M, lengths=lengths), T2M)
    for pose in stages.positions[[0, -1]]:
        _close(pose_offsets(pose, T2M), T2M.target_offsets, atol=1e-6)


def test_without_a_reference_body_a_clip_keeps_its_own_bones():
    joints = sample_motion(KIT)
    assert KIT.target_offsets is None
    _close(pose_offsets(process(joints, KIT).positions[5], KIT), pose_offsets(joints[5], KIT), atol=1e-3)
    with pytest.raises(ValueError, match="target_offsets"):
        features_to_joints_from_rotations(torch.zeros(4, 251), KIT)


@BOTH
def test_frame_0_stands_on_the_floor_at_the_origin_and_faces_z(skeleton: Skeleton):
    positions = process(sample_motion(skeleton) + 5, skeleton).positions
    assert positions[..., 1].min() == 0
    _close(positions[0, 0, [0, 2]], torch.zeros(2), atol=1e-6 * _size(skeleton))
    a, b, c, d = skeleton.face_joints
    across = positions[0, a] - positions[0, b] + positions[0, c] - positions[0, d]
    assert across[0] < 0
    assert abs(across[2]) < 1e-4 * _size(skeleton)


def test_walking_ahead_is_root_velocity_along_z_whatever_the_heading():
    rest = np.repeat(sample_motion(T2M, frames=1, sway=0.0, turn=0.0), 30, 0)
    walk = rest + 0.05 * np.float32([0, 0, 1]) * np.arange(30, dtype=np.float32)[:, None, None]
    for angle in (0.0, 1.0, -2.5):
        features = joints_to_features(turned(walk, angle), T2M, pose_offsets(rest[0], T2M))
        _close(features[:, 1:3], np.tile(np.float32([0, 0.05]), (29, 1)), atol=1e-5)
        _close(features[:, 0], np.zeros(29), atol=1e-5)


def test_yaw_speed_is_half_the_turn_of_a_frame():
    turning = sample_motion(T2M, frames=201, sway=0.0, turn=2.0)
    yaw_speed = joints_to_features(turning, T2M)[:, 0]
    # Joints turn left by 0.01 rad per frame; the stored turn is the inverse. Smoothing affects the ends.
    _close(yaw_speed[90:110], np.full(20, -0.005), atol=1e-5)


def test_velocities_are_the_steps_of_the_joints_as_the_body_sees_them():
    stages = process(sample_motion(T2M), T2M)
    groups = feature_groups(22)
    steps = stages.features[:, groups.velocities].unflatten(-1, (22, 3))
    world = quat_rotate(quat_conjugate(root_motion(stages.features).quat)[:, None], steps)
    _close(world, stages.positions.diff(dim=0), atol=1e-5)


def test_hips_count_against_shoulders_in_the_heading():
    pose = np.zeros((2, 22, 3), np.float32)
    pose[:, 1], pose[:, 2] = (0.1, 0, 0), (-0.1, 0, 0)
    pose[:, 16], pose[:, 17] = (0.2, 0, 0.2), (-0.2, 0, -0.2)
    forward = quat_rotate(quat_conjugate(heading(torch.tensor(pose), T2M))[1], torch.tensor([0.0, 0.0, 1.0]))
    # across = left hip - right hip + right shoulder - left shoulder = (0.2 - 0.4, 0, -0.4)
    _close(forward, np.array([-0.4, 0, 0.2]) / np.hypot(0.4, 0.2), atol=1e-6)


@pytest.mark.parametrize("frames", [2, 30, 300])
def test_smoothing_is_that_of_scipy(frames: int):
    values = torch.randn(frames, 3, generator=torch.Generator().manual_seed(0))
    expected = gaussian_filter1d(values.numpy(), 20, axis=0, mode="nearest", truncate=4.0)
    _close(gaussian_smooth(values, 20), expected, atol=1e-6)


def test_a_twitch_hardly_turns_the_smoothed_heading():
    joints = sample_motion(T2M, sway=0.0, turn=0.0)
    joints[30] = turned(joints[30:31] - joints[30, 0], 1.0)[0] + joints[30, 0]
    plain, smooth = heading(torch.tensor(joints), T2M)[30], heading(torch.tensor(joints), T2M, sigma=20)[30]
    _close(2 * plain[2].asin().abs(), np.float32(1.0), atol=1e-5)
    assert 2 * smooth[2].asin().abs() < 0.05


def test_feet_that_stay_are_in_contact_and_feet_that_move_are_not():
    joints = np.repeat(sample_motion(T2M, frames=1), 10, 0)
    joints[5:, 7, 2] += 0.05
    contacts = joints_to_features(joints, T2M, pose_offsets(joints[0], T2M))[:, feature_groups(22).contacts]
    expected = np.ones((9, 4))
    expected[4, 0] = 0
    _close(contacts, expected, atol=0)


@BOTH
def test_mirroring_twice_changes_nothing(skeleton: Skeleton):
    joints = sample_motion(skeleton)
    assert np.array_equal(mirror(mirror(joints, skeleton), skeleton), joints)
    assert not np.allclose(mirror(joints, skeleton), joints, atol=1e-3 * _size(skeleton))


@BOTH
def test_the_features_of_the_mirrored_motion_are_the_mirrored_features(skeleton: Skeleton):
    order = list(skeleton.mirror_order)
    lengths = (sample_lengths(skeleton) + sample_lengths(skeleton)[order]) / 2  # as long left as right
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


def test_a_body_turned_half_way_round_in_one_frame_gives_numbers():
    still = np.repeat(sample_motion(T2M, frames=1, sway=0.0), 2, 0)
    for frames in (1, 2, 40):
        joints = np.concatenate((np.repeat(still[:1], frames, 0), np.repeat(turned(still[:1], np.pi), frames, 0)))
        features = joints_to_features(joints, T2M)
        assert features.isfinite().all()
        assert heading(torch.tensor(joints, dtype=torch.float32), T2M).isfinite().all()


def test_bones_without_length_and_bones_against_their_rest_direction_give_numbers():
    joints = sample_motion(T2M)
    joints[:, 15] = joints[:, 12]
    joints[:, 18] = joints[:, 16] + np.float32([0, 0.25, 0])
    stages = process(joints, T2M)
    assert stages.features.isfinite().all()
    _close(features_to_joints_from_rotations(stages.features, T2M), stages.positions[:-1], atol=1e-4)


def test_turning_past_half_way_round_keeps_the_path_unless_published_features_are_asked_for():
    joints = sample_motion(T2M, frames=120, turn=12.0, sway=0.2)
    stages = process(joints, T2M)
    _close(features_to_joints(stages.features, T2M), stages.positions[:-1], atol=1e-5)
    published = joints_to_features(joints, T2M, published_yaw=True)
    wrong = (published - stages.features).abs().amax(-1) > 1e-3
    assert 0 < wrong.sum() <= 2
    _close(published[:, 1:], stages.features[:, 1:], atol=0)
    _close(published[wrong, 0], -stages.features[wrong, 0], atol=1e-6)


@BOTH
def test_each_clip_of_a_batch_is_recovered_as_if_alone(skeleton: Skeleton):
    clips = torch.stack([joints_to_features(sample_motion(skeleton, seed=seed), skeleton) for seed in SEEDS])
    offsets = _offsets(skeleton)
    together = features_to_joints(clips.view(2, 2, *clips.shape[1:]), skeleton).flatten(0, 1)
    rotations = features_to_joints_from_rotations(clips, skeleton, offsets)
    for index, clip in enumerate(clips):
        alone = features_to_joints(clip, skeleton), features_to_joints_from_rotations(clip, skeleton, offsets)
        _close(together[index], alone[0], atol=1e-6 * _size(skeleton))
        _close(rotations[index], alone[1], atol=1e-6 * _size(skeleton))


def test_gradients_flow_from_joints_to_root_and_pose_columns():
    features = joints_to_features(sample_motion(T2M), T2M).requires_grad_()
    features_to_joints(features, T2M).square().sum().backward()
    assert features.grad.isfinite().all()
    groups = feature_groups(22)
    used = [groups.yaw_speed, groups.root_velocity, groups.root_height, groups.local_positions]
    assert all(features.grad[:-1, group].abs().sum() > 0 for group in used)


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


def test_features_of_another_width_are_refused():
    with pytest.raises(ValueError, match="251"):
        features_to_joints(torch.zeros(5, 251), T2M)
    with pytest.raises(ValueError, match="250"):
        joints_of(250)


def test_statistics_are_over_all_rows_and_averaged_in_groups():
    rng = np.random.default_rng(0)
    clips = [rng.normal(3, rng.uniform(0.1, 2, 263), (rows, 263)) for rows in (5, 40, 17)]
    mean, std = mean_std([*clips, np.full((4, 263), np.nan)])
    rows = np.concatenate(clips)
    np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-12)
    for group in feature_groups(22):
        np.testing.assert_allclose(std[group], rows.std(0)[group].mean(), rtol=1e-12)


def test_statistics_of_parts_add_up_in_any_order():
    rng = np.random.default_rng(1)
    first, second, third = (ColumnStatistics.of(rng.normal(size=(rows, 251))) for rows in (3, 9, 30))
    for one, other in zip(((first + second) + third).mean_std(), (third + (second + first)).mean_std(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_statistics_of_nothing_are_refused():
    with pytest.raises(ValueError, match="no clip"):
        mean_std([np.full((4, 263), np.nan)])


def test_the_bias_divides_root_motion_and_contacts_once():
    std = np.ones(263)
    biased = biased_std(std, 5.0)
    assert np.flatnonzero(biased == 0.2).tolist() == [0, 1, 2, 3, 259, 260, 261, 262]
    assert (biased[4:259] == 1).all()
    assert (std == 1).all()


def test_a_warped_window_is_the_motion_at_another_speed() -> None:
    skeleton = SKELETONS["t2m"]
    features = torch.as_tensor(joints_to_features(walking(90, 1.0, turn=0.5), skeleton))[None]
    speed = torch.tensor([1.25])
    warped = time_warp(features, speed, 60)
    slow, fast = (features_to_joints(x, skeleton)[0, :, 0] for x in (features, warped))
    assert warped.shape == (1, 60, features.shape[-1])
    # Frame 56 at 1.25 times the speed is frame 70, up to the sum that stands for the integral of the speed.
    assert torch.dist(fast[56], slow[70]) < 0.02 * slow[70].norm()
    assert torch.equal(time_warp(features, torch.ones(1), 60), features[:, :60])
