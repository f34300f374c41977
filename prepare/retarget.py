"""Retarget a motion to another skeleton, scaled by leg length and with feet on the floor.

All skeletons use the bone names of generated BVH files. Positions and rotations are in world space, z up, as in
Blender. Rotations are relative to the rest pose.
"""
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

SIDES = ("Left", "Right")
NEEDED = ("Hips", *(side + bone for side in SIDES
                    for bone in ("UpLeg", "Leg", "Foot", "Toe", "Arm", "ForeArm", "Hand")))
# End joints of the bones that point in the same direction as in the source. Other bones (trunk, neck, shoulders) keep
# their rest pose and copy the source's rotation, because skeletons place these bones differently.
AIMS = {side + bone: side + end for side in SIDES for bone, end in (
    ("UpLeg", "Leg"), ("Leg", "Foot"), ("Arm", "ForeArm"), ("ForeArm", "Hand"))}
TURNED = ("Hips", "Spine", "Spine1", "Spine2", "Neck", "Head",
          *(side + bone for side in SIDES for bone in ("Shoulder", "Arm", "ForeArm", "UpLeg", "Leg", "Foot")))

_STANDING_SPEED = 0.25  # maximum speed of a standing foot, m/s
_STANDING_REACH = 0.05  # maximum height of a standing toe above the lowest toe of the clip, metres
_STRAIGHT = 0.01        # weight in metres of the pelvis direction in the bend of a nearly straight knee
_TOES_UP = 0.5          # sine of the maximum upward bend of the toes
_HINGED = (0.2, 0.8)    # bends in radians above which an elbow or knee acts partly, and fully, as a hinge


@dataclass(frozen=True)
class SourceRecording:
    """A skeleton and its motion over T frames, in metres."""

    rest: Mapping[str, np.ndarray]    # (3,) start of each bone in the rest pose
    places: Mapping[str, np.ndarray]  # (T, 3) start of each bone over time
    turns: Mapping[str, np.ndarray]   # (T, 3, 3) rotation of each bone relative to rest
    fps: float


@dataclass(frozen=True)
class Character:
    """A skeleton in its rest pose (T-pose, A-pose or between), in any unit."""

    rest: Mapping[str, np.ndarray]  # (3,) start of each bone; LeftToeEnd and RightToeEnd, if known, end the toes
    floor: float                    # height of the ground under the feet


@dataclass(frozen=True)
class Transfer:
    turns: dict[str, np.ndarray]  # (T, 3, 3) rotation of each bone relative to rest
    hips: np.ndarray              # (T, 3) position of the hips
    scale: float                  # leg length of the character over that of the source


def retarget(source: SourceRecording, character: Character) -> Transfer:
    """Retarget the motion of ``source`` to ``character``.

    Arms and legs point in the same directions as in the source, regardless of the rest poses, and are rolled so that
    elbows and knees bend like hinges. The trunk has the same rotation. Pelvis and ankles travel the same path, scaled
    by leg length and lifted so that standing feet have the height and pitch of the character's rest pose. Knees
    absorb differences in proportions. Toes, which the source does not capture, bend where they would be below the
    floor.

    Raises ``ValueError`` if either skeleton lacks a bone of ``NEEDED``.
    """
    for name, rest in (("motion", source.rest), ("character", character.rest)):
        if missing := [bone for bone in NEEDED if bone not in rest]:
            raise ValueError(f"the {name} has no bone {', '.join(missing)}")
    bearings = (np.arctan2(*_hip_line(rest)[1::-1]) for rest in (source.rest, character.rest))
    heading = _about(np.array([0.0, 0, 1]), np.subtract(*bearings))
    rest = {bone: heading @ place for bone, place in character.rest.items()}
    scale = _leg(rest) / _leg(source.rest)
    height, pitch = _standing(source)
    lift = np.array([0, 0, np.mean([rest[f"{side}Foot"][2] for side in SIDES]) - character.floor
                     - scale * height])
    turns = {bone: source.turns[bone] @ _alignment(bone, source.rest, rest, pitch)
             for bone in TURNED if bone in source.turns and bone in rest}

    between = _middle(rest) - rest["Hips"]
    hips = scale * _middle(source.places) + lift - turns["Hips"] @ between
    for side in SIDES:
        hip = hips + turns["Hips"] @ (rest[f"{side}UpLeg"] - rest["Hips"])
        ankle = scale * source.places[f"{side}Foot"] + lift
        _reach(side, hip, ankle, source, rest, turns)
        if f"{side}ToeEnd" in rest:
            turns[f"{side}Toe"] = _toes(side, ankle, character.floor, rest, turns)
        _hinge(f"{side}UpLeg", f"{side}Leg", -_forward(rest), rest, turns)
        _hinge(f"{side}Arm", f"{side}ForeArm", _forward(rest), rest, turns)
    return Transfer({bone: turn @ heading for bone, turn in turns.items()}, hips, scale)


def _standing(source: SourceRecording) -> tuple[float, float]:
    """Return the median height of standing ankles, and the median angle in radians by which standing feet point down.

    If no foot stands, both are those of the rest pose.
    """
    places = source.places
    lowest = min(places[f"{side}Toe"][:, 2].min() for side in SIDES)
    heights, feet = [], []
    for side in SIDES:
        ankle, toe = places[f"{side}Foot"], places[f"{side}Toe"]
        steps = np.diff(np.stack([ankle, toe]), axis=1)
        slow = (np.linalg.norm(steps, axis=-1) * source.fps < _STANDING_SPEED).all(0)
        still = np.append(slow, slow[-1:]) & (toe[:, 2] < lowest + _STANDING_REACH)
        heights.extend(ankle[still, 2])
        feet.extend(toe[still] - ankle[still])
    feet = np.array(feet or [source.rest[f"{side}Toe"] - source.rest[f"{side}Foot"] for side in SIDES])
    pitches = np.arctan2(-feet[:, 2], np.linalg.norm(feet[:, :2], axis=-1))
    if heights:
        return float(np.median(heights)), float(np.median(pitches))
    return float(lowest - feet[:, 2].mean()), float(pitches.mean())


def _alignment(bone: str, source: Mapping[str, np.ndarray], rest: Mapping[str, np.ndarray], pitch: float) -> np.ndarray:
    """Return the rotation (3, 3) that aligns a bone of the character with that of the source, both at rest."""
    if bone in AIMS:
        return _between(rest[AIMS[bone]] - rest[bone], source[AIMS[bone]] - source[bone])
    if not bone.endswith("Foot"):
        return np.eye(3)
    # A sole that is level at rest is level while the source stands, and points in the direction of the source's foot.
    toe = bone.removesuffix("Foot") + "Toe"
    foot = source[toe] - source[bone]
    ahead = _unit(_level(foot))
    standing = np.cos(pitch) * ahead - np.sin(pitch) * np.array([0, 0, 1])
    return _between(standing, foot) @ _between(_level(rest[toe] - rest[bone]), ahead)


def _reach(side: str, hip: np.ndarray, ankle: np.ndarray, source: SourceRecording, rest: Mapping[str, np.ndarray],
           turns: dict[str, np.ndarray]) -> None:
    """Rotate thigh and shin to reach from ``hip`` (T, 3) to ``ankle`` (T, 3). The knee keeps its direction."""
    thigh, shin, foot = (f"{side}{bone}" for bone in ("UpLeg", "Leg", "Foot"))
    upper, lower = (np.linalg.norm(rest[end] - rest[start]) for start, end in ((thigh, shin), (shin, foot)))
    along = _unit(ankle - hip)
    distance = np.linalg.norm(ankle - hip, axis=-1, keepdims=True).clip(abs(upper - lower), upper + lower)
    bend = source.places[shin] - source.places[thigh]
    axis = _unit(source.places[foot] - source.places[thigh])
    bend = bend - (bend * axis).sum(-1, keepdims=True) * axis
    bend = bend + _STRAIGHT * (turns["Hips"] @ _forward(rest))
    bend = _unit(bend - (bend * along).sum(-1, keepdims=True) * along)
    share = (upper**2 - lower**2 + distance**2) / (2 * distance)
    knee = share * along + np.sqrt((upper**2 - share**2).clip(0)) * bend  # from the hip
    for bone, wanted in ((thigh, knee), (shin, distance * along - knee)):
        turns[bone] = _between(turns[bone] @ (rest[AIMS[bone]] - rest[bone]), wanted) @ turns[bone]


def _toes(side: str, ankle: np.ndarray, floor: float, rest: Mapping[str, np.ndarray],
          turns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return toe rotations (T, 3, 3): the foot's rotations, but with the tip no lower than at rest."""
    foot, toe, tip = (f"{side}{bone}" for bone in ("Foot", "Toe", "ToeEnd"))
    length = np.linalg.norm(rest[tip] - rest[toe])
    stiff = turns[foot] @ (rest[tip] - rest[toe]) / length
    height = (ankle + turns[foot] @ (rest[toe] - rest[foot]))[:, 2]
    least = ((rest[tip][2] - floor - height) / length).clip(-1, _TOES_UP)
    rise = np.maximum(stiff[:, 2], least)[:, None]
    ahead = _unit(_level(stiff + 1e-6 * (turns["Hips"] @ _forward(rest))))  # defined even for feet pointing down
    return _between(stiff, np.sqrt((1 - rise**2).clip(0)) * ahead + rise * [0, 0, 1]) @ turns[foot]


def _hinge(upper: str, lower: str, flexed: np.ndarray, rest: Mapping[str, np.ndarray],
           turns: dict[str, np.ndarray]) -> None:
    """Roll both bones of a limb so that it bends like a hinge.

    ``flexed`` (3,) is the direction of bending in the rest pose.
    """
    start, end = (_unit(rest[AIMS[bone]] - rest[bone]) for bone in (upper, lower))
    hinge = turns[upper] @ np.cross(start, flexed)
    start, end = turns[upper] @ start, turns[lower] @ end
    across = np.cross(start, end)
    bend = np.arctan2(np.linalg.norm(across, axis=-1), (start * end).sum(-1))
    roll = np.arctan2((np.cross(hinge, across) * start).sum(-1), (hinge * across).sum(-1))
    share = ((bend - _HINGED[0]) / (_HINGED[1] - _HINGED[0])).clip(0, 1)
    roll = roll * share**2 * (3 - 2 * share)
    for bone, axis in ((upper, start), (lower, end)):
        turns[bone] = _about(axis, roll) @ turns[bone]


def _about(axis: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Return rotations (..., 3, 3) about unit vectors (..., 3) by ``angle`` (...) in radians."""
    cross = _cross(axis)
    angle = angle[..., None, None]
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def _between(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the shortest rotation (..., 3, 3) from the direction ``start`` (..., 3) to ``end`` (..., 3)."""
    start, end = np.broadcast_arrays(_unit(start), _unit(end))
    cross = _cross(np.cross(start, end))
    return np.eye(3) + cross + cross @ cross / (1 + (start * end).sum(-1))[..., None, None].clip(1e-9)


def _cross(vector: np.ndarray) -> np.ndarray:
    """Return the cross-product matrices (..., 3, 3) of ``vector`` (..., 3)."""
    x, y, z = np.moveaxis(vector, -1, 0)
    matrix = np.zeros((*x.shape, 3, 3))
    matrix[..., 2, 1], matrix[..., 0, 2], matrix[..., 1, 0] = x, y, z
    return matrix - matrix.swapaxes(-1, -2)


def _hip_line(places: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the vector (..., 3) from the right to the left hip."""
    return places["LeftUpLeg"] - places["RightUpLeg"]


def _forward(rest: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the forward direction (3,) of a skeleton in its rest pose."""
    return _unit(np.cross(_hip_line(rest), [0, 0, 1]))


def _middle(places: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the midpoint (..., 3) between the hips."""
    return (places["LeftUpLeg"] + places["RightUpLeg"]) / 2


def _leg(rest: Mapping[str, np.ndarray]) -> float:
    """Return the leg length from hip to ankle, averaged over both sides."""
    return float(np.mean([np.linalg.norm(rest[side + end] - rest[side + start])
                          for side in SIDES for start, end in (("UpLeg", "Leg"), ("Leg", "Foot"))]) * 2)


def _level(direction: np.ndarray) -> np.ndarray:
    return direction * [1, 1, 0]


def _unit(direction: np.ndarray) -> np.ndarray:
    return direction / np.linalg.norm(direction, axis=-1, keepdims=True)
