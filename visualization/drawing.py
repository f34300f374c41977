"""Draws moving bodies: a camera that follows, a soft floor, shaded limbs, a caption.

Whatever can be computed for all frames together (projection, limb outlines) is computed once; a frame then costs a
millisecond or two of Pillow.
"""
import numpy as np
from PIL import Image

from motion.skeleton import Skeleton
from visualization.body import Body
from visualization.camera import follow, line_up
from visualization.canvas import Canvas
from visualization.caption import Caption
from visualization.floor import Floor

SHEET_SAMPLES = 2  # stills are drawn this much larger and made smaller: there is time for sharp colours


class Stage:
    """Draws one motion: joints (T, J, 3) in metres, y up, the floor at y = 0."""

    def __init__(self, joints: np.ndarray, skeleton: Skeleton, fps: float, size: tuple[int, int], caption: str = ""):
        self.caption = Caption(caption, size)
        camera = follow(joints, fps, size, self.caption.share)
        self.frames = len(joints)
        self.body = Body(joints, skeleton, camera)
        self.floor = Floor(camera, self.caption, skeleton.chains, self.body.shadow, joints[:, 0] * [1, 0, 1])

    def draw(self, frame: int) -> Canvas:
        """One frame."""
        picture = self.floor.draw(frame)
        self.body.draw(frame, picture)
        return picture


def draw_poses(poses: np.ndarray, skeleton: Skeleton, size: tuple[int, int], caption: str = "") -> Image.Image:
    """Poses (P, J, 3) in metres side by side in one RGB picture."""
    large = size[0] * SHEET_SAMPLES, size[1] * SHEET_SAMPLES
    text = Caption(caption, large)
    camera = line_up(poses, large, text.share)
    body = Body(poses, skeleton, camera)
    floor = Floor(camera, text, skeleton.chains, body.shadow, poses[:, 0])
    picture = floor.grid(len(poses) // 2).copy()
    for pose in range(len(poses)):
        floor.shade(pose, picture)
    for pose in range(len(poses)):
        body.draw(pose, picture)
    return picture.rgb().reduce(SHEET_SAMPLES)
