"""Physical measures of a motion: travel, turns, raised hands, seated and airborne time.

Every measure takes joints (T, 22, 3) in the HumanML3D order with T >= 2, in metres, y up, at ``FPS`` frames per second,
with any initial position and heading. Left is positive. Pairs are ordered (left, right).
"""
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter1d

from motion.body import foot_skating, roughness
from motion.foot import stretches
from motion.skeleton import T2M

FPS = 20


def _pair(name: str) -> tuple[int, int]:
    return T2M.joint_names.index(f"left_{name}"), T2M.joint_names.index(f"right_{name}")


PELVIS, NECK, HEAD = (T2M.joint_names.index(name) for name in ("pelvis", "neck", "head"))
HIPS, KNEES, ANKLES, TOES, SHOULDERS, WRISTS = map(_pair, ("hip", "knee", "ankle", "foot", "shoulder", "wrist"))

STRAIGHT = 45.0          # degrees, maximum turn for which sideways travel counts
RAISED_LEVEL = -0.10     # m above the shoulder, minimum height of the wrist of a raised hand
OVERHEAD_LEVEL = 0.05    # m above the head joint (base of the skull), minimum height of a hand overhead
SWING = 0.03             # m, minimum sideways movement of a wave
SEAT_LEG = 0.85          # leg lengths, maximum hip height when seated
SEAT_BEHIND = 0.18       # m, minimum distance of the hips behind the ankles when seated, unlike in a squat
IN_FRONT = 0.45          # m in front of the pelvis, minimum for a kicking foot
AIR_CLEARANCE = 0.06     # m, minimum height of the lower foot in a jump
AIR_TIME = (0.15, 1.0)   # s, range of time in the air; longer is climbing

STANDING_LEG = 0.85      # leg lengths, minimum hip height when standing
QUIET_SPEED = 0.25       # m/s
LIFTED = 0.08            # m, minimum height of a lifted foot

_SMOOTHING = 5           # default number of frames to average over (0.25 s)
_FLOOR_SHARE = 5.0       # percentile of the lower foot's height that counts as standing height


def smooth(values: np.ndarray, width: int = _SMOOTHING) -> np.ndarray:
    """Return the centred moving average along the first axis, with repeated edges."""
    return uniform_filter1d(values, width, axis=0, mode="nearest")


def longest(mask: np.ndarray) -> float:
    """Return the duration, in seconds, of the longest run of True frames in ``mask`` (T,)."""
    return max((end - first for first, end in stretches(mask)), default=0) / FPS


# Heading and travel

def heading(joints: np.ndarray) -> np.ndarray:
    """Return the facing direction (T,) in radians about y: 0 is +z, positive angles are to the left (+x).

    The direction is averaged over hips and shoulders, smoothed over a quarter of a second, and unwrapped.
    """
    across = sum(joints[:, left] - joints[:, right] for left, right in (HIPS, SHOULDERS))[:, [0, 2]].astype(np.float64)
    across = smooth(across / np.linalg.norm(across, axis=-1, keepdims=True).clip(1e-9))
    return np.unwrap(np.arctan2(-across[:, 1], across[:, 0]))


def turn_angle(joints: np.ndarray) -> float:
    """Return the turn from the first to the last frame in degrees, left positive. Two full turns give 720."""
    angle = heading(joints)
    return float(np.degrees(angle[-1] - angle[0]))


def _in_body_frame(ground: np.ndarray, angle: np.ndarray | float) -> np.ndarray:
    """Convert ground vectors (..., 2) from (x, z) to (forward, left) of a body with heading ``angle``."""
    sin, cos = np.sin(angle), np.cos(angle)
    return np.stack([ground[..., 0] * sin + ground[..., 1] * cos, ground[..., 0] * cos - ground[..., 1] * sin], -1)


def body_frame(joints: np.ndarray, joint: int, origin: int = PELVIS) -> np.ndarray:
    """Return the position (T, 3) of a joint relative to ``origin`` in the body frame, as (forward, left, up)."""
    away = (joints[:, joint] - joints[:, origin]).astype(np.float64)
    return np.concatenate([_in_body_frame(away[:, [0, 2]], heading(joints)), away[:, 1:2]], -1)


def _ground_path(joints: np.ndarray) -> np.ndarray:
    """Return the path (T, 2) of the pelvis over the ground, as (x, z)."""
    return joints[:, PELVIS, [0, 2]].astype(np.float64)


def travel(joints: np.ndarray) -> tuple[float, float]:
    """Return the sums of the pelvis steps in metres, as (forward, left) relative to the heading at each step.

    Walking in a circle gives (circumference, 0). Walking backwards gives a negative forward distance.
    """
    steps = np.diff(_ground_path(joints), axis=0)
    forward, left = _in_body_frame(steps, heading(joints)[:-1]).sum(0)
    return float(forward), float(left)


def side_travel(joints: np.ndarray) -> float:
    """Return the sideways travel in metres, left positive; 0 if the body turned by ``STRAIGHT`` or more."""
    return travel(joints)[1] if abs(turn_angle(joints)) < STRAIGHT else 0.0


def farthest(joints: np.ndarray) -> float:
    """Return the largest horizontal distance, in metres, of the pelvis from its first position."""
    path = _ground_path(joints)
    return float(np.linalg.norm(path - path[0], axis=-1).max())


def top_speed(joints: np.ndarray) -> float:
    """Return the highest mean ground speed of the pelvis in m/s over any second."""
    steps = np.linalg.norm(np.diff(_ground_path(joints), axis=0), axis=-1)
    width = min(len(steps), FPS)
    total = np.concatenate([[0.0], np.cumsum(steps)])
    return float((total[width:] - total[:-width]).max() * FPS / width)


# Hands

def wrist_height(joints: np.ndarray, over: tuple[int, ...] = SHOULDERS) -> np.ndarray:
    """Return the height (T, 2) in metres of the (left, right) wrist above the joints ``over``.

    ``over`` is one joint for both wrists, or a (left, right) pair of joints.
    """
    height = joints[..., 1].astype(np.float64)
    return height[:, list(WRISTS)] - height[:, list(over)]


@dataclass(frozen=True)
class HandsUp:
    """Longest times in seconds that the wrists stay above a level."""

    left: float
    right: float
    both: float  # both at the same time

    def only(self, side: int, least: float) -> bool:
        """Return whether only this hand (0 left, 1 right) is up for at least ``least`` seconds."""
        return (self.left, self.right)[side] >= least > (self.left, self.right)[1 - side]


def _hands_up(up: np.ndarray) -> HandsUp:
    return HandsUp(longest(up[:, 0]), longest(up[:, 1]), longest(up.all(1)))


def hands_raised_frames(joints: np.ndarray) -> np.ndarray:
    """Return a mask (T, 2) of frames where the (left, right) wrist is over ``RAISED_LEVEL`` above its shoulder."""
    return wrist_height(joints) > RAISED_LEVEL


def hands_raised(joints: np.ndarray) -> HandsUp:
    """Return how long the left, the right and both hands stay raised at most (see ``hands_raised_frames``)."""
    return _hands_up(hands_raised_frames(joints))


def hands_overhead(joints: np.ndarray) -> HandsUp:
    """Return the longest times that the left, the right and both wrists are higher than ``OVERHEAD_LEVEL``."""
    return _hands_up(wrist_height(joints, (HEAD,)) > OVERHEAD_LEVEL)


def count_swings(values: np.ndarray, least: float) -> int:
    """Count the turning points of values (T,) between movements of at least ``least`` one way and the other."""
    turns, direction = 0, 0
    low = high = float(values[0]) if len(values) else 0.0
    for value in map(float, values):
        if direction >= 0 and value > high:
            high = value
        if direction <= 0 and value < low:
            low = value
        if direction <= 0 and value - low >= least:
            turns, direction, high = turns - direction, 1, value
        elif direction >= 0 and high - value >= least:
            turns, direction, low = turns + direction, -1, value
    return turns


def swings_while(mask: np.ndarray, values: np.ndarray, least: float) -> int:
    """Return the largest ``count_swings`` in any run of true frames in ``mask`` (T,)."""
    return max((count_swings(values[first:end], least) for first, end in stretches(mask)), default=0)


def wave_swings(joints: np.ndarray) -> tuple[int, int]:
    """Return the largest number of sideways reversals of the (left, right) wrist while it is raised.

    One wave back and forth has two. Raising and lowering an arm has at most two.
    """
    up = hands_raised_frames(joints)
    left, right = (swings_while(up[:, side], body_frame(joints, WRISTS[side], SHOULDERS[side])[:, 1], SWING)
                   for side in range(2))
    return left, right


# Trunk and legs

def trunk_pitch(joints: np.ndarray) -> np.ndarray:
    """Return the forward lean (T,) of the line from pelvis to neck in degrees, smoothed; backward is negative."""
    forward, _, up = body_frame(joints, NECK).T
    return smooth(np.degrees(np.arctan2(forward, up)))


def leg_share(joints: np.ndarray) -> np.ndarray:
    """Return the hip height (T,) above the ankle height of a standing foot, as a multiple of leg length.

    It is about 1 when standing and 0.4 when seated.
    """
    hip, knee, ankle = (joints[:, list(pair)].astype(np.float64) for pair in (HIPS, KNEES, ANKLES))
    length = (np.linalg.norm(hip - knee, axis=-1) + np.linalg.norm(knee - ankle, axis=-1)).mean()
    floor = np.percentile(ankle[..., 1].min(1), _FLOOR_SHARE)
    return (hip[..., 1].mean(1) - floor) / length


def seated_seconds(joints: np.ndarray) -> float:
    """Return the longest time in seconds with the hips low and behind the ankles, as on a chair."""
    ahead = np.mean([body_frame(joints, ankle)[:, 0] for ankle in ANKLES], 0)
    return longest((leg_share(joints) < SEAT_LEG) & (ahead > SEAT_BEHIND))


@dataclass(frozen=True)
class FootReach:
    """Reach and speed of one foot."""

    forward: float  # m, largest distance of the ankle in front of the pelvis
    speed: float    # m/s, largest speed of the ankle relative to the pelvis


def foot_reach(joints: np.ndarray) -> tuple[FootReach, FootReach]:
    """Measure the reach and speed of each foot, as (left, right)."""
    ankles = joints[:, list(ANKLES)].astype(np.float64)
    found = []
    for side in range(2):
        leg = ankles[:, side] - joints[:, PELVIS]
        forward = body_frame(joints, ANKLES[side])[:, 0]
        speed = np.linalg.norm(np.diff(smooth(leg, 3), axis=0), axis=-1) * FPS
        found.append(FootReach(float(forward.max()), float(speed.max())))
    return found[0], found[1]


def jump_rises(joints: np.ndarray) -> list[float]:
    """Return the rise of the pelvis above its median height in metres, for each jump.

    In a jump, both feet are up for a time within ``AIR_TIME``.
    """
    height = joints[..., 1].astype(np.float64)
    feet = height[:, list(ANKLES + TOES)].min(1)
    air = feet - np.percentile(feet, _FLOOR_SHARE) > AIR_CLEARANCE
    usual = np.median(height[:, PELVIS])
    return [float(height[first:end, PELVIS].max() - usual) for first, end in stretches(air)
            if AIR_TIME[0] <= (end - first) / FPS <= AIR_TIME[1]]


# Summary

def floor_level(joints: np.ndarray) -> float:
    """Return the floor height in metres: the 5th percentile of the height of the lowest foot joint."""
    return float(np.percentile(joints[:, list(ANKLES + TOES), 1].min(1), 5))


def turn_sweep(joints: np.ndarray) -> tuple[float, float]:
    """Return the largest turns (left, right), in degrees, between any two frames."""
    angle = np.degrees(heading(joints))
    return float((angle - np.minimum.accumulate(angle)).max()), float((np.maximum.accumulate(angle) - angle).max())


def path_length(joints: np.ndarray) -> float:
    """Return the length of the pelvis path over the ground in metres."""
    return float(np.linalg.norm(np.diff(smooth(joints[:, PELVIS, [0, 2]]), axis=0), axis=-1).sum())


def quiet_share(joints: np.ndarray) -> float:
    """Return the fraction of frames in which head, wrists and ankles are all slower than ``QUIET_SPEED``."""
    ends = smooth(joints[:, [HEAD, *WRISTS, *ANKLES]].astype(np.float64), 3)
    return float((np.linalg.norm(np.diff(ends, axis=0), axis=-1).max(1) * FPS < QUIET_SPEED).mean())


def stands(joints: np.ndarray) -> np.ndarray:
    """Return a mask (T,) of frames in which the hips are at standing height."""
    return leg_share(joints) >= STANDING_LEG


def feet_rise(joints: np.ndarray) -> float:
    """Return the rise of the lower foot in metres between the first and last fifth of the motion (medians)."""
    feet, part = joints[:, list(ANKLES + TOES), 1].min(1), max(len(joints) // 5, 1)
    return float(np.median(feet[-part:]) - np.median(feet[:part]))


def hand_heights(joints: np.ndarray) -> np.ndarray:
    """Return the height (T,) of the lower wrist above the floor in metres."""
    return joints[:, list(WRISTS), 1].min(1) - floor_level(joints)


def lowest_head(joints: np.ndarray) -> float:
    """Return the lowest height of the head above the pelvis in metres; negative when upside down."""
    return float((joints[:, HEAD, 1] - joints[:, PELVIS, 1]).min())


def feet_lifted(joints: np.ndarray, least: float = LIFTED) -> np.ndarray:
    """Return a mask (T, 2) of frames with the (left, right) foot off the floor."""
    height = joints[..., 1] - floor_level(joints)
    return np.stack([height[:, [ankle, toe]].min(1) > least for ankle, toe in zip(ANKLES, TOES, strict=True)], -1)


def lifted_seconds(joints: np.ndarray) -> tuple[float, float]:
    """Return the longest time, in seconds, for which each foot is lifted: (left, right)."""
    left, right = feet_lifted(joints).T
    return longest(left), longest(right)


def hops(joints: np.ndarray) -> tuple[int, int]:
    """Return the most hops in a row on each foot, as (left, right). The other foot stays lifted meanwhile."""
    lifted, leaving = feet_lifted(joints), feet_lifted(joints, AIR_CLEARANCE)
    left, right = (max((len(list(stretches(leaving[first:end, foot])))
                        for first, end in stretches(lifted[:, 1 - foot])), default=0) for foot in range(2))
    return left, right


def kick_heights(joints: np.ndarray) -> tuple[float, float]:
    """Return the largest rise (m) of the (left, right) ankle above the floor while it is in front or at the side."""
    floor = np.percentile(joints[:, list(ANKLES), 1].min(1), 5)

    def height(ankle: int) -> float:
        forward, left, _ = body_frame(joints, ankle).T
        out = (np.hypot(forward, left) > IN_FRONT) & (forward > -0.1)
        return float(np.where(out, joints[:, ankle, 1] - floor, 0.0).max())

    return height(ANKLES[0]), height(ANKLES[1])


def measures(joints: np.ndarray) -> dict[str, float]:
    """Return named measures that summarise a motion: metres, degrees, seconds, m/s, fractions and counts."""
    forward, left = travel(joints)
    path, pitch = _ground_path(joints), trunk_pitch(joints)
    swings, feet, up = wave_swings(joints), foot_reach(joints), (wrist_height(joints) > 0).mean(0)
    return {
        "seconds": len(joints) / FPS, "forward": forward, "left": left, "turn": turn_angle(joints),
        "displaced": float(np.linalg.norm(path[-1] - path[0])),
        "mean_speed": float(np.linalg.norm(np.diff(path, axis=0), axis=-1).mean() * FPS),
        "top_speed": top_speed(joints), "left_hand_up_share": float(up[0]), "right_hand_up_share": float(up[1]),
        "left_swings": float(swings[0]), "right_swings": float(swings[1]),
        "bend": float(pitch.max() - pitch[0]), "lowest_hips": float(leg_share(joints).min()),
        "seated": seated_seconds(joints), "jump_rise": max(jump_rises(joints), default=0.0),
        "left_foot_reach": feet[0].forward, "left_foot_speed": feet[0].speed,
        "right_foot_reach": feet[1].forward, "right_foot_speed": feet[1].speed,
        "foot_skating": foot_skating(joints, T2M, FPS), "roughness": roughness(joints),
    }
