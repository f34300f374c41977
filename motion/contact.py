"""Which feet stand: slow ones that are lower than just before and after. Works without a floor, so on stairs too.

Joints are (T, J, 3) in metres, y up, as NumPy arrays; foot joints are those of ``motion.foot.foot_joints``.
"""
import numpy as np

from motion.foot import foot_joints, per_foot_joint
from motion.skeleton import Skeleton

# Horizontal and vertical speeds in m/s: a stand starts below the first and ends above the second.
GROUND_SPEEDS = (0.8, 1.1)
RISE_SPEEDS = (0.4, 0.8)
ROLL = 0.05               # m that a standing foot joint may leave its height
LOOK = 0.25               # s before and after a stand in which the foot joint is at most
DIP = 0.03                # m lower
SLIDE = 0.20              # m that a standing foot joint may be from its mean place; farther is a step
STEP = 0.15               # s that such a step takes before and after its fastest moment
LIFTED = (0.12, 0.05)     # m of ankle and toe above the lowest foot joint, of a foot held up all the time


def stretches(mask: np.ndarray) -> list[tuple[int, int]]:
    """Unbroken stretches of true frames in ``mask`` (T,), as (first, one past the last)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(int)))
    return [(int(first), int(end)) for first, end in zip(edges[::2], edges[1::2], strict=True)]


def still_steps(joints: np.ndarray, skeleton: Skeleton, fps: float) -> np.ndarray:
    """(T - 1, F) whether each foot joint stands between two frames.

    Each stand has its own height. A foot joint that is slow at its highest point, in a jump or a kick, does not stand:
    it is lower just before or after.
    """
    feet = np.asarray(joints, np.float64)[:, foot_joints(skeleton)]
    heights, velocity = feet[..., 1], np.diff(feet, axis=0) * fps
    ground, rise = np.linalg.norm(velocity[..., [0, 2]], axis=-1), np.abs(velocity[..., 1])
    slow, slower = ((ground < along) & (rise < up)
                    for along, up in zip(GROUND_SPEEDS[::-1], RISE_SPEEDS[::-1], strict=True))
    lifted = np.median(heights.min(1)) + per_foot_joint(skeleton, *LIFTED)
    look = round(LOOK * fps)
    still = np.zeros_like(slow)
    for foot, height in enumerate(heights.T):
        waiting = stretches(slow[:, foot])
        while waiting:
            first, end = waiting.pop()
            sure = slower[first:end, foot]
            if not sure.any():
                continue
            level = np.median(height[first:end + 1][_both_ends(sure)])
            near = np.abs(height[first:end + 1] - level) < ROLL
            near = near[:-1] & near[1:]
            if near.any():
                waiting += [(first + start, first + stop) for start, stop in stretches(~near)]
            for start, stop in stretches(near):
                stand = slice(first + start, first + stop)
                around = np.concatenate([height[max(stand.start - look, 0):stand.start],
                                         height[stand.stop + 1:stand.stop + 1 + look]])
                usual = np.median(height[stand.start:stand.stop + 1])
                on_ground = usual - DIP < around.min() if len(around) else usual < lifted[foot]
                if sure[start:stop].any() and on_ground:
                    still[stand, foot] = _kept(feet[stand.start:stand.stop + 1, foot][:, [0, 2]], round(STEP * fps))
    return still


def _kept(places: np.ndarray, width: int) -> np.ndarray:
    """(T - 1,) steps of a stand at ``places`` (T, 2), without those in which the foot moves to another place."""
    speed = np.linalg.norm(np.diff(places, axis=0), axis=-1)
    kept, waiting = np.zeros(len(speed), bool), [(0, len(speed))]
    while waiting:
        first, end = waiting.pop()
        if end <= first:
            continue
        here = places[first:end + 1]
        if np.linalg.norm(here - here.mean(0), axis=-1).max() < SLIDE:
            kept[first:end] = True
            continue
        fastest = first + int(speed[first:end].argmax())
        waiting += [(first, fastest - width), (fastest + width + 1, end)]
    return kept


def standing(joints: np.ndarray, skeleton: Skeleton, fps: float) -> np.ndarray:
    """(T, F) whether each foot joint stands in a frame: at either end of one of ``still_steps``."""
    return _both_ends(still_steps(joints, skeleton, fps))


def _both_ends(steps: np.ndarray) -> np.ndarray:
    """(T, ...) frames at either end of ``steps`` (T - 1, ...)."""
    edge = np.zeros_like(steps, shape=(1, *steps.shape[1:]))
    return np.concatenate([steps, edge]) | np.concatenate([edge, steps])
