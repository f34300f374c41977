"""What a motion does, read off its joints: where it goes, which hand rises, whether both feet leave the floor.

Every measure takes the joints of one motion, (T, 22, 3) in the HumanML3D order with T of 2 or more, metres, y up,
``FPS`` frames a second, wherever it stands and whichever way it faces at first. Left is positive throughout: a turn
to the left and a step to the left give positive numbers. Pairs are ordered (left, right).
"""
from dataclasses import dataclass

import numpy as np

from motion.foot import stretches
from motion.quality import foot_skating, roughness
from motion.skeleton import T2M

FPS = 20


def _pair(name: str) -> tuple[int, int]:
    return T2M.joint_names.index(f"left_{name}"), T2M.joint_names.index(f"right_{name}")


PELVIS, NECK, HEAD = (T2M.joint_names.index(name) for name in ("pelvis", "neck", "head"))
HIPS, KNEES, ANKLES, TOES, SHOULDERS, WRISTS = map(_pair, ("hip", "knee", "ankle", "foot", "shoulder", "wrist"))

STRAIGHT = 45.0          # degrees of turn below which a step to the side is one
RAISED_LEVEL = -0.10     # m over the shoulder: a hand held beside the shoulder is up
OVERHEAD_LEVEL = 0.05    # m over the base of the skull
SWING = 0.03             # m to the side and back: the smallest wave
SEAT_LEG = 0.85          # share of the leg's length that the hips are under, and
SEAT_BEHIND = 0.18       # m they are behind the ankles, on a seat (a squat keeps them over the ankles)
IN_FRONT = 0.45          # m before the pelvis that a kicking foot gets, and a walking one seldom
AIR_CLEARANCE = 0.06     # m under the lower foot
AIR_TIME = (0.15, 1.0)   # s in the air: longer is a climb, not a jump

_SMOOTHING = 5           # frames (0.25 s) that directions are averaged over
_FLOOR_SHARE = 5.0       # percentile of the lower foot's height that counts as standing on the floor


def smooth(values: np.ndarray, width: int = _SMOOTHING) -> np.ndarray:
    """Centred moving average along the first axis, edges repeated; same length."""
    half = width // 2
    padded = np.concatenate([np.repeat(values[:1], half, 0), values, np.repeat(values[-1:], half, 0)])
    total = np.cumsum(np.concatenate([np.zeros_like(padded[:1]), padded]), 0)
    return (total[width:] - total[:-width]) / width


def longest(mask: np.ndarray) -> float:
    """Seconds of the longest unbroken stretch of true frames in ``mask`` (T,)."""
    return max((end - first for first, end in stretches(mask)), default=0) / FPS


# Where the body faces and goes

def heading(joints: np.ndarray) -> np.ndarray:
    """Direction the body faces, (T,) radians about y, unwrapped: 0 faces +z, positive is further to the left (+x).

    The mean of hips and shoulders, smoothed over a quarter of a second.
    """
    across = sum(joints[:, left] - joints[:, right] for left, right in (HIPS, SHOULDERS))[:, [0, 2]].astype(np.float64)
    across = smooth(across / np.linalg.norm(across, axis=-1, keepdims=True).clip(1e-9))
    return np.unwrap(np.arctan2(-across[:, 1], across[:, 0]))


def turn_angle(joints: np.ndarray) -> float:
    """Degrees the body has turned from the first to the last frame, left positive; two whole turns are 720."""
    angle = heading(joints)
    return float(np.degrees(angle[-1] - angle[0]))


def _in_body_frame(ground: np.ndarray, angle: np.ndarray | float) -> np.ndarray:
    """Ground vectors (..., 2) as (x, z), seen by a body that faces ``angle``: (..., 2) as (forward, left)."""
    sin, cos = np.sin(angle), np.cos(angle)
    return np.stack([ground[..., 0] * sin + ground[..., 1] * cos, ground[..., 0] * cos - ground[..., 1] * sin], -1)


def body_frame(joints: np.ndarray, joint: int, origin: int = PELVIS) -> np.ndarray:
    """Where a joint is, seen from another in the body's frame of that time: (T, 3) as (forward, left, up), metres."""
    away = (joints[:, joint] - joints[:, origin]).astype(np.float64)
    return np.concatenate([_in_body_frame(away[:, [0, 2]], heading(joints)), away[:, 1:2]], -1)


def displacement(joints: np.ndarray) -> tuple[float, float]:
    """Metres (forward, left) from the first to the last place of the pelvis, in the frame the body faces at first."""
    ground = joints[:, PELVIS, [0, 2]].astype(np.float64)
    forward, left = _in_body_frame(ground[-1] - ground[0], heading(joints)[0])
    return float(forward), float(left)


def body_velocity(joints: np.ndarray) -> np.ndarray:
    """Velocity of the pelvis over the ground in the body's frame of that time, (T - 1, 2) as (forward, left), m/s."""
    steps = np.diff(joints[:, PELVIS, [0, 2]].astype(np.float64), axis=0) * FPS
    return _in_body_frame(steps, heading(joints)[:-1])


def travel(joints: np.ndarray) -> tuple[float, float]:
    """Metres (forward, left) gone by the pelvis, each step measured in the frame the body faces at that time.

    Walking a circle goes its circumference forward and nothing to the left; walking backwards goes a negative
    distance forward.
    """
    forward, left = body_velocity(joints).sum(0) / FPS
    return float(forward), float(left)


def side_travel(joints: np.ndarray) -> float:
    """Metres gone to the left of where the body faces (right negative), 0 where a turn made up for it."""
    return travel(joints)[1] if abs(turn_angle(joints)) < STRAIGHT else 0.0


def farthest(joints: np.ndarray) -> float:
    """Metres over the ground between the pelvis's first place and the one farthest from it."""
    ground = joints[:, PELVIS, [0, 2]].astype(np.float64)
    return float(np.linalg.norm(ground - ground[0], axis=-1).max())


def mean_speed(joints: np.ndarray) -> float:
    """Length of the pelvis's way over the ground divided by the time it took, m/s."""
    steps = np.diff(joints[:, PELVIS, [0, 2]].astype(np.float64), axis=0)
    return float(np.linalg.norm(steps, axis=-1).mean() * FPS)


def top_speed(joints: np.ndarray, seconds: float = 1.0) -> float:
    """Highest mean speed of the pelvis over the ground in any stretch of ``seconds`` (or all of it if shorter), m/s."""
    steps = np.linalg.norm(np.diff(joints[:, PELVIS, [0, 2]].astype(np.float64), axis=0), axis=-1)
    width = min(len(steps), round(seconds * FPS))
    total = np.concatenate([[0.0], np.cumsum(steps)])
    return float((total[width:] - total[:-width]).max() * FPS / width)


# Hands

def wrist_height(joints: np.ndarray, over: int | tuple[int, int] = SHOULDERS) -> np.ndarray:
    """Metres each wrist is above a joint, or above the joint of its own side: (T, 2) as (left, right)."""
    height = joints[..., 1].astype(np.float64)
    other = height[:, list(over)] if isinstance(over, tuple) else height[:, [over, over]]
    return height[:, list(WRISTS)] - other


def share_raised(joints: np.ndarray, over: int | tuple[int, int] = SHOULDERS) -> tuple[float, float]:
    """Share of the frames with the (left, right) wrist above a joint, its own shoulder unless ``over`` says else."""
    left, right = (wrist_height(joints, over) > 0).mean(0)
    return float(left), float(right)


@dataclass(frozen=True)
class HandsUp:
    """Longest times in seconds that the wrists stay above a level."""

    left: float
    right: float
    both: float  # at once

    def only(self, side: int, least: float) -> bool:
        """Whether just this hand (0 left, 1 right) is up for at least ``least`` seconds."""
        return (self.left, self.right)[side] >= least > (self.left, self.right)[1 - side]


def _hands_up(up: np.ndarray) -> HandsUp:
    return HandsUp(longest(up[:, 0]), longest(up[:, 1]), longest(up.all(1)))


def hands_raised_frames(joints: np.ndarray) -> np.ndarray:
    """Whether the (left, right) wrist is beside its shoulder or higher, (T, 2)."""
    return wrist_height(joints) > RAISED_LEVEL


def hands_raised(joints: np.ndarray) -> HandsUp:
    """Times with a wrist up beside its shoulder or higher."""
    return _hands_up(hands_raised_frames(joints))


def hands_overhead(joints: np.ndarray) -> HandsUp:
    """Times with a wrist over the head."""
    return _hands_up(wrist_height(joints, HEAD) > OVERHEAD_LEVEL)


def count_swings(values: np.ndarray, least: float) -> int:
    """How often the values (T,) turn back after moving at least ``least`` one way, and then at least as far back."""
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
    """Most swings of the values (T,) by ``least`` in any unbroken stretch of true frames in ``mask`` (T,)."""
    return max((count_swings(values[first:end], least) for first, end in stretches(mask)), default=0)


def wave_swings(joints: np.ndarray) -> tuple[int, int]:
    """Turning points of the (left, right) wrist to the side of its shoulder, in the best stretch of it being up.

    A wave there and back has two. Only the body's left-right direction counts: an arm that is raised and lowered
    makes none or one, an arm that bobs while walking moves up and down and forward.
    """
    up = hands_raised_frames(joints)
    left, right = (swings_while(up[:, side], body_frame(joints, WRISTS[side], SHOULDERS[side])[:, 1], SWING)
                   for side in range(2))
    return left, right


# Trunk and legs

def trunk_pitch(joints: np.ndarray) -> np.ndarray:
    """Degrees the line from pelvis to neck leans forward from the vertical, (T,), smoothed; backward is negative."""
    forward, _, up = body_frame(joints, NECK).T
    return smooth(np.degrees(np.arctan2(forward, up)))


def leg_share(joints: np.ndarray) -> np.ndarray:
    """Height of the hips over the standing ankle as a share of the leg's length, (T,): near 1 standing, 0.4 seated."""
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
    """How far out, high and fast one foot goes."""

    forward: float  # m, the ankle in front of the pelvis at most
    height: float   # m, the ankle over its standing height at most while at least ``IN_FRONT`` in front
    speed: float    # m/s, the ankle against the pelvis at most


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
    """Metres the pelvis gets over its median height in each jump: both feet up for a time within ``AIR_TIME``."""
    height = joints[..., 1].astype(np.float64)
    feet = height[:, list(ANKLES + TOES)].min(1)
    air = feet - np.percentile(feet, _FLOOR_SHARE) > AIR_CLEARANCE
    usual = np.median(height[:, PELVIS])
    return [float(height[first:end, PELVIS].max() - usual) for first, end in stretches(air)
            if AIR_TIME[0] <= (end - first) / FPS <= AIR_TIME[1]]


# In short

def measures(joints: np.ndarray) -> dict[str, float]:
    """Numbers by name that tell a motion in short. Metres, degrees, seconds, m/s."""
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
