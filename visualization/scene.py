"""Draw motions with OpenCV: camera, floor, shadow, and a shaded person or limbs.

Pictures are (H, W, 3) uint8 in BGR, as in OpenCV. Projections and limb outlines are computed once for all frames, so
that drawing a frame takes a few milliseconds.
"""
from dataclasses import dataclass, replace
from functools import cached_property

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
        """Axes of the camera as rows (3, 3): right, up, backward."""
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
        """Compute the floor coordinates x and z of all pixels, (H, W, 2), relative to the target.

        Pixels above the horizon get distant points."""
        width, height = self.size
        x, y = np.arange(width) + 0.5 - width / 2, self.centre * height - np.arange(height)[:, None] - 0.5
        down = self.focal * height * self.axes[2, 1] - y * self.axes[1, 1]  # of a row, as the camera does not roll
        steps = (self.distance * self.axes[2, 1] + self.target[0, 1]) / np.maximum(down, 1e-6)
        return np.stack([self.distance * back + steps * (x * right + (y * up - self.focal * height * back))
                         for right, up, back in self.axes.T[[0, 2]]], -1)


def follow(joints: np.ndarray, fps: float, size: tuple[int, int], headroom: float = 0.0) -> Camera:
    """Create a camera that follows the root of joints (T, J, 3) and keeps the whole body in view.

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
FINE = 1.25    # supersampling factor of the body, for smooth edges


class Person:
    """Draws the body mesh for joints (T, 22, 3) in metres, as seen by a camera."""

    def __init__(self, joints: np.ndarray, camera: Camera, sides: tuple[tuple[int, int, int], ...]) -> None:
        """``sides``: RGB colours of the left and right."""
        self.joints, self.camera = joints, camera
        offsets, stance = offsets_of(joints), stances(joints)
        self.fitted = fit(offsets, stance)
        self.moves, self.moved = self.fitted.moves(joints, world_turns(joints, offsets, stance))
        body = self.fitted.body
        colours = np.array([list(bytes.fromhex(colour[1:])) for colour in PALETTE], float)[body.zones]
        share = TINT * np.abs(body.sides)[:, None]
        tint = np.where(body.sides[:, None] > 0, *np.array(sides, float))
        self.colours = ((1 - share) * colours + share * tint)[:, ::-1] * (0.5 + 0.5 * body.light[:, None])  # BGR
        self.sun = SUN / np.linalg.norm(SUN)
        self.triangles = body.triangles.astype(np.int32)

    def draw(self, frame: int, picture: np.ndarray) -> None:
        """Draw a frame onto ``picture`` (H, W, 3) in BGR."""
        places, normals = self.fitted.posed(self.joints[frame], self.moves[frame], self.moved[frame])
        seen = self.camera.project(places, frame)                       # (V, 3) pixels, pixels per metre
        low = np.maximum(np.floor(seen[:, :2].min(0)).astype(int) - 1, 0)
        high = np.minimum(np.ceil(seen[:, :2].max(0)).astype(int) + 2, picture.shape[1::-1])
        if (high <= low).any():
            return
        light = SKYLIGHT + (1 - SKYLIGHT) * 1.45 * (normals @ self.sun).clip(0)[:, None] + 0.12 * normals[:, 1:2]
        colours = (self.colours * light / 255).clip(0, 1).astype(np.float32)
        part = picture[low[1]:high[1], low[0]:high[0]]
        size = np.ceil((high - low) * FINE).astype(int)
        fine = np.zeros((size[1], size[0], 3), np.float32)
        # OpenCV uses its own camera. Convert the points so that a field of view of 90° gives the same pixels.
        depth = self.camera.focal * self.camera.size[1] / seen[:, 2:]
        across = (2 * (seen[:, :2] - low + 0.5) * (size / (high - low)) - size) / size[1] * [1, -1]
        points = np.concatenate([across * depth, -depth], 1, dtype=np.float32)
        far = float(depth.max()) + 1
        fine, depths = cv2.triangleRasterize(points, self.triangles, colours, fine, np.full(size[::-1], far, "f4"),
                                             np.eye(4, dtype=np.float32), np.pi / 2, 0.05, far)
        # Compare with a tolerance, because untouched depths are returned with rounding errors.
        cover = cv2.resize(cv2.compare(depths, far - 0.5, cv2.CMP_LT), part.shape[1::-1])
        edge = np.nonzero(cv2.inRange(cover, 1, 254))
        behind = part[edge] * (1 - cover[edge][:, None] / 255)
        part[:] = cv2.copyTo(cv2.resize(cv2.convertScaleAbs(fine, alpha=255), part.shape[1::-1]), cover, part)
        part[edge] += np.rint(behind).astype(np.uint8)


# Colours are RGB.
SKY, GROUND, GRID, SHADOW, TRACE = (252, 252, 253), (229, 234, 240), (170, 181, 195), (92, 104, 124), (238, 160, 40)
LEFT, RIGHT, TRUNK = (46, 116, 214), (232, 98, 56), (62, 72, 90)
SIDES = {"left": LEFT, "right": RIGHT}

LEG, SPINE, ARM, HEAD = (0.064, 0.040), (0.070, 0.046), (0.052, 0.034), 0.105  # radii in metres, from root to tip
LIGHT = np.array([-0.6, -0.8])  # light direction in the picture
CAP = np.linspace(-np.pi / 2, np.pi / 2, 12)  # vertices of a limb's round end

CELL = 0.5           # metres between floor lines
FLOOR_RADIUS = 3.4   # metres from the camera's target at which the floor has faded out
LEAN = np.array([-0.30, 0.0, 0.22])  # offset of a shadow per metre of height
SHADOW_WIDTH, SHADOW_DEPTH = 0.11, 0.35   # metres, and opacity
TRACE_WIDTH, TRACE_STEP, TRACE_PIECES = 0.035, 2, 8  # metres, frames between points, shades along the path

SHIFT = 4            # fractional bits of coordinates, for smooth movement
cv2.setNumThreads(1)  # videos are written in parallel by several processes


class Scene:
    """Draws one motion: joints (T, J, 3) in metres, y up, floor at y = 0."""

    def __init__(self, joints: np.ndarray, skeleton: Skeleton, camera: Camera) -> None:
        self.camera, self.frames = camera, len(joints)
        self.background = _background(camera.size)
        self.fade = (255 * _fade(_distance(camera.floor_points(), camera))).astype(np.uint8)
        self.top = int(self.fade.any(1).argmax())  # first row of the floor
        self.chains = [list(chain) for chain in skeleton.chains]
        shadow = joints + joints[..., 1:2] * LEAN
        shadow[..., 1] = 0
        self.shadow = camera.project(shadow) / 2  # (T, J, 3) drawn at half resolution, as it is blurred
        self.path = joints[:, 0] * [1, 0, 1]
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
        target = self.camera.target[frame] * [1, 0, 1]
        steps = np.arange(-FLOOR_RADIUS // CELL, FLOOR_RADIUS // CELL + 2) * CELL
        width, height = self.camera.size
        reach = np.sqrt(np.maximum(FLOOR_RADIUS**2 - steps**2, 0.01)) * max(1, width / height)
        lines = []
        for axis, other in ((0, 2), (2, 0)):
            ends = np.zeros((len(steps), 2, 3))
            ends[..., axis] = (np.floor(target[axis] / CELL) * CELL + steps)[:, None]
            ends[..., other] = target[other] + np.stack([-reach, reach], -1)
            lines.append(ends)
        ends = self.camera.project(np.concatenate(lines).reshape(-1, 3), frame)[:, :2].reshape(-1, 2, 1, 2)
        mask = np.zeros((height - self.top, width), np.uint8)
        cv2.polylines(mask, list(_fixed(ends - [0, self.top])), False, 255, max(1, height // 500), cv2.LINE_AA, SHIFT)
        picture = self.background.copy()
        _darken(picture[self.top:], cv2.multiply(mask, self.fade[self.top:], scale=1 / 255), GRID, 1.0)
        return picture

    def trace(self, frame: int, picture: np.ndarray) -> None:
        """Draw the path of the root up to this frame."""
        points = self.path[:frame + 1:TRACE_STEP]
        away = np.linalg.norm(points - self.camera.target[frame] * [1, 0, 1], axis=-1)
        seen = np.flatnonzero(away < 0.92 * FLOOR_RADIUS)
        if len(seen) < 2:
            return
        points, away = points[seen[0]:seen[-1] + 1], away[seen[0]:seen[-1] + 1]
        ahead = np.gradient(points, axis=0)
        side = ahead[:, [2, 1, 0]] * [1, 0, -1] * TRACE_WIDTH / 2
        side /= np.maximum(np.linalg.norm(ahead, axis=-1, keepdims=True), 1e-6)
        edges = self.camera.project(np.concatenate([points - side, points + side]), frame)[:, :2]
        left, right = edges[:len(points)], edges[len(points):]
        cuts = np.unique(np.linspace(0, len(points) - 1, TRACE_PIECES + 1).astype(int))
        for first, last in zip(cuts, cuts[1:], strict=False):
            middle = (first + last) // 2
            cover = 0.9 * _fade(away[middle]) * (0.4 + 0.6 * middle / len(points))
            outline = np.concatenate([left[first:last + 1], right[first:last + 1][::-1]])
            cv2.fillPoly(picture, [_fixed(outline)], _mixed(TRACE, GROUND, cover), cv2.LINE_AA, SHIFT)

    def cast_shadow(self, frame: int, picture: np.ndarray) -> None:
        """Draw the soft shadow of the body."""
        joints, blur = self.shadow[frame], max(3, self.camera.size[1] // 200) | 1
        wide = [max(1, round(joints[chain, 2].mean() * SHADOW_WIDTH)) for chain in self.chains]
        reach = max(wide) + blur
        low = np.floor(joints[:, :2].min(0)).astype(int) - reach
        high = np.ceil(joints[:, :2].max(0)).astype(int) + reach
        low, high = low.clip(0), np.minimum(high, np.array(self.camera.size) // 2)
        if (high <= low).any():
            return
        small = np.zeros((high - low)[::-1], np.uint8)
        for chain, width in zip(self.chains, wide, strict=True):
            cv2.polylines(small, [_fixed(joints[chain, :2] - low)], False, 255, width, cv2.LINE_AA, SHIFT)
        part = picture[2 * low[1]:2 * high[1], 2 * low[0]:2 * high[0]]
        mask = cv2.resize(cv2.blur(small, (blur, blur)), part.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        _darken(part, mask, SHADOW, SHADOW_DEPTH)

    def body(self, frame: int, picture: np.ndarray) -> None:
        """Draw the person, or limbs from back to front, each as a dark edge, a tube and a light streak."""
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
    return np.rint(points.clip(-4096, 8192) * 2**SHIFT).astype(np.int32)


def _mixed(colour: tuple[int, int, int], other: tuple[int, int, int], share: float) -> tuple[float, ...]:
    """Mix two RGB colours and return BGR. ``share`` is the fraction of ``colour``."""
    return tuple((np.array(colour) * share + np.array(other) * (1 - share))[::-1].tolist())


def _darken(picture: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int], opacity: float) -> None:
    """Blend a ground ``picture`` with ``colour`` where ``mask`` (H, W) is set."""
    depths = opacity * (np.array(GROUND) - colour)[::-1] / 255
    layers = cv2.merge([cv2.convertScaleAbs(mask, alpha=depth) for depth in depths])
    picture[:] = cv2.subtract(picture, layers)


def _background(size: tuple[int, int]) -> np.ndarray:
    ramp = np.linspace(0, 1, size[1])[:, None, None] ** 1.5
    column = np.array(SKY) * (1 - ramp) + np.array(GROUND) * ramp  # (H, 1, 3)
    return np.repeat(np.rint(column[..., ::-1]).astype(np.uint8), size[0], 1)


def _distance(points: np.ndarray, camera: Camera) -> np.ndarray:
    """Compute distances (...) of floor points (..., 2) from the camera target, as foreshortened in the picture.

    Sideways distances count less in wide pictures, and depth counts more at a higher camera.
    """
    width, height = camera.size
    across, ahead = (points @ axis[[0, 2]] for axis in (camera.axes[0], camera.axes[2]))
    return np.hypot(across * min(1, height / width), ahead / np.cos(camera.elevation))


def _fade(distance: np.ndarray) -> np.ndarray:
    """Compute the floor opacity: 1 at the camera target, 0 from ``FLOOR_RADIUS``."""
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
