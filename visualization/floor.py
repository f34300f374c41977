"""The ground: a grid that fades away, the path the root has taken, the body's shadow."""
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from visualization.camera import Camera
from visualization.canvas import SUPERSAMPLE, Canvas, brightness, even_box, ycc
from visualization.caption import Caption

SKY, GROUND = (252, 252, 253), (229, 234, 240)
GRID, SHADOW, TRACE = (170, 181, 195), (92, 104, 124), (238, 160, 40)

CELL = 0.5           # metres between floor lines
PHASES = 2**16       # steps of a place between two floor lines: counting overflows from one cell into the next
FLOOR_RADIUS = 3.4   # metres from the camera's target at which the floor has faded away
LEAN = np.array([-0.30, 0.0, 0.22])  # where a shadow lies for every metre of height
TRACE_WIDTH = 0.035  # metres
TRACE_STEP = 2       # frames between points of the root's path
TRACE_PIECES = 8     # of the path, each paler than the one after
TRACE_SEEN = 0.92 * FLOOR_RADIUS  # metres from the camera's target, beyond which it is too pale to be drawn
SHADOW_WIDTH = 0.11  # metres


def shadow_of(joints: np.ndarray) -> np.ndarray:
    """Joints (T, J, 3) as their shadows on the floor."""
    shadow = joints + joints[..., 1:2] * LEAN
    shadow[..., 1] = 0
    return shadow


class Floor:
    """Draws the ground under one motion."""

    def __init__(self, camera: Camera, caption: Caption, chains: Sequence[Sequence[int]], shadow: np.ndarray,
                 path: np.ndarray):
        """``shadow`` (T, J, 3) is where the shadows of the joints in ``chains`` are seen, ``path`` (T, 3) the root's,
        on the floor."""
        self.camera, self.chains, self.ribbon = camera, [list(chain) for chain in chains], _ribbon(path)
        self.shadow = shadow / 2  # it is soft, half the size is enough
        self.way = self.ribbon.mean(1)[:, [0, 2]]
        width, height = camera.size
        ramp = np.linspace(0, 1, height)[:, None] ** 1.5
        shades = np.rint(ycc(np.array(SKY) * (1 - ramp) + np.array(GROUND) * ramp))  # (H, 3)
        self.background = Canvas(camera.size)
        self.background.y[:] = shades[:, :1]
        for plane, column in ((self.background.cb, 1), (self.background.cr, 2)):
            plane[:] = shades[:, column].reshape(-1, 2).mean(1).round()[:, None]
        caption.draw(self.background)

        points = camera.floor_points()
        self.top = int(np.argmax(_distance(points[:, width // 2], camera) < FLOOR_RADIUS))
        points = points[self.top:]
        fade, points = _fade(_distance(points, camera)), points / CELL
        depth = (shades[self.top:, :1] - brightness(GRID)) * fade  # by which a line is darker than the ground
        self.phases, self.slopes = [], []
        for axis in (0, 1):
            # Cells per pixel turn distance from a line into its cover of a pixel: soft edges without supersampling.
            spread = sum(np.abs(np.gradient(points[..., axis], axis=i)) for i in (0, 1))
            self.phases.append(np.rint(points[..., axis] * PHASES % PHASES).astype(np.uint16))
            self.slopes.append((depth / spread / PHASES).astype(np.float32))
        self.plain = self.background.y[self.top:] + np.float32(0.5)
        self.middle = (self.plain - 1.1 * depth).astype(np.float32)
        self.darkest = np.maximum(self.plain - depth, 0).astype(np.float32)
        self.work = [np.empty(fade.shape, kind) for kind in (np.uint16, np.float32, np.float32)]
        self.ruled, self.seen_from = self.background.copy(), np.full(2, np.inf)

    def draw(self, frame: int) -> Canvas:
        """The floor of one frame."""
        picture = self.grid(frame).copy()
        self._trace(frame, picture)
        self.shade(frame, picture)
        return picture

    def grid(self, frame: int) -> Canvas:
        """Background and grid: the same canvas every time, drawn anew where the camera has moved."""
        target = self.camera.target[frame, [0, 2]] / CELL
        if np.abs(self.seen_from - target).max() > 1e-3:
            away, first, second = self.work
            for phase, slope, shift, lines in zip(self.phases, self.slopes, target, (first, second), strict=True):
                np.add(phase, np.uint16(round(shift * PHASES) % PHASES), out=away)
                np.abs(away.view(np.int16), out=away.view(np.int16))  # to the nearest line, before it or behind
                np.multiply(away, slope, out=lines)
            np.minimum(first, second, out=first)
            np.add(first, self.middle, out=first)
            np.maximum(first, self.darkest, out=first)
            np.minimum(first, self.plain, out=first)
            np.copyto(self.ruled.y[self.top:], first, casting="unsafe")
            self.seen_from = target
        return self.ruled

    def _trace(self, frame: int, picture: Canvas) -> None:
        count = frame // TRACE_STEP + 1
        away = np.hypot(*(self.way[:count] - self.camera.target[frame, [0, 2]]).T)
        seen = np.flatnonzero(away < TRACE_SEEN)
        if len(seen) < 2:
            return
        first, last = int(seen[0]), int(seen[-1])
        edges = self.camera.project(self.ribbon[first:last + 1].reshape(-1, 3), frame)[:, :2]
        box = even_box(edges, 2, picture.size)
        if box is None:
            return
        mask = Image.new("L", (SUPERSAMPLE * (box[2] - box[0]), SUPERSAMPLE * (box[3] - box[1])))
        pen = ImageDraw.Draw(mask)
        left, right = ((edges - box[:2]) * SUPERSAMPLE).reshape(-1, 2, 2).transpose(1, 0, 2).tolist()
        cuts = sorted({(last - first) * piece // TRACE_PIECES for piece in range(TRACE_PIECES + 1)})
        middles = [first + (start + end) // 2 for start, end in zip(cuts, cuts[1:], strict=False)]
        covers = 230 * _fade(away[middles]) * (0.4 + 0.6 * np.array(middles) / (count - 1))
        for start, end, cover in zip(cuts, cuts[1:], covers.astype(int).tolist(), strict=False):
            pen.polygon([*sum(left[start:end + 1], []), *sum(right[start:end + 1][::-1], [])], fill=cover)
        picture.paint(TRACE, box[:2], mask.reduce(SUPERSAMPLE))

    def shade(self, frame: int, picture: Canvas) -> None:
        """Draw the body's shadow onto ``picture``."""
        width, height = picture.size
        joints = self.shadow[frame]
        box = even_box(joints[:, :2], 8, (width // 2, height // 2))
        if box is None:
            return
        small = Image.new("L", (box[2] - box[0], box[3] - box[1]))
        pen = ImageDraw.Draw(small)
        joints = (joints - [*box[:2], 0]).tolist()
        for chain in self.chains:
            places = [joints[joint] for joint in chain]
            width = sum(scale for _, _, scale in places) / len(places) * SHADOW_WIDTH
            pen.line([side for place in places for side in place[:2]], fill=80, width=max(1, round(width)))
        small = small.filter(ImageFilter.BoxBlur(2))
        mask = small.resize((small.width * 2, small.height * 2), Image.Resampling.BILINEAR)
        picture.shade(brightness(SHADOW), (box[0] * 2, box[1] * 2), mask)


def _ribbon(path: np.ndarray) -> np.ndarray:
    """Both edges (N, 2, 3) of a band on the floor along every ``TRACE_STEP``-th point of ``path`` (T, 3)."""
    points = path[::TRACE_STEP]
    if len(points) < 2:
        return points[:, None].repeat(2, 1)
    ahead = np.gradient(points, axis=0)
    side = ahead[:, [2, 1, 0]] * [1, 0, -1]
    side *= TRACE_WIDTH / 2 / np.maximum(np.linalg.norm(side, axis=-1, keepdims=True), 1e-6)
    return np.stack([points - side, points + side], 1)


def _distance(points: np.ndarray, camera: Camera) -> np.ndarray:
    """How far (...) points of the floor (..., 2) are from the camera's target; wide pictures have a wide floor."""
    width, height = camera.size
    across, ahead = (points @ axis[[0, 2]] for axis in (camera.axes[0], camera.axes[2]))
    return np.hypot(across * min(1, height / width), ahead / np.cos(camera.elevation))


def _fade(distance: np.ndarray) -> np.ndarray:
    """1 under the camera's target, 0 from ``FLOOR_RADIUS`` on."""
    fade = np.maximum(1 - distance / FLOOR_RADIUS, 0)
    return fade * fade * (3 - 2 * fade)
