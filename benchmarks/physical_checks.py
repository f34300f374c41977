"""Named boolean checks of a motion (``CHECKS``), and signed measures that distinguish left from right (``SIDES``).

Both take joints (T, 22, 3) as described in ``physical_measures``. Thresholds were chosen on motion capture;
``check_calibration.py`` measures how often each check passes on clips of its own content and on other clips.
"""
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.physical_measures import (
    ANKLES,
    FPS,
    HEAD,
    IN_FRONT,
    PELVIS,
    SHOULDERS,
    WRISTS,
    FootReach,
    body_frame,
    count_swings,
    farthest,
    feet_rise,
    foot_reach,
    hand_heights,
    hands_overhead,
    hands_raised,
    hands_raised_frames,
    hops,
    jump_rises,
    kick_heights,
    leg_share,
    lifted_seconds,
    longest,
    lowest_head,
    path_length,
    quiet_share,
    seated_seconds,
    side_travel,
    smooth,
    stands,
    swings_while,
    top_speed,
    travel,
    trunk_pitch,
    turn_angle,
    turn_sweep,
    wave_swings,
    wrist_height,
)
from motion.foot import stretches
from motion.skeleton import T2M

WALK_DISTANCE = 1.0     # m forward or backward, minimum for locomotion
STRAIGHTNESS = 2.0      # minimum ratio of forward to sideways distance when walking straight
RUN_SPEED = 1.7         # m/s in the fastest second, minimum for a run
SLOW_SPEED = 1.2        # m/s in the fastest second, maximum for a slow walk
BRISK_SPEED = 1.3       # m/s in the fastest second, minimum for a brisk walk
SIDE_DISTANCE = 0.5     # m, minimum to the side
SIDE_SHARE = 0.25       # minimum ratio of sideways to forward distance, so that diagonals count
STAY_DISTANCE = 0.6     # m, maximum from the start when staying in place
STILL_DISTANCE = 0.3    # m, maximum from the start when standing still
STILL_HEIGHT = 0.15     # m, maximum vertical pelvis movement when standing still
STILL_SHARE = 0.75      # minimum fraction of quiet frames when standing still
STILL_RAISED = 1.0      # s, maximum time with a hand up when standing still
TURN = 45.0             # degrees
ABOUT_TURN = 120.0      # degrees; more than 240 is a circle
CIRCLE = 240.0          # degrees in one direction
CIRCLE_PATH = 1.5       # m, minimum path length
RAISED_TIME = 0.5       # s
OVERHEAD_TIME = 0.25    # s
ORDER_TIME = 0.5        # s, minimum time between raising one hand and the other
SWINGS = 3              # turning points; raising and lowering an arm has at most two
STROKES = 4             # turning points of a broom or a cloth
BOW_PITCH = 20.0        # degrees, minimum forward bend since the first frame
BOW_LEG = 0.83          # minimum hip height in leg lengths, with nearly straight knees
SEAT_TIME = 1.0         # s
SQUAT_LEG = 0.65        # maximum hip height in leg lengths
FLOOR_HAND = 0.3        # m, maximum height of a hand that picks something up
HAND_LIFT = 0.3         # m, minimum lift of the hand afterwards
KICK_SPEED = 4.5        # m/s, minimum speed of the foot in front relative to the pelvis, or
KICK_HEIGHT = 0.35      # m, minimum height of the ankle above standing
PUNCH_SPEED = 1.2       # m/s, minimum speed of the fist away from the shoulder
GUARD = -0.36           # m, minimum median height of the lower fist above the shoulder
THROW_SPEED = 1.5       # m/s, minimum forward speed of the hand from behind the shoulder
JUMP_RISE = 0.12        # m
JUMP_DISTANCE = 0.6     # m forward
HOPS = 3                # minimum number on one foot
JACKS = 3               # minimum turning points of hands and feet
STAIR_RISE = 0.15       # m
BALANCE_TIME = 1.0      # s on one leg
MOUTH_TIME = 0.75       # s
SPREAD_TIME = 0.75      # s

Check = Callable[[np.ndarray], bool]
ELBOWS = tuple(T2M.joint_names.index(f"{side}_elbow") for side in ("left", "right"))
PUNCH_REACH = 0.7           # arm lengths, minimum horizontal distance from the shoulder
PUNCH_HEIGHT = 0.5          # arm lengths, maximum vertical distance from the shoulder
PUNCH_GUARD = 0.8           # arm lengths, maximum distance from the shoulder before the punch
PUNCH_FRAMES = 6            # maximum frames between guard and punch
THROW_FRAMES = 8            # maximum frames between drawing the hand back and its highest speed
JACK_FEET, JACK_HANDS = 0.2, 0.3    # m, minimum movement of feet and hands
BROOM_STROKE = 0.12         # m, minimum movement of both hands together
WIPE_STROKE = 0.08          # m, minimum movement of a hand
SPREAD_OUT, SPREAD_DOWN = 0.4, 0.9  # arm lengths, minimum outward and maximum vertical offset of the wrist
MOUTH = (0.12, 0.0, 0.0)    # m (forward, left, up) of the mouth from the base of the skull
AT_MOUTH = 0.16             # m, maximum distance between wrist and mouth


def _arm(joints: np.ndarray, side: int) -> tuple[np.ndarray, float]:
    """Return the position of a wrist relative to its shoulder (T, 3), as (forward, left, up) in arm lengths.

    Also returns the arm length in metres.
    """
    shoulder, elbow, wrist = SHOULDERS[side], ELBOWS[side], WRISTS[side]
    length = float(np.median(np.linalg.norm(joints[:, wrist] - joints[:, elbow], axis=-1)
                             + np.linalg.norm(joints[:, elbow] - joints[:, shoulder], axis=-1)))
    return body_frame(joints, wrist, shoulder) / length, length


def punch_speeds(joints: np.ndarray) -> tuple[float, float]:
    """Return the highest speed (m/s) of a punch from the guard with the (left, right) fist, or 0 without punches."""
    def fastest(side: int) -> float:
        wrist, length = _arm(joints, side)
        reach = np.linalg.norm(wrist, axis=-1)
        speed = np.diff(smooth(reach, 3)) * length * FPS
        out = ((np.hypot(wrist[:, 0], wrist[:, 1]) > PUNCH_REACH) & (np.abs(wrist[:, 2]) < PUNCH_HEIGHT)
               & (wrist[:, 0] > 0))
        starts = [(max(first - PUNCH_FRAMES, 0), first) for first, _ in stretches(out) if first]
        return max((float(speed[before:first + 2].max()) for before, first in starts
                    if reach[before:first + 1].min() < PUNCH_GUARD), default=0.0)

    return fastest(0), fastest(1)


def throw_speed(joints: np.ndarray) -> float:
    """Return the highest forward speed (m/s) of a hand just drawn back behind its shoulder, not of a hanging arm."""
    best = 0.0
    for side in range(2):
        wrist, length = _arm(joints, side)
        speed = np.diff(smooth(wrist[:, 0], 3)) * length * FPS
        back = (wrist[:, 0] < 0) & (wrist[:, 2] > -0.2)
        recent = [back[max(t - THROW_FRAMES, 0):t + 1].any() for t in range(len(speed))]
        best = max(best, float(np.where(np.array(recent) & (wrist[1:, 2] > -0.7), speed, 0.0).max()))
    return best


def jack_swings(joints: np.ndarray) -> int:
    """Return the number of sideways swings of the feet or vertical swings of the hands, whichever is smaller."""
    feet = body_frame(joints, ANKLES[0], ANKLES[1])[:, 1]
    return min(count_swings(feet, JACK_FEET), count_swings(wrist_height(joints).mean(1), JACK_HANDS))


def broom_strokes(joints: np.ndarray) -> int:
    """Count the strokes of both hands together while they are low, in front of the body and close to each other."""
    left, right = (body_frame(joints, wrist) for wrist in WRISTS)
    middle, apart = (left + right) / 2, np.linalg.norm(left - right, axis=-1)
    held = (middle[:, 2] < 0.25) & (middle[:, 0] > 0.15) & (apart < 0.75)
    return max(swings_while(held, middle[:, axis], BROOM_STROKE) for axis in (0, 1))


def wipe_swings(joints: np.ndarray) -> int:
    """Count the sideways or vertical swings of a hand that stays up in front of the body."""
    def swings(side: int) -> int:
        hand = body_frame(joints, WRISTS[side], SHOULDERS[side])
        up = (hand[:, 2] > -0.25) & (hand[:, 0] > 0.1)
        return max(swings_while(up, hand[:, axis], WIPE_STROKE) for axis in (1, 2))

    return max(swings(0), swings(1))


def mouth_seconds(joints: np.ndarray) -> float:
    """Return the longest uninterrupted time, in seconds, for which a wrist is at the mouth."""
    return max(longest(np.linalg.norm(body_frame(joints, wrist, HEAD) - MOUTH, axis=-1) < AT_MOUTH)
               for wrist in WRISTS)


def raise_order(joints: np.ndarray) -> float:
    """Return the seconds by which the left hand is raised before the right hand, or 0 unless both are raised."""
    up = hands_raised_frames(joints)
    return float(np.subtract(*up.argmax(0)[::-1])) / FPS if up.any(0).all() else 0.0


def spread_seconds(joints: np.ndarray) -> float:
    """Return the longest time in seconds with both arms stretched out to the sides, neither hanging nor raised."""
    left, right = (_arm(joints, side)[0] for side in range(2))
    out = np.minimum(left[:, 1], -right[:, 1]) > SPREAD_OUT
    return longest(out & (np.maximum(abs(left[:, 2]), abs(right[:, 2])) < SPREAD_DOWN))


def stands_still(joints: np.ndarray) -> bool:
    """Check that the body stays upright in one place and hardly moves, with the hands down."""
    up = hands_raised(joints)
    return bool(farthest(joints) < STILL_DISTANCE and quiet_share(joints) >= STILL_SHARE and stands(joints).mean() > 0.5
                and np.ptp(joints[:, PELVIS, 1]) < STILL_HEIGHT and max(up.left, up.right) < STILL_RAISED)


def runs(joints: np.ndarray) -> bool:
    """Check that the body moves forward at running speed."""
    return top_speed(joints) >= RUN_SPEED and travel(joints)[0] >= WALK_DISTANCE


def walks_forward(joints: np.ndarray) -> bool:
    """Check that the body moves forward, more than sideways, below running speed."""
    forward, left = travel(joints)
    return forward >= WALK_DISTANCE and forward >= STRAIGHTNESS * abs(left) and top_speed(joints) < RUN_SPEED


def goes_forward(joints: np.ndarray) -> bool:
    """Check that the body moves forward, walking or running."""
    return travel(joints)[0] >= WALK_DISTANCE


def walks_backwards(joints: np.ndarray) -> bool:
    """Check that the body moves opposite to its facing direction. Turning around and walking away does not count."""
    forward, left = travel(joints)
    return -forward >= WALK_DISTANCE and -forward >= STRAIGHTNESS * abs(left)


def _drifts(joints: np.ndarray, sign: int) -> bool:
    left = sign * side_travel(joints)
    return left >= SIDE_DISTANCE and left >= SIDE_SHARE * abs(travel(joints)[0])


def _steps_aside(joints: np.ndarray, sign: int) -> bool:
    return sign * _sideways(joints) >= SIDE_DISTANCE


def _sideways(joints: np.ndarray) -> float:
    """Return the travel to the left of the heading at each step, in metres; 0 if travel is mostly along the heading."""
    forward, left = travel(joints)
    return left if abs(left) >= abs(forward) else 0.0


def _circles(joints: np.ndarray, side: int) -> bool:
    sweeps = turn_sweep(joints)
    return sweeps[side] >= CIRCLE and sweeps[1 - side] < ABOUT_TURN and path_length(joints) >= CIRCLE_PATH


def _waves(joints: np.ndarray, side: int) -> bool:
    swings = wave_swings(joints)
    return swings[side] >= SWINGS > swings[1 - side]


def bows(joints: np.ndarray) -> bool:
    """Check that the trunk bends forward over straight legs."""
    pitch = trunk_pitch(joints)
    bent = int(pitch.argmax())
    return bool(pitch[bent] - pitch[0] >= BOW_PITCH and leg_share(joints)[bent] >= BOW_LEG)


def sits_down(joints: np.ndarray) -> bool:
    """Check that the body stands at first and is seated later."""
    upright = stands(joints)
    return bool(upright.any()) and seated_seconds(joints[int(upright.argmax()):]) >= SEAT_TIME


def gets_up(joints: np.ndarray) -> bool:
    """Check that the body stands after the hips were low in the first half."""
    low = leg_share(joints)[:len(joints) // 2 + 1] < SQUAT_LEG
    return bool(low.any() and stands(joints)[int(low.argmax()):].any())


def squats(joints: np.ndarray) -> bool:
    """Check that the hips are lowered over the feet, not onto a seat, and that the body stands before or after."""
    return bool(leg_share(joints).min() < SQUAT_LEG and stands(joints).any()) and seated_seconds(joints) < SEAT_TIME


def picks_up(joints: np.ndarray) -> bool:
    """Check that a standing body lowers a hand close to the floor and lifts it again."""
    hand = hand_heights(joints)
    lowest = int(hand.argmin())
    return bool(hand[lowest] <= FLOOR_HAND and stands(joints)[:lowest].any()
                and hand[lowest:].max() - hand[lowest] >= HAND_LIFT)


def _kicks(joints: np.ndarray, side: int) -> bool:
    feet, heights = foot_reach(joints), kick_heights(joints)
    return _is_kick(feet[side], heights[side]) and feet[side].speed > feet[1 - side].speed


def _is_kick(foot: FootReach, height: float) -> bool:
    return height >= KICK_HEIGHT or (foot.forward >= IN_FRONT and foot.speed >= KICK_SPEED)


def _punches(joints: np.ndarray, side: int) -> bool:
    speeds = punch_speeds(joints)
    return speeds[side] >= PUNCH_SPEED and speeds[side] > speeds[1 - side]


def _jumps(joints: np.ndarray) -> bool:
    return max(jump_rises(joints), default=0.0) >= JUMP_RISE


def _hops(joints: np.ndarray, side: int) -> bool:
    counts = hops(joints)
    return counts[side] >= HOPS and counts[side] > counts[1 - side]


def _balances(joints: np.ndarray, side: int) -> bool:
    """Check that the body stands on the leg of ``side`` only."""
    return lifted_seconds(joints)[1 - side] >= BALANCE_TIME > lifted_seconds(joints)[side]


CHECKS: dict[str, Check] = {
    "stands_still": stands_still,
    "stays_in_place": lambda joints: farthest(joints) < STAY_DISTANCE,
    "keeps_direction": lambda joints: abs(turn_angle(joints)) < TURN,
    "walks_forward": walks_forward,
    "goes_forward": goes_forward,
    "goes_slowly": lambda joints: goes_forward(joints) and top_speed(joints) < SLOW_SPEED,
    "goes_briskly": lambda joints: goes_forward(joints) and top_speed(joints) >= BRISK_SPEED,
    "runs": runs,
    "walks_backwards": walks_backwards,
    "walks_left": lambda joints: _drifts(joints, 1),
    "walks_right": lambda joints: _drifts(joints, -1),
    "steps_left": lambda joints: _steps_aside(joints, 1),
    "steps_right": lambda joints: _steps_aside(joints, -1),
    "turns_left": lambda joints: turn_angle(joints) >= TURN,
    "turns_right": lambda joints: turn_angle(joints) <= -TURN,
    "turns_around": lambda joints: any(ABOUT_TURN <= sweep <= CIRCLE for sweep in turn_sweep(joints)),
    "circles_left": lambda joints: _circles(joints, 0),
    "circles_right": lambda joints: _circles(joints, 1),
    "climbs": lambda joints: feet_rise(joints) >= STAIR_RISE,
    "descends": lambda joints: feet_rise(joints) <= -STAIR_RISE,
    "raises_left_hand": lambda joints: hands_raised(joints).only(0, RAISED_TIME),
    "raises_right_hand": lambda joints: hands_raised(joints).only(1, RAISED_TIME),
    "raises_both_hands": lambda joints: hands_raised(joints).both >= RAISED_TIME,
    "raises_left_then_right": lambda joints: raise_order(joints) >= ORDER_TIME,
    "raises_right_then_left": lambda joints: raise_order(joints) <= -ORDER_TIME,
    "left_hand_overhead": lambda joints: hands_overhead(joints).only(0, OVERHEAD_TIME),
    "right_hand_overhead": lambda joints: hands_overhead(joints).only(1, OVERHEAD_TIME),
    "both_hands_overhead": lambda joints: hands_overhead(joints).both >= OVERHEAD_TIME,
    "waves_left_hand": lambda joints: _waves(joints, 0),
    "waves_right_hand": lambda joints: _waves(joints, 1),
    "waves_both_hands": lambda joints: min(wave_swings(joints)) >= SWINGS,
    "spreads_arms": lambda joints: spread_seconds(joints) >= SPREAD_TIME,
    "bows": bows,
    "sits": lambda joints: seated_seconds(joints) >= SEAT_TIME,
    "sits_down": sits_down,
    "gets_up": gets_up,
    "squats": squats,
    "picks_up": picks_up,
    "kicks": lambda joints: any(map(_is_kick, foot_reach(joints), kick_heights(joints))),
    "kicks_left": lambda joints: _kicks(joints, 0),
    "kicks_right": lambda joints: _kicks(joints, 1),
    "punches": lambda joints: max(punch_speeds(joints)) >= PUNCH_SPEED,
    "punches_left": lambda joints: _punches(joints, 0),
    "punches_right": lambda joints: _punches(joints, 1),
    "boxes": lambda joints: (max(punch_speeds(joints)) >= PUNCH_SPEED
                             and float(np.median(wrist_height(joints).min(1))) >= GUARD),
    "throws": lambda joints: throw_speed(joints) >= THROW_SPEED,
    "jumps": _jumps,
    "jumps_up": lambda joints: _jumps(joints) and farthest(joints) < STAY_DISTANCE,
    "jumps_forward": lambda joints: _jumps(joints) and travel(joints)[0] >= JUMP_DISTANCE,
    "hops_on_left_foot": lambda joints: _hops(joints, 0),
    "hops_on_right_foot": lambda joints: _hops(joints, 1),
    "does_jumping_jacks": lambda joints: jack_swings(joints) >= JACKS,
    "balances_on_left_leg": lambda joints: _balances(joints, 0),
    "balances_on_right_leg": lambda joints: _balances(joints, 1),
    "turns_upside_down": lambda joints: lowest_head(joints) < 0,
    "sweeps": lambda joints: broom_strokes(joints) >= STROKES,
    "wipes": lambda joints: wipe_swings(joints) >= SWINGS,
    "drinks": lambda joints: mouth_seconds(joints) >= MOUTH_TIME,
}


@dataclass(frozen=True)
class Side:
    """A signed measure, positive for left, and the smallest magnitude that indicates a side."""

    measure: Callable[[np.ndarray], float]
    margin: float

    def shown(self, joints: np.ndarray) -> str:
        """Return "left", "right" or "neither"."""
        value = self.measure(joints)
        if abs(value) < self.margin:
            return "neither"
        return "left" if value > 0 else "right"


SIDES: dict[str, Side] = {
    "turn": Side(turn_angle, 20.0),        # degrees
    "travel": Side(side_travel, 0.3),      # m
    "sidestep": Side(_sideways, 0.3),      # m; unlike "travel", the body may turn, as in most real side steps
    "hand": Side(lambda joints: float(np.subtract(*wrist_height(joints).max(0))), 0.15),  # m, highest wrist positions
    "order": Side(raise_order, 0.25),      # s between raising the hands, positive if the left one is first
    "fist": Side(lambda joints: float(np.subtract(*punch_speeds(joints))), 0.3),  # m/s, fastest punches
    "foot": Side(lambda joints: float(np.subtract(*(foot.speed for foot in foot_reach(joints)))), 1.0),  # m/s, highest
    "hop": Side(lambda joints: float(np.subtract(*hops(joints))), 1.0),  # number of hops
    "stand": Side(lambda joints: float(-np.subtract(*lifted_seconds(joints))), 0.5),  # s with the other foot lifted
}
