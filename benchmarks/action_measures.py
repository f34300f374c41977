"""Measures of single actions, such as kicks, punches and hops; conventions as in ``physical_measures``."""
import numpy as np

from benchmarks.physical_measures import (
    AIR_CLEARANCE,
    ANKLES,
    FPS,
    HEAD,
    IN_FRONT,
    PELVIS,
    SHOULDERS,
    TOES,
    WRISTS,
    body_frame,
    count_swings,
    hands_raised_frames,
    heading,
    leg_share,
    longest,
    smooth,
    swings_while,
    wrist_height,
)
from motion.foot import stretches
from motion.skeleton import T2M

ELBOWS = tuple(T2M.joint_names.index(f"{side}_elbow") for side in ("left", "right"))

STANDING_LEG = 0.85         # minimum hip height when standing, as a share of the leg's length
QUIET_SPEED = 0.25          # m/s
LIFTED = 0.08               # m above the floor from which a foot counts as lifted
PUNCH_REACH = 0.7           # of the arm's length, outward from the shoulder
PUNCH_HEIGHT = 0.5          # of the arm's length, at most, above or below the shoulder
PUNCH_GUARD = 0.8           # of the arm's length: the fist starts closer to the shoulder than this
PUNCH_FRAMES = 6            # frames between guard and punch, at most
THROW_FRAMES = 8            # frames between drawing the hand back and its highest speed, at most
JACK_FEET, JACK_HANDS = 0.2, 0.3    # m that feet and hands move apart and together
BROOM_STROKE = 0.12         # m that the hands move together
WIPE_STROKE = 0.08          # m that a hand moves
SPREAD_OUT, SPREAD_DOWN = 0.4, 0.9  # of the arm's length: the wrist outward at least, and downward at most
MOUTH = (0.12, 0.0, 0.0)    # m (forward, left, up) of the mouth from the base of the skull
AT_MOUTH = 0.16             # m between wrist and mouth


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


def _arm(joints: np.ndarray, side: int) -> tuple[np.ndarray, float]:
    """Wrist relative to its shoulder in arm lengths, (T, 3) as (forward, left, up), and the arm's length in metres."""
    shoulder, elbow, wrist = SHOULDERS[side], ELBOWS[side], WRISTS[side]
    length = float(np.median(np.linalg.norm(joints[:, wrist] - joints[:, elbow], axis=-1)
                             + np.linalg.norm(joints[:, elbow] - joints[:, shoulder], axis=-1)))
    return body_frame(joints, wrist, shoulder) / length, length


def punch_speeds(joints: np.ndarray) -> tuple[list[float], list[float]]:
    """Speed in m/s at which the (left, right) fist leaves the guard, per extension of the arm at shoulder height."""
    def speeds(side: int) -> list[float]:
        wrist, length = _arm(joints, side)
        reach = np.linalg.norm(wrist, axis=-1)
        speed = np.diff(smooth(reach, 3)) * length * FPS
        out = ((np.hypot(wrist[:, 0], wrist[:, 1]) > PUNCH_REACH) & (np.abs(wrist[:, 2]) < PUNCH_HEIGHT)
               & (wrist[:, 0] > 0))
        starts = [(max(first - PUNCH_FRAMES, 0), first) for first, _ in stretches(out) if first]
        return [float(speed[before:first + 2].max()) for before, first in starts
                if reach[before:first + 1].min() < PUNCH_GUARD]

    return speeds(0), speeds(1)


def throw_speed(joints: np.ndarray) -> float:
    """Highest forward speed in m/s of a hand after it was drawn back behind its shoulder; hanging arms do not count."""
    best = 0.0
    for side in range(2):
        wrist, length = _arm(joints, side)
        speed = np.diff(smooth(wrist[:, 0], 3)) * length * FPS
        back = (wrist[:, 0] < 0) & (wrist[:, 2] > -0.2)
        recent = [back[max(t - THROW_FRAMES, 0):t + 1].any() for t in range(len(speed))]
        best = max(best, float(np.where(np.array(recent) & (wrist[1:, 2] > -0.7), speed, 0.0).max()))
    return best


def jack_swings(joints: np.ndarray) -> int:
    """Number of turning points of both the feet (sideways) and the hands (up and down), as in jumping jacks."""
    feet = body_frame(joints, ANKLES[0], ANKLES[1])[:, 1]
    return min(count_swings(feet, JACK_FEET), count_swings(wrist_height(joints).mean(1), JACK_HANDS))


def broom_strokes(joints: np.ndarray) -> int:
    """Number of joint turning points of both hands while they are low, in front of the body and close to each other."""
    left, right = (body_frame(joints, wrist) for wrist in WRISTS)
    middle, apart = (left + right) / 2, np.linalg.norm(left - right, axis=-1)
    held = (middle[:, 2] < 0.25) & (middle[:, 0] > 0.15) & (apart < 0.75)
    return max(swings_while(held, middle[:, axis], BROOM_STROKE) for axis in (0, 1))


def wipe_swings(joints: np.ndarray) -> int:
    """Number of turning points, sideways or vertical, of a hand that stays up in front of the body."""
    def swings(side: int) -> int:
        hand = body_frame(joints, WRISTS[side], SHOULDERS[side])
        up = (hand[:, 2] > -0.25) & (hand[:, 0] > 0.1)
        return max(swings_while(up, hand[:, axis], WIPE_STROKE) for axis in (1, 2))

    return max(swings(0), swings(1))


def mouth_seconds(joints: np.ndarray) -> float:
    """Longest time in seconds with a wrist at the mouth."""
    return max(longest(np.linalg.norm(body_frame(joints, wrist, HEAD) - MOUTH, axis=-1) < AT_MOUTH)
               for wrist in WRISTS)


def raise_order(joints: np.ndarray) -> float:
    """Seconds by which the left hand is raised before the right one; negative if after, 0 unless both are raised."""
    up = hands_raised_frames(joints)
    return float(np.subtract(*up.argmax(0)[::-1])) / FPS if up.any(0).all() else 0.0


def spread_seconds(joints: np.ndarray) -> float:
    """Longest time in seconds with both arms stretched out to the sides, neither hanging nor raised."""
    left, right = (_arm(joints, side)[0] for side in range(2))
    out = np.minimum(left[:, 1], -right[:, 1]) > SPREAD_OUT
    return longest(out & (np.maximum(abs(left[:, 2]), abs(right[:, 2])) < SPREAD_DOWN))

