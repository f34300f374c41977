"""The ground: a grid that fades away, the path the root has taken, the body's shadow."""
import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from visualization.camera import Camera
from visualization.canvas import SUPERSAMPLE, Canvas, brightness, even_box, ycc

SKY, GROUND = (252, 252, 253), (229, 234, 240)
GRID, SHADOW, TRACE = (170, 181, 195), (92, 104, 124), (238, 160, 40)

CELL = 0.5           # metres between floor lines
PHASES = 2**16       # steps of a place between two floor lines: counting overflows from one cell into the next
FLOOR_RADIUS = 3.4   # metres from the camera's target at which the floor has faded away
LEAN = np.array([-0.30, 0.0, 0.22])  # where a shadow lies for every metre of height
TRACE_WIDTH = 0.035  # metres
TRACE_STEP = 2       # frames between points of the root's path
TRACE_PIECES = 8     # of the path, each paler than the one after


def shadow_of(joints: np.ndarray) -> np.ndarray:
    """Joints (T, J, 3) as their shadows on the floor."""
    shadow = joints + joints[..., 1:2] * LEAN
    shadow[..., 1] = 0
    return shadow


class Floor:
    """Draws the ground under one motion."""

    def __init__(self, camera: Camera, shadow: np.ndarray, path: np.ndarray):
        """``shadow`` (T, B, 2, 3) is where the bones' shadows are seen, ``path`` (T, 3) the root's, on the floor."""
        self.camera, self.shadow, self.ribbon = camera, shadow, _ribbon(path)
        self.way = self.ribbon.mean(1)[:, [0, 2]]
        width, height = camera.size
        ramp = np.linspace(0, 1, height)[:, None] ** 1.5
        shades = np.rint(ycc(np.array(SKY) * (1 - ramp) + np.array(GROUND) * ramp)).astype(np.uint8)  # (H, 3)
        parts = [Image.fromarray(np.repeat(column[:, None], width, 1)) for column in shades.T]
        self.background = Canvas(parts[0], parts[1].reduce(2), parts[2].reduce(2))

        points = camera.floor_points()
        # Wide pictures have a wide floor.
        across = points @ camera.axes[0, [0, 2]] * min(1, height / width)
        fade = _fade(np.hypot(across, points @ camera.axes[2, [0, 2]] / np.cos(camera.elevation)))
        self.top = int(np.argmax(fade.any(1)))
        points, fade = points[self.top :] / CELL, 255 * fade[self.top :]
        self.phases, self.slopes = [], []
        for axis in (0, 1):
            # Cells per pixel turn distance from a line into its cover of a pixel: soft edges without supersampling.
            spread = sum(np.abs(np.gradient(points[..., axis], axis=i)) for i in (0, 1))
            self.phases.append(np.rint(points[..., axis] * PHASES % PHASES).astype(np.uint16))
            self.slopes.append((fade / spread / PHASES).astype(np.float32))
        self.most, self.full = fade.astype(np.float32), (1.1 * fade).astype(np.float32)
        self.work = [np.empty(fade.shape, kind) for kind in (np.uint16, np.float32, np.float32, np.uint8)]
        self.kept: tuple[np.ndarray, Canvas] | None = None

    def draw(self, frame: int) -> Canvas:
        """The floor of one frame."""
        picture = self.grid(frame).copy()
        self._trace(frame, picture)
        self.shade(frame, picture)
        return picture

    def grid(self, frame: int) -> Canvas:
        """Background and grid; kept for as long as the camera stands still."""
        target = self.camera.target[frame, [0, 2]] / CELL
        if self.kept is None or np.abs(self.kept[0] - target).max() > 1e-3:
            away, first, second, cover = self.work
            for phase, slope, shift, lines in zip(self.phases, self.slopes, target, (first, second), strict=True):
                np.add(phase, np.uint16(round(shift * PHASES) % PHASES), out=away)
                np.abs(away.view(np.int16), out=away.view(np.int16))  # to the nearest line, before it or behind
                np.multiply(away, slope, out=lines)
            np.minimum(first, second, out=first)
            np.minimum(first, self.full, out=first)
            np.subtract(self.full, first, out=first)
            np.minimum(first, self.most, out=first)
            np.copyto(cover, first, casting="unsafe")
            picture = self.background.copy()
            picture.shade(brightness(GRID), (0, self.top), Image.fromarray(cover))
            self.kept = target, picture
        return self.kept[1]

    def _trace(self, frame: int, picture: Canvas) -> None:
        past = self.ribbon[: frame // TRACE_STEP + 1]
        if len(past) < 2:
            return
        away = np.hypot(*(self.way[:len(past)] - self.camera.target[frame, [0, 2]]).T)
        faded = _fade(away)
        seen = np.flatnonzero(faded > 0.02)
        if not len(seen):
            return
        first, last = int(seen[0]), int(seen[-1])
        edges = self.camera.project(past[first : last + 1].reshape(-1, 3), frame)[:, :2].reshape(-1, 2, 2)
        box = even_box(edges, 2, picture.size)
        if box is None:
            return
        mask = Image.new("L", (SUPERSAMPLE * (box[2] - box[0]), SUPERSAMPLE * (box[3] - box[1])))
        pen = ImageDraw.Draw(mask)
        edges = (edges - box[:2]) * SUPERSAMPLE
        cuts = np.unique(np.linspace(0, len(edges) - 1, TRACE_PIECES + 1).astype(int))
        age = np.linspace(0.4, 1, len(past))[first : last + 1]
        cover = (230 * faded[first : last + 1] * age).astype(int).tolist()
        for start, end in zip(cuts, cuts[1:], strict=False):
            piece = edges[start : end + 1]
            outline = np.concatenate([piece[:, 0], piece[::-1, 1]])
            pen.polygon(outline.ravel().tolist(), fill=cover[(start + end) // 2])
        picture.paint(TRACE, box[:2], mask.reduce(SUPERSAMPLE))

    def shade(self, frame: int, picture: Canvas) -> None:
        """Draw the body's shadow onto ``picture``."""
        width, height = picture.size
        ends = self.shadow[frame] / 2
        box = even_box(ends[..., :2], 8, (width // 2, height // 2))
        if box is None:
            return
        small = Image.new("L", (box[2] - box[0], box[3] - box[1]))
        pen = ImageDraw.Draw(small)
        for (ax, ay, scale), (bx, by, _) in (ends - [*box[:2], 0]).tolist():
            pen.line((ax, ay, bx, by), fill=80, width=max(1, round(scale * 0.11)))
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


def _fade(distance: np.ndarray) -> np.ndarray:
    """1 under the camera's target, 0 from ``FLOOR_RADIUS`` on."""
    fade = np.maximum(1 - distance / FLOOR_RADIUS, 0)
    return fade * fade * (3 - 2 * fade)
