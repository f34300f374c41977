"""Draws a moving body: a camera that follows it, a soft floor, shaded limbs, a caption.

One :class:`Stage` draws the frames of one motion. Whatever can be computed for all frames together (projection,
limb outlines) is computed once; a frame then costs a few milliseconds of Pillow.
"""
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scipy.ndimage import gaussian_filter1d

from motion.skeleton import Skeleton

SUPERSAMPLE = 2
LEFT, RIGHT, TRUNK = (46, 116, 214), (232, 98, 56), (62, 72, 90)
SIDES = {"left": LEFT, "right": RIGHT}
SKY, GROUND = (252, 252, 253), (229, 234, 240)
GRID, SHADOW, TRACE, TEXT = (170, 181, 195), (92, 104, 124), (238, 160, 40), (44, 50, 62)

# Radii in metres at a chain's first and last joint: drawn limbs taper.
LEG, SPINE, ARM, HEAD = (0.064, 0.040), (0.070, 0.046), (0.052, 0.034), 0.105
CELL = 0.5          # metres between floor lines
FLOOR_RADIUS = 3.4  # metres from the camera's target at which the floor has faded away
STEADY = 0.7        # seconds: width of the Gaussian through which the camera follows the root
LEAN = np.array([-0.30, 0.0, 0.22])  # where a shadow lies for every metre of height
HEIGHT = 1.7        # metres: the camera looks at the middle of somebody this tall
NEAREST = 4.8       # metres: the camera comes no closer
LIGHT = np.array([-0.6, -0.8])  # where light comes from in the picture
TRACE_STEP = 2      # frames a piece of the root's path
MARGIN = 0.16       # metres around the joints that stay in view: flesh and head


@dataclass(frozen=True)
class Camera:
    """A perspective camera on a boom: it looks from one direction at a target that moves with the body.

    ``target`` (T, 3) metres; ``size`` pixels (width, height); ``distance`` metres; ``azimuth`` from +z and
    ``elevation`` in radians; ``focal`` in picture heights; ``centre`` where the target appears, as a share of the
    height from the top.
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
        """World points (T, N, 3) of all frames, or (N, 3) of one ``frame`` -> pixel x, pixel y, pixels per metre."""
        target = self.target[:, None] if frame is None else self.target[frame]
        local = (points - target) @ self.axes.T
        scale = self.focal * self.size[1] / np.maximum(self.distance - local[..., 2], 0.1)
        x = self.size[0] / 2 + scale * local[..., 0]
        y = self.size[1] * self.centre - scale * local[..., 1]
        return np.stack([x, y, scale], axis=-1)

    def floor_points(self) -> np.ndarray:
        """Where pixels see the floor, relative to the target: (H, W, 2) x and z, far away above the horizon."""
        width, height = self.size
        x, y = np.meshgrid(np.arange(width) + 0.5 - width / 2, self.centre * height - np.arange(height) - 0.5)
        rays = np.stack([x, y, np.full_like(x, -self.focal * height)], axis=-1) @ self.axes
        eye = self.distance * self.axes[2] + [0, self.target[0, 1], 0]
        steps = eye[1] / np.maximum(-rays[..., 1:2], 1e-6)
        return eye[[0, 2]] + rays[..., [0, 2]] * steps


def follow(joints: np.ndarray, fps: float, size: tuple[int, int], headroom: float = 0.0) -> Camera:
    """The camera that follows the root of a clip (T, J, 3), floor at y = 0, and keeps the whole body in view.

    ``headroom``: the share of the picture's height, from the top, that is kept clear.
    """
    # Going on straight beyond both ends, so that the camera does not lag there.
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
    """The camera that sees ``poses`` (P, J, 3) side by side in one wide picture, wherever they really stand."""
    share = (np.arange(len(poses)) + 0.5) / len(poses) - 0.5
    focal, room = 12 * Camera.focal, 0.92 - headroom  # from far away, so that all are seen from the same side
    height = max(HEIGHT, float(poses[..., 1].max())) + 2 * MARGIN
    target = poses[:, 0] * [1, 0, 1] + [0, height / 2, 0]
    camera = Camera(target, size, focal * height / room, focal=focal, centre=headroom + room / 2)
    metres = size[0] / size[1] * camera.distance / focal  # width of the picture at the target
    return replace(camera, target=target - metres * share[:, None] * camera.axes[0])


class Floor:
    """The ground: a grid that fades away, the path the root has taken, the body's shadow."""

    def __init__(self, camera: Camera, shadow: np.ndarray, path: np.ndarray):
        """``shadow`` (T, B, 2, 3) is where the bones' shadows are seen, ``path`` (T, 3) the root's, on the floor."""
        self.camera, self.shadow, self.path = camera, shadow, path
        width, height = camera.size
        ramp = np.linspace(0, 1, height)[:, None, None] ** 1.5
        shades = np.broadcast_to(np.array(SKY) * (1 - ramp) + np.array(GROUND) * ramp, (height, width, 3))
        self.background = Image.fromarray(shades.round().astype(np.uint8))
        points = camera.floor_points()
        # Wide pictures have a wide floor.
        across = points @ camera.axes[0, [0, 2]] * min(1, height / width)
        fade = _fade(np.hypot(across, points @ camera.axes[2, [0, 2]] / np.cos(camera.elevation)))
        self.top = int(np.argmax(fade.any(1)))
        points, self.cover = points[self.top :] / CELL, (255 * fade[self.top :]).astype(np.float32)
        self.axes = []
        for axis in (0, 1):
            # Cells per pixel turn distance from a line into its cover of a pixel: soft edges without supersampling.
            spread = sum(np.abs(np.gradient(points[..., axis], axis=i)) for i in (0, 1))
            self.axes.append((points[..., axis].astype(np.float32), (1 / spread).astype(np.float32)))
        self.kept: tuple[np.ndarray, Image.Image] | None = None

    def draw(self, frame: int) -> Image.Image:
        """The floor of one frame as an RGB picture."""
        picture = self.grid(frame).copy()
        self._trace(frame, picture)
        self.shade(frame, picture)
        return picture

    def grid(self, frame: int) -> Image.Image:
        """Background and grid; kept for as long as the camera stands still."""
        target = self.camera.target[frame, [0, 2]].astype(np.float32) / np.float32(CELL)
        if self.kept is None or np.abs(self.kept[0] - target).max() > 1e-3:
            lines = []
            for (points, slope), shift in zip(self.axes, target, strict=True):
                cells = points + shift
                cells -= np.rint(cells)
                lines.append(np.abs(cells, out=cells) * slope)
            cover = np.clip(1.1 - np.minimum(*lines), 0, 1) * self.cover
            picture = self.background.copy()
            picture.paste(GRID, (0, self.top), Image.fromarray(cover.astype(np.uint8)))
            self.kept = target, picture
        return self.kept[1]

    def _trace(self, frame: int, picture: Image.Image) -> None:
        past = self.path[frame::-TRACE_STEP]
        if len(past) < 2:
            return
        away = np.linalg.norm(past - self.camera.target[frame] * [1, 0, 1], axis=-1)
        cover = (230 * _fade(away) * np.linspace(1, 0.4, len(past))).astype(int)
        x, y, scale = self.camera.project(past, frame).T
        seen = (cover > 4) & (x > -99) & (x < picture.width + 99) & (y > -99) & (y < picture.height + 99)
        _soft_lines(picture, TRACE, np.stack([x, y], -1), scale * 0.03, np.where(seen, cover, 0))

    def shade(self, frame: int, picture: Image.Image) -> None:
        """Draw the body's shadow onto ``picture``."""
        ends = self.shadow[frame] / 2
        low, high = _box(ends[..., :2], 8, (picture.width // 2, picture.height // 2))
        if (low >= high).any():
            return
        small = Image.new("L", tuple(high - low))
        pen = ImageDraw.Draw(small)
        for (ax, ay, scale), (bx, by, _) in (ends - [*low, 0]).tolist():
            pen.line((ax, ay, bx, by), fill=80, width=max(1, round(scale * 0.11)))
        small = small.filter(ImageFilter.BoxBlur(2))
        size = small.width * 2, small.height * 2
        picture.paste(SHADOW, tuple(low * 2), small.resize(size, Image.Resampling.BILINEAR))


class Body:
    """The limbs of a body as tapered tubes, the farther ones first and paler."""

    def __init__(self, joints: np.ndarray, skeleton: Skeleton, camera: Camera):
        bones, radii, colours = _tubes(skeleton)
        ends = camera.project(joints)[:, bones]                            # (T, B, 2, 3)
        self.head = camera.project(_crown(joints, skeleton)[:, None])[:, 0]  # (T, 3)
        self.shadow = camera.project(_flatten(joints))[:, bones]           # (T, B, 2, 3)
        nearness = ends[..., 2].mean(-1)                                   # (T, B)
        self.order = np.argsort(nearness, axis=1).tolist()
        self.head_rank = (nearness < self.head[:, 2:]).sum(1).tolist()
        self.place, self.radius = ends[..., :2], ends[..., 2] * radii      # (T, B, 2, 2), (T, B, 2)
        self.tube, self.edge, self.gloss = _outlines(self.place, self.radius)
        depth = nearness / camera.project(joints[:, :1])[..., 2] - 1
        pale = 0.34 * np.clip(0.45 - 4 * depth, 0, 1)[..., None]
        base = colours * (1 - pale) + np.array(GROUND) * pale              # (T, B, 3)
        self.shades = np.stack([base * 0.62, base, base * 0.74 + 66], 2).astype(int)  # edge, tube, gloss

    def draw(self, frame: int, picture: Image.Image) -> None:
        """Draw one frame's body onto ``picture``."""
        head, head_radius = self.head[frame, :2], HEAD * self.head[frame, 2]
        corners = np.concatenate([self.place[frame].reshape(-1, 2), head - head_radius, head + head_radius], None)
        low, high = _box(corners.reshape(-1, 2), 2 + 1.2 * self.radius[frame].max(), picture.size)
        if (low >= high).any():
            return
        layer = Image.new("RGBA", tuple((high - low) * SUPERSAMPLE))
        pen = ImageDraw.Draw(layer)
        tube, edge, gloss = (((part[frame] - low) * SUPERSAMPLE).reshape(len(part[frame]), -1).tolist()
                             for part in (self.tube, self.edge, self.gloss))
        centre, radius = self.place[frame] - low, self.radius[frame][..., None]
        caps = (np.concatenate([centre - radius, centre + radius], -1) * SUPERSAMPLE).tolist()  # (B, 2, 4)
        shades = [[tuple(shade) for shade in bone] for bone in self.shades[frame].tolist()]
        for rank, bone in enumerate([*self.order[frame], None]):
            if rank == self.head_rank[frame]:
                _ball(pen, (head - low) * SUPERSAMPLE, head_radius * SUPERSAMPLE)
            if bone is not None:
                dark, base, light = shades[bone]
                pen.polygon(edge[bone], fill=dark)
                pen.ellipse(caps[bone][0], fill=base)
                pen.ellipse(caps[bone][1], fill=base)
                pen.polygon(tube[bone], fill=base)
                pen.polygon(gloss[bone], fill=light)
        layer = layer.reduce(SUPERSAMPLE)
        picture.paste(layer, tuple(low), layer)


class Caption:
    """A sentence at the top of a picture, in at most four lines; letters are smaller the longer it is."""

    def __init__(self, text: str, size: tuple[int, int]):
        width, height = size
        side = min(width, height)
        for points in (side // 24, side // 28, side // 32):
            font = ImageFont.load_default(max(points, 14))
            lines = _wrap(text, font, width * 0.92)
            if len(lines) <= 3:
                break
        if len(lines) > 4:
            lines = [*lines[:3], lines[3].rstrip(" .,") + " …"]
        step = round(font.size * 1.35)
        self.strip = Image.new("RGBA", (width, step * len(lines) + round(font.size)), (*SKY, 0))
        self.share = self.strip.height / height if text.strip() else 0.0
        pen = ImageDraw.Draw(self.strip)
        for row, line in enumerate(lines):
            pen.text((width / 2, font.size * 0.7 + row * step), line, font=font, fill=TEXT, anchor="ma")

    def draw(self, picture: Image.Image) -> None:
        """Write it onto ``picture``."""
        if self.share:
            picture.paste(self.strip, (0, 0), self.strip)


class Stage:
    """Draws one motion: joints (T, J, 3) in metres, y up, the floor at y = 0."""

    def __init__(self, joints: np.ndarray, skeleton: Skeleton, fps: float, size: tuple[int, int], caption: str = ""):
        self.caption = Caption(caption, size)
        camera = follow(joints, fps, size, self.caption.share)
        self.frames = len(joints)
        self.body = Body(joints, skeleton, camera)
        self.floor = Floor(camera, self.body.shadow, joints[:, 0] * [1, 0, 1])

    def draw(self, frame: int) -> Image.Image:
        """One frame as an RGB picture."""
        picture = self.floor.draw(frame)
        self.body.draw(frame, picture)
        self.caption.draw(picture)
        return picture


def draw_poses(poses: np.ndarray, skeleton: Skeleton, size: tuple[int, int], caption: str = "") -> Image.Image:
    """Poses (P, J, 3) in metres side by side in one RGB picture."""
    text = Caption(caption, size)
    camera = line_up(poses, size, text.share)
    body = Body(poses, skeleton, camera)
    floor = Floor(camera, body.shadow, poses[:, 0])
    picture = floor.grid(len(poses) // 2).copy()
    for pose in range(len(poses)):
        floor.shade(pose, picture)
    for pose in range(len(poses)):
        body.draw(pose, picture)
    text.draw(picture)
    return picture


def _tubes(skeleton: Skeleton) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every bone's two joints (B, 2), radii there (B, 2), and colour (B, 3)."""
    bones, radii, colours = [], [], []
    for chain in skeleton.chains:
        sides = [skeleton.joint_names[joint].split("_")[0] for joint in chain]
        first, last = LEG if chain[-1] in skeleton.feet else ARM if sides[-1] in SIDES else SPINE
        taper = np.linspace(first, last, len(chain))
        bones += zip(chain, chain[1:], strict=False)
        radii += zip(taper, taper[1:], strict=False)
        colours += [SIDES.get(side, TRUNK) for side in sides[:-1]]
    return np.array(bones), np.array(radii), np.array(colours, float)


def _crown(joints: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Middle of the drawn head (T, 3): a little beyond the last joint of the trunk."""
    trunk = next(chain for chain in skeleton.chains if "_" not in skeleton.joint_names[chain[-1]])
    neck = joints[:, trunk[-1]] - joints[:, trunk[-3]]
    return joints[:, trunk[-1]] + 0.08 * neck / np.maximum(np.linalg.norm(neck, axis=-1, keepdims=True), 1e-6)


def _flatten(joints: np.ndarray) -> np.ndarray:
    """Joints (T, J, 3) as their shadows on the floor."""
    shadow = joints + joints[..., 1:2] * LEAN
    shadow[..., 1] = 0
    return shadow


def _outlines(place: np.ndarray, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Corners of each bone's tube, dark edge and light streak, (T, B, 4 or 8, 2), from its two ends (T, B, 2, 2)."""
    along = place[:, :, 1:] - place[:, :, :1]                              # (T, B, 1, 2)
    length = np.linalg.norm(along, axis=-1, keepdims=True)
    side = along[..., ::-1] * [-1, 1] / np.maximum(length, 1e-6)
    side = np.where((side * LIGHT).sum(-1, keepdims=True) < 0, -side, side)
    wide = radius[..., None] * side                                        # (T, B, 2, 2) towards the light
    # Edge and streak narrow to nothing at the ends, and on bones as short as wide, so that joints stay smooth.
    relief = np.clip(length / (2 * radius.mean(-1)[..., None, None]) - 0.7, 0, 1)
    inner = place + 0.2 * along * [[1.0], [-1.0]]
    first, last = place[:, :, :1], place[:, :, 1:]

    def band(low: np.ndarray, high: np.ndarray) -> np.ndarray:
        return np.concatenate([inner + wide * high, inner[:, :, ::-1] + wide[:, :, ::-1] * low], 2)

    tube = np.concatenate([place + wide, (place - wide)[:, :, ::-1]], 2)
    swell = 1 + 0.17 * relief
    up, down = inner + wide * swell, inner - wide * swell
    edge = np.concatenate([first + wide[:, :, :1], up, last + wide[:, :, 1:],
                           last - wide[:, :, 1:], down[:, :, ::-1], first - wide[:, :, :1]], 2)
    return tube, edge, band(0.42 - 0.2 * relief, 0.42 + 0.2 * relief)


def _fade(distance: np.ndarray) -> np.ndarray:
    """1 under the camera's target, 0 from ``FLOOR_RADIUS`` on."""
    fade = np.clip(1 - distance / FLOOR_RADIUS, 0, 1)
    return fade * fade * (3 - 2 * fade)


def _box(points: np.ndarray, margin: float, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Corners (2,) int of the part of a picture of ``size`` around ``points`` (..., 2)."""
    flat = points.reshape(-1, 2)
    low = np.clip(np.floor(flat.min(0) - margin), 0, size).astype(int)
    high = np.clip(np.ceil(flat.max(0) + margin), 0, size).astype(int)
    return low, high


def _soft_lines(picture: Image.Image, colour: tuple[int, int, int], points: np.ndarray, widths: np.ndarray,
                cover: np.ndarray) -> None:
    """Draw the line through ``points`` (N, 2), each piece with its own width and cover (0 to 255)."""
    if not cover.any():
        return
    low, high = _box(points[cover > 0], 6, picture.size)
    if (low >= high).any():
        return
    mask = Image.new("L", tuple((high - low) * SUPERSAMPLE))
    pen = ImageDraw.Draw(mask)
    points = ((points - low) * SUPERSAMPLE).tolist()
    widths = np.maximum(np.rint(widths * SUPERSAMPLE), 2).astype(int).tolist()
    for i in range(len(points) - 1, 0, -1):
        if cover[i]:
            pen.line((*points[i], *points[i - 1]), fill=int(cover[i]), width=widths[i], joint="curve")
    picture.paste(colour, tuple(low), mask.reduce(SUPERSAMPLE))


def _ball(pen: ImageDraw.ImageDraw, centre: np.ndarray, radius: float) -> None:
    x, y = centre
    for shift, share, colour in ((0, 1.08, 0.62), (0, 1.0, 1.0), (0.28, 0.55, 1.25)):
        shade = tuple(min(255, int(c * colour)) for c in TRUNK)
        r, cx, cy = share * radius, x - shift * radius, y - shift * radius
        pen.ellipse((cx - r, cy - r, cx + r, cy + r), fill=shade)


def _wrap(text: str, font: ImageFont.FreeTypeFont, room: float) -> list[str]:
    """Break ``text`` between words into lines no wider than ``room`` pixels; a word wider than that is broken."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= room:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if font.getlength(lines[-1] + letter) > room:
                lines.append("")
            lines[-1] += letter
    return lines
