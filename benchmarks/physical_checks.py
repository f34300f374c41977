"""Yes/no questions about a motion by name, ``CHECKS``, and signed measures that tell left from right, ``SIDES``.

Both take joints (T, 22, 3) as ``benchmarks.physical_measures`` does. The thresholds were set on real motion capture:
``benchmarks/check_calibration.py`` counts how often each check says yes on clips of its own content and on others.
"""
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.physical_measures import (
    IN_FRONT,
    FootReach,
    farthest,
    foot_reach,
    hands_overhead,
    hands_raised,
    jump_rises,
    leg_share,
    seated_seconds,
    side_travel,
    top_speed,
    travel,
    trunk_pitch,
    turn_angle,
    wave_swings,
    wrist_height,
)

WALK_DISTANCE = 1.0     # m forward or backward that count as going somewhere
STRAIGHTNESS = 2.0      # a walk forward goes this many times further forward than sideways
RUN_SPEED = 1.7         # m/s kept up for a second
SIDE_DISTANCE = 0.5     # m to the side, and
SIDE_SHARE = 0.25       # this share of the way forward (a diagonal counts)
STAY_DISTANCE = 0.6     # m from the start that count as staying in place
TURN = 45.0             # degrees
RAISED_TIME = 0.5       # s
OVERHEAD_TIME = 0.25    # s
SWINGS = 3              # turning points; raising and lowering an arm has at most two
BOW_PITCH = 20.0        # degrees further forward than at first, over
BOW_LEG = 0.85          # this share of the leg's length: the knees stay (nearly) straight
SEAT_TIME = 1.0         # s
KICK_SPEED = 4.5        # m/s, the foot in front against the pelvis, or
KICK_HEIGHT = 0.35      # m that it gets over standing
JUMP_RISE = 0.12        # m


def runs(joints: np.ndarray) -> bool:
    """Goes forward at running speed."""
    return top_speed(joints) >= RUN_SPEED and travel(joints)[0] >= WALK_DISTANCE


def walks_forward(joints: np.ndarray) -> bool:
    """Goes forward, more than to the side, below running speed."""
    forward, left = travel(joints)
    return forward >= WALK_DISTANCE and forward >= STRAIGHTNESS * abs(left) and top_speed(joints) < RUN_SPEED


def goes_forward(joints: np.ndarray) -> bool:
    """Goes forward, walking or running."""
    return travel(joints)[0] >= WALK_DISTANCE


def walks_backwards(joints: np.ndarray) -> bool:
    """Goes against its facing: a person that turned round and walked off does not."""
    forward, left = travel(joints)
    return -forward >= WALK_DISTANCE and -forward >= STRAIGHTNESS * abs(left)


def _steps_aside(joints: np.ndarray, sign: int) -> bool:
    left = sign * side_travel(joints)
    return left >= SIDE_DISTANCE and left >= SIDE_SHARE * abs(travel(joints)[0])


def _waves(joints: np.ndarray, side: int) -> bool:
    swings = wave_swings(joints)
    return swings[side] >= SWINGS > swings[1 - side]


def bows(joints: np.ndarray) -> bool:
    """Bends the trunk forward over straight legs."""
    pitch = trunk_pitch(joints)
    bent = int(pitch.argmax())
    return bool(pitch[bent] - pitch[0] >= BOW_PITCH and leg_share(joints)[bent] >= BOW_LEG)


def _is_kick(foot: FootReach) -> bool:
    return foot.forward >= IN_FRONT and (foot.speed >= KICK_SPEED or foot.height >= KICK_HEIGHT)


def _kicks(joints: np.ndarray, side: int) -> bool:
    feet = foot_reach(joints)
    return _is_kick(feet[side]) and feet[side].speed > feet[1 - side].speed


Check = Callable[[np.ndarray], bool]

CHECKS: dict[str, Check] = {
    "walks_forward": walks_forward,
    "goes_forward": goes_forward,
    "runs": runs,
    "walks_backwards": walks_backwards,
    "walks_left": lambda joints: _steps_aside(joints, 1),
    "walks_right": lambda joints: _steps_aside(joints, -1),
    "turns_left": lambda joints: turn_angle(joints) >= TURN,
    "turns_right": lambda joints: turn_angle(joints) <= -TURN,
    "keeps_direction": lambda joints: abs(turn_angle(joints)) < TURN,
    "stays_in_place": lambda joints: farthest(joints) < STAY_DISTANCE,
    "raises_left_hand": lambda joints: hands_raised(joints).only(0, RAISED_TIME),
    "raises_right_hand": lambda joints: hands_raised(joints).only(1, RAISED_TIME),
    "raises_both_hands": lambda joints: hands_raised(joints).both >= RAISED_TIME,
    "left_hand_overhead": lambda joints: hands_overhead(joints).only(0, OVERHEAD_TIME),
    "right_hand_overhead": lambda joints: hands_overhead(joints).only(1, OVERHEAD_TIME),
    "both_hands_overhead": lambda joints: hands_overhead(joints).both >= OVERHEAD_TIME,
    "waves_left_hand": lambda joints: _waves(joints, 0),
    "waves_right_hand": lambda joints: _waves(joints, 1),
    "waves_both_hands": lambda joints: min(wave_swings(joints)) >= SWINGS,
    "bows": bows,
    "sits": lambda joints: seated_seconds(joints) >= SEAT_TIME,
    "kicks": lambda joints: any(map(_is_kick, foot_reach(joints))),
    "kicks_left": lambda joints: _kicks(joints, 0),
    "kicks_right": lambda joints: _kicks(joints, 1),
    "jumps": lambda joints: max(jump_rises(joints), default=0.0) >= JUMP_RISE,
}


def _hand_difference(joints: np.ndarray) -> float:
    left, right = wrist_height(joints).max(0)
    return float(left - right)


def _foot_difference(joints: np.ndarray) -> float:
    left, right = foot_reach(joints)
    return left.speed - right.speed


@dataclass(frozen=True)
class Side:
    """A signed measure, positive for left, and how large it must be to show a side at all."""

    measure: Callable[[np.ndarray], float]
    margin: float

    def shown(self, joints: np.ndarray) -> str:
        """"left", "right" or "neither"."""
        value = self.measure(joints)
        if abs(value) < self.margin:
            return "neither"
        return "left" if value > 0 else "right"


SIDES: dict[str, Side] = {
    "turn": Side(turn_angle, 20.0),        # degrees
    "travel": Side(side_travel, 0.3),      # m
    "hand": Side(_hand_difference, 0.15),  # m between the highest places of the wrists
    "foot": Side(_foot_difference, 1.0),   # m/s between the top speeds of the feet
}
