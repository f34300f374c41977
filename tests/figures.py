"""Synthetic motions of an articulated figure, for tests that need motions of known content.

``figure`` poses the HumanML3D skeleton from angles and a path; the other functions use it for common motions. All
return joints (T, 22, 3) float32 in metres at 20 fps, y up, floor at y = 0. A figure facing +z has its left side at +x.
"""
import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.transform import Rotation

from motion.skeleton import T2M

FPS = 20
Sides = tuple[ArrayLike, ArrayLike]  # (left, right), each a number or (T,)


def _about(axis: int, angle: np.ndarray) -> np.ndarray:
    """Return rotation matrices (T, 3, 3) by ``angle`` (T,) radians about axis 0, 1 or 2."""
    return Rotation.from_euler("xyz"[axis], angle[:, None]).as_matrix()


def figure(frames: int, *, path: ArrayLike = 0.0, yaw: ArrayLike = 0.0, pitch: ArrayLike = 0.0,
           arms: Sides = (0.1, 0.1), reach: Sides = (0, 0), elbows: Sides = (0, 0), thighs: Sides = (0, 0),
           knees: Sides = (0, 0), air: ArrayLike = 0.0) -> np.ndarray:
    """Pose a figure by angles in radians, each a number or (T,). Returns joints (T, 22, 3).

    ``path`` (T, 2) is x and z of the pelvis. ``yaw`` turns left, ``pitch`` bends the trunk forward. ``arms`` are raised
    sideways, from 0 (hanging) to pi (straight up), or forward by ``reach``; ``elbows`` bend forward. ``thighs`` swing
    forward, ``knees`` bend. ``air`` is the height of the lowest joint in metres.
    """
    def over_time(values: ArrayLike) -> np.ndarray:
        return np.broadcast_to(np.asarray(values, np.float64), (frames,))

    name = T2M.joint_names.index
    turns = {name("spine1"): _about(0, over_time(pitch))}
    for side, sign, arm, forward, elbow, thigh, knee in zip(("left", "right"), (1, -1), arms, reach, elbows, thighs,
                                                            knees, strict=True):
        turns[name(f"{side}_elbow")] = _about(2, sign * over_time(arm)) @ _about(0, -over_time(forward))
        turns[name(f"{side}_wrist")] = _about(0, -over_time(elbow))
        turns[name(f"{side}_knee")] = _about(0, -over_time(thigh))
        turns[name(f"{side}_ankle")] = _about(0, over_time(knee))
    joints, frame = np.zeros((frames, len(T2M), 3)), {0: _about(1, over_time(yaw))}
    for chain in T2M.chains:
        for parent, joint in zip(chain, chain[1:], strict=False):
            frame[joint] = frame[parent] @ turns[joint] if joint in turns else frame[parent]
            joints[:, joint] = joints[:, parent] + frame[joint] @ T2M.target_offsets[joint]
    joints[:, :, [0, 2]] += np.broadcast_to(path, (frames, 2))[:, None]
    joints[:, :, 1] += (over_time(air) - joints[:, :, 1].min(1))[:, None]
    return joints.astype(np.float32)


def standing(frames: int = 60) -> np.ndarray:
    """Stand still with hanging arms."""
    return figure(frames)


def walking(frames: int = 80, speed: float = 1.2, turn: float = 0.0, facing: float = 0.0) -> np.ndarray:
    """Walk at ``speed`` m/s, backwards if negative, on an arc that turns left by ``turn`` radians in total."""
    yaw = facing + np.linspace(0, turn, frames)
    steps = np.stack([np.sin(yaw), np.cos(yaw)], -1) * speed / FPS
    stride = 0.4 * np.sin(2 * np.pi * np.arange(frames) / FPS)
    return figure(frames, path=np.cumsum(steps, 0) - steps[0], yaw=yaw, thighs=(stride, -stride),
                  knees=(0.2 + stride.clip(0), 0.2 + (-stride).clip(0)))


def _there_and_back(frames: int, top: float) -> np.ndarray:
    """Return values (T,) that are 0 at both ends, ``top`` in the middle third, and linear in between."""
    return np.interp(np.linspace(0, 3, frames), [0, 1, 2, 3], [0, top, top, 0])


def _sided(side: str, value: ArrayLike, rest: float) -> Sides:
    return (value if side in ("left", "both") else rest), (value if side in ("right", "both") else rest)


def raising(side: str, frames: int = 60, top: float = 2.8) -> np.ndarray:
    """Raise the "left", "right" or "both" arms to ``top`` radians sideways, hold, and lower them."""
    return figure(frames, arms=_sided(side, 0.1 + _there_and_back(frames, top - 0.1), 0.1))


def waving(side: str, frames: int = 100, waves: int = 4) -> np.ndarray:
    """Raise an arm, swing it ``waves`` times back and forth, and lower it."""
    time = np.linspace(0, 3, frames)
    swing = 0.4 * np.sin(2 * np.pi * waves * (time - 1)) * ((time >= 1) & (time <= 2))
    return figure(frames, arms=_sided(side, 0.1 + _there_and_back(frames, 2.5) + swing, 0.1))


def bowing(frames: int = 60, depth: float = 0.9) -> np.ndarray:
    """Bend the trunk forward by ``depth`` radians over straight legs, and come up again."""
    return figure(frames, pitch=_there_and_back(frames, depth))


def sitting(frames: int = 80) -> np.ndarray:
    """Sit down on an invisible chair and stay seated."""
    bend = np.interp(np.arange(frames), [frames // 4, frames // 2], [0, np.pi / 2])
    back = np.stack([np.zeros(frames), -0.39 * np.sin(bend)], -1)
    return figure(frames, path=back, thighs=(bend, bend), knees=(bend, bend))


def squatting(frames: int = 80) -> np.ndarray:
    """Bend the knees deeply with the pelvis over the feet, stay, and rise."""
    bend = _there_and_back(frames, np.pi / 3)
    return figure(frames, pitch=bend / 2, thighs=(bend, bend), knees=(2 * bend, 2 * bend))


def kicking(side: str, frames: int = 50) -> np.ndarray:
    """Swing one leg up in front and put it down."""
    swing = 1.4 * np.exp(-((np.arange(frames) - frames / 2) / 4) ** 2)
    return figure(frames, thighs=_sided(side, swing, 0.0))


def jumping(frames: int = 60, height: float = 0.35) -> np.ndarray:
    """Jump with both feet, ``height`` metres high."""
    flight = np.arange(frames) / FPS - 1.2
    return figure(frames, air=(height - 9.81 / 2 * flight ** 2).clip(0))
