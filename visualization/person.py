"""Draw the person of ``visualization.body`` into pictures: shaded triangles, from back to front."""
import cv2
import numpy as np

from visualization.body import PALETTE, fit, offsets_of, stances, world_turns
from visualization.camera import Camera

SUN, SKY = np.array([0.1, 0.75, 0.7]), 0.62   # direction of the sun in the world, and share of light from the sky
TINT = 0.92    # share of the colour of a side on clothes
FINE = 2       # supersampling factor of the body, for smooth edges
SHIFT = 4      # fractional bits of coordinates


class Person:
    """A body that moves through joints (T, 22, 3) in metres, seen by a camera."""

    def __init__(self, joints: np.ndarray, camera: Camera, sides: tuple[tuple[int, int, int], ...]) -> None:
        """``sides``: RGB colours of the left and right."""
        self.joints, self.camera = joints, camera
        offsets, stance = offsets_of(joints), stances(joints)
        self.fitted, self.turns = fit(offsets, stance), world_turns(joints, offsets, stance)
        body = self.fitted.body
        colours = np.array([list(bytes.fromhex(colour[1:])) for colour in PALETTE], float)[body.zones]
        share = TINT * np.abs(body.sides)[:, None]
        tint = np.where(body.sides[:, None] > 0, *np.array(sides, float))
        self.colours = ((1 - share) * colours + share * tint)[:, ::-1] * (0.5 + 0.5 * body.light[:, None])  # BGR
        self.sun = SUN / np.linalg.norm(SUN)

    def draw(self, frame: int, picture: np.ndarray) -> None:
        """Draw one frame onto ``picture`` (H, W, 3) in BGR."""
        places, normals = self.fitted.posed(self.joints[frame], self.turns[frame])
        seen = self.camera.project(places, frame)                       # (V, 3) pixels, pixels per metre
        low = np.maximum(np.floor(seen[:, :2].min(0)).astype(int) - 1, 0)
        high = np.minimum(np.ceil(seen[:, :2].max(0)).astype(int) + 2, picture.shape[1::-1])
        if (high <= low).any():
            return
        corners = np.rint((seen[:, :2] - low + 0.5) * (FINE << SHIFT) - (1 << SHIFT - 1)).astype(np.int32)
        triangles = self.fitted.body.triangles
        flat = corners[triangles]                                       # (F, 3, 2)
        edges = (flat[:, 1:] - flat[:, :1]).astype(float)
        front = np.flatnonzero(edges[:, 0, 0] * edges[:, 1, 1] < edges[:, 0, 1] * edges[:, 1, 0])
        order = front[np.argsort(seen[triangles[front], 2].sum(1))]
        light = SKY + (1 - SKY) * 1.45 * (normals @ self.sun).clip(0)[:, None] + 0.12 * normals[:, 1:2]
        shades = (self.colours * light)[triangles[order]].mean(1).clip(0, 255)
        shades = np.column_stack([shades, np.full(len(shades), 255)]).astype(np.uint8).tolist()
        patch = np.zeros(((high[1] - low[1]) * FINE, (high[0] - low[0]) * FINE, 4), np.uint8)
        for triangle, shade in zip(flat[order], shades, strict=True):
            cv2.fillConvexPoly(patch, triangle, shade, cv2.LINE_8, SHIFT)
        patch = cv2.resize(patch, tuple((high - low).tolist()), interpolation=cv2.INTER_AREA)
        part = picture[low[1]:high[1], low[0]:high[0]]
        part[:] = cv2.add(patch[..., :3], cv2.multiply(part, cv2.merge([255 - patch[..., 3]] * 3), scale=1 / 255))
