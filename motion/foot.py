"""Foot joints, floor height, contact and stance detection, and foot locking.

Foot locking stops standing feet from sliding and keeps bone lengths constant. Standing feet may be at any height.
Joints are NumPy arrays (T, J, 3) in metres, y up. The foot joints of a leg are its joints from ankle to toe; F is
their number over both legs.
"""
from dataclasses import dataclass

import numpy as np
from scipy.linalg import solveh_banded

from motion.bvh_fit import rigid_joints
from motion.skeleton import Skeleton

# Limits of the published contact rule for ankle and toe: squared displacement to the next frame (m^2), height (m).
STEP_LIMITS = (0.05, 0.2)
HEIGHT_LIMITS = (0.06, 0.03)
BLEND_FRAMES = 5


@dataclass(frozen=True)
class Leg:
    """Joint indices of a leg: hip, knee, and foot joints from ankle to toe."""

    hip: int
    knee: int
    foot: tuple[int, ...]


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Scale vectors (..., n) to length 1. Zero vectors stay zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def legs_of(skeleton: Skeleton) -> tuple[Leg, ...]:
    """Return the legs of a skeleton: its chains that end in a foot."""
    return tuple(Leg(chain[1], chain[2], chain[3:]) for chain in skeleton.chains if chain[-1] in skeleton.feet)


def leg_length(joints: np.ndarray, skeleton: Skeleton) -> float:
    """Return the median length of thigh plus shin in joints (T, J, 3), averaged over both legs."""
    bones = [joints[:, joint] - joints[:, skeleton.parents[joint]]
             for leg in legs_of(skeleton) for joint in (leg.knee, leg.foot[0])]
    return float(np.median(np.linalg.norm(bones, axis=-1), axis=-1).sum() / 2)


def foot_joints(skeleton: Skeleton) -> list[int]:
    """Return the foot joints of all legs, each from ankle to toe."""
    return [joint for leg in legs_of(skeleton) for joint in leg.foot]


def per_foot_joint(skeleton: Skeleton, ankle: float, toe: float) -> np.ndarray:
    """Return values (F,) per foot joint: ``toe`` for the last joint of each leg, ``ankle`` for the others."""
    return np.array([toe if joint == leg.foot[-1] else ankle for leg in legs_of(skeleton) for joint in leg.foot])


def floor_height(joints: np.ndarray, skeleton: Skeleton) -> float:
    """Estimate the floor height as published, from the height of the lowest foot joint in each frame.

    It is the mean of these heights between their lower quartile and their median.

    Returns 0 if the result is above 0.5 m, as no foot stands that high.
    """
    lowest = np.sort(joints[:, foot_joints(skeleton), 1].min(1))
    first = int(0.25 * len(lowest))
    height = float(lowest[first : max(int(0.5 * len(lowest)), first + 1)].mean())
    return height if height <= 0.5 else 0.0


def published_contacts(joints: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Return a mask (T, F) of foot joints that are low and slow. The last frame repeats the previous one."""
    feet = joints[:, foot_joints(skeleton)]
    steps = np.square(np.diff(feet, axis=0)).sum(-1)
    contacts = ((steps < per_foot_joint(skeleton, *STEP_LIMITS))
                & (feet[:-1, :, 1] < per_foot_joint(skeleton, *HEIGHT_LIMITS)))
    return np.concatenate([contacts, contacts[-1:] if len(contacts) else np.zeros((1, feet.shape[1]), bool)])


def lock_feet_published(joints: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Apply the published foot locking: move joints (T, J, 3) onto the floor and hold feet in contact in place.

    Apart from the shift to the floor, only foot joints are moved, so shins and feet change length. Every contact is
    moved to y = 0, even on stairs.
    """
    joints = np.array(joints, np.float64)
    contacts = published_contacts(joints, skeleton)
    joints[..., 1] -= floor_height(joints, skeleton)
    for joint, contact in zip(foot_joints(skeleton), contacts.T, strict=True):
        held = np.where(contact[:, None], _run_means(joints[:, joint], contact) * [1, 0, 1], joints[:, joint])
        joints[:, joint] = _blend(held, contact)
    return joints


def _run_means(values: np.ndarray, contact: np.ndarray) -> np.ndarray:
    """Replace values (T, 3) by their mean over each run of equal ``contact`` (T,)."""
    run = np.cumsum(np.concatenate([[0], np.diff(contact) != 0]))
    sums = np.zeros((run[-1] + 1, values.shape[1]))
    np.add.at(sums, run, values)
    return (sums / np.bincount(run)[:, None])[run]


def _blend(values: np.ndarray, contact: np.ndarray) -> np.ndarray:
    """Blend the values (T, 3) of frames without contact into those of contact frames within ``BLEND_FRAMES``."""
    frames, far = np.arange(len(values)), len(values) + BLEND_FRAMES
    left = np.maximum.accumulate(np.where(contact, frames, -far))
    right = np.minimum.accumulate(np.where(contact, frames, 2 * far)[::-1])[::-1]
    near_left = ~contact & (frames - left <= BLEND_FRAMES)
    near_right = ~contact & (right - frames <= BLEND_FRAMES)
    after, before = frames - left + 1, right - frames + 1
    from_left = _eased(after / (BLEND_FRAMES + 1), values[left.clip(0)], values)
    from_right = _eased(before / (BLEND_FRAMES + 1), values[right.clip(max=len(values) - 1)], values)
    across = _eased(after / (right - left + 1), from_left, from_right)
    blended = np.where(near_left[:, None], from_left, values)
    blended = np.where(near_right[:, None], from_right, blended)
    return np.where((near_left & near_right)[:, None], across, blended)


def _eased(u: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Blend from ``start`` (T, 3) at ``u`` (T,) = 0 to ``end`` (T, 3) at 1 with a smooth step."""
    weight = (2 * u**3 - 3 * u**2 + 1)[:, None]
    return (1 - weight) * end + weight * start


# Horizontal and vertical speeds in m/s: a stance starts below the first and ends above the second.
GROUND_SPEEDS = (0.8, 1.1)
RISE_SPEEDS = (0.4, 0.8)
ROLL = 0.05               # m, maximum vertical movement of a foot joint in a stance
LOOK = 0.25               # s, time before and after a stance in which ``DIP`` applies
DIP = 0.03                # m, maximum depth of the foot joint below its stance
SLIDE = 0.20              # m, maximum distance from the mean position in a stance; beyond it, the foot steps
STEP = 0.15               # s, duration of this step before and after its fastest moment
LIFTED = (0.12, 0.05)     # m, minimum heights of the ankle and toe of a raised foot above the lowest foot joint


def stretches(mask: np.ndarray) -> list[tuple[int, int]]:
    """Return the runs of true frames in ``mask`` (T,) as (start, end) with exclusive ends."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(int)))
    return [(int(first), int(end)) for first, end in zip(edges[::2], edges[1::2], strict=True)]


def still_steps(joints: np.ndarray, skeleton: Skeleton, fps: float) -> np.ndarray:
    """Return a mask (T - 1, F) of foot joints that stand between two consecutive frames.

    Each stance has its own height. Slow foot joints at the top of a jump or kick do not stand.
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
    """Return a mask (T - 1,) of steps within a stance at ``places`` (T, 2) that excludes moves to another place."""
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
    """Return a mask (T, F) of foot joints that stand: the frames at both ends of each step in ``still_steps``."""
    return _both_ends(still_steps(joints, skeleton, fps))


def _both_ends(steps: np.ndarray) -> np.ndarray:
    """Return a mask (T, ...) of the frames at both ends of each true step in ``steps`` (T - 1, ...)."""
    edge = np.zeros_like(steps, shape=(1, *steps.shape[1:]))
    return np.concatenate([steps, edge]) | np.concatenate([edge, steps])


EASE = 0.1        # s over which a correction fades in before a stance and out after it
HOLD = 300.0      # weight of sliding relative to changes of the correction between frames
PIN = 1e5         # weight of the distance of pinned foot joints from their position
UNITY = 0.3       # weight of differences between the corrections of joints in a standing foot
TURN_FRAMES = 5   # frames over which the pivot moves from one foot joint to another
BENT, ROOM = 0.95, 0.035  # fractions of leg length: extension from which it is damped, maximum beyond this
FORWARD = 0.01    # m, assumed forward offset of the knee of a straight leg


def lock_feet(joints: np.ndarray, skeleton: Skeleton, fps: float, pinned: np.ndarray | None = None) -> np.ndarray:
    """Prevent planted feet from sliding, and keep bone lengths constant. ``joints`` (T, J, 3) have the floor at y = 0.

    ``rigid_joints`` first fits constant bone lengths, after which only the legs are moved. Each stance is held at the
    position that needs the smallest and smoothest correction, which fades in before the stance and out after it.
    Heights are kept, except that no foot goes below the floor and a heel rises if the leg would be too short. Each leg
    is then solved from hip to toe.

    Foot joints in ``pinned`` (T, J) were placed by a constraint and keep their horizontal position in ``joints``. They
    are held there for the rest of their stance, too.
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
    """Solve the legs of joints (T, J, 3) for the bone lengths in ``pattern`` (T, J, 3), with hips and toes fixed.

    Foot bones keep their directions. The knee is placed so that thigh and shin fit between hip and ankle. It bends as
    in ``pattern``, or forward if that leg is straight. A foot out of reach is moved to the nearest reachable point.
    """
    solved = np.array(joints, np.float64)
    right_hip, left_hip = skeleton.face_joints[:2]
    forward = unit_vectors(np.cross(pattern[:, left_hip] - pattern[:, right_hip], [0.0, 1.0, 0.0]))
    for leg in legs_of(skeleton):
        solved[:, leg.foot] = _feet_from_toe(solved, pattern, leg)
        thigh, shin = _length(pattern, leg.hip, leg.knee), _length(pattern, leg.knee, leg.foot[0])
        hip, ankle = solved[:, leg.hip], leg.foot[0]
        reach = np.linalg.norm(solved[:, ankle] - hip, axis=-1, keepdims=True)
        along = unit_vectors(solved[:, ankle] - hip)
        fitting = np.clip(reach, abs(thigh - shin), thigh + shin)
        solved[:, leg.foot] += (along * (fitting - reach))[:, None]
        # The knee is on the intersection of the spheres around hip and ankle, on the same side as before.
        down = (thigh**2 - shin**2 + fitting**2) / (2 * np.maximum(fitting, 1e-9))
        out = np.sqrt(np.maximum(thigh**2 - down**2, 0))
        before = unit_vectors(pattern[:, ankle] - pattern[:, leg.hip])
        bend = _perpendicular(pattern[:, leg.knee] - pattern[:, leg.hip], before) + FORWARD * forward
        solved[:, leg.knee] = hip + down * along + out * unit_vectors(_perpendicular(bend, along))
    return solved


def _corrections(foot: np.ndarray, still: np.ndarray, ease: float, pins: np.ndarray,
                 missing: np.ndarray) -> np.ndarray:
    """Compute corrections (T, N, 3) that hold the joints of a foot (T, N, 3) during ``still`` steps (T - 1, N).

    The horizontal corrections d minimise the sum of

    - |d / ease|^2, |Dd|^2 and |ease DDd|^2, where D is the difference of consecutive frames and ``ease`` is in frames,
    - ``HOLD`` |D(foot + d)|^2 over still steps,
    - ``UNITY`` times the squared difference of d between neighbouring joints while any joint of the foot stands,
    - ``PIN`` |d - ``missing``|^2 at ``pins`` (T, N), with ``missing`` (T, N, 3).
    """
    frames, count, _ = foot.shape
    ground = foot[..., [0, 2]]
    on, bend = HOLD * still, ease**2
    change = 1 + on
    anyone = np.zeros(frames)
    anyone[1:] += still.any(1)
    anyone[:-1] += still.any(1)
    link = np.where(anyone > 0, UNITY, 0)[:, None].repeat(count - 1, 1)
    # Diagonals of the matrix: each frame with itself and the next two, and neighbours across the foot.
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
    bands = np.zeros((max(diagonals) + 1, frames * count))  # upper form of ``solveh_banded``
    for offset, values in diagonals.items():
        bands[-1 - offset, offset:] = values.ravel()[:frames * count - offset]
    solved = solveh_banded(bands, force.reshape(-1, 2), overwrite_ab=True, check_finite=False)
    correction = np.zeros_like(foot)
    correction[..., [0, 2]] = solved.reshape(ground.shape)
    return correction


def _rigid_foot(joints: np.ndarray, pattern: np.ndarray, leg: Leg, still: np.ndarray, pins: np.ndarray) -> np.ndarray:
    """Return the foot of a leg (T, N, 3) with the bone lengths in ``pattern``.

    The toe keeps its position in ``joints``. In frames where only the ankle is still or pinned, it keeps its position
    instead.
    """
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
    """Rotate the foot of a leg (T, N, 3) about its toe in frames where the leg is straighter than in ``pattern``.

    The angle of a nearly straight knee changes rapidly with small ankle movements, so full extension is avoided.
    """
    foot, hip = joints[:, leg.foot], joints[:, leg.hip]
    longest = _length(pattern, leg.hip, leg.knee) + _length(pattern, leg.knee, leg.foot[0])
    usual = np.maximum(_distance(pattern[:, leg.foot[0]], pattern[:, leg.hip]) / longest, BENT)
    room = np.minimum(ROOM, 1 - usual).clip(1e-6)
    reach = _distance(foot[:, 0], hip) / longest
    near = longest * (usual + room * np.tanh((reach - usual) / room))
    # The ankle moves to the intersection of the spheres around hip and toe, on the same side as before.
    ankle, to_hip = foot[:, 0] - foot[:, -1], hip - foot[:, -1]
    size, far = np.linalg.norm(ankle, axis=-1, keepdims=True), np.linalg.norm(to_hip, axis=-1, keepdims=True)
    up = to_hip / np.maximum(far, 1e-9)
    side = unit_vectors(_perpendicular(ankle, up))
    high = ((size**2 - near**2 + far**2) / (2 * np.maximum(far, 1e-9))).clip(-size, size)
    turn = (np.arctan2(high, np.sqrt(size**2 - high**2))
            - np.arctan2((ankle * up).sum(-1, keepdims=True), (ankle * side).sum(-1, keepdims=True)))
    turn = np.where(reach > usual, turn, 0)[:, None]
    local = foot - foot[:, -1:]
    upward, sideward = ((local * axis[:, None]).sum(-1, keepdims=True) for axis in (up, side))
    cos, sin = np.cos(turn) - 1, np.sin(turn)
    return (foot + (upward * cos + sideward * sin) * up[:, None] + (sideward * cos - upward * sin) * side[:, None])


def _feet_from_toe(joints: np.ndarray, pattern: np.ndarray, leg: Leg) -> np.ndarray:
    """Give the foot of a leg (T, N, 3) the bone lengths in ``pattern``. Toe and bone directions are unchanged."""
    foot = np.array(joints[:, leg.foot])
    for near in range(len(leg.foot) - 2, -1, -1):
        direction = unit_vectors(joints[:, leg.foot[near]] - joints[:, leg.foot[near + 1]])
        foot[:, near] = foot[:, near + 1] + _length(pattern, leg.foot[near], leg.foot[near + 1]) * direction
    return foot


def _length(joints: np.ndarray, a: int, b: int) -> float:
    return float(np.median(np.linalg.norm(joints[:, a] - joints[:, b], axis=-1)))


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.linalg.norm(a - b, axis=-1, keepdims=True)


def _perpendicular(vectors: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Return the components of ``vectors`` (T, 3) perpendicular to ``unit`` (T, 3)."""
    return vectors - (vectors * unit).sum(-1, keepdims=True) * unit
