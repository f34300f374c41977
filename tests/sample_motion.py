"""Small synthetic motions for any skeleton."""
import numpy as np

from motion.skeleton import Skeleton


def sample_lengths(skeleton: Skeleton) -> np.ndarray:
    """Return bone lengths (J,) of the reference body or, without one, 200 units (80 at the hips)."""
    if skeleton.target_lengths is not None:
        return np.float32(skeleton.target_lengths)
    hips = skeleton.face_joints[:2]
    return np.float32([0.0] + [80.0 if joint in hips else 200.0 for joint in range(1, len(skeleton))])


def sample_motion(skeleton: Skeleton, frames: int = 60, seed: int = 0, turn: float = 0.5, sway: float = 0.4,
                  lengths: np.ndarray | None = None) -> np.ndarray:
    """Return joints (frames, J, 3) float32 of a body that walks a curve, swings its limbs and turns by ``turn``.

    It starts at the origin, facing about +z. ``turn`` is in radians; ``sway`` is the amplitude of the limbs.
    """
    rng = np.random.default_rng(seed)
    lengths = sample_lengths(skeleton) if lengths is None else lengths
    time = np.linspace(0, 1, frames)[:, None, None]
    shape = (1, len(skeleton), 3)
    swing = sway * np.sin(2 * np.pi * (rng.uniform(0.5, 2, shape) * time + rng.random(shape)))
    swing[:, list(skeleton.face_joints[:2])] *= 0.2
    directions = np.float64(skeleton.raw_offsets) + swing
    directions[:, 0] = (0, 1, 0)  # unused, avoids division by zero
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    joints = np.zeros((frames, len(skeleton), 3))
    for chain in skeleton.chains:
        for parent, joint in zip(chain, chain[1:], strict=False):
            joints[:, joint] = joints[:, parent] + lengths[joint] * directions[:, joint]
    joints = turned(joints, turn * time[:, :, 0])
    path = np.stack([np.sin(3 * time[:, 0, 0]), 0.1 * np.cos(9 * time[:, 0, 0]), 2 * time[:, 0, 0]], -1)
    return np.float32(joints + path[:, None] * lengths.max())


_FROM_Y_UP = {"y": lambda x, y, z: (x, y, z), "z": lambda x, y, z: (x, -z, y), "x": lambda x, y, z: (y, -x, z),
              "-y": lambda x, y, z: (x, -y, -z), "-z": lambda x, y, z: (x, z, -y), "-x": lambda x, y, z: (-y, x, z)}


def with_up(joints: np.ndarray, up: str) -> np.ndarray:
    """Convert joints, y up, to axes in which ``up`` is up."""
    return np.stack(_FROM_Y_UP[up](*np.moveaxis(joints, -1, 0)), -1)


def with_value(array: np.ndarray, place: tuple[int, ...], value: float) -> np.ndarray:
    """Return a float64 copy of ``array`` with ``value`` at the index ``place``."""
    array = np.array(array, np.float64)
    array[place] = value
    return array


def angles(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the angles (T,) in degrees between directions (T, 3)."""
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    return np.degrees(np.arccos(cosine.clip(-1, 1)))


def turned(joints: np.ndarray, angle: float | np.ndarray) -> np.ndarray:
    """Rotate joints (T, J, 3) about y by ``angle`` radians, a number or (T, 1)."""
    x, y, z = np.moveaxis(joints, -1, 0)
    return np.stack([np.cos(angle) * x + np.sin(angle) * z, y, np.cos(angle) * z - np.sin(angle) * x], -1)
