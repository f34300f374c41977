"""Feet: joints, floor height, contacts and stance; and foot locking: standing feet do not slide, bones keep their
length, and feet are not forced onto a floor plane.

Joints are (T, J, 3) in metres, y up, as NumPy arrays; the foot joints of a leg are those from the ankle to the toe.
"""
from dataclasses import dataclass

import numpy as np
from scipy.linalg import solveh_banded

from motion.bvh_fit import rigid_joints
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


EASE = 0.1        # s over which a correction fades in before a stance and out after it
HOLD = 300.0      # weight of sliding relative to changes of the correction between frames
PIN = 1e5         # the same for a foot joint that keeps its position
UNITY = 0.3       # weight of differences between the corrections of the joints of a standing foot
TURN_FRAMES = 5   # over which the pivot moves from one foot joint to another
BENT, ROOM = 0.95, 0.035  # leg extension above which feet extend it less, and the largest such reduction
FORWARD = 0.01    # m by which the knee of a straight leg is assumed to be in front


def lock_feet(joints: np.ndarray, skeleton: Skeleton, fps: float, pinned: np.ndarray | None = None) -> np.ndarray:
    """Joints (T, J, 3), floor at y = 0, with constant bone lengths and feet that do not slide while they stand.

    A standing foot joint (``motion.foot``) is held at the position that needs the smallest and smoothest correction,
    which fades in before and out after the stance. Heights are kept, except that nothing is below the floor, and the
    heel rises if the leg would be too short. Then each leg is solved from hip to toe; no other joint moves. A BVH file
    represents the result exactly.

    Foot joints that are ``pinned`` (T, J) keep their ground position in ``joints``: a constraint put them there. The
    stance around such a frame is held where it is then.
    """
    given, joints = np.asarray(joints, np.float64), rigid_joints(joints, skeleton)
    pinned = np.zeros(joints.shape[:2], bool) if pinned is None else pinned
    still, planted, first = still_steps(joints, skeleton, fps), joints.copy(), 0
    for leg in legs_of(skeleton):
        held = still[:, first:first + len(leg.foot)]
        first += len(leg.foot)
        places, pins = joints[:, leg.foot], pinned[:, leg.foot]
        planted[:, leg.foot] += _corrections(places, held, EASE * fps, pins, given[:, leg.foot] - places)
        planted[:, leg.foot, 1] = np.maximum(planted[:, leg.foot, 1], 0)
        planted[:, leg.foot] = _rigid_foot(planted, joints, leg, held, pins)
        planted[:, leg.foot] = _heel_raised(planted, joints, leg)
    return solve_legs(planted, joints, skeleton)


def solve_legs(joints: np.ndarray, pattern: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Joints (T, J, 3) with leg bones as long as in ``pattern`` (T, J, 3); hips and toes stay.

    Foot bones keep their directions, from the toe back. The knee bends in the direction of ``pattern``, or forward if
    that leg is straight, so that thigh and shin fit between hip and ankle. An ankle out of reach moves, with its foot,
    to the nearest reachable point.
    """
    solved = np.array(joints, np.float64)
    right_hip, left_hip = skeleton.face_joints[:2]
    forward = _unit(np.cross(pattern[:, left_hip] - pattern[:, right_hip], [0.0, 1.0, 0.0]))
    for leg in legs_of(skeleton):
        solved[:, leg.foot] = _feet_from_toe(solved, pattern, leg)
        thigh, shin = _length(pattern, leg.hip, leg.knee), _length(pattern, leg.knee, leg.foot[0])
        hip, ankle = solved[:, leg.hip], leg.foot[0]
        reach = np.linalg.norm(solved[:, ankle] - hip, axis=-1, keepdims=True)
        along = _unit(solved[:, ankle] - hip)
        fitting = np.clip(reach, abs(thigh - shin), thigh + shin)
        solved[:, leg.foot] += (along * (fitting - reach))[:, None]
        # The knee is on the intersection of the spheres of thigh and shin, on its previous side.
        down = (thigh**2 - shin**2 + fitting**2) / (2 * np.maximum(fitting, 1e-9))
        out = np.sqrt(np.maximum(thigh**2 - down**2, 0))
        before = _unit(pattern[:, ankle] - pattern[:, leg.hip])
        bend = _across(pattern[:, leg.knee] - pattern[:, leg.hip], before) + FORWARD * forward
        solved[:, leg.knee] = hip + down * along + out * _unit(_across(bend, along))
    return solved


def _corrections(foot: np.ndarray, still: np.ndarray, ease: float, pins: np.ndarray,
                 missing: np.ndarray) -> np.ndarray:
    """Corrections (T, N, 3) of the joints of a foot (T, N, 3) that hold them over ``still`` steps (T - 1, N).

    The horizontal corrections d minimise the sum of |d / ease|^2, |Dd|^2, |ease DDd|^2, ``HOLD`` |D(foot + d)|^2 over
    still steps, ``UNITY`` times the squared difference of d between neighbouring joints while any of them stands, and
    ``PIN`` |d - ``missing``|^2 at ``pins`` (T, N), with ``missing`` (T, N, 3). D is the difference between frames;
    ``ease`` is in frames.
    """
    frames, count, _ = foot.shape
    ground = foot[..., [0, 2]]
    on, bend = HOLD * still, ease**2
    change = 1 + on
    anyone = np.zeros(frames)
    anyone[1:] += still.any(1)
    anyone[:-1] += still.any(1)
    link = np.where(anyone > 0, UNITY, 0)[:, None].repeat(count - 1, 1)
    # Diagonals of the quadratic form's matrix: a frame with itself, the next, the one after, and across the foot.
    itself = 1 / ease**2 + PIN * pins
    itself[:-1] += change
    itself[1:] += change
    itself[:, :-1] += link
    itself[:, 1:] += link
    following = np.zeros((frames, count))
    following[:-1] -= change
    second = np.zeros((frames, count))
    if frames > 2:
        for shift, weight in enumerate((1, 4, 1)):
            itself[shift:frames - 2 + shift] += weight * bend
        following[:-2] -= 2 * bend
        following[1:-1] -= 2 * bend
        second[:-2] += bend
    across = np.concatenate([-link, np.zeros((frames, 1))], 1)
    diagonals = {0: itself}
    for offset, values in ((1, across), (count, following), (2 * count, second)):
        diagonals[offset] = diagonals.get(offset, 0) + values
    pull = on[..., None] * np.diff(ground, axis=0)
    force = PIN * pins[..., None] * missing[..., [0, 2]]
    force[:-1] += pull
    force[1:] -= pull
    bands = np.zeros((max(diagonals) + 1, frames * count))  # upper form: row -k is the k-th diagonal, shifted right
    for offset, values in diagonals.items():
        bands[-1 - offset, offset:] = values.ravel()[:frames * count - offset]
    solved = solveh_banded(bands, force.reshape(-1, 2), overwrite_ab=True, check_finite=False)
    correction = np.zeros_like(foot)
    correction[..., [0, 2]] = solved.reshape(ground.shape)
    return correction


def _rigid_foot(joints: np.ndarray, pattern: np.ndarray, leg: Leg, still: np.ndarray, pins: np.ndarray) -> np.ndarray:
    """Foot of a leg (T, N, 3) with bones as long as in ``pattern``. Its toe keeps the position in ``joints``, or its
    ankle while only the ankle stands or is one of the ``pins`` (T, N)."""
    foot = _feet_from_toe(joints, pattern, leg)
    on_toe = np.ones(len(joints))
    heel_only = still[:, 0] & ~still[:, -1]
    on_toe[:-1][heel_only] = 0
    on_toe[1:][heel_only] = 0
    on_toe = np.where(pins.any(1), pins[:, -1], on_toe)
    window = np.hanning(TURN_FRAMES + 2)[1:-1]
    on_toe = np.convolve(np.pad(on_toe, TURN_FRAMES // 2, mode="edge"), window / window.sum(), mode="valid")
    return foot + ((1 - on_toe)[:, None] * (joints[:, leg.foot[0]] - foot[:, 0]))[:, None]


def _heel_raised(joints: np.ndarray, pattern: np.ndarray, leg: Leg) -> np.ndarray:
    """Foot of a leg (T, N, 3), raised about its toe where it would extend the leg more than in ``pattern``.

    A nearly straight knee moves fast with every millimetre, so legs are not fully extended.
    """
    foot, hip = joints[:, leg.foot], joints[:, leg.hip]
    longest = _length(pattern, leg.hip, leg.knee) + _length(pattern, leg.knee, leg.foot[0])
    usual = np.maximum(_distance(pattern[:, leg.foot[0]], pattern[:, leg.hip]) / longest, BENT)
    room = np.minimum(ROOM, 1 - usual).clip(1e-6)
    reach = _distance(foot[:, 0], hip) / longest
    near = longest * (usual + room * np.tanh((reach - usual) / room))
    # The ankle moves to the intersection of the spheres around hip and toe, on its own side.
    ankle, to_hip = foot[:, 0] - foot[:, -1], hip - foot[:, -1]
    size, far = np.linalg.norm(ankle, axis=-1, keepdims=True), np.linalg.norm(to_hip, axis=-1, keepdims=True)
    up = to_hip / np.maximum(far, 1e-9)
    side = _unit(_across(ankle, up))
    high = ((size**2 - near**2 + far**2) / (2 * np.maximum(far, 1e-9))).clip(-size, size)
    turn = (np.arctan2(high, np.sqrt(size**2 - high**2))
            - np.arctan2((ankle * up).sum(-1, keepdims=True), (ankle * side).sum(-1, keepdims=True)))
    turn = np.where(reach > usual, turn, 0)[:, None]
    local = foot - foot[:, -1:]
    upward, sideward = ((local * axis[:, None]).sum(-1, keepdims=True) for axis in (up, side))
    cos, sin = np.cos(turn) - 1, np.sin(turn)
    return (foot + (upward * cos + sideward * sin) * up[:, None] + (sideward * cos - upward * sin) * side[:, None])


def _feet_from_toe(joints: np.ndarray, pattern: np.ndarray, leg: Leg) -> np.ndarray:
    """Foot of a leg (T, N, 3) with its toe fixed, its directions kept, and bones as long as in ``pattern``."""
    foot = np.array(joints[:, leg.foot])
    for near in range(len(leg.foot) - 2, -1, -1):
        direction = _unit(joints[:, leg.foot[near]] - joints[:, leg.foot[near + 1]])
        foot[:, near] = foot[:, near + 1] + _length(pattern, leg.foot[near], leg.foot[near + 1]) * direction
    return foot


def _length(joints: np.ndarray, a: int, b: int) -> float:
    return float(np.median(np.linalg.norm(joints[:, a] - joints[:, b], axis=-1)))


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.linalg.norm(a - b, axis=-1, keepdims=True)


def _across(vectors: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Components of ``vectors`` (T, 3) perpendicular to ``unit`` (T, 3)."""
    return vectors - (vectors * unit).sum(-1, keepdims=True) * unit


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
