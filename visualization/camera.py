"""Cameras: one that follows a body, and one that shows poses side by side."""
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.ndimage import gaussian_filter1d

STEADY = 0.7    # seconds: sigma of the Gaussian that smooths the followed root position
HEIGHT = 1.7    # metres: the camera aims at the middle of a person of this height
NEAREST = 4.8   # metres: minimum distance of the camera
MARGIN = 0.16   # metres around the joints kept in view, for the volume of body and head


@dataclass(frozen=True)
class Camera:
    """A perspective camera with a fixed direction whose target follows the body.

    ``target`` (T, 3) metres; ``size`` pixels (width, height); ``distance`` metres; ``azimuth`` from +z and
    ``elevation`` in radians; ``focal`` in picture heights; ``centre`` vertical position of the target as a fraction of
    the height, from the top.
    """

    target: np.ndarray
    size: tuple[int, int]
    distance: float
    azimuth: float = 0.6
    elevation: float = 0.28
    focal: float = 1.9
    centre: float = 0.56

    @cached_property
    def axes(self) -> np.ndarray:
        """(3, 3) rows: right, up, towards the camera."""
        sa, ca, se, ce = np.sin(self.azimuth), np.cos(self.azimuth), np.sin(self.elevation), np.cos(self.elevation)
        return np.array([[ca, 0, -sa], [-sa * se, ce, -ca * se], [sa * ce, se, ca * ce]])

    def project(self, points: np.ndarray, frame: int | None = None) -> np.ndarray:
        """Project world points (T, N, 3) of all frames, or (N, 3) of one ``frame``, to pixel x, pixel y, pixels per
        metre."""
        target = self.target[:, None] if frame is None else self.target[frame]
        local = (points - target) @ self.axes.T
        scale = self.focal * self.size[1] / np.maximum(self.distance - local[..., 2], 0.1)
        x = self.size[0] / 2 + scale * local[..., 0]
        y = self.size[1] * self.centre - scale * local[..., 1]
        return np.stack([x, y, scale], axis=-1)

    def floor_points(self) -> np.ndarray:
        """Floor coordinates of all pixels relative to the target: (H, W, 2) x and z, far away above the horizon."""
        width, height = self.size
        x, y = np.arange(width) + 0.5 - width / 2, self.centre * height - np.arange(height)[:, None] - 0.5
        down = self.focal * height * self.axes[2, 1] - y * self.axes[1, 1]  # of a row, as the camera does not roll
        steps = (self.distance * self.axes[2, 1] + self.target[0, 1]) / np.maximum(down, 1e-6)
        return np.stack([self.distance * back + steps * (x * right + (y * up - self.focal * height * back))
                         for right, up, back in self.axes.T[[0, 2]]], -1)


def follow(joints: np.ndarray, fps: float, size: tuple[int, int], headroom: float = 0.0) -> Camera:
    """Camera that follows the root of a clip (T, J, 3), floor at y = 0, and keeps the whole body in view.

    ``headroom``: fraction of the picture height kept free at the top.
    """
    # Extrapolate linearly beyond both ends, so that the camera does not lag there.
    pad = round(4 * STEADY * fps)
    path = np.pad(joints[:, 0], ((pad, pad), (0, 0)), mode="reflect", reflect_type="odd")
    target = gaussian_filter1d(path, STEADY * fps, axis=0)[pad : pad + len(joints)]
    target[:, 1] = HEIGHT / 2
    camera = Camera(target, size, distance=0.0)
    local = (joints - target[:, None]) @ camera.axes.T
    above = (local[..., 1].clip(0) + MARGIN) / (camera.centre - headroom)
    below = (MARGIN - local[..., 1].clip(None, 0)) / (0.97 - camera.centre)
    beside = (np.abs(local[..., 0]) + MARGIN) / 0.48 * size[1] / size[0]
    needed = local[..., 2] + camera.focal * np.maximum(np.maximum(above, below), beside)
    return Camera(target, size, max(float(needed.max()), NEAREST))


def line_up(poses: np.ndarray, size: tuple[int, int], headroom: float = 0.0) -> Camera:
    """Camera that shows ``poses`` (P, J, 3) side by side in one wide picture, regardless of their positions."""
    share = (np.arange(len(poses)) + 0.5) / len(poses) - 0.5
    focal, room = 12 * Camera.focal, 0.92 - headroom  # from far away, so that all are seen from the same angle
    height = max(HEIGHT, float(poses[..., 1].max())) + 2 * MARGIN
    target = poses[:, 0] * [1, 0, 1] + [0, height / 2, 0]
    camera = Camera(target, size, focal * height / room, focal=focal, centre=headroom + room / 2)
    metres = size[0] / size[1] * camera.distance / focal  # width of the picture at the target
    return replace(camera, target=target - metres * share[:, None] * camera.axes[0])
