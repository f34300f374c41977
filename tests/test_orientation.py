"""Detection of up axes and swapped sides, for standing bodies and in bows, sitting, lying or cartwheels."""
import json

import numpy as np
import pytest

from motion.body import Stance, find_stance, lies_throughout, swapped_sides, to_y_up
from motion.skeleton import T2M, UP_AXES, mirror
from tests import figures
from tests.sample_motion import with_up
from tests.toy import OPENMOTION, needs


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
    "bows": figures.bowing(60, 1.5),
    "bows deep throughout": figures.figure(60, pitch=1.9),
    "touches the floor": figures.figure(60, pitch=2.4),
    "sits": figures.sitting(),
    "squats": figures.squatting(),
    "crawls": crawling(),
    "crawls sideways in the world": crawling() @ np.array([[0, 0, -1], [0, 1, 0], [1, 0, 0]]),
    "lies down and gets up": tilted(
        figures.standing(60), np.interp(np.arange(60), [0, 20, 40, 59], [0, 1.5, 1.5, 0]), "x"),
    "falls": tilted(figures.standing(60), np.linspace(0, np.pi / 2, 60), "z"),
    "turns over sideways": tilted(figures.waving("both", 60), np.linspace(0, 2 * np.pi, 60), "z"),
    "turns over forwards": tilted(figures.standing(60), np.linspace(0, 2 * np.pi, 60), "x"),
    "lies on its back": tilted(figures.kicking("left", 60), -QUARTER, "x"),
    "lies on its front": tilted(figures.standing(60), QUARTER, "x"),
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
    assert not lies_throughout(ODD["lies down and gets up"])
    assert not lies_throughout(ODD["bows deep throughout"])
    assert lies_throughout(ODD["lies on its back"])
    assert lies_throughout(with_up(figures.walking(), "z"))


@needs(OPENMOTION)
def test_no_real_clip_is_called_turned_or_swapped_and_every_turned_one_is_found() -> None:
    shards: dict[str, np.ndarray] = {}
    for number, entry in enumerate(json.loads((OPENMOTION / "index.json").read_text())["clips"][::15]):
        if entry["shard"] not in shards:
            shards[entry["shard"]] = np.load(OPENMOTION / entry["shard"])["joints"]
        joints = shards[entry["shard"]][entry["offset"]:][:entry["length"]].astype(np.float64)
        up = UP_AXES[number % len(UP_AXES)]
        assert find_stance(joints).up == "y", entry["id"]
        assert find_stance(with_up(joints, up)) == Stance(up, sure=True), entry["id"]
        assert swapped_sides(joints) is None, entry["id"]
        assert swapped_sides(joints * [-1, 1, 1]) is not None, entry["id"]


def test_arms_on_the_other_sides_are_found() -> None:
    arms = [13, 14, 16, 17, 18, 19, 20, 21]
    joints = figures.walking()
    joints[:, arms] = joints[:, [T2M.mirror_order[joint] for joint in arms]]
    assert "hips and shoulders point in opposite directions" in swapped_sides(joints)
