"""Our foot locking: feet that do not slide while they stand, legs of constant bones, nothing pulled to a floor.

Joints are (T, J, 3) in metres with y up, as NumPy arrays.
"""
import numpy as np

from motion.bvh_fit import rigid_joints
from motion.contact import still_steps
from motion.foot import Leg, legs_of
from motion.skeleton import Skeleton

EASE = 0.1        # s: how far the correction of a stand reaches beyond it
HOLD = 300.0      # how much a slide costs, beside a correction that changes as much from a frame to the next
UNITY = 0.3       # what it costs that the joints of one foot are corrected differently while it stands
TURN_FRAMES = 5   # over which a foot changes from the joint that it stands on to another
BENT, ROOM = 0.95, 0.035  # stretch of a leg from which, and how much at most, its feet stretch it further
FORWARD = 0.01    # m: how far a straight leg's knee is taken to be in front
BLOCK = 32        # unknowns that are eliminated at once


def plant_feet(joints: np.ndarray, skeleton: Skeleton, fps: float) -> np.ndarray:
    """Joints (T, J, 3), floor at y = 0, on bones of constant length, with feet that do not slide while they stand.

    While a foot joint stands (``motion.contact``) it is held, where that takes the smallest and smoothest correction;
    the correction fades in and out around. Heights stay as they are, but nothing sinks under the floor, and where a
    leg would have to stretch for it the heel comes up. Then each leg is solved anew from hip to toe; no other joint
    moves. What comes out is what a BVH can hold exactly.
    """
    joints = rigid_joints(joints, skeleton)
    still, planted, first = still_steps(joints, skeleton, fps), joints.copy(), 0
    for leg in legs_of(skeleton):
        held = still[:, first:first + len(leg.foot)]
        first += len(leg.foot)
        planted[:, leg.foot] += _corrections(joints[:, leg.foot], held, EASE * fps)
        planted[:, leg.foot, 1] = np.maximum(planted[:, leg.foot, 1], 0)
        planted[:, leg.foot] = _rigid_foot(planted, joints, leg, held)
        planted[:, leg.foot] = _heel_raised(planted, joints, leg)
    return solve_legs(planted, joints, skeleton)


def solve_legs(joints: np.ndarray, pattern: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Joints (T, J, 3) with legs as long as in ``pattern`` (T, J, 3): hips and toes stay, what is between gives way.

    From the toe back each foot bone keeps its direction; the knee bends, the way it does in ``pattern`` and forward
    where that leg is straight, until thigh and shin fit between hip and ankle. An ankle out of reach comes as near as
    the stretched leg lets it, with its foot.
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
        # The knee is where spheres of thigh and shin meet, on the side on which it was.
        down = (thigh**2 - shin**2 + fitting**2) / (2 * np.maximum(fitting, 1e-9))
        out = np.sqrt(np.maximum(thigh**2 - down**2, 0))
        before = _unit(pattern[:, ankle] - pattern[:, leg.hip])
        bend = _across(pattern[:, leg.knee] - pattern[:, leg.hip], before) + FORWARD * forward
        solved[:, leg.knee] = hip + down * along + out * _unit(_across(bend, along))
    return solved


def _corrections(foot: np.ndarray, still: np.ndarray, ease: float) -> np.ndarray:
    """What is added to the joints of a foot (T, N, 3) so that they hold over ``still`` steps (T - 1, N).

    Of all corrections d (T, N, 3) over the ground the one with the least sum of |d / ease|^2, |Dd|^2, |ease DDd|^2,
    ``HOLD`` |D(foot + d)|^2 over still steps, and ``UNITY`` times the squared difference of d between neighbours in
    the foot while any of it stands; D is the difference from a frame to the next, ``ease`` is in frames.
    """
    frames, count, _ = foot.shape
    ground = foot[..., [0, 2]]
    on, bend = HOLD * still, ease**2
    change = 1 + on
    anyone = np.zeros(frames)
    anyone[1:] += still.any(1)
    anyone[:-1] += still.any(1)
    link = np.where(anyone > 0, UNITY, 0)[:, None].repeat(count - 1, 1)
    # The quadratic form's matrix by its diagonals: a frame with itself, the next, the one after, and across the foot.
    itself = np.full((frames, count), 1 / ease**2)
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
    force = np.zeros_like(ground)
    force[:-1] += pull
    force[1:] -= pull
    solved = _solve({offset: values.ravel() for offset, values in diagonals.items()}, force.reshape(-1, 2))
    correction = np.zeros_like(foot)
    correction[..., [0, 2]] = solved.reshape(ground.shape)
    return correction


def _solve(diagonals: dict[int, np.ndarray], right: np.ndarray) -> np.ndarray:
    """x (N, C) of A x = ``right`` (N, C), A symmetric and positive: entry i of diagonal k, of N, is A[i, i + k].

    By block elimination, whose cost grows with N and not with its cube.
    """
    size, block = len(right), max(BLOCK, max(diagonals))
    blocks = -(-size // block)
    own, beside = np.zeros((blocks, block, block)), np.zeros((blocks, block, block))
    padding = np.arange(size, blocks * block)
    own[padding // block, padding % block, padding % block] = 1
    for offset, values in diagonals.items():
        row = np.arange(size - offset)
        column, value = row + offset, values[:size - offset]
        for target, chosen in ((own, row // block == column // block), (beside, row // block != column // block)):
            i, j = row[chosen], column[chosen]
            target[i // block, i % block, j % block] = value[chosen]
            if target is own:
                target[i // block, j % block, i % block] = value[chosen]
    x = np.zeros((blocks * block, right.shape[1]))
    x[:size] = right
    x = x.reshape(blocks, block, -1)
    for place in range(1, blocks):
        ratio = np.linalg.solve(own[place - 1], beside[place - 1]).T
        own[place] -= ratio @ beside[place - 1]
        x[place] -= ratio @ x[place - 1]
    for place in range(blocks - 1, -1, -1):
        if place + 1 < blocks:
            x[place] -= beside[place] @ x[place + 1]
        x[place] = np.linalg.solve(own[place], x[place])
    return x.reshape(-1, right.shape[1])[:size]


def _rigid_foot(joints: np.ndarray, pattern: np.ndarray, leg: Leg, still: np.ndarray) -> np.ndarray:
    """A leg's foot (T, N, 3) on bones as in ``pattern``, where ``joints`` have its toe, or its ankle if that alone
    stands."""
    foot = _feet_from_toe(joints, pattern, leg)
    on_toe = np.ones(len(joints))
    heel_only = still[:, 0] & ~still[:, -1]
    on_toe[:-1][heel_only] = 0
    on_toe[1:][heel_only] = 0
    window = np.hanning(TURN_FRAMES + 2)[1:-1]
    on_toe = np.convolve(np.pad(on_toe, TURN_FRAMES // 2, mode="edge"), window / window.sum(), mode="valid")
    return foot + ((1 - on_toe)[:, None] * (joints[:, leg.foot[0]] - foot[:, 0]))[:, None]


def _heel_raised(joints: np.ndarray, pattern: np.ndarray, leg: Leg) -> np.ndarray:
    """A leg's foot (T, N, 3) turned up about its toe where it would stretch the leg, longer than in ``pattern``, out.

    A knee that is nearly straight moves fast with every millimetre: it is spared.
    """
    foot, hip = joints[:, leg.foot], joints[:, leg.hip]
    longest = _length(pattern, leg.hip, leg.knee) + _length(pattern, leg.knee, leg.foot[0])
    usual = np.maximum(_distance(pattern[:, leg.foot[0]], pattern[:, leg.hip]) / longest, BENT)
    room = np.minimum(ROOM, 1 - usual).clip(1e-6)
    reach = _distance(foot[:, 0], hip) / longest
    near = longest * (usual + room * np.tanh((reach - usual) / room))
    # The ankle goes to where spheres around hip and toe meet, on the side on which it is.
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
    """A leg's foot (T, N, 3) with its toe in place, and bones as long as in ``pattern`` in the directions they have."""
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
    """The parts of ``vectors`` (T, 3) at right angles to ``unit`` (T, 3)."""
    return vectors - (vectors * unit).sum(-1, keepdims=True) * unit


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
