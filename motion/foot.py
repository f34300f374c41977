"""Feet: joints, floor height, contacts and stance.

Joints are (T, J, 3) in metres, y up, as NumPy arrays; the foot joints of a leg are those from the ankle to the toe.
"""
from dataclasses import dataclass

import numpy as np

from motion.skeleton import Skeleton

# Published contact rule: squared displacement to the next frame (m^2) and height (m), ankle and toe.
STEP_LIMITS = (0.05, 0.2)
HEIGHT_LIMITS = (0.06, 0.03)
BLEND_FRAMES = 5


@dataclass(frozen=True)
class Leg:
    """Joints of a leg: hip, knee, and ankle to toe."""

    hip: int
    knee: int
    foot: tuple[int, ...]


def legs_of(skeleton: Skeleton) -> tuple[Leg, ...]:
    """Legs of a skeleton: its chains that end in a foot."""
    return tuple(Leg(chain[1], chain[2], chain[3:]) for chain in skeleton.chains if chain[-1] in skeleton.feet)


def leg_length(joints: np.ndarray, skeleton: Skeleton) -> float:
    """Median length from hip over knee to ankle of (T, J, 3), averaged over both legs, in the unit of the joints."""
    bones = [joints[:, joint] - joints[:, skeleton.parents[joint]]
             for leg in legs_of(skeleton) for joint in (leg.knee, leg.foot[0])]
    return float(np.median(np.linalg.norm(bones, axis=-1), axis=-1).sum() / 2)


def foot_joints(skeleton: Skeleton) -> list[int]:
    """Foot joints of all legs, from ankle to toe for each leg."""
    return [joint for leg in legs_of(skeleton) for joint in leg.foot]


def per_foot_joint(skeleton: Skeleton, ankle: float, toe: float) -> np.ndarray:
    """Values (F,) for ``foot_joints``: ``toe`` for the last joint of a leg, ``ankle`` for the others."""
    return np.array([toe if joint == leg.foot[-1] else ankle for leg in legs_of(skeleton) for joint in leg.foot])


def floor_height(joints: np.ndarray, skeleton: Skeleton) -> float:
    """Floor height as published: mean height of the lowest foot joint between its lower quartile and median.

    Heights above half a metre give 0, as no foot stands that high.
    """
    lowest = np.sort(joints[:, foot_joints(skeleton), 1].min(1))
    first = int(0.25 * len(lowest))
    height = float(lowest[first : max(int(0.5 * len(lowest)), first + 1)].mean())
    return height if height <= 0.5 else 0.0


def published_contacts(joints: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """(T, F) whether each of ``foot_joints`` is low and slow; the last frame repeats the previous one."""
    feet = joints[:, foot_joints(skeleton)]
    steps = np.square(np.diff(feet, axis=0)).sum(-1)
    contacts = ((steps < per_foot_joint(skeleton, *STEP_LIMITS))
                & (feet[:-1, :, 1] < per_foot_joint(skeleton, *HEIGHT_LIMITS)))
    return np.concatenate([contacts, contacts[-1:] if len(contacts) else np.zeros((1, feet.shape[1]), bool)])


def lock_feet_published(joints: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Published foot locking: joints (T, J, 3) moved onto the floor, with feet in contact held on it.

    Only foot joints move relative to the body, so shins and feet change length, and every contact is moved to y = 0,
    even on stairs.
    """
    joints = np.array(joints, np.float64)
    contacts = published_contacts(joints, skeleton)
    joints[..., 1] -= floor_height(joints, skeleton)
    for joint, contact in zip(foot_joints(skeleton), contacts.T, strict=True):
        held = np.where(contact[:, None], _run_means(joints[:, joint], contact) * [1, 0, 1], joints[:, joint])
        joints[:, joint] = _blend(held, contact)
    return joints


def _run_means(values: np.ndarray, contact: np.ndarray) -> np.ndarray:
    """Values (T, 3) replaced by their mean over each run of equal ``contact`` (T,)."""
    run = np.cumsum(np.concatenate([[0], np.diff(contact) != 0]))
    sums = np.zeros((run[-1] + 1, values.shape[1]))
    np.add.at(sums, run, values)
    return (sums / np.bincount(run)[:, None])[run]


def _blend(values: np.ndarray, contact: np.ndarray) -> np.ndarray:
    """Values (T, 3), blended outside contacts towards contact frames up to ``BLEND_FRAMES`` away."""
    frames, far = np.arange(len(values)), len(values) + BLEND_FRAMES
    left = np.maximum.accumulate(np.where(contact, frames, -far))
    right = np.minimum.accumulate(np.where(contact, frames, 2 * far)[::-1])[::-1]
    near_left = ~contact & (frames - left <= BLEND_FRAMES)
    near_right = ~contact & (right - frames <= BLEND_FRAMES)
    after, before = frames - left + 1, right - frames + 1
    from_left = _mix(_ease(after / (BLEND_FRAMES + 1)), values, values[left.clip(0)])
    from_right = _mix(_ease(before / (BLEND_FRAMES + 1)), values, values[right.clip(max=len(values) - 1)])
    across = _mix(_ease(after / (right - left + 1)), from_right, from_left)
    blended = np.where(near_left[:, None], from_left, values)
    blended = np.where(near_right[:, None], from_right, blended)
    return np.where((near_left & near_right)[:, None], across, blended)


def _ease(u: np.ndarray) -> np.ndarray:
    """Smooth step from 1 at 0 to 0 at 1."""
    return 2 * u**3 - 3 * u**2 + 1


def _mix(weight: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (1 - weight[:, None]) * a + weight[:, None] * b


# Horizontal and vertical speeds in m/s: a stance starts below the first and ends above the second.
GROUND_SPEEDS = (0.8, 1.1)
RISE_SPEEDS = (0.4, 0.8)
ROLL = 0.05               # m that a standing foot joint may move vertically
LOOK = 0.25               # s before and after a stance in which the foot joint is at most
DIP = 0.03                # m lower
SLIDE = 0.20              # m that a standing foot joint may be from its mean position; farther is a step
STEP = 0.15               # s that such a step takes before and after its fastest moment
LIFTED = (0.12, 0.05)     # m of ankle and toe above the lowest foot joint, of a foot that is held up throughout


def stretches(mask: np.ndarray) -> list[tuple[int, int]]:
    """Contiguous runs of true frames in ``mask`` (T,), as (first, last + 1)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(int)))
    return [(int(first), int(end)) for first, end in zip(edges[::2], edges[1::2], strict=True)]


def still_steps(joints: np.ndarray, skeleton: Skeleton, fps: float) -> np.ndarray:
    """(T - 1, F) whether each foot joint stands between two frames.

    Each stance has its own height. A foot joint that is slow at its highest point, in a jump or a kick, does not stand:
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
    """(T - 1,) steps of a stance at ``places`` (T, 2), excluding those in which the foot moves to another place."""
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
