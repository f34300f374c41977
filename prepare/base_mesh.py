"""MakeHuman's base mesh, and functions that turn parts of it into garments and body parts. Runs inside Blender."""
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import bmesh
import bpy
import numpy as np
from mathutils import Vector
from mathutils.bvhtree import BVHTree

SCALE, FLOOR = 0.1, 0.8168  # unit of the base mesh in metres, and height of its origin above the floor
SKIN, HAIR, TOP, TROUSERS, SHOES, SOLES, EYES, LIPS = range(8)
# Joint (of the 22) that takes the weights of each bone. The weights of fingers go to the wrist.
SIDED = {"UpLeg": 1, "Leg": 4, "Foot": 7, "ToeBase": 10, "Shoulder": 13, "Arm": 16, "ForeArm": 18, "Hand": 20}
MIDDLE = {"Hips": 0, "Spine": 3, "Spine1": 6, "Spine2": 9, "Neck": 12, "Head": 15}
# Positions of left and middle joints in metres. Other limb joints are those of the base mesh.
JOINTS = {0: (0, 0.904, 0.012), 3: (0, 1.023, -0.004), 6: (0, 1.155, -0.006), 9: (0, 1.203, 0.008),
          12: (0, 1.397, -0.022), 15: (0, 1.481, -0.007), 13: (0.055, 1.318, -0.008)}
BONES = {1: "LeftUpLeg", 4: "LeftLeg", 7: "LeftFoot", 10: "LeftToeBase", 16: "LeftArm", 18: "LeftForeArm",
         20: "LeftHand"}
MIRRORED = {1: 2, 4: 5, 7: 8, 10: 11, 13: 14, 16: 17, 18: 19, 20: 21, 22: 23, 24: 25}
# Additional joints that turn half as far as a shoulder or hip, to keep the volume around it.
HALVES = {22: ([9, 12, 13], 16), 23: ([9, 12, 14], 17), 24: ([0, 3], 1), 25: ([0, 3], 2)}
COUNT = 26
SOLE = 0.010        # height of the toe joint above the sole in metres


@dataclass
class Piece:
    """Mesh of a part of the figure: vertices (V, 3), polygons, and a colour zone per vertex."""

    places: np.ndarray
    faces: list[tuple[int, ...]]
    zone: int
    zones: np.ndarray | None = None    # (V,) colour zones; None: ``zone`` everywhere
    weights: np.ndarray | None = None  # (V, 26) weights; None: those of the nearest point of the base mesh

    def edges(self) -> list[tuple[int, int]]:
        """Return the directed edges of all faces."""
        return [edge for face in self.faces for edge in zip(face, face[1:] + face[:1], strict=True)]


class BaseMesh:
    """MakeHuman's base mesh in metres, with faces by group and skinning weights per vertex."""

    def __init__(self, folder: Path) -> None:
        places, self.groups, group = [], {}, ""
        for line in (folder / "base.obj").read_text().splitlines():
            kind, *words = line.split() or [""]
            if kind == "v":
                places.append([float(word) * SCALE for word in words])
            elif kind == "g":
                group = words[0]
            elif kind == "f":
                self.groups.setdefault(group, []).append(tuple(int(word.split("/")[0]) - 1 for word in words))
        self.places = np.array(places) + [0, FLOOR, 0]
        self.rig = json.loads((folder / "rig.mixamo.json").read_text())["bones"]
        weights = np.zeros((len(places), 22))
        for bone, pairs in json.loads((folder / "weights.mixamo.json").read_text())["weights"].items():
            rows, values = np.array(pairs).T
            weights[rows.astype(int), joint_of(bone.split(":")[1])] += values
        weights /= np.maximum(weights.sum(1, keepdims=True), 1e-9)
        # Arms move only vertices beyond the shoulder joint and near the armpit. Shoulders then do not sink towards the
        # neck when an arm is raised.
        beyond = np.clip((np.abs(self.places[:, 0]) - 0.115) / 0.06, 0, 1)
        high = np.clip((self.places[:, 1] - 1.22) / 0.08, 0, 1)
        for collar, arm in ((13, 16), (14, 17)):
            moved = weights[:, arm] * high * (1 - beyond)
            weights[:, arm] -= moved
            weights[:, collar] += moved
        self.weights = with_halves(weights)
        self.faces = self.groups["body"]
        self.tree = BVHTree.FromPolygons(self.places.tolist(), self.faces)

    def joints(self) -> np.ndarray:
        """Return the 22 joints (22, 3) in the pose of the base mesh."""
        joints = np.zeros((22, 3))
        for joint, place in JOINTS.items():
            joints[joint] = place
        for joint, bone in BONES.items():
            joints[joint] = self.head(f"mixamorig:{bone}")
        joints[10, 1] = SOLE
        for left, right in list(MIRRORED.items())[:8]:
            joints[right] = joints[left] * [-1, 1, 1]
        return joints

    def head(self, bone: str) -> np.ndarray:
        entry = self.rig[bone]["head"]
        rows = (entry["vertex_indices"] if entry["strategy"] == "MEAN"
                else np.unique(np.concatenate(self.groups[entry["cube_name"]])))
        return self.places[rows].mean(0)

    def cut(self, group: str = "body", keep: Callable[[np.ndarray], np.ndarray] | None = None, seen: bool = False,
            planes: Sequence[tuple[np.ndarray, np.ndarray, Callable[[np.ndarray], np.ndarray]]] = ()) -> "Piece":
        """Copy the faces of ``group`` whose centre ``keep`` accepts.

        ``planes`` are (point, normal, condition): faces whose centre meets the condition are first split at the plane.
        ``seen`` fills holes and, with ``keep``, removes faces that are not visible from outside, such as in the mouth.
        """
        mesh = bmesh.new()
        corners = [mesh.verts.new(place) for place in self.places]
        for face in self.groups[group]:
            mesh.faces.new([corners[corner] for corner in face])
        for point, normal, where in planes:
            centres = np.array([face.calc_center_median() for face in mesh.faces])
            chosen = [face for face, inside in zip(list(mesh.faces), where(centres), strict=True) if inside]
            parts = dict.fromkeys([part for face in chosen for part in (face, *face.edges, *face.verts)])
            bmesh.ops.bisect_plane(mesh, geom=list(parts), plane_co=point, plane_no=normal, dist=1e-5)
        mesh.normal_update()
        if keep is not None:
            centres = np.array([face.calc_center_median() for face in mesh.faces])
            bmesh.ops.delete(mesh, geom=[face for face, stays in zip(list(mesh.faces), keep(centres), strict=True)
                                         if not stays or seen and self.is_hidden(face)], context="FACES")
        if seen:
            bmesh.ops.holes_fill(mesh, edges=mesh.edges[:], sides=40)
            mesh.normal_update()
        used = [vert for vert in mesh.verts if vert.link_faces]
        row = {vert: number for number, vert in enumerate(used)}
        piece = Piece(np.array([vert.co for vert in used]),
                      [tuple(row[vert] for vert in face.verts) for face in mesh.faces], SKIN)
        mesh.free()
        return piece

    def is_hidden(self, face: bmesh.types.BMFace) -> bool:
        """Return whether 60 random outward rays from a face all hit the mesh within 0.5 m. False for the lips."""
        start = face.calc_center_median() + 1.5e-3 * face.normal
        if start.z > 0.12 and abs(start.y - 1.48) < 0.02:  # lips
            return False
        rays = np.random.default_rng(0).normal(size=(60, 3))
        return not any(self.tree.ray_cast(start, Vector(ray if ray @ face.normal > 0 else -ray), 0.5)[0] is None
                       for ray in rays)

    def nearest(self, places: np.ndarray) -> np.ndarray:
        """Return the weights (V, 26) of the points on the body that are nearest to ``places`` (V, 3)."""
        found = np.zeros((len(places), COUNT))
        for row, place in enumerate(places):
            at, _, face, _ = self.tree.find_nearest(place)
            corners = list(self.faces[face])
            near = 1 / np.maximum(np.linalg.norm(self.places[corners] - np.array(at), axis=1), 1e-5)
            found[row] = near @ self.weights[corners] / near.sum()
        return found


def with_halves(weights: np.ndarray) -> np.ndarray:
    """Extend weights (V, 22) to (V, 26): the joints of ``HALVES`` take over the weight common to their neighbours."""
    weights = np.concatenate([weights, np.zeros((len(weights), len(HALVES)))], 1)
    for half, (parents, child) in HALVES.items():
        above, below = weights[:, parents].sum(1), weights[:, child].copy()
        shared = np.minimum(above, below)
        weights[:, half] = 2 * shared
        weights[:, child] -= shared
        weights[:, parents] *= (1 - shared / np.maximum(above, 1e-9))[:, None]
    return weights


def joint_of(bone: str) -> int:
    """Return the index (0 to 21) of the joint that corresponds to a Mixamo bone."""
    if bone in MIDDLE:
        return MIDDLE[bone]
    name = bone.removeprefix("Left").removeprefix("Right")
    left = SIDED["Hand" if name.startswith("Hand") else name]
    return left if bone.startswith("Left") else MIRRORED[left]


def neighbours(piece: Piece) -> list[list[int]]:
    """Return, for each vertex, the vertices that share an edge with it."""
    near: list[set[int]] = [set() for _ in piece.places]
    for a, b in piece.edges():
        near[a].add(b)
        near[b].add(a)
    return [sorted(each) for each in near]


def border(piece: Piece) -> list[tuple[int, int]]:
    """Return the directed edges that belong to a single face."""
    there = set(piece.edges())
    return [(a, b) for a, b in piece.edges() if (b, a) not in there]


def on_border(piece: Piece) -> np.ndarray:
    """Return a mask (V,) of the vertices at the border."""
    mask = np.zeros(len(piece.places), bool)
    mask[[corner for edge in border(piece) for corner in edge]] = True
    return mask


def smooth(values: np.ndarray, near: list[list[int]], rounds: int, fixed: np.ndarray | None = None,
           share: float = 0.5) -> np.ndarray:
    """Smooth values (V, k) by averaging them with the values of neighbouring vertices."""
    width = max(map(len, near))
    index = np.array([each + [row] * (width - len(each)) for row, each in enumerate(near)])
    real = np.array([[1.0] * len(each) + [0.0] * (width - len(each)) for each in near])[..., None]
    free = np.array([len(each) > 0 for each in near]) & (True if fixed is None else ~fixed)
    values = values.copy()
    for _ in range(rounds):
        mean = (values[index] * real).sum(1) / np.maximum(real.sum(1), 1)
        values[free] += share * (mean - values)[free]
    return values


def triangles(face: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Divide a polygon into a fan of triangles."""
    return [(face[0], *pair) for pair in pairwise(face[1:])]


def normals_of(places: np.ndarray, faces: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Return area-weighted unit normals (V, 3)."""
    normals = np.zeros_like(places)
    for face in faces:
        fan = (places[list(corners)] for corners in triangles(face))
        normals[list(face)] += sum(np.cross(b - a, c - a) for a, b, c in fan)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def hemmed(piece: Piece, inward: float = 0.009) -> Piece:
    """Add a hem: extend the edge of each opening towards its centre by ``inward`` metres."""
    edges = border(piece)
    loops, ahead = [], dict(edges)
    while ahead:
        loop = [next(iter(ahead))]
        while (following := ahead.pop(loop[-1], None)) is not None and following != loop[0]:
            loop.append(following)
        loops.append(loop)
    places, faces = piece.places, list(piece.faces)
    for loop in loops:
        if len(loop) < 6:
            continue
        middle, start = places[loop].mean(0), len(places)
        to_middle = middle - places[loop]
        to_middle *= inward / np.linalg.norm(to_middle, axis=1, keepdims=True)
        places = np.concatenate([places, places[loop] + to_middle])
        row = {corner: start + number for number, corner in enumerate(loop)}
        faces += [(b, a, row[a], row[b]) for a, b in zip(loop, loop[1:] + loop[:1], strict=True)]
    return Piece(places, faces, piece.zone)


def simplified(piece: Piece, count: int, keep: np.ndarray | None = None, symmetric: bool = False) -> Piece:
    """Triangulate a piece and reduce it to about ``count`` vertices. More are kept where ``keep`` (V,) is 1."""
    data = bpy.data.meshes.new("piece")
    data.from_pydata(piece.places.tolist(), [], piece.faces)
    thing = bpy.data.objects.new("piece", data)
    bpy.context.collection.objects.link(thing)
    if len(piece.places) > count:
        modifier = thing.modifiers.new("less", "DECIMATE")
        modifier.use_symmetry, modifier.symmetry_axis = symmetric, "X"
        if keep is not None:
            group = thing.vertex_groups.new(name="keep")
            for row, value in enumerate(keep):
                group.add([row], float(value), "REPLACE")
            modifier.vertex_group, modifier.invert_vertex_group, modifier.vertex_group_factor = "keep", True, 1.0
        low, high = 0.01, 1.0
        for _ in range(12):
            modifier.ratio = (low + high) / 2
            bpy.context.view_layer.update()
            done = thing.evaluated_get(bpy.context.evaluated_depsgraph_get()).data
            low, high = (low, modifier.ratio) if len(done.vertices) > count else (modifier.ratio, high)
        modifier.ratio = low
        bpy.context.view_layer.update()
    done = bpy.data.meshes.new_from_object(thing.evaluated_get(bpy.context.evaluated_depsgraph_get()))
    done.calc_loop_triangles()
    places = np.array([vertex.co for vertex in done.vertices])
    faces = [tuple(triangle.vertices) for triangle in done.loop_triangles]
    bpy.data.objects.remove(thing)
    return without(Piece(places, faces, piece.zone), np.zeros(len(places), bool))


def mirrored(piece: Piece) -> Piece:
    """Mirror a piece to the other side of the body."""
    other = MIRRORED | {right: left for left, right in MIRRORED.items()}
    weights = None if piece.weights is None else piece.weights[:, [other.get(joint, joint) for joint in range(COUNT)]]
    return Piece(piece.places * [-1, 1, 1], [face[::-1] for face in piece.faces], piece.zone, piece.zones, weights)


def without(piece: Piece, gone: np.ndarray) -> Piece:
    """Remove the vertices where ``gone`` (V,) is True, their faces, and all vertices without a face."""
    faces = [face for face in piece.faces if not gone[list(face)].any()]
    used = np.unique(np.concatenate(faces))
    row = dict(zip(used.tolist(), range(len(used)), strict=True))
    return Piece(piece.places[used], [tuple(row[corner] for corner in face) for face in faces], piece.zone,
                 *(None if values is None else values[used] for values in (piece.zones, piece.weights)))


def along(places: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the positions (V,) of points ``places`` (V, 3) along a bone: 0 at ``start``, 1 at ``end``."""
    return (places - start) @ (end - start) / ((end - start) @ (end - start))
