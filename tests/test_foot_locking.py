"""Foot locking, published and with constant bone lengths."""
import numpy as np
import pytest

from motion.body import WEIGHTED_HEIGHT, bone_length_drift, floor_penetration, foot_skating, weighted_skating
from motion.bvh_fit import rigid_joints
from motion.foot import (
    foot_joints,
    legs_of,
    lock_feet,
    lock_feet_published,
    per_foot_joint,
    solve_legs,
    standing,
    still_steps,
)
from motion.skeleton import KIT, T2M
from tests import figures
from tests.sample_motion import sample_motion

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


@pytest.mark.parametrize("joints", [walk(slide=0.4), standing_and_shifting()], ids=["walk", "stand"])
def test_planted_feet_slide_less_and_stay_near_where_they_were(joints):
    planted = lock_feet(joints, T2M, FPS)
    assert foot_skating(planted, T2M, FPS) < 0.6 * foot_skating(joints, T2M, FPS)
    assert np.linalg.norm(planted - joints, axis=-1).mean() < 0.02


def test_planting_keeps_all_bones_and_leaves_hips_and_arms_alone():
    joints = rigid_joints(walk(slide=0.4), T2M)
    planted = lock_feet(joints, T2M, FPS)
    assert bone_length_drift(planted, T2M) < 1e-6
    legs = {joint for leg in legs_of(T2M) for joint in (leg.knee, *leg.foot)}
    others = [joint for joint in range(22) if joint not in legs]
    np.testing.assert_allclose(planted[:, others], joints[:, others], atol=1e-6)


def test_planting_holds_on_stairs():
    """Feet on a step keep its height. The published method pulls them down to the floor."""
    joints = rigid_joints(climbing(), T2M)
    found, planted = standing(joints, T2M, FPS), lock_feet(joints, T2M, FPS)
    heights, after, published = (motion[:, foot_joints(T2M), 1]
                                 for motion in (joints, planted, lock_feet_published(joints, T2M)))
    assert found.mean() > 0.5 and np.ptp(heights[found]) > 0.7
    np.testing.assert_allclose(after, heights, atol=0.03)
    assert np.abs(published - heights).max() > 0.3


def test_a_foot_in_the_air_does_not_stand_however_slow_it_is():
    balancing = figures.figure(60, thighs=(1.2 * figures._there_and_back(60, 1.0), 0), knees=(1.2, 0))
    found = dict(zip(foot_joints(T2M), standing(balancing, T2M, FPS)[25:35].T, strict=True))
    assert not found[7].any() and not found[10].any() and found[8].all() and found[11].all()
    jumping = np.float64(figures.jumping())
    air = jumping[:, foot_joints(T2M), 1].min(1) > 0.1
    assert air.any() and not standing(jumping, T2M, FPS)[air].any()


def test_feet_do_not_sink_into_the_floor():
    joints = np.float64(figures.walking(60)) - [0, 0.03, 0]
    assert floor_penetration(joints) == pytest.approx(0.03, abs=1e-6)
    assert floor_penetration(lock_feet(joints, T2M, FPS)) < 2e-3


def test_kit_legs_have_three_foot_joints_and_can_be_planted():
    joints = rigid_joints(sample_motion(KIT, 40) / 1000 + [0, 0.7, 0], KIT)
    assert [len(leg.foot) for leg in legs_of(KIT)] == [3, 3]
    planted = lock_feet(joints, KIT, 12.5)
    assert planted.shape == joints.shape
    assert bone_length_drift(planted, KIT) < 1e-6


def test_weighted_skating_counts_a_foot_less_the_higher_it_is():
    """A foot at 0.2 m/s counts fully on the floor, by 2 - sqrt(2) at half the limit, and not at the limit."""
    for height, weight in ((0, 1), (WEIGHTED_HEIGHT / 2, 2 - 2**0.5), (WEIGHTED_HEIGHT, 0)):
        joints = np.float64(figures.standing(40))
        joints[:, foot_joints(T2M), 1] = per_foot_joint(T2M, 0.03, 0)
        moving = list(legs_of(T2M)[0].foot)
        joints[:, moving, 0] += 0.01 * np.arange(40)[:, None]
        joints[:, moving, 1] += height
        assert weighted_skating(joints, T2M, FPS) == pytest.approx(0.2 * weight / 2, abs=1e-9)


def test_a_pinned_foot_keeps_its_place_and_its_stance_stays_there() -> None:
    joints, toe = rigid_joints(walk(slide=0.3), T2M), T2M.left_feet[1]
    pinned = np.zeros(joints.shape[:2], bool)
    pinned[48, toe] = True  # early in a stance that slides by 18 cm
    free, held = lock_feet(joints, T2M, FPS), lock_feet(joints, T2M, FPS, pinned)
    assert np.linalg.norm(free[48, toe] - joints[48, toe]) > 0.03
    assert np.linalg.norm(held[48, toe] - joints[48, toe]) < 0.005
    assert foot_skating(held, T2M, FPS) < 1.1 * foot_skating(free, T2M, FPS) + 0.01
    np.testing.assert_allclose(held[:, list(T2M.right_feet)], free[:, list(T2M.right_feet)], atol=1e-9)


def test_who_steps_on_is_not_held_back_over_the_whole_way():
    """A foot that is dragged by half a metre stands at different positions before and after."""
    joints = np.float64(figures.standing(80))
    joints[:, list(legs_of(T2M)[0].foot), 2] += 0.5 * np.clip((np.arange(80)[:, None] - 36) / 8, 0, 1)
    still = still_steps(joints, T2M, FPS)[:, :2]
    assert still[:30].all() and still[-30:].all() and not still[39:41].any()
