"""A body of tapered tubes, the farther ones first and paler."""
import numpy as np

from motion.skeleton import Skeleton
from visualization.camera import Camera
from visualization.canvas import SUPERSAMPLE, Canvas, Layer, even_box, ycc
from visualization.floor import GROUND, shadow_of

LEFT, RIGHT, TRUNK = (46, 116, 214), (232, 98, 56), (62, 72, 90)
SIDES = {"left": LEFT, "right": RIGHT}

# Radii in metres at a chain's first and last joint: drawn limbs taper.
LEG, SPINE, ARM, HEAD = (0.064, 0.040), (0.070, 0.046), (0.052, 0.034), 0.105
LIGHT = np.array([-0.6, -0.8])  # where light comes from in the picture
EDGE, TUBE, GLOSS = range(3)    # a limb's outlines, from the back to the front
SWELL = 1.17                    # width of a tube's dark edges, for a width of 1
# Corners of a tube's round end, from side to side: for brightness, and for colours, which films hold more coarsely.
CAP, COARSE_CAP = np.linspace(-np.pi / 2, np.pi / 2, 8), np.linspace(-np.pi / 2, np.pi / 2, 6)


class Body:
    """Draws one motion's body; outlines of all frames are computed at once."""

    def __init__(self, joints: np.ndarray, skeleton: Skeleton, camera: Camera):
        bones, radii, colours = _tubes(skeleton)
        ends = camera.project(joints)[:, bones]                            # (T, B, 2, 3)
        self.head = camera.project(_crown(joints, skeleton)[:, None])[:, 0] * [1, 1, HEAD]  # (T, 3) with the radius
        self.shadow = camera.project(shadow_of(joints))                    # (T, J, 3)
        nearness = ends[..., 2].mean(-1)                                   # (T, B)
        self.order = np.argsort(nearness, axis=1).tolist()
        self.head_rank = (nearness * HEAD < self.head[:, 2:]).sum(1).tolist()
        (*outlines, self.skin), self.relief = _outlines(ends[..., :2], ends[..., 2] * radii)
        ends_at = np.cumsum([2 * outline.shape[2] for outline in outlines]).tolist()
        self.parts = [slice(first, last) for first, last in zip([0, *ends_at], ends_at, strict=False)]
        self.outlines = np.concatenate(outlines, 2)                        # (T, B, N, 2)
        balls = np.concatenate([ends.reshape(len(joints), -1, 3) * [1, 1, max(*LEG, *SPINE, *ARM)],
                                self.head[:, None]], 1) * [1, 1, SWELL]
        self.reach = np.concatenate([balls[..., :2] - balls[..., 2:], balls[..., :2] + balls[..., 2:]], 1)
        depth = nearness / camera.project(joints[:, :1])[..., 2] - 1
        pale = 0.34 * np.clip(0.45 - 4 * depth, 0, 1)[..., None]
        base = colours * (1 - pale) + np.array(GROUND) * pale              # (T, B, 3)
        self.shades = np.rint(ycc(np.stack([base * 0.62, base, base * 0.74 + 66], 2))[..., 0]).astype(int)
        self.hues = np.rint(ycc(base)[..., 1:]).astype(int)                # (T, B, 2)
        self.ball = np.rint(ycc(np.array(TRUNK) * [[0.62], [1.0], [1.25]])).astype(int)[:, 0].tolist()
        self.ball_hue = np.rint(ycc(TRUNK)[1:]).astype(int).tolist()

    def draw(self, frame: int, picture: Canvas) -> None:
        """Draw one frame's body onto ``picture``."""
        box = even_box(self.reach[frame], 1, picture.size)
        if box is None:
            return
        layer = Layer(picture, box)
        bright, colours = layer.pens
        outlines, skin = (((part[frame] - box[:2]) * scale).reshape(len(part[frame]), -1).tolist()
                          for part, scale in ((self.outlines, SUPERSAMPLE), (self.skin, 1)))
        head = (self.head[frame] - [*box[:2], 0]) * SUPERSAMPLE
        shades, hues, relief = (values[frame].tolist() for values in (self.shades, self.hues, self.relief))
        for rank, bone in enumerate([*self.order[frame], None]):
            if rank == self.head_rank[frame]:
                for shift, share, shade in zip((0, 0, 0.28), (1.08, 1.0, 0.55), self.ball, strict=True):
                    bright.ellipse(_circle(head, shift, share), fill=shade)
                colours.ellipse(_circle(head / 2, 0, 1.08), fill=_pair(self.ball_hue))
            if bone is not None:
                for part in (EDGE, TUBE, GLOSS) if relief[bone] else (TUBE,):
                    bright.polygon(outlines[bone][self.parts[part]], fill=shades[bone][part])
                colours.polygon(skin[bone], fill=_pair(hues[bone]))
        layer.put_back()


def _pair(hue: list[int]) -> tuple[int, int, int, int]:
    cb, cr = hue
    return cb, 0, cr, 0


def _circle(ball: np.ndarray, shift: float, share: float) -> list[float]:
    x, y, radius = ball.tolist()
    x, y, r = x - shift * radius, y - shift * radius, share * radius
    return [x - r, y - r, x + r, y + r]


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


def _outlines(place: np.ndarray, radius: np.ndarray) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Corners (T, B, N, 2) of each bone's dark edge, tube, light streak, and all of them together, from its two ends
    (T, B, 2, 2) and radii there (T, B, 2); and whether edge and streak show at all (T, B)."""
    along = place[:, :, 1:] - place[:, :, :1]                              # (T, B, 1, 2)
    length = np.linalg.norm(along, axis=-1, keepdims=True)
    ahead = along / np.maximum(length, 1e-6)
    side = ahead[..., ::-1] * [-1, 1]
    side = np.where((side * LIGHT).sum(-1, keepdims=True) < 0, -side, side)
    wide = radius[..., None] * side                                        # (T, B, 2, 2) towards the light
    # Edge and streak narrow to nothing at the ends, and on bones as short as wide, so that joints stay smooth.
    relief = np.clip(length / (2 * radius.mean(-1)[..., None, None]) - 0.7, 0, 1)
    inner = place + 0.2 * along * [[1.0], [-1.0]]
    first, last = place[:, :, :1], place[:, :, 1:]

    def round_ends(cap: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        turns = np.stack([np.sin(cap), np.cos(cap)], -1)                   # (N, 2) along the side, ahead
        behind, front = (end + reach[..., None] * (turns[:, :1] * side + sign * turns[:, 1:] * ahead)
                         for end, reach, sign in ((first, radius[:, :, :1], -1), (last, radius[:, :, 1:], 1)))
        return behind, front[:, :, ::-1]

    tube = np.concatenate(round_ends(CAP), 2)
    swell = 1 + (SWELL - 1) * relief
    up, down = inner + wide * swell, inner - wide * swell
    edge = np.concatenate([first + wide[:, :, :1], up, last + wide[:, :, 1:],
                           last - wide[:, :, 1:], down[:, :, ::-1], first - wide[:, :, :1]], 2)
    low, high = 0.42 - 0.2 * relief, 0.42 + 0.2 * relief
    gloss = np.concatenate([inner + wide * high, inner[:, :, ::-1] + wide[:, :, ::-1] * low], 2)
    behind, front = round_ends(COARSE_CAP)
    skin = np.concatenate([behind, up, front, down[:, :, ::-1]], 2)
    return (edge, tube, gloss, skin), relief[..., 0, 0] > 0
