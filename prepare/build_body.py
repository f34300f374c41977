"""Build the body of the figure (visualization/page/body.bin) from MakeHuman's base mesh, in Blender.

    blender -b -P prepare/build_body.py -- --source FOLDER --out visualization/page/body.bin

FOLDER has MakeHuman's base.obj, rig.mixamo.json and weights.mixamo.json (CC0). The base mesh becomes a person in a
sweater, trousers and shoes. Pieces are cut out, smoothed, inflated and simplified, and each vertex copies the weights
of the nearest point of the base mesh. ``visualization/body.py`` describes the file format.
"""
import argparse
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import bpy
import numpy as np
from mathutils import Vector
from mathutils.bvhtree import BVHTree

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from prepare.base_mesh import (
    COUNT,
    EYES,
    HAIR,
    LIPS,
    SHOES,
    SKIN,
    SOLES,
    TOP,
    TROUSERS,
    BaseMesh,
    Piece,
    along,
    hemmed,
    mirrored,
    neighbours,
    normals_of,
    on_border,
    simplified,
    smooth,
    triangles,
    without,
)

HEM = 0.074         # height of the trousers' hem above the floor, metres
NECK = np.array([0.068, 0.057])  # half width and half depth of the sweater's neck, metres
RAYS, REACH = 96, 0.25  # ambient occlusion: rays per vertex, and their length in metres


def hair_line(places: np.ndarray) -> np.ndarray:
    """Return the heights (V,) of ``places`` above the hairline (forehead, temples, ears, nape), in metres."""
    x, y, z = np.abs(places[:, 0]), places[:, 1], places[:, 2]
    line = np.interp(z, [-0.05, -0.015, 0.0, 0.05, 0.062, 0.08, 0.115, 0.16],
                     [1.470, 1.495, 1.560, 1.575, 1.548, 1.552, 1.605, 1.628])
    return y - line + 0.10 * np.maximum(x - 0.045, 0) * (z > 0.085)


def head(source: BaseMesh) -> list[Piece]:
    """Build face and neck, eyes, eyebrows and hair."""
    def stays(centres: np.ndarray) -> np.ndarray:
        below = np.hypot(centres[:, 0] / NECK[0], (centres[:, 2] - 0.022) / NECK[1]) < 1.12
        line = np.where(centres[:, 2] < 0.02, 0.06, 0.035)  # overlap with the hair, larger at the back
        return (centres[:, 1] > 1.33) & ((centres[:, 1] > 1.42) | below) & (hair_line(centres) < line)

    face = source.cut(keep=stays, seen=True)
    nearness = np.exp(-(((face.places - [0, 1.52, 0.14]) / [0.055, 0.075, 0.07]) ** 2).sum(1))
    ears = 0.35 * (np.abs(face.places[:, 0]) > 0.066) * (np.abs(face.places[:, 1] - 1.53) < 0.045)
    bald = face.places[:, 1] > 1.60
    face = simplified(face, 960, np.clip(np.maximum(nearness, ears) + 0.06 - 0.06 * bald, 0.0, 1), symmetric=True)
    mouth = np.exp(-(((face.places - [0, 1.4815, 0.152]) / [0.021, 0.0075, 0.03]) ** 2).sum(1))
    face.zones = np.where(mouth > 0.42, LIPS, SKIN)

    pieces = [face]
    eye = source.cut("helper-l-eye")
    middle = (eye.places.min(0) + eye.places.max(0)) / 2
    front = (eye.places - middle) / np.linalg.norm(eye.places - middle, axis=1, keepdims=True)
    eye.zones = np.where(front[:, 2] > 0.82, EYES, SOLES)  # white around the iris
    eye.weights = np.eye(COUNT)[[15] * len(eye.places)]
    eye = without(eye, front[:, 2] < -0.1)
    pieces += [eye, mirrored(eye)]
    pieces += [brow := eyebrow(source), mirrored(brow)]

    scalp = source.cut(keep=lambda centres: (hair_line(centres) > -0.003) & (centres[:, 1] > 1.46)
                       & ~((np.abs(centres[:, 0]) > 0.0745) & (centres[:, 1] < 1.580) & (centres[:, 2] > -0.015)))
    near = neighbours(scalp)
    height = np.clip(hair_line(scalp.places) / 0.05, 0, 1)
    crown = np.clip((scalp.places[:, 1] - 1.60) / 0.06, 0, 1)
    places = smooth(scalp.places, near, 6)
    lift = smooth((0.004 + 0.011 * np.sqrt(height) + 0.010 * crown)[:, None], near, 4)
    scalp.places = smooth(places + lift * normals_of(places, scalp.faces), near, 4)
    scalp = hemmed(simplified(scalp, 190, symmetric=True), 0.006)
    scalp.zone = HAIR
    scalp.weights = np.eye(COUNT)[[15] * len(scalp.places)]
    return [*pieces, scalp]


def eyebrow(source: BaseMesh) -> Piece:
    """Build the left eyebrow as a thin strip."""
    rows = []
    for x, y, half in ((0.012, 1.5605, 0.0028), (0.020, 1.5640, 0.0036), (0.030, 1.5665, 0.0032),
                       (0.040, 1.5650, 0.0026), (0.049, 1.5600, 0.0012)):
        for side in (-1, 1):
            at, normal, _, _ = source.tree.ray_cast((x, y + side * half, 0.4), (0, 0, -1))
            rows.append(np.array(at) + 0.0016 * np.array(normal))
    faces = [(2 * i, 2 * i + 2, 2 * i + 3, 2 * i + 1) for i in range(4)]
    return Piece(np.array(rows), faces, HAIR, weights=np.eye(COUNT)[[15] * len(rows)])


def hand(source: BaseMesh, joints: np.ndarray) -> Piece:
    """Build the left hand, which starts inside the sleeve."""
    return simplified(source.cut(keep=lambda centres: (centres[:, 0] > 0.3) & (
        along(centres, joints[18], joints[20]) > 0.86)), 370)


def sweater(source: BaseMesh, joints: np.ndarray) -> Piece:
    """Build the sweater, with long sleeves, a round neck, and a hem over the trousers."""
    elbow, wrist = joints[18], joints[20]
    mirror = np.array([-1, 1, 1])
    arm = (wrist - elbow) / np.linalg.norm(wrist - elbow)
    end, neck, hem = elbow + 0.95 * (wrist - elbow), np.array([0, 1.39, 0.022]), np.array([0, 0.862, 0])

    def is_arm(sign: int) -> Callable[[np.ndarray], np.ndarray]:
        return lambda centres: (centres[:, 0] * sign > 0.3) & (centres[:, 1] > 0.85)

    def is_trunk(centres: np.ndarray) -> np.ndarray:
        return np.abs(centres[:, 0]) < 0.24

    planes = [(end, arm, is_arm(1)), (end * mirror, arm * mirror, is_arm(-1)),
              (hem, np.array([0, 1, 0]), is_trunk)]

    def stays(centres: np.ndarray) -> np.ndarray:
        side = np.abs(centres) * [1, 1, 0] + centres * [0, 0, 1]
        from_neck = np.linalg.norm((centres - neck)[:, [0, 2]] / NECK, axis=1)
        return np.where(is_arm(1)(side), along(side, elbow, wrist) < 0.95,
                        (centres[:, 1] > hem[1]) & (centres[:, 1] < 1.42) & ((from_neck > 1) | (centres[:, 1] < 1.33)))

    piece = source.cut(keep=stays, planes=planes)
    rim = np.flatnonzero(on_border(piece))
    rim = rim[(piece.places[rim, 1] > 1.3) & (np.abs(piece.places[rim, 0]) < 0.15)]
    out = (piece.places[rim] - neck)[:, [0, 2]]
    out /= np.linalg.norm(out / NECK, axis=1, keepdims=True)
    for row, (x, z) in zip(rim, out, strict=True):  # make the opening round
        at, normal, _, _ = source.tree.ray_cast((neck[0] + x, 1.42, neck[2] + z), (0, -1, 0))
        piece.places[row] = np.array(at) + 0.004 * np.array(normal)
    around = rim[np.argsort(np.arctan2(out[:, 0], out[:, 1]))]
    for _ in range(30):
        height = piece.places[around, 1]
        piece.places[around, 1] = (np.roll(height, 1) + height + np.roll(height, -1)) / 3
    loose = 0.009 + 0.018 * np.clip((1.00 - piece.places[:, 1]) / 0.1, 0, 1) * (np.abs(piece.places[:, 0]) < 0.24)
    piece = cloth(piece, source, TOP, loose, 20)
    flatten(piece.places, np.array([0, 1.19, 0.10]), np.array([0.15, 0.15, 0.10]))
    return hemmed(simplified(piece, 780, symmetric=True))


def cloth(piece: Piece, source: BaseMesh, zone: int, thickness: float | np.ndarray, rounds: int) -> Piece:
    """Turn a piece of the body into a garment: smooth it, and push it at least about ``thickness`` metres outwards."""
    near, fixed = neighbours(piece), on_border(piece)
    places = smooth(piece.places, near, rounds)
    places[fixed] = piece.places[fixed]
    for _ in range(4):
        normals = smooth(normals_of(places, piece.faces), near, 4)
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        gaps = np.zeros(len(places))
        for row, place in enumerate(places):
            at, normal, _, _ = source.tree.find_nearest(place)
            gaps[row] = (Vector(place) - at).dot(normal)
        push = smooth(np.maximum(thickness - gaps, 0)[:, None], near, 2)
        places = places + push * normals
    places = smooth(places, near, 3, fixed)
    return Piece(places, piece.faces, zone)


def flatten(places: np.ndarray, middle: np.ndarray, size: np.ndarray) -> None:
    """Replace the front of the chest, in place, with a smooth surface that looks like hanging cloth."""
    away = (places - middle) / size
    mask = np.clip(1.6 * (1 - (away**2).sum(1)), 0, 1)
    front = (np.abs(away[:, :2]) < 1.3).all(1) & (places[:, 2] > 0.03)
    x, y = places[:, 0] / 0.15, (places[:, 1] - middle[1]) / 0.15
    terms = np.stack([np.ones_like(x), y, x**2, y**2, x**2 * y, x**4, y**3, x**2 * y**2, x**4 * y], 1)
    fit = np.linalg.lstsq(terms[front], places[front, 2], rcond=None)[0]
    share = mask * front * (3 - 2 * mask) * mask
    places[:, 2] += share * (terms @ fit + 0.006 - places[:, 2])


def trousers(source: BaseMesh, joints: np.ndarray) -> Piece:
    """Build the trousers, which reach from the waist, covered by the sweater, to the shoes."""
    low, high, up = np.array([0, 0.118, 0]), np.array([0, 0.915, 0]), np.array([0, 1, 0])

    def is_leg(centres: np.ndarray) -> np.ndarray:
        return (np.abs(centres[:, 0]) < 0.29) & (centres[:, 1] < 1.05)

    piece = source.cut(planes=[(low, up, is_leg), (high, up, is_leg)], keep=lambda centres: is_leg(centres) & (
        centres[:, 1] > low[1]) & (centres[:, 1] < high[1]))
    piece = cloth(piece, source, TROUSERS, 0.005, 10)
    # Straight legs: minimum width around the shin.
    for side in (1, -1):
        knee, ankle = joints[4] * [side, 1, 1], joints[7] * [side, 1, 1]
        ankle = ankle + [0, -0.06, -0.005]
        rows = np.flatnonzero((piece.places[:, 0] * side > 0) & (along(piece.places, knee, ankle) > 0))
        share = along(piece.places[rows], knee, ankle)
        axis = knee + share[:, None] * (ankle - knee) + np.array([0, 0, -0.012])
        out = piece.places[rows] - axis
        far = np.linalg.norm(out * [1, 0, 1], axis=1)
        wide = np.interp(share, [0, 0.25, 1], [0.0, 0.056, 0.066])
        piece.places[rows] = axis + out * (np.maximum(far, wide) / far)[:, None] ** [[1, 0, 1]]
    piece.places = smooth(piece.places, neighbours(piece), 4, on_border(piece))
    piece = simplified(piece, 480, symmetric=True)
    piece.places[on_border(piece) & (piece.places[:, 1] < 0.15), 1] = HEM
    return hemmed(piece)


def shoe(joints: np.ndarray) -> Piece:
    """Build the left shoe: a white sole on the floor, and an upper."""
    centre, around, rows = joints[7, 0], 20, []
    # Columns: z, middle x, half width of the sole, height of the upper.
    sections = [
        (-0.066, 0.006, 0.010, 0.070), (-0.060, 0.006, 0.025, 0.088), (-0.042, 0.004, 0.035, 0.100),
        (-0.010, 0.002, 0.038, 0.104), (0.025, 0.002, 0.038, 0.103), (0.055, 0.002, 0.040, 0.092),
        (0.085, 0.000, 0.045, 0.078), (0.115, 0.000, 0.050, 0.064), (0.145, 0.001, 0.052, 0.054),
        (0.172, 0.002, 0.048, 0.047), (0.193, 0.001, 0.037, 0.041), (0.207, -0.001, 0.020, 0.034),
        (0.212, -0.002, 0.006, 0.028)]
    turn = np.linspace(0, np.pi, around // 2 - 1)
    for z, middle, half, height in sections:
        # Bottom edge and side of the sole, over the top, and down the other side.
        arch = [(np.cos(angle) * half, 0.024 + (height - 0.024) * np.sin(angle) ** 0.75) for angle in turn]
        ring = [(half * 0.96, 0.0), (half * 1.07, 0.006), (half * 1.07, 0.022), *arch,
                (-half * 1.07, 0.022), (-half * 1.07, 0.006), (-half * 0.96, 0.0)]
        rows.append([(centre + middle + x, y, z) for x, y in ring])
    rows = np.array(rows)
    places, size = rows.reshape(-1, 3), rows.shape[1]
    faces = [(start + a, start + b, start + b + size, start + a + size) for start in range(0, len(places) - size, size)
             for a, b in ((place, (place + 1) % size) for place in range(size))]
    faces += [tuple(reversed(range(size))), tuple(range(len(places) - size, len(places)))]
    ring = np.where(np.isin(np.arange(size), [0, 1, 2, size - 1, size - 2, size - 3]), SOLES, SHOES)
    zones = np.tile(ring, len(rows))
    toes = np.clip((places[:, 2] - joints[10, 2] + 0.012) / 0.034, 0, 1)[:, None]
    toes = toes * toes * (3 - 2 * toes)
    return Piece(places, faces, SHOES, zones, np.eye(COUNT)[7] * (1 - toes) + np.eye(COUNT)[10] * toes)


def figure(source: BaseMesh, joints: np.ndarray) -> list[Piece]:
    """Build all pieces, with weights and colour zones."""
    left_hand, left_shoe = hand(source, joints), simplify_shoe(shoe(joints))
    pieces = [*head(source), left_hand, mirrored(left_hand), sweater(source, joints), trousers(source, joints),
              left_shoe, mirrored(left_shoe)]
    for piece in pieces:
        if piece.weights is None:
            piece.weights = source.nearest(piece.places)
            if piece.zone in (TOP, TROUSERS):
                piece.weights = smooth(piece.weights, neighbours(piece), 5)
                calm = np.exp(-((np.hypot(piece.places[:, 0], piece.places[:, 2]) / 0.085) ** 4)) * (
                    piece.places[:, 1] > 1.25)  # the neck of the sweater does not move with the shoulders
                moving = piece.weights[:, [13, 14, 22, 23]] * calm[:, None]
                piece.weights[:, [13, 14, 22, 23]] -= moving
                piece.weights[:, 9] += moving.sum(1)
        if piece.zones is None:
            piece.zones = np.full(len(piece.places), piece.zone)
    return pieces


def simplify_shoe(piece: Piece) -> Piece:
    """Triangulate the shoe. Upper and sole have separate vertices at their seam, so that their colours do not blend."""
    row: dict[tuple[int, int], int] = {}  # new vertex by old vertex and zone
    faces = []
    for face in (part for polygon in piece.faces for part in triangles(polygon)):
        zone = SOLES if (piece.zones[list(face)] == SOLES).all() else SHOES
        faces.append(tuple(row.setdefault((corner, zone), len(row)) for corner in face))
    corners, zones = np.array(list(row)).T
    return Piece(piece.places[corners], faces, SHOES, zones, piece.weights[corners])


def shades(places: np.ndarray, normals: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return the ambient light (V,) of each vertex, in [0, 1]. Rays that hit the figure nearby count less."""
    tree = BVHTree.FromPolygons(places.tolist(), faces.tolist())
    rays = np.random.default_rng(0).normal(size=(RAYS, 3))
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    light = np.zeros(len(places))
    for row, (place, normal) in enumerate(zip(places, normals, strict=True)):
        sent = rays + normal
        sent /= np.linalg.norm(sent, axis=1, keepdims=True)
        start = Vector(place + 0.004 * normal)
        free = [1.0 if (hit := tree.ray_cast(start, Vector(ray), REACH))[0] is None else 0.6 * hit[3] / REACH
                for ray in sent]
        light[row] = np.mean(free)
    return light


def four(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the joints with the four largest weights (V, 4), and these weights as integers that sum to 255."""
    joints = np.argsort(-weights, axis=1)[:, :4]
    kept = np.take_along_axis(weights, joints, 1)
    whole = np.rint(255 * kept / kept.sum(1, keepdims=True)).astype(int)
    whole[:, 0] += 255 - whole.sum(1)
    return np.where(whole > 0, joints, 0).astype(np.uint8), whole.astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="folder of MakeHuman's base mesh")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    opt = parser.parse_args(sys.argv[sys.argv.index("--") + 1:])
    bpy.ops.wm.read_factory_settings(use_empty=True)
    source = BaseMesh(opt.source)
    joints = source.joints()
    pieces = figure(source, joints)
    starts = np.cumsum([0, *(len(piece.places) for piece in pieces)])
    places = np.concatenate([piece.places for piece in pieces])
    normals = np.concatenate([normals_of(piece.places, piece.faces) for piece in pieces])
    faces = np.array([np.add(triangle, start) for piece, start in zip(pieces, starts, strict=False)
                      for face in piece.faces for triangle in triangles(face)])
    zones = np.concatenate([piece.zones for piece in pieces])
    bones, weights = four(np.concatenate([piece.weights for piece in pieces]))
    light = shades(places, normals, faces)
    light[np.isin(zones, [EYES, SOLES])] = np.maximum(light[np.isin(zones, [EYES, SOLES])], 0.8)
    for piece, start in zip(pieces, starts, strict=False):
        print(f"zone {piece.zone}: {len(piece.places)} vertices from {start}")
    counts = np.array([len(places), len(faces)], "<u4")
    columns = (np.rint(places * 1e4).astype("<i2"), np.rint(normals * 127).astype("i1"), bones, weights,
               zones.astype("u1"), np.rint(light * 255).astype("u1"))
    data = b"".join(part.tobytes() for part in (counts, joints.astype("<f4"), faces.astype("<u2"), *columns))
    opt.out.write_bytes(zlib.compress(data, 9))
    print(f"{len(places)} vertices, {len(faces)} triangles, {opt.out.stat().st_size} bytes: {opt.out}")


if __name__ == "__main__":
    main()
