"""A motion on somebody else's skeleton: from rest pose to rest pose, at the size of the other legs, feet on the floor.

Bones are named as in our BVH files, wherever the skeleton came from. Places and rotations are the world's, z up, as in
Blender. A rotation is told since rest: what has to be done to the resting bone.
"""
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

SIDES = ("Left", "Right")
NEEDED = ("Hips", *(side + bone for side in SIDES
                    for bone in ("UpLeg", "Leg", "Foot", "Toe", "Arm", "ForeArm", "Hand")))
# The end of each bone that has to point where the source's points. All others (trunk, neck, shoulders) keep the
# posture of their own rest pose and turn by as much as the source's, because there bones lie differently in the flesh.
AIMS = {side + bone: side + end for side in SIDES for bone, end in (
    ("UpLeg", "Leg"), ("Leg", "Foot"), ("Arm", "ForeArm"), ("ForeArm", "Hand"))}
TURNED = ("Hips", "Spine", "Spine1", "Spine2", "Neck", "Head",
          *(side + bone for side in SIDES for bone in ("Shoulder", "Arm", "ForeArm", "UpLeg", "Leg", "Foot")))

_STANDING_SPEED = 0.25  # metres a second of a foot that stands
_STANDING_REACH = 0.05  # metres above the lowest toe of the clip, for stairs and noise
_STRAIGHT = 0.01        # metres of a knee off the line from hip to ankle below which the pelvis says where it points
_TOES_UP = 0.5          # sine of the steepest way up that toes bend to
_HINGED = (0.2, 0.8)    # radians of bend from which an elbow or knee begins to be, and is, a hinge


@dataclass(frozen=True)
class Recording:
    """A skeleton and what it does over T frames, in metres."""

    rest: Mapping[str, np.ndarray]    # (3,) where each bone begins at rest
    places: Mapping[str, np.ndarray]  # (T, 3) where it begins over time
    turns: Mapping[str, np.ndarray]   # (T, 3, 3) its rotation since rest
    fps: float


@dataclass(frozen=True)
class Character:
    """A skeleton that stands at rest, in any unit, in any pose between T and A."""

    rest: Mapping[str, np.ndarray]  # (3,) where each bone begins; LeftToeEnd and RightToeEnd, where known, end the toes
    floor: float                    # height of what it stands on


@dataclass(frozen=True)
class Transfer:
    """What the character has to do."""

    turns: dict[str, np.ndarray]  # (T, 3, 3) each bone's rotation since rest
    hips: np.ndarray              # (T, 3) where the hips begin
    scale: float                  # its legs over the source's


def retarget(source: Recording, character: Character) -> Transfer:
    """Let ``character`` do what ``source`` does.

    Arms and legs point where the source's do, so that a rest pose with lowered arms and one with arms held out come
    out alike, and roll about themselves so that elbows and knees bend as hinges do. The trunk turns by as much as the
    source's. Pelvis and ankles travel as the source's, scaled by the length of legs and lifted so that a standing foot
    lies as high over 0 and as level as the character's at rest; knees take up the difference in proportions, and toes,
    of which the source knows nothing, bend where they would be under the floor.

    Raises ``ValueError`` naming a bone of ``NEEDED`` that either lacks.
    """
    for name, rest in (("motion", source.rest), ("character", character.rest)):
        if missing := [bone for bone in NEEDED if bone not in rest]:
            raise ValueError(f"the {name} has no bone {', '.join(missing)}")
    heading = _about(np.array([0.0, 0, 1]), np.array(_bearing(source.rest) - _bearing(character.rest)))
    rest = {bone: heading @ place for bone, place in character.rest.items()}
    scale = _leg(rest) / _leg(source.rest)
    standing = _standing(source)
    lift = np.array([0, 0, np.mean([rest[f"{side}Foot"][2] for side in SIDES]) - character.floor
                     - scale * standing.height])
    turns = {bone: source.turns[bone] @ _alignment(bone, source.rest, rest, standing.pitch)
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


@dataclass(frozen=True)
class _Standing:
    height: float  # of the ankles
    pitch: float   # radians by which feet point down


def _standing(source: Recording) -> _Standing:
    """How a foot of the source stands: what is usual while both its joints are low and slow, else what rest says."""
    places = source.places
    lowest = min(places[f"{side}Toe"][:, 2].min() for side in SIDES)
    heights, pitches = [], []
    for side in SIDES:
        ankle, toe = places[f"{side}Foot"], places[f"{side}Toe"]
        steps = np.diff(np.stack([ankle, toe]), axis=1)
        slow = (np.linalg.norm(steps, axis=-1) * source.fps < _STANDING_SPEED).all(0)
        still = np.append(slow, slow[-1:]) & (toe[:, 2] < lowest + _STANDING_REACH)
        heights.extend(ankle[still, 2])
        pitches.extend(_pitch(toe[still] - ankle[still]))
    if heights:
        return _Standing(float(np.median(heights)), float(np.median(pitches)))
    feet = np.array([source.rest[f"{side}Toe"] - source.rest[f"{side}Foot"] for side in SIDES])
    return _Standing(float(lowest - feet[:, 2].mean()), float(_pitch(feet).mean()))


def _alignment(bone: str, source: Mapping[str, np.ndarray], rest: Mapping[str, np.ndarray], pitch: float) -> np.ndarray:
    """(3, 3) what to do to the character's resting ``bone`` before the source's rotation is its own."""
    if bone in AIMS:
        return _between(rest[AIMS[bone]] - rest[bone], source[AIMS[bone]] - source[bone])
    if not bone.endswith("Foot"):
        return np.eye(3)
    # A sole that is level at rest is level where the source stands, and points to where the source's foot points.
    toe = bone.removesuffix("Foot") + "Toe"
    foot = source[toe] - source[bone]
    ahead = _unit(_level(foot))
    standing = np.cos(pitch) * ahead - np.sin(pitch) * np.array([0, 0, 1])
    return _between(standing, foot) @ _between(_level(rest[toe] - rest[bone]), ahead)


def _reach(side: str, hip: np.ndarray, ankle: np.ndarray, source: Recording, rest: Mapping[str, np.ndarray],
           turns: dict[str, np.ndarray]) -> None:
    """Turn a leg so that from ``hip`` (T, 3) it ends at ``ankle`` (T, 3), the knee bent to where the source's is."""
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
    """(T, 3, 3) rotations of the toes: the foot's, but no lower with their tip than at rest over the ``floor``."""
    foot, toe, tip = (f"{side}{bone}" for bone in ("Foot", "Toe", "ToeEnd"))
    length = np.linalg.norm(rest[tip] - rest[toe])
    stiff = turns[foot] @ (rest[tip] - rest[toe]) / length
    height = (ankle + turns[foot] @ (rest[toe] - rest[foot]))[:, 2]
    least = ((rest[tip][2] - floor - height) / length).clip(-1, _TOES_UP)
    rise = np.maximum(stiff[:, 2], least)[:, None]
    ahead = _unit(_level(stiff + 1e-6 * (turns["Hips"] @ _forward(rest))))  # a foot that hangs straight down, too
    return _between(stiff, np.sqrt((1 - rise**2).clip(0)) * ahead + rise * [0, 0, 1]) @ turns[foot]


def _hinge(upper: str, lower: str, flexed: np.ndarray, rest: Mapping[str, np.ndarray],
           turns: dict[str, np.ndarray]) -> None:
    """Roll both bones of a limb about themselves, so that it bends to where, at rest, it would to ``flexed`` (3,)."""
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
    """(..., 3, 3) rotations about unit vectors (..., 3) by radians (...)."""
    cross = _cross(axis)
    angle = angle[..., None, None]
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def _between(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(..., 3, 3) the shortest rotation from the direction ``start`` (..., 3) to that of ``end`` (..., 3)."""
    start, end = np.broadcast_arrays(_unit(start), _unit(end))
    cross = _cross(np.cross(start, end))
    return np.eye(3) + cross + cross @ cross / (1 + (start * end).sum(-1))[..., None, None].clip(1e-9)


def _cross(vector: np.ndarray) -> np.ndarray:
    """(..., 3, 3) the matrices that multiply crosswise by ``vector`` (..., 3)."""
    x, y, z = np.moveaxis(vector, -1, 0)
    matrix = np.zeros((*x.shape, 3, 3))
    matrix[..., 2, 1], matrix[..., 0, 2], matrix[..., 1, 0] = x, y, z
    return matrix - matrix.swapaxes(-1, -2)


def _across(places: Mapping[str, np.ndarray]) -> np.ndarray:
    """(..., 3) from the right hip to the left."""
    return places["LeftUpLeg"] - places["RightUpLeg"]


def _bearing(rest: Mapping[str, np.ndarray]) -> float:
    """Radians about z by which a skeleton at rest is turned."""
    x, y, _ = _across(rest)
    return np.arctan2(y, x)


def _forward(rest: Mapping[str, np.ndarray]) -> np.ndarray:
    """(3,) where a skeleton at rest looks to."""
    return _unit(np.cross(_across(rest), [0, 0, 1]))


def _middle(places: Mapping[str, np.ndarray]) -> np.ndarray:
    """(..., 3) half way between the hips."""
    return (places["LeftUpLeg"] + places["RightUpLeg"]) / 2


def _leg(rest: Mapping[str, np.ndarray]) -> float:
    """Length of a leg from hip to ankle, mean of both sides."""
    return float(np.mean([np.linalg.norm(rest[side + end] - rest[side + start])
                          for side in SIDES for start, end in (("UpLeg", "Leg"), ("Leg", "Foot"))]) * 2)


def _level(direction: np.ndarray) -> np.ndarray:
    return direction * [1, 1, 0]


def _pitch(directions: np.ndarray) -> np.ndarray:
    return np.arctan2(-directions[..., 2], np.linalg.norm(directions[..., :2], axis=-1))


def _unit(direction: np.ndarray) -> np.ndarray:
    return direction / np.linalg.norm(direction, axis=-1, keepdims=True)
