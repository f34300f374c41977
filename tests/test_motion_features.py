"""Features, rotations, coincident joints and foot locking: round trips, invariances and SciPy."""
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation, Slerp

from motion import features, rotation
from motion.body import bone_length_drift, floor_penetration, foot_skating
from motion.bvh_fit import bvh_to_joints, joints_to_bvh, rigid_joints
from motion.features import features_to_joints, joints_to_features
from motion.foot import foot_joints, legs_of, lock_feet, lock_feet_published, solve_legs, standing, still_steps
from motion.skeleton import KIT, SKELETONS, T2M, Skeleton, mirror, pose_offsets
from tests import figures
from tests.figures import figure, walking
from tests.sample_motion import sample_lengths, sample_motion, turned


def _close(actual: torch.Tensor, expected: torch.Tensor | np.ndarray, atol: float) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS)
def test_features_give_joints_back_at_any_place_and_heading_and_mirror_as_joints_do(skeleton: Skeleton):
    order = list(skeleton.mirror_order)
    lengths = (sample_lengths(skeleton) + sample_lengths(skeleton)[order]) / 2  # symmetric
    size, offsets = float(lengths.max()), np.float32(skeleton.raw_offsets) * lengths[:, None]
    joints, groups = sample_motion(skeleton, lengths=lengths), features.feature_groups(len(skeleton))
    stages = features.process(joints, skeleton, offsets)
    plain = stages.features
    _close(features_to_joints(plain, skeleton), stages.positions[:-1], 1e-5 * size)
    _close(features.features_to_joints_from_rotations(plain, skeleton, offsets), stages.positions[:-1], 1e-3 * size)
    steps = rotation.quat_rotate(features.root_motion(plain).quat[:, None], stages.positions.diff(dim=0))
    _close(plain[:, groups.velocities], steps.flatten(1), 1e-4 * max(1, size))
    still = joints_to_features(joints[[0] * 3], skeleton, offsets)
    assert still[:, groups.contacts].all() and not plain[:, groups.contacts].all()
    moved = turned(joints, 2.0) + np.float32([3, -1, 2]) * size
    _close(joints_to_features(moved, skeleton, offsets), plain, 1e-4 * max(1, size))

    mirrored, flip = joints_to_features(mirror(joints, skeleton), skeleton, offsets), torch.tensor([-1.0, 1, 1])
    others, near = [joint - 1 for joint in order[1:]], 1e-5 * max(1, size)
    root = [groups.yaw_speed, groups.root_velocity, groups.root_height]
    for group, signs in zip(root, (-1, flip[:2], 1), strict=True):
        _close(mirrored[:, group], plain[:, group] * signs, near)
    for group, joint_order in ((groups.local_positions, others), (groups.velocities, order)):
        before, after = (vectors[:, group].unflatten(-1, (-1, 3)) for vectors in (plain, mirrored))
        _close(after, before[:, joint_order] * flip, near)
    before, after = (rotation.cont6d_to_matrix(vectors[:, groups.rotations].unflatten(-1, (-1, 6)))
                     for vectors in (plain, mirrored))
    _close(after, flip.diag() @ before[:, others] @ flip.diag(), 1e-4)
    _close(mirrored[:, groups.contacts], plain[:, groups.contacts][:, [2, 3, 0, 1]], 0)


def test_smoothing_and_rotations_are_those_of_scipy():
    values = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    _close(features.gaussian_smooth(values, 20), gaussian_filter1d(values.numpy(), 20, axis=0, mode="nearest"), 1e-6)
    a, b = (Rotation.random(30, rng=seed) for seed in (0, 1))
    qa, qb = (torch.from_numpy(turn.as_quat(scalar_first=True)) for turn in (a, b))
    for got, expected in ((rotation.quat_multiply(qa, qb), a * b), (rotation.quat_conjugate(qa), a.inv()),
                          (rotation.axis_angle_to_quat(torch.from_numpy(a.as_rotvec())), a)):
        _close(rotation.quat_to_matrix(got), expected.as_matrix(), 1e-9)
    _close(rotation.quat_rotate(qa, values.double()), a.apply(values.numpy()), 1e-6)
    _close(rotation.quat_to_matrix(rotation.matrix_to_quat(torch.from_numpy(a.as_matrix()))), a.as_matrix(), 1e-6)
    _close(rotation.cont6d_to_matrix(rotation.quat_to_cont6d(qa)), a.as_matrix(), 1e-6)


def test_without_a_reference_body_a_clip_keeps_its_own_bones():
    joints = sample_motion(KIT)
    assert KIT.target_offsets is None
    _close(pose_offsets(features.process(joints, KIT).positions[5], KIT), pose_offsets(joints[5], KIT), atol=1e-3)
    with pytest.raises(ValueError, match="target_offsets"):
        features.features_to_joints_from_rotations(torch.zeros(4, 251), KIT)


def test_turning_past_half_way_round_keeps_the_path_unless_published_features_are_asked_for():
    joints = sample_motion(T2M, frames=120, turn=12.0, sway=0.2)
    stages = features.process(joints, T2M)
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
    whole = torch.as_tensor(joints_to_features(walking(90, 1.0, turn=0.5), skeleton))[None]
    speed = torch.tensor([1.25])
    warped = features.time_warp(whole, speed, 60)
    slow, fast = (features_to_joints(x, skeleton)[0, :, 0] for x in (whole, warped))
    assert warped.shape == (1, 60, whole.shape[-1])
    # Frame 56 at 1.25 times the speed is frame 70, up to the error of summing speeds.
    assert torch.dist(fast[56], slow[70]) < 0.02 * slow[70].norm()
    assert torch.equal(features.time_warp(whole, torch.ones(1), 60), whole[:, :60])


def test_an_added_turn_bends_the_path_and_keeps_the_pose() -> None:
    skeleton, groups = SKELETONS["t2m"], features.feature_groups(22)
    straight = torch.as_tensor(joints_to_features(walking(60, 1.0), skeleton))[None].double()
    turning = features.add_turn(straight, torch.tensor([0.02]).double())
    assert torch.equal(turning[..., groups.local_positions], straight[..., groups.local_positions])
    joints, root = features_to_joints(turning, skeleton)[0], features.root_motion(turning)
    facing = rotation.quat_rotate(rotation.quat_conjugate(root.quat[0]), torch.tensor([0.0, 0, 1]).double())
    _close(torch.atan2(facing[:, 0], facing[:, 2]), 0.02 * torch.arange(len(facing)).double(), 1e-5)
    assert joints[-1, 0, 0] > 0.5  # to the left
    steps = rotation.quat_rotate(root.quat[0, :-1, None], joints.diff(dim=0))
    _close(turning[0, :-1, groups.velocities].unflatten(-1, (-1, 3)), steps, 1e-5)


@pytest.mark.parametrize("direction", [(0, 0, 1), (1, 0, 0), (0, 1, 0), (0, -1, 0), (0.6, 0, 0.8), (0.6, 0.8, 0)])
def test_between_opposite_directions_is_a_half_turn(direction: tuple[float, ...]):
    a = torch.tensor(direction, dtype=torch.float32)
    q = rotation.quat_between(a, -a)
    _close(q.norm(), torch.tensor(1.0), 1e-5)
    _close(rotation.quat_rotate(q, a), -a, 1e-5)
    if a[1] == 0:
        _close(q.abs(), torch.tensor([0.0, 0.0, 1.0, 0.0]), 1e-5)


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


def with_coinciding(joints: np.ndarray, names: str) -> np.ndarray:
    """Move joints, with their descendants, onto their parents."""
    moved, gone = joints.copy(), names.split()
    for joint in range(1, len(T2M)):
        parent = T2M.parents[joint]
        bone = 0 if T2M.joint_names[joint] in gone else joints[:, joint] - joints[:, parent]
        moved[:, joint] = moved[:, parent] + bone
    return moved


@pytest.mark.parametrize("names", [
    "left_collar right_collar", "left_collar", "neck", "neck left_collar right_collar", "head", "spine1 spine2",
    "spine1 spine2 spine3", "left_shoulder right_shoulder", "left_hip right_hip", "left_foot right_foot"])
def test_bvh_files_of_bodies_with_coinciding_joints_keep_joints_and_turn_smoothly(names: str) -> None:
    yaw, lean = np.linspace(0, 3, 60), 0.4 * np.sin(np.linspace(0, 6, 60))
    joints = with_coinciding(figure(60, yaw=yaw, pitch=lean, thighs=(lean, -lean)), names)
    bvh = joints_to_bvh(joints, T2M, 20)
    np.testing.assert_allclose(bvh_to_joints(bvh, T2M), joints, atol=1e-4)
    cosine = (np.einsum("tjkl,tjkl->tj", bvh.local_rotations()[1:], bvh.local_rotations()[:-1]) - 1) / 2
    assert cosine.min() > np.cos(0.2)


FPS = 20


def walk(slide: float = 0.0) -> np.ndarray:
    """Return a walk along z at 1 m/s, whose feet stand for 0.6 s of each second and slide forward at ``slide`` m/s."""
    frames = 100
    body = np.float64(figures.squatting())[[30]].repeat(frames, 0)  # bent legs can reach further
    time = np.arange(frames) / FPS
    joints = body + np.stack([0 * time, 0 * time, (1 + slide) * time], -1)[:, None]
    for leg, phase in zip(legs_of(T2M), (0.0, 0.5), strict=True):
        cycle, beat = np.divmod(time + phase, 1.0)
        swing = ((beat - 0.6) / 0.4).clip(0)
        foot = body[:, leg.foot] - body[:, leg.foot[:1]] * [0, 0, 1]
        foot[..., 2] += (cycle - phase + 0.3 + slide * time + swing * swing * (3 - 2 * swing))[:, None]
        foot[..., 1] += 0.1 * np.sin(np.pi * swing)[:, None]
        joints[:, leg.foot] = foot
    return solve_legs(joints, body, T2M)


def climbing() -> np.ndarray:
    """Return a walk upstairs, in which each foot swings onto a higher step and stands there."""
    joints, time = walk(), np.arange(100) / FPS
    body = joints.copy()
    for leg, phase in zip(legs_of(T2M), (0.0, 0.5), strict=True):
        cycle, beat = np.divmod(time + phase, 1.0)
        rise = 0.2 * (cycle + (beat > 0.6) * np.clip((beat - 0.6) / 0.2, 0, 1))
        joints[:, leg.foot, 1] += rise[:, None]
    joints[:, [j for j in range(22) if j not in foot_joints(T2M)], 1] += 0.2 * time[:, None]
    return solve_legs(joints, body, T2M)


def standing_and_shifting() -> np.ndarray:
    """Return a standing figure whose feet slide by a few centimetres, with one high step."""
    time = np.arange(90)
    drift = 0.04 * np.stack([np.sin(time / 15), np.cos(time / 11)], -1)
    lift = 0.9 * np.exp(-(((time - 45) / 5.0) ** 2))
    return np.float64(figures.figure(90, path=drift, thighs=(lift, 0), knees=(2 * lift, 0)))


def test_planted_feet_slide_less_and_bones_hips_and_arms_stay_and_feet_are_lifted_out_of_the_floor():
    for joints in (standing_and_shifting(), rigid_joints(walk(slide=0.4), T2M)):
        planted = lock_feet(joints, T2M, FPS)
        assert foot_skating(planted, T2M, FPS) < 0.6 * foot_skating(joints, T2M, FPS)
        assert np.linalg.norm(planted - joints, axis=-1).mean() < 0.02
    assert bone_length_drift(planted, T2M) < 1e-6
    legs = {joint for leg in legs_of(T2M) for joint in (leg.knee, *leg.foot)}
    others = [joint for joint in range(22) if joint not in legs]
    np.testing.assert_allclose(planted[:, others], joints[:, others], atol=1e-6)

    joints = np.float64(figures.walking(60)) - [0, 0.03, 0]
    assert floor_penetration(joints) == pytest.approx(0.03, abs=1e-6)
    assert floor_penetration(lock_feet(joints, T2M, FPS)) < 2e-3


def test_planting_holds_on_stairs():
    """Feet on a step keep its height. The published method pulls them down to the floor."""
    joints = rigid_joints(climbing(), T2M)
    found, planted = standing(joints, T2M, FPS), lock_feet(joints, T2M, FPS)
    heights, after, published = (motion[:, foot_joints(T2M), 1]
                                 for motion in (joints, planted, lock_feet_published(joints, T2M)))
    assert found.mean() > 0.5 and np.ptp(heights[found]) > 0.7
    np.testing.assert_allclose(after, heights, atol=0.03)
    assert np.abs(published - heights).max() > 0.3


def test_feet_in_the_air_or_in_motion_do_not_stand():
    balancing = figures.figure(60, thighs=(1.2 * figures._there_and_back(60, 1.0), 0), knees=(1.2, 0))
    found = dict(zip(foot_joints(T2M), standing(balancing, T2M, FPS)[25:35].T, strict=True))
    assert not found[7].any() and not found[10].any() and found[8].all() and found[11].all()
    jumping = np.float64(figures.jumping())
    air = jumping[:, foot_joints(T2M), 1].min(1) > 0.1
    assert air.any() and not standing(jumping, T2M, FPS)[air].any()

    joints = np.float64(figures.standing(80))
    joints[:, list(legs_of(T2M)[0].foot), 2] += 0.5 * np.clip((np.arange(80)[:, None] - 36) / 8, 0, 1)
    still = still_steps(joints, T2M, FPS)[:, :2]
    assert still[:30].all() and still[-30:].all() and not still[39:41].any()


def test_a_pinned_foot_keeps_its_place_and_its_stance_stays_there() -> None:
    joints, toe = rigid_joints(walk(slide=0.3), T2M), T2M.left_feet[1]
    pinned = np.zeros(joints.shape[:2], bool)
    pinned[48, toe] = True  # early in a stance that slides by 18 cm
    free, held = lock_feet(joints, T2M, FPS), lock_feet(joints, T2M, FPS, pinned)
    assert np.linalg.norm(free[48, toe] - joints[48, toe]) > 0.03
    assert np.linalg.norm(held[48, toe] - joints[48, toe]) < 0.005
    assert foot_skating(held, T2M, FPS) < 1.1 * foot_skating(free, T2M, FPS) + 0.01
    np.testing.assert_allclose(held[:, list(T2M.right_feet)], free[:, list(T2M.right_feet)], atol=1e-9)
