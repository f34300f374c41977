"""Draw motions with OpenCV: camera, floor, shadow, and a shaded person or limbs.

Pictures are (H, W, 3) uint8 in BGR, as in OpenCV. Projections and limb outlines are computed once for all frames, so
that drawing a frame takes a few milliseconds.
"""
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d

from motion.skeleton import T2M, Skeleton
from visualization.body import PALETTE, fit, offsets_of, stances, world_turns

STEADY = 0.7    # seconds: sigma of the Gaussian that smooths the followed root position
HEIGHT = 1.7    # metres: the camera aims at the middle of a person of this height
NEAREST = 4.8   # metres: minimum distance of the camera
MARGIN = 0.16   # metres around the joints kept in view, for the volume of body and head


@dataclass(frozen=True)
class Camera:
    """A perspective camera that follows the body and has a fixed direction.

    ``target`` (T, 3) and ``distance`` are in metres, ``size`` (width, height) is in pixels, ``azimuth`` (from +z) and
    ``elevation`` are in radians, and the focal length ``focal`` is in picture heights. ``centre`` is the vertical
    position of the target, from the top, as a fraction of the picture height.
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
        """Axes of the camera as rows (3, 3): right, up, backward."""
        sa, ca, se, ce = np.sin(self.azimuth), np.cos(self.azimuth), np.sin(self.elevation), np.cos(self.elevation)
        return np.array([[ca, 0, -sa], [-sa * se, ce, -ca * se], [sa * ce, se, ca * ce]])

    def project(self, points: np.ndarray, frames: slice = slice(None)) -> np.ndarray:
        """Project world points (T, N, 3) of ``frames``.

        Returns (T, N, 3): pixel x, pixel y, and scale in pixels per metre.
        """
        local = (points - self.target[frames, None]) @ self.axes.T
        scale = self.focal * self.size[1] / np.maximum(self.distance - local[..., 2], 0.1)
        x = self.size[0] / 2 + scale * local[..., 0]
        y = self.size[1] * self.centre - scale * local[..., 1]
        return np.stack([x, y, scale], axis=-1)

    def floor_distances(self) -> np.ndarray:
        """Compute distances (H, W) from the target to the floor at all pixels; values above the horizon are large.

        Sideways distances count less in wide pictures. Depth counts more if the camera is higher.
        """
        (width, height), rise = self.size, self.axes[2, 1]
        x, y = np.arange(width) + 0.5 - width / 2, self.centre * height - np.arange(height)[:, None] - 0.5
        down = self.focal * height * rise - y * self.axes[1, 1]  # of a row, as the camera does not roll
        steps = (self.distance * rise + self.target[0, 1]) / np.maximum(down, 1e-6)
        ahead = self.distance + self.target[0, 1] * rise - steps * self.focal * height
        return np.hypot(steps * x * min(1, height / width), ahead / np.cos(self.elevation))


def follow(joints: np.ndarray, fps: float, size: tuple[int, int], headroom: float = 0.0) -> Camera:
    """Create a camera that follows the root of joints (T, J, 3) and keeps the whole body in view.

    ``headroom``: fraction of the picture height kept free at the top.
    """
    # Extend the path by point reflection at both ends, so that the camera does not lag there.
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
    """Create a camera that shows ``poses`` (P, J, 3) side by side, whatever their positions."""
    share = (np.arange(len(poses)) + 0.5) / len(poses) - 0.5
    focal, room = 12 * Camera.focal, 0.92 - headroom  # from far away, so that all are seen from the same angle
    height = max(HEIGHT, float(poses[..., 1].max())) + 2 * MARGIN
    target = poses[:, 0] * [1, 0, 1] + [0, height / 2, 0]
    camera = Camera(target, size, focal * height / room, focal=focal, centre=headroom + room / 2)
    metres = size[0] / size[1] * camera.distance / focal  # width of the picture at the target
    return replace(camera, target=target - metres * share[:, None] * camera.axes[0])


SUN, SKYLIGHT = np.array([0.1, 0.75, 0.7]), 0.62   # direction of the sun in the world, and weight of ambient light
TINT = 0.92    # weight of the side colour on clothes
BLOCK = 16     # frames posed at once
SMOOTH = 0.5   # pixels: sigma of the Gaussian that smooths the edges of the body


class Person:
    """Body mesh that follows joints (T, 22, 3) in metres, drawn as seen by a camera."""

    def __init__(self, joints: np.ndarray, camera: Camera, sides: tuple[tuple[int, int, int], ...]) -> None:
        """Create the person. ``sides`` are the RGB colours of left and right."""
        self.joints, self.camera = joints, camera
        offsets, stance = offsets_of(joints), stances(joints)
        self.fitted = fit(offsets, stance)
        self.moves, self.moved = self.fitted.moves(joints, world_turns(joints, offsets, stance))
        body = self.fitted.body
        colours = np.array([list(bytes.fromhex(colour[1:])) for colour in PALETTE], float)[body.zones]
        share = TINT * np.abs(body.sides)[:, None]
        tint = np.where(body.sides[:, None] > 0, *np.array(sides, float))
        colours = ((1 - share) * colours + share * tint)[:, ::-1] * (0.5 + 0.5 * body.light[:, None])
        self.colours = np.float32(colours / 255)  # BGR, 0 to 1
        self.sun = np.float32((1 - SKYLIGHT) * 1.45 * SUN / np.linalg.norm(SUN))
        self.triangles = body.triangles.astype(np.int32)
        self.posed = lru_cache(maxsize=3)(self._pose)
        self.settings = cv2.TriangleRasterizeSettings()
        self.settings.setShadingType(cv2.RASTERIZE_SHADING_SHADED)
        self.settings.setCullingMode(cv2.RASTERIZE_CULLING_CW)
        self.settings.setGlCompatibleMode(cv2.RASTERIZE_COMPAT_INVDEPTH)

    def _pose(self, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pose and light the mesh in a block of frames.

        Returns boxes in pixels (T, 4) as left, top, right, bottom; vertices (T, V, 3), as seen by OpenCV's camera with
        the box as a field of view of 90°; and colours (T, V, 3).
        """
        frames = slice(block * BLOCK, (block + 1) * BLOCK)
        places, normals = self.fitted.posed(self.joints[frames], self.moves[frames], self.moved[frames])
        light = SKYLIGHT + (normals @ self.sun).clip(0) + 0.12 * normals[..., 1]
        seen = self.camera.project(places, frames)
        across, limits = np.moveaxis(seen[..., :2], -1, 0).copy(), np.reshape(self.camera.size, (2, 1, 1))
        low = np.clip(np.floor(across.min(-1, keepdims=True)) - 2, 0, limits)  # (2, T, 1)
        high = np.clip(np.ceil(across.max(-1, keepdims=True)) + 3, 0, limits)
        depth = self.camera.focal * self.camera.size[1] / seen[..., 2]
        across = (2 * across - low - high + 1) / np.maximum(high - low, 1)[1] * depth
        vertices = np.stack([across[0], -across[1], -depth], -1, dtype=np.float32)
        boxes = np.concatenate([low, high])[..., 0].T.astype(int)
        return boxes, vertices, self.colours * light[..., None]

    def draw(self, frame: int, picture: np.ndarray) -> None:
        """Draw a frame onto ``picture`` (H, W, 3) in BGR."""
        (left, top, right, bottom), vertices, colours = (part[frame % BLOCK] for part in self.posed(frame // BLOCK))
        part = picture[top:bottom, left:right]
        if not part.size:
            return
        near, far = -0.9 * vertices[:, 2].max(), -1.1 * vertices[:, 2].min()
        painted, depths = cv2.triangleRasterize(
            vertices, self.triangles, colours, np.empty(part.shape, np.float32), np.ones(part.shape[:2], np.float32),
            np.eye(4, dtype=np.float32), np.pi / 2, near, far, self.settings)
        cover = cv2.compare(depths, 1, cv2.CMP_LT)
        cv2.copyTo(cv2.convertScaleAbs(painted, alpha=255), cover, part)
        cv2.copyTo(cv2.GaussianBlur(part, (3, 3), SMOOTH), cv2.dilate(cover, np.ones((3, 3), np.uint8)), part)


# Colours are RGB.
SKY, GROUND, GRID, SHADOW, TRACE = (252, 252, 253), (229, 234, 240), (170, 181, 195), (92, 104, 124), (238, 160, 40)
GRID_DEPTH, SHADOW_DEPTH = (  # BGR differences from the ground; shadows have an opacity of 0.35
    tuple((share * (np.array(GROUND) - colour))[::-1].tolist()) for colour, share in ((GRID, 1.0), (SHADOW, 0.35)))
LEFT, RIGHT, TRUNK = (46, 116, 214), (232, 98, 56), (62, 72, 90)
SIDES = {"left": LEFT, "right": RIGHT}

LEG, SPINE, ARM, HEAD = (0.064, 0.040), (0.070, 0.046), (0.052, 0.034), 0.105  # radii in metres, from root to tip
LIGHT = np.array([-0.6, -0.8])  # light direction in the picture
CAP = np.linspace(-np.pi / 2, np.pi / 2, 12)  # angles of the vertices of a limb's round end

CELL = 0.5           # metres between floor lines
FLOOR_RADIUS = 3.4   # metres from the camera's target at which the floor has faded out
LEAN = np.array([-0.30, 0.0, 0.22])  # offset of a shadow per metre of height
SHADOW_WIDTH = 0.11  # metres
TRACE_WIDTH, TRACE_STEP, TRACE_PIECES = 0.035, 2, 8  # metres, frames between points, shades along the path

SHIFT = 4            # fractional bits of coordinates, for smooth movement
cv2.setNumThreads(1)  # videos are written in parallel by several processes


class Scene:
    """Scene that shows one motion: joints (T, J, 3) in metres, y up, floor at y = 0."""

    def __init__(self, joints: np.ndarray, skeleton: Skeleton, camera: Camera) -> None:
        self.camera, self.frames = camera, len(joints)
        self.background = _background(camera.size)
        fade = (255 * _fade(camera.floor_distances())).astype(np.uint8)
        self.top = int(fade.any(1).argmax())  # first row of the floor
        self.fade = cv2.merge([fade[self.top:]] * 3)
        self.lines = _fixed(camera.project(_grid(camera))[..., :2] - [0, self.top]).reshape(len(joints), -1, 2, 2)
        self._shadows(joints, [list(chain) for chain in skeleton.chains])
        self.path = joints[::TRACE_STEP, 0] * [1, 0, 1]
        ahead = np.gradient(self.path, axis=0) if len(self.path) > 1 else self.path
        side = ahead[:, [2, 1, 0]] * [1, 0, -1] * TRACE_WIDTH / 2
        side /= np.maximum(np.linalg.norm(ahead, axis=-1, keepdims=True), 1e-6)
        self.ribbon = np.stack([self.path - side, self.path + side])  # (2, T / TRACE_STEP, 3)
        self.person = Person(joints, camera, (LEFT, RIGHT)) if skeleton == T2M else None
        if self.person is None:
            self._limbs(joints, skeleton)

    def draw(self, frame: int) -> np.ndarray:
        """Draw and return a frame (H, W, 3)."""
        picture = self.floor(frame)
        self.trace(frame, picture)
        self.cast_shadow(frame, picture)
        self.body(frame, picture)
        return picture

    def floor(self, frame: int) -> np.ndarray:
        """Draw the background and the grid, and return the picture (H, W, 3)."""
        picture, lines = self.background.copy(), np.zeros_like(self.fade)
        cv2.polylines(lines, list(self.lines[frame]), False, GRID_DEPTH, max(1, len(picture) // 500),
                      cv2.LINE_AA, SHIFT)
        floor = picture[self.top:]
        cv2.subtract(floor, cv2.multiply(lines, self.fade, scale=1 / 255), floor)
        return picture

    def trace(self, frame: int, picture: np.ndarray) -> None:
        """Draw the path of the root up to this frame."""
        path = self.path[:frame // TRACE_STEP + 1]
        away = np.linalg.norm(path - self.camera.target[frame] * [1, 0, 1], axis=-1)
        seen = np.flatnonzero(away < 0.92 * FLOOR_RADIUS)
        if len(seen) < 2:
            return
        first, last = seen[[0, -1]]
        edges = self.camera.project(self.ribbon[:, first:last + 1], slice(frame, frame + 1))
        left, right = _fixed(edges[..., :2])
        cuts = np.unique(np.linspace(0, last - first, TRACE_PIECES + 1).astype(int))
        middles = (cuts[:-1] + cuts[1:]) // 2
        cover = (0.9 * _fade(away[first + middles]) * (0.4 + 0.6 * middles / (last - first + 1)))[:, None]
        colours = (np.array(TRACE) * cover + np.array(GROUND) * (1 - cover))[:, ::-1].tolist()
        for start, end, colour in zip(cuts, cuts[1:], colours, strict=False):
            outline = np.concatenate([left[start:end + 1], right[start:end + 1][::-1]])
            cv2.fillPoly(picture, [outline], colour, cv2.LINE_AA, SHIFT)

    def _shadows(self, joints: np.ndarray, chains: list[list[int]]) -> None:
        """Compute the boxes and lines of all shadows. They are drawn at half resolution, because they are blurred."""
        shadow = joints + joints[..., 1:2] * LEAN
        seen = self.camera.project(shadow * [1, 0, 1]) / 2  # (T, J, 3)
        self.blur = max(3, self.camera.size[1] // 200) | 1
        self.widths = np.rint(seen[..., 2].mean(1) * SHADOW_WIDTH).astype(int).clip(1)
        low, high = np.floor(seen[..., :2].min(1)), np.ceil(seen[..., :2].max(1))
        reach = (self.widths + self.blur)[:, None]
        boxes = np.stack([low - reach, high + reach], 1).clip(0, np.array(self.camera.size) // 2)  # (T, 2, 2)
        self.shadows = boxes.astype(int).tolist()
        self.chains = [_fixed(seen[:, chain, :2] - boxes[:, :1]) for chain in chains]

    def cast_shadow(self, frame: int, picture: np.ndarray) -> None:
        """Draw the soft shadow of the body."""
        (left, top), (right, bottom) = self.shadows[frame]
        part = picture[2 * top:2 * bottom, 2 * left:2 * right]
        if not part.size:
            return
        small = np.zeros((bottom - top, right - left, 3), np.uint8)
        cv2.polylines(small, [chain[frame] for chain in self.chains], False, SHADOW_DEPTH,
                      int(self.widths[frame]), cv2.LINE_AA, SHIFT)
        cv2.subtract(part, cv2.resize(cv2.blur(small, (self.blur, self.blur)), part.shape[1::-1]), part)

    def body(self, frame: int, picture: np.ndarray) -> None:
        """Draw the person or, for other skeletons, limbs from back to front: dark edge, tube and light streak."""
        if self.person is not None:
            self.person.draw(frame, picture)
            return
        for bone in self.order[frame]:
            for outlines, shades in zip(self.outlines, self.shades, strict=True):
                cv2.fillConvexPoly(picture, outlines[frame, bone], shades[frame][bone], cv2.LINE_AA, SHIFT)

    def _limbs(self, joints: np.ndarray, skeleton: Skeleton) -> None:
        """Compute the outlines of all limbs in all frames, with the head last."""
        bones, radii, colours = _tubes(skeleton)
        ends = np.concatenate([joints[:, bones], np.repeat(_crown(joints, skeleton)[:, None, None], 2, 2)], 1)
        radii, colours = np.concatenate([radii, [[HEAD, HEAD]]]), np.concatenate([colours, [TRUNK]])
        ends = self.camera.project(ends.reshape(len(joints), -1, 3)).reshape(*ends.shape)  # (T, B, 2, 3)
        nearness, place, radius = ends[..., 2].mean(-1), ends[..., :2], ends[..., 2] * radii
        self.order = np.argsort(nearness, axis=1).tolist()
        lit = place + 0.35 * radius[..., None] * LIGHT
        middle, length = lit.mean(2, keepdims=True), np.linalg.norm(place[:, :, 1] - place[:, :, 0], axis=-1)
        relief = (length / (2 * radius.mean(-1)) - 0.7).clip(0, 1)[..., None]  # 0 on short bones, for a smooth trunk
        relief[:, -1] = 1
        self.outlines = [_fixed(_capsules(where, wide)) for where, wide in (
            (place, (1 + 0.1 * relief) * radius), (place, radius),
            (middle + 0.6 * (lit - middle), 0.35 * relief * radius))]
        depth = nearness / self.camera.project(joints[:, :1])[..., 2] - 1
        pale = 0.34 * np.clip(0.45 - 4 * depth, 0, 1)[..., None]  # for limbs behind the pelvis
        base = colours * (1 - pale) + np.array(GROUND) * pale     # (T, B, 3)
        self.shades = [shade.clip(0, 255)[..., ::-1].tolist() for shade in (base * 0.62, base, base * 0.74 + 66)]


def _fixed(points: np.ndarray) -> np.ndarray:
    """Convert pixels (..., 2) to fixed-point integers with ``SHIFT`` fractional bits for OpenCV."""
    return np.rint(points.clip(-4096, 8192) * 2**SHIFT).astype(np.int32, order="C")


def _grid(camera: Camera) -> np.ndarray:
    """Compute the ends of the floor lines in the world (T, 2 * lines, 3)."""
    target, (width, height) = camera.target * [1, 0, 1], camera.size
    steps = np.arange(-FLOOR_RADIUS // CELL, FLOOR_RADIUS // CELL + 2) * CELL
    reach = np.sqrt(np.maximum(FLOOR_RADIUS**2 - steps**2, 0.01)) * max(1, width / height)
    ends = np.zeros((len(target), 2, len(steps), 2, 3))
    for axis, other in ((0, 2), (2, 0)):
        lines = ends[:, axis // 2]
        lines[..., axis] = (np.floor(target[:, axis, None] / CELL) * CELL + steps)[..., None]
        lines[..., other] = target[:, None, None, other] + np.stack([-reach, reach], -1)
    return ends.reshape(len(target), -1, 3)


def _background(size: tuple[int, int]) -> np.ndarray:
    ramp = np.linspace(0, 1, size[1])[:, None, None] ** 1.5
    column = np.array(SKY) * (1 - ramp) + np.array(GROUND) * ramp  # (H, 1, 3)
    return np.repeat(np.rint(column[..., ::-1]).astype(np.uint8), size[0], 1)


def _fade(distance: np.ndarray) -> np.ndarray:
    """Compute the floor opacity: 1 at the camera target, falling to 0 at ``FLOOR_RADIUS`` and beyond."""
    fade = np.maximum(1 - distance / FLOOR_RADIUS, 0)
    return fade * fade * (3 - 2 * fade)


def _tubes(skeleton: Skeleton) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the end joints (B, 2), radii (B, 2) and colours (B, 3) of all bones."""
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
    """Compute the centre of the head (T, 3), slightly beyond the last joint of the trunk."""
    trunk = next(chain for chain in skeleton.chains if "_" not in skeleton.joint_names[chain[-1]])
    neck = joints[:, trunk[-1]] - joints[:, trunk[-3]]
    return joints[:, trunk[-1]] + 0.08 * neck / np.maximum(np.linalg.norm(neck, axis=-1, keepdims=True), 1e-6)


def _capsules(place: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Compute outlines (T, B, 2 N, 2) of bones with round ends from end points (T, B, 2, 2) and radii (T, B, 2)."""
    along = place[:, :, 1:] - place[:, :, :1]
    length = np.linalg.norm(along, axis=-1, keepdims=True)
    ahead = np.where(length > 1e-6, along / np.maximum(length, 1e-6), [0.0, 1.0])  # (T, B, 1, 2)
    side = ahead[..., ::-1] * [-1, 1]
    turns = np.stack([np.sin(CAP), np.cos(CAP)], -1)  # (N, 2) to the side, ahead
    first, last = (place[:, :, end:end + 1] + radius[:, :, end, None, None]
                   * (turns[:, :1] * side + sign * turns[:, 1:] * ahead) for end, sign in ((0, -1), (1, 1)))
    return np.concatenate([first, last[:, :, ::-1]], 2)
