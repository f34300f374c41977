"""Physical measures of a motion from its joints: path, turns, raised hands, seated and airborne time.

Every measure takes the joints of one motion, (T, 22, 3) in the HumanML3D order with T >= 2, metres, y up, ``FPS``
frames per second, at any position and with any initial heading. Left is positive: turns and steps to the left give
positive numbers. Pairs are ordered (left, right).
"""
from dataclasses import dataclass

import numpy as np

from motion.body import foot_skating, roughness
from motion.foot import stretches
from motion.skeleton import T2M

FPS = 20


def _pair(name: str) -> tuple[int, int]:
    return T2M.joint_names.index(f"left_{name}"), T2M.joint_names.index(f"right_{name}")


PELVIS, NECK, HEAD = (T2M.joint_names.index(name) for name in ("pelvis", "neck", "head"))
HIPS, KNEES, ANKLES, TOES, SHOULDERS, WRISTS = map(_pair, ("hip", "knee", "ankle", "foot", "shoulder", "wrist"))

STRAIGHT = 45.0          # degrees of turn, at most, for sideways travel to count
RAISED_LEVEL = -0.10     # m above the shoulder: a hand next to the shoulder counts as up
OVERHEAD_LEVEL = 0.05    # m above the base of the skull
SWING = 0.03             # m to the side and back of the smallest wave
SEAT_LEG = 0.85          # hip height as a share of the leg's length, at most, when seated
SEAT_BEHIND = 0.18       # m of the hips behind the ankles, at least, when seated (a squat keeps them above the ankles)
IN_FRONT = 0.45          # m in front of the pelvis, reached by a kicking foot and rarely by a walking one
AIR_CLEARANCE = 0.06     # m below the lower foot
AIR_TIME = (0.15, 1.0)   # s in the air; longer means climbing, not jumping

STANDING_LEG = 0.85      # minimum hip height when standing, as a share of the leg's length
QUIET_SPEED = 0.25       # m/s
LIFTED = 0.08            # m above the floor from which a foot counts as lifted

_SMOOTHING = 5           # frames (0.25 s) to average directions over
_FLOOR_SHARE = 5.0       # percentile of the lower foot's height that gives its standing height


def smooth(values: np.ndarray, width: int = _SMOOTHING) -> np.ndarray:
    """Centred moving average along the first axis with repeated edges; keeps the length."""
    half = width // 2
    padded = np.concatenate([np.repeat(values[:1], half, 0), values, np.repeat(values[-1:], half, 0)])
    total = np.cumsum(np.concatenate([np.zeros_like(padded[:1]), padded]), 0)
    return (total[width:] - total[:-width]) / width


def longest(mask: np.ndarray) -> float:
    """Seconds of the longest unbroken stretch of true frames in ``mask`` (T,)."""
    return max((end - first for first, end in stretches(mask)), default=0) / FPS


# Heading and travel

def heading(joints: np.ndarray) -> np.ndarray:
    """Direction the body faces, (T,) radians about y, unwrapped: 0 faces +z, positive is further to the left (+x).

    The mean of hips and shoulders, smoothed over a quarter of a second.
    """
    across = sum(joints[:, left] - joints[:, right] for left, right in (HIPS, SHOULDERS))[:, [0, 2]].astype(np.float64)
    across = smooth(across / np.linalg.norm(across, axis=-1, keepdims=True).clip(1e-9))
    return np.unwrap(np.arctan2(-across[:, 1], across[:, 0]))


def turn_angle(joints: np.ndarray) -> float:
    """Turn from the first to the last frame in degrees, left positive; two full turns are 720."""
    angle = heading(joints)
    return float(np.degrees(angle[-1] - angle[0]))


def _in_body_frame(ground: np.ndarray, angle: np.ndarray | float) -> np.ndarray:
    """Ground vectors (..., 2) as (x, z) in the frame of a body with heading ``angle``, (..., 2) as (forward, left)."""
    sin, cos = np.sin(angle), np.cos(angle)
    return np.stack([ground[..., 0] * sin + ground[..., 1] * cos, ground[..., 0] * cos - ground[..., 1] * sin], -1)


def body_frame(joints: np.ndarray, joint: int, origin: int = PELVIS) -> np.ndarray:
    """Position of a joint relative to another in the body's current frame: (T, 3) as (forward, left, up), metres."""
    away = (joints[:, joint] - joints[:, origin]).astype(np.float64)
    return np.concatenate([_in_body_frame(away[:, [0, 2]], heading(joints)), away[:, 1:2]], -1)


def displacement(joints: np.ndarray) -> tuple[float, float]:
    """Displacement of the pelvis from first to last frame in metres, (forward, left) of the initial heading."""
    ground = joints[:, PELVIS, [0, 2]].astype(np.float64)
    forward, left = _in_body_frame(ground[-1] - ground[0], heading(joints)[0])
    return float(forward), float(left)


def body_velocity(joints: np.ndarray) -> np.ndarray:
    """Ground velocity of the pelvis in the body's frame at that time, (T - 1, 2) as (forward, left), m/s."""
    steps = np.diff(joints[:, PELVIS, [0, 2]].astype(np.float64), axis=0) * FPS
    return _in_body_frame(steps, heading(joints)[:-1])


def travel(joints: np.ndarray) -> tuple[float, float]:
    """Distance travelled by the pelvis in metres, (forward, left) of the heading at each step.

    Walking a circle gives its circumference forward and nothing to the left; walking backwards gives a negative forward
    distance.
    """
    forward, left = body_velocity(joints).sum(0) / FPS
    return float(forward), float(left)


def side_travel(joints: np.ndarray) -> float:
    """Sideways travel in metres, left positive; 0 if the body turned more than a sidestep does."""
    return travel(joints)[1] if abs(turn_angle(joints)) < STRAIGHT else 0.0


def farthest(joints: np.ndarray) -> float:
    """Largest ground distance in metres of the pelvis from its first position."""
    ground = joints[:, PELVIS, [0, 2]].astype(np.float64)
    return float(np.linalg.norm(ground - ground[0], axis=-1).max())


def mean_speed(joints: np.ndarray) -> float:
    """Mean ground speed of the pelvis along its path, m/s."""
    steps = np.diff(joints[:, PELVIS, [0, 2]].astype(np.float64), axis=0)
    return float(np.linalg.norm(steps, axis=-1).mean() * FPS)


def top_speed(joints: np.ndarray, seconds: float = 1.0) -> float:
    """Highest mean ground speed of the pelvis in any window of ``seconds`` (or the whole motion if shorter), m/s."""
    steps = np.linalg.norm(np.diff(joints[:, PELVIS, [0, 2]].astype(np.float64), axis=0), axis=-1)
    width = min(len(steps), round(seconds * FPS))
    total = np.concatenate([[0.0], np.cumsum(steps)])
    return float((total[width:] - total[:-width]).max() * FPS / width)


# Hands

def wrist_height(joints: np.ndarray, over: int | tuple[int, int] = SHOULDERS) -> np.ndarray:
    """Height in metres of each wrist above a joint, or above the joint of its side: (T, 2) as (left, right)."""
    height = joints[..., 1].astype(np.float64)
    other = height[:, list(over)] if isinstance(over, tuple) else height[:, [over, over]]
    return height[:, list(WRISTS)] - other


def share_raised(joints: np.ndarray, over: int | tuple[int, int] = SHOULDERS) -> tuple[float, float]:
    """Share of frames with the (left, right) wrist above a joint, by default its shoulder."""
    left, right = (wrist_height(joints, over) > 0).mean(0)
    return float(left), float(right)


@dataclass(frozen=True)
class HandsUp:
    """The longest time in seconds that each wrist, and both, stay above a level."""

    left: float
    right: float
    both: float  # both at once

    def only(self, side: int, least: float) -> bool:
        """Whether just this hand (0 left, 1 right) is up for at least ``least`` seconds."""
        return (self.left, self.right)[side] >= least > (self.left, self.right)[1 - side]


def _hands_up(up: np.ndarray) -> HandsUp:
    return HandsUp(longest(up[:, 0]), longest(up[:, 1]), longest(up.all(1)))


def hands_raised_frames(joints: np.ndarray) -> np.ndarray:
    """Whether the (left, right) wrist is at shoulder height or above, (T, 2)."""
    return wrist_height(joints) > RAISED_LEVEL


def hands_raised(joints: np.ndarray) -> HandsUp:
    """Longest times with a wrist at shoulder height or above."""
    return _hands_up(hands_raised_frames(joints))


def hands_overhead(joints: np.ndarray) -> HandsUp:
    """Longest times with a wrist above the head."""
    return _hands_up(wrist_height(joints, HEAD) > OVERHEAD_LEVEL)


def count_swings(values: np.ndarray, least: float) -> int:
    """Number of turning points of the values (T,) between movements of at least ``least`` in both directions."""
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
    """Largest number of swings (``count_swings``) in any unbroken stretch of true frames in ``mask`` (T,)."""
    return max((count_swings(values[first:end], least) for first, end in stretches(mask)), default=0)


def wave_swings(joints: np.ndarray) -> tuple[int, int]:
    """Number of sideways turning points of the (left, right) wrist, in the best stretch with the wrist up.

    One wave back and forth has two. Only the body's left-right direction counts, so raising and lowering an arm gives
    at most one, and arms that swing while walking give none.
    """
    up = hands_raised_frames(joints)
    left, right = (swings_while(up[:, side], body_frame(joints, WRISTS[side], SHOULDERS[side])[:, 1], SWING)
                   for side in range(2))
    return left, right


# Trunk and legs

def trunk_pitch(joints: np.ndarray) -> np.ndarray:
    """Forward lean of the line from pelvis to neck in degrees, (T,), smoothed; backward is negative."""
    forward, _, up = body_frame(joints, NECK).T
    return smooth(np.degrees(np.arctan2(forward, up)))


def leg_share(joints: np.ndarray) -> np.ndarray:
    """Height of the hips above the standing ankle over the leg's length, (T,): about 1 standing, 0.4 seated."""
    hip, knee, ankle = (joints[:, list(pair)].astype(np.float64) for pair in (HIPS, KNEES, ANKLES))
    length = (np.linalg.norm(hip - knee, axis=-1) + np.linalg.norm(knee - ankle, axis=-1)).mean()
    floor = np.percentile(ankle[..., 1].min(1), _FLOOR_SHARE)
    return (hip[..., 1].mean(1) - floor) / length


def seated_seconds(joints: np.ndarray) -> float:
    """Longest time in seconds with the hips low and behind the ankles, as on a chair."""
    ahead = np.mean([body_frame(joints, ankle)[:, 0] for ankle in ANKLES], 0)
    return longest((leg_share(joints) < SEAT_LEG) & (ahead > SEAT_BEHIND))


@dataclass(frozen=True)
class FootReach:
    """Reach, height and speed of one foot."""

    forward: float  # m, largest distance of the ankle in front of the pelvis
    height: float   # m, largest height of the ankle above standing while at least ``IN_FRONT`` in front
    speed: float    # m/s, largest speed of the ankle relative to the pelvis


def foot_reach(joints: np.ndarray) -> tuple[FootReach, FootReach]:
    """Reach of the (left, right) foot."""
    ankles = joints[:, list(ANKLES)].astype(np.float64)
    floor = np.percentile(ankles[..., 1].min(1), _FLOOR_SHARE)
    found = []
    for side in range(2):
        leg = ankles[:, side] - joints[:, PELVIS]
        forward = body_frame(joints, ANKLES[side])[:, 0]
        lifted = np.where(forward >= IN_FRONT, ankles[:, side, 1] - floor, 0.0)
        speed = np.linalg.norm(np.diff(smooth(leg, 3), axis=0), axis=-1) * FPS
        found.append(FootReach(float(forward.max()), float(lifted.max()), float(speed.max())))
    return found[0], found[1]


def jump_rises(joints: np.ndarray) -> list[float]:
    """Rise of the pelvis above its median height in metres, per jump: both feet up for a time within ``AIR_TIME``."""
    height = joints[..., 1].astype(np.float64)
    feet = height[:, list(ANKLES + TOES)].min(1)
    air = feet - np.percentile(feet, _FLOOR_SHARE) > AIR_CLEARANCE
    usual = np.median(height[:, PELVIS])
    return [float(height[first:end, PELVIS].max() - usual) for first, end in stretches(air)
            if AIR_TIME[0] <= (end - first) / FPS <= AIR_TIME[1]]


# Summary

def floor_level(joints: np.ndarray) -> float:
    """Height of the floor in metres: the 5th percentile of the lowest foot joint."""
    return float(np.percentile(joints[:, list(ANKLES + TOES), 1].min(1), 5))


def turn_sweep(joints: np.ndarray) -> tuple[float, float]:
    """Largest turn in degrees to the (left, right) between any two frames."""
    angle = np.degrees(heading(joints))
    return float((angle - np.minimum.accumulate(angle)).max()), float((np.maximum.accumulate(angle) - angle).max())


def path_length(joints: np.ndarray) -> float:
    """Length of the pelvis's path over the ground in metres."""
    return float(np.linalg.norm(np.diff(smooth(joints[:, PELVIS, [0, 2]]), axis=0), axis=-1).sum())


def quiet_share(joints: np.ndarray) -> float:
    """Share of the frames in which head, wrists and ankles are all slower than ``QUIET_SPEED``."""
    ends = smooth(joints[:, [HEAD, *WRISTS, *ANKLES]].astype(np.float64), 3)
    return float((np.linalg.norm(np.diff(ends, axis=0), axis=-1).max(1) * FPS < QUIET_SPEED).mean())


def stands(joints: np.ndarray) -> np.ndarray:
    """Whether the legs are straight, (T,)."""
    return leg_share(joints) >= STANDING_LEG


def feet_rise(joints: np.ndarray) -> float:
    """Rise of the lower foot in metres: median of the last fifth of the motion minus median of the first."""
    feet, part = joints[:, list(ANKLES + TOES), 1].min(1), max(len(joints) // 5, 1)
    return float(np.median(feet[-part:]) - np.median(feet[:part]))


def hand_heights(joints: np.ndarray) -> np.ndarray:
    """Height of the lower wrist above the floor in metres, (T,)."""
    return joints[:, list(WRISTS), 1].min(1) - floor_level(joints)


def lowest_head(joints: np.ndarray) -> float:
    """Lowest height of the head above the pelvis in metres; negative when upside down."""
    return float((joints[:, HEAD, 1] - joints[:, PELVIS, 1]).min())


def feet_lifted(joints: np.ndarray, least: float = LIFTED) -> np.ndarray:
    """Whether the (left, right) foot is off the floor, (T, 2)."""
    height = joints[..., 1] - floor_level(joints)
    return np.stack([height[:, [ankle, toe]].min(1) > least for ankle, toe in zip(ANKLES, TOES, strict=True)], -1)


def lifted_seconds(joints: np.ndarray) -> tuple[float, float]:
    """Longest time in seconds with the (left, right) foot lifted."""
    left, right = feet_lifted(joints).T
    return longest(left), longest(right)


def hops(joints: np.ndarray) -> tuple[int, int]:
    """Number of hops on the (left, right) foot: it leaves the floor while the other foot stays lifted."""
    lifted, leaving = feet_lifted(joints), feet_lifted(joints, AIR_CLEARANCE)
    left, right = (max((len(list(stretches(leaving[first:end, foot])))
                        for first, end in stretches(lifted[:, 1 - foot])), default=0) for foot in range(2))
    return left, right


def kick_heights(joints: np.ndarray) -> tuple[float, float]:
    """Height in metres of the (left, right) ankle above its standing height while ``IN_FRONT`` to the front or side."""
    floor = np.percentile(joints[:, list(ANKLES), 1].min(1), 5)

    def height(ankle: int) -> float:
        forward, left, _ = body_frame(joints, ankle).T
        out = (np.hypot(forward, left) > IN_FRONT) & (forward > -0.1)
        return float(np.where(out, joints[:, ankle, 1] - floor, 0.0).max())

    return height(ANKLES[0]), height(ANKLES[1])


def measures(joints: np.ndarray) -> dict[str, float]:
    """Named measures that summarise a motion, in metres, degrees, seconds and m/s."""
    forward, left = travel(joints)
    swings, feet, up = wave_swings(joints), foot_reach(joints), share_raised(joints)
    pitch = trunk_pitch(joints)
    return {
        "seconds": len(joints) / FPS, "forward": forward, "left": left, "turn": turn_angle(joints),
        "displaced": float(np.hypot(*displacement(joints))), "mean_speed": mean_speed(joints),
        "top_speed": top_speed(joints), "left_hand_up_share": up[0], "right_hand_up_share": up[1],
        "left_swings": float(swings[0]), "right_swings": float(swings[1]),
        "bend": float(pitch.max() - pitch[0]), "lowest_hips": float(leg_share(joints).min()),
        "seated": seated_seconds(joints), "jump_rise": max(jump_rises(joints), default=0.0),
        "left_foot_reach": feet[0].forward, "left_foot_speed": feet[0].speed,
        "right_foot_reach": feet[1].forward, "right_foot_speed": feet[1].speed,
        "foot_skating": foot_skating(joints, T2M, FPS), "roughness": roughness(joints),
    }
