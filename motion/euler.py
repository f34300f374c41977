"""Euler angles of moving joints, continuous over time where each frame alone may jump.

This module and ``motion.bvh`` do not import torch, so that Blender's Python can use them.
"""
import numpy as np

_POLE = 1e-4  # cosine of the middle angle below which only the sum or difference of the other two is determined


def euler_to_matrix(degrees: np.ndarray, order: str) -> np.ndarray:
    """Rotation matrices (..., 3, 3) of angles (..., n) about the axes in ``order``: "zyx" is Rz Ry Rx."""
    matrix = np.broadcast_to(np.eye(3), (*degrees.shape[:-1], 3, 3))
    for angle, axis in zip(np.moveaxis(np.radians(degrees), -1, 0), order, strict=True):
        i, j = (("xyz".index(axis) + step) % 3 for step in (1, 2))
        turn = np.zeros((*angle.shape, 3, 3))
        turn[..., 3 - i - j, 3 - i - j] = 1
        turn[..., i, i] = turn[..., j, j] = np.cos(angle)
        turn[..., j, i] = np.sin(angle)
        turn[..., i, j] = -turn[..., j, i]
        matrix = matrix @ turn
    return matrix


def matrix_to_euler(matrix: np.ndarray, order: str) -> np.ndarray:
    """Euler angles in degrees (T, J, 3), in ``order``, of rotations (T, J, 3, 3), continuous over T frames.

    Every rotation has two triples of angles with a middle angle within half a turn, and whole turns may be added to any
    angle. Each frame takes the triple closest to the previous frame. At a pole (middle angle of 90 degrees), the last
    angle is interpolated from the surrounding frames.
    """
    angles = _principal(matrix, order)
    return np.stack([_continuous(angles[:, joint], matrix[:, joint], order) for joint in range(angles.shape[1])], 1)


def _principal(matrix: np.ndarray, order: str) -> np.ndarray:
    """Euler angles in degrees (..., 3) of rotations (..., 3, 3), with the middle angle in [-90, 90]."""
    i, j, k = ("xyz".index(axis) for axis in order)
    sign = 1 if (j - i) % 3 == 1 else -1
    first = np.arctan2(-sign * matrix[..., j, k], matrix[..., k, k])
    middle = np.arctan2(sign * matrix[..., i, k], np.hypot(matrix[..., i, i], matrix[..., i, j]))
    last = np.arctan2(-sign * matrix[..., i, j], matrix[..., i, i])
    return np.degrees(np.stack([first, middle, last], -1))


def _continuous(angles: np.ndarray, matrix: np.ndarray, order: str) -> np.ndarray:
    """Angles (T, 3) of one joint made continuous; ``matrix`` (T, 3, 3) are the same rotations."""
    angles = angles.copy()
    pole = np.abs(np.cos(np.radians(angles[:, 1]))) < _POLE
    frames = np.arange(len(angles))
    known = frames[:1] if pole.all() else frames[~pole]
    angles[known] = _unwrapped(angles[known])
    if pole.any():
        middle, last = (np.interp(frames[pole], known, angles[known, column]) for column in (1, 2))
        angles[pole, 1] += 360 * np.rint((middle - angles[pole, 1]) / 360)
        angles[pole, 2] = last
        rest = matrix[pole] @ euler_to_matrix(angles[pole, 1:], order[1:]).swapaxes(-1, -2)
        i, j = (("xyz".index(order[0]) + step) % 3 for step in (1, 2))
        angles[pole, 0] = np.degrees(np.arctan2(rest[:, j, i] - rest[:, i, j], rest[:, i, i] + rest[:, j, j]))
        angles[:, 0] = np.unwrap(angles[:, 0], period=360)
    return angles


def _unwrapped(angles: np.ndarray) -> np.ndarray:
    other = angles * [1, -1, 1] + 180
    stay, change = (((step + 180) % 360 - 180) for step in (np.diff(angles, axis=0), other[1:] - angles[:-1]))
    # Switching between the two triples does not depend on the previous frame's triple, so parity decides.
    changes = (change**2).sum(-1) < (stay**2).sum(-1)
    odd = np.concatenate([[False], np.cumsum(changes) % 2 == 1])
    return np.unwrap(np.where(odd[:, None], other, angles), axis=0, period=360)
