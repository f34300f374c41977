"""Body mesh of a figure: tapered capsules along the bones."""
from dataclasses import dataclass

import numpy as np

from motion.skeleton import Skeleton

TRUNK, LEFT, RIGHT = range(3)  # sides
SIDES = {"left": LEFT, "right": RIGHT}

# Radii in metres at both ends of a part.
HIP, GIRDLE = (0.092, 0.070), (0.066, 0.052)
LEG, FOOT, TOES = ((0.082, 0.055), (0.055, 0.037)), (0.037, 0.036), (0.034, 0.024)
ARM, HAND = ((0.047, 0.037), (0.037, 0.027)), (0.031, 0.020)
TORSO = (0.118, 0.112, 0.120, 0.124, 0.056)  # from the pelvis to the neck, at even steps of the joints between
NECK, HEAD = (0.050, 0.046), (0.083, 0.088)
# Extension of the ends of an extremity beyond the bone, along its line, in metres.
TOES_AT, HAND_AT, HEAD_AT = (0.0, 0.035), (0.025, 0.105), (0.040, 0.075)
DEPTH = 0.7         # depth of the torso relative to its width
SIDES_OF_A_TUBE, RINGS_OF_A_CAP = 16, 4


@dataclass(frozen=True)
class Part:
    """A capsule on the line from joint ``start`` to joint ``end``, or beyond ``end`` as given by ``past``."""

    start: int
    end: int
    radii: tuple[float, float]
    side: int = TRUNK
    depth: float = 1.0                        # depth from front to back relative to width
    past: tuple[float, float] | None = None   # metres


@dataclass(frozen=True)
class Mesh:
    """Triangle mesh of V vertices, each attached to one joint."""

    corners: np.ndarray    # (V, 3) metres
    normals: np.ndarray    # (V, 3)
    joints: np.ndarray     # (V,) joint that moves the vertex
    triangles: np.ndarray  # (F, 3) counter-clockwise seen from outside


def parts_of(skeleton: Skeleton) -> list[Part]:
    """Parts of a body, from the chains of its skeleton."""
    parts = []
    for chain in skeleton.chains:
        bones = list(zip(chain, chain[1:], strict=False))
        side = SIDES.get(skeleton.joint_names[chain[-1]].split("_")[0], TRUNK)
        if chain[-1] in skeleton.feet:
            radii = [HIP, *LEG, *[FOOT] * (len(bones) - 3)]
            parts += [Part(*bone, pair, side if place else TRUNK)
                      for place, (bone, pair) in enumerate(zip(bones, radii, strict=True))]
            parts.append(Part(*bones[-1], TOES, side, past=TOES_AT))
        elif side == TRUNK:
            widths = np.interp(np.linspace(0, 1, len(bones)), np.linspace(0, 1, len(TORSO)), TORSO).tolist()
            parts += [Part(*bone, pair, depth=DEPTH)
                      for bone, pair in zip(bones[:-1], zip(widths, widths[1:], strict=False), strict=True)]
            parts += [Part(*bones[-1], NECK), Part(*bones[-1], HEAD, past=HEAD_AT)]
        else:
            parts += [Part(*bone, GIRDLE) for bone in bones[:-2]]
            parts += [Part(*bone, pair, side) for bone, pair in zip(bones[-2:], ARM, strict=True)]
            parts.append(Part(*bones[-1], HAND, side, past=HAND_AT))
    return parts


def mesh_of(parts: list[Part], pose: np.ndarray) -> Mesh:
    """Mesh of the parts for a body in ``pose`` (J, 3), in metres with its left side at +x."""
    pieces = [_capsule(part, pose) for part in parts]
    starts = np.cumsum([0, *(len(corners) for corners, _, _ in pieces[:-1])])
    return Mesh(
        np.concatenate([corners for corners, _, _ in pieces]), np.concatenate([normals for _, normals, _ in pieces]),
        np.repeat([part.start for part in parts], [len(corners) for corners, _, _ in pieces]),
        np.concatenate([triangles + start for (_, _, triangles), start in zip(pieces, starts, strict=True)]))


def _capsule(part: Part, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices, normals and triangles of one part: rings from pole to pole."""
    first, last = pose[part.start], pose[part.end]
    along = _unit(last - first)
    if part.past is not None:
        first, last = (last + along * past for past in part.past)
    across = np.array([0.0, 0.0, 1.0]) if abs(along[0]) > 0.9 else np.array([1.0, 0.0, 0.0])
    across = _unit(across - along * (across @ along))
    depth = np.cross(across, along) * (part.depth if abs(along[0]) <= 0.9 else 1.0)
    # Latitudes of both caps: from the first pole to its equator, then from the second equator to its pole.
    south = np.linspace(-np.pi / 2, 0, RINGS_OF_A_CAP)
    latitude, end = np.concatenate([south, -south[::-1]]), np.repeat([0, 1], RINGS_OF_A_CAP)
    turn = np.linspace(0, 2 * np.pi, SIDES_OF_A_TUBE, endpoint=False)
    around = np.cos(turn)[:, None] * across + np.sin(turn)[:, None] * depth            # (S, 3)
    radii = np.array(part.radii)[end][:, None, None]
    up, out = np.sin(latitude)[:, None, None] * along, np.cos(latitude)[:, None, None] * around
    corners = np.stack([first, last])[end][:, None] + radii * (up + out)               # (R, S, 3)
    normals = _unit(up + out / np.linalg.norm(around, axis=-1, keepdims=True) ** 2)
    rings, sides = len(latitude), SIDES_OF_A_TUBE
    ring, place = np.meshgrid(np.arange(rings - 1), np.arange(sides), indexing="ij")
    a, b = ring * sides + place, ring * sides + (place + 1) % sides
    squares = np.stack([a, b + sides, b, a, a + sides, b + sides], -1).reshape(-1, 3)
    corners = corners.reshape(-1, 3)
    edges = corners[squares[:, 1:]] - corners[squares[:, :1]]
    flat = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=-1) < 1e-12  # at the poles
    return corners, normals.reshape(-1, 3), squares[~flat]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
