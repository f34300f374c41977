"""Skinned body mesh that follows the joints of a motion.

The mesh is read from ``page/body.bin``, which ``prepare/build_body.py`` writes. After zlib decompression the file
contains: number of vertices V and of triangles F (uint32), joints (22, 3) float32, triangles (F, 3) uint16, and for
each vertex the position (int16, 0.1 mm), normal (int8), four joint indices and weights (uint8, weights sum to 255),
zone and ambient light (uint8). ``page/body.js`` does the same in the browser.

Positions are in metres, y up, floor at y = 0. The mesh is stored in its bind pose: arms lowered, elbows bent. Rotations
are relative to the T-pose of ``motion.bvh_fit.T2M_RIG``.
"""
import zlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from motion.bvh_fit import T2M_RIG
from motion.skeleton import T2M

FILE = Path(__file__).resolve().parent / "page" / "body.bin"
ZONES = ("Skin", "Hair", "Sweater", "Trousers", "Shoes", "Soles", "Eyes", "Lips")
SKIN, HAIR, TOP, TROUSERS, SHOES, SOLES, EYES, LIPS = range(len(ZONES))
PALETTE = ("#d3a283", "#3b2d27", "#98a3b3", "#3d4860", "#30353f", "#eef0f2", "#2f231d", "#b9786a")
CLOTHES = (TOP, TROUSERS, SHOES)                               # zones tinted by side
LEFT_LIMBS, RIGHT_LIMBS = (1, 4, 7, 10, 16, 18, 20, 22, 24), (2, 5, 8, 11, 17, 19, 21, 23, 25)
PARENTS, COUNT = T2M.parents, len(T2M)
# Child of each joint with a single child.
CHILD = {1: 4, 4: 7, 2: 5, 5: 8, 7: 10, 8: 11, 12: 15, 13: 16, 14: 17, 16: 18, 17: 19, 18: 20, 19: 21}
TOES = {7: 10, 8: 11}
# Helper joints 22 to 25 rotate half as far as a shoulder or a hip, which preserves the volume there.
HALVES = ((13, 16), (14, 17), (0, 1), (0, 2))
# Metres in the file, relative to the toe joint: depth of the sole, length of the tip, distance of the heel.
SOLE, TIP, HEEL = 0.010, 0.072, 0.205
# Joint whose position each mesh joint follows. Shoes follow the toes.
ANCHORS = [TOES.get(joint, joint) for joint in (*range(COUNT), *(below for _, below in HALVES))]
HIGHEST = 0.03            # metres: maximum height of the toe joint of a standing foot
# Hinge joints: upper joint, lower joint, and bend axis in the T-pose.
HINGES = ((1, 4, (1, 0, 0)), (2, 5, (1, 0, 0)), (16, 18, (0, -1, 0)), (17, 19, (0, 1, 0)))
# Joint positions do not determine the sideways tilt of a foot. It is removed if the foot is level (cosines) and the
# toes are near the floor (metres). The two values are the limits of a smooth transition.
LEVEL, NEAR = (0.2, 0.5), (0.05, 0.25)
BENT = (0.17, 0.7)        # radians: bend at which twisting starts, and at which it is complete
FAR = (2.1, 3.1)          # radians: larger twists are treated as noise and ignored


REST = np.array(T2M_RIG.rest, float)[np.argsort(T2M_RIG.order)]  # (22, 3) offsets of the T-pose; only directions matter


@dataclass(frozen=True)
class Body:
    """Body mesh with V vertices and F triangles in the bind pose."""

    joints: np.ndarray   # (22, 3)
    places: np.ndarray   # (V, 3)
    normals: np.ndarray  # (V, 3)
    bones: np.ndarray    # (V, 4) joint indices
    weights: np.ndarray  # (V, 4)
    zones: np.ndarray    # (V,)
    light: np.ndarray    # (V,) ambient light, 0 to 1
    triangles: np.ndarray  # (F, 3)

    @cached_property
    def shod(self) -> np.ndarray:
        """Indices of the vertices of the shoes."""
        return np.flatnonzero(np.isin(self.zones, (SHOES, SOLES)) & (self.bones[:, 0] != 15))  # not eyes

    @property
    def sides(self) -> np.ndarray:
        """Side of each vertex (V,): 1 on left limbs, -1 on right limbs, 0 elsewhere. Only clothes have sides."""
        left, right = ((np.isin(self.bones, limbs) * self.weights).sum(1) for limbs in (LEFT_LIMBS, RIGHT_LIMBS))
        return np.where(np.isin(self.zones, CLOTHES), left - right, 0)


@lru_cache(maxsize=1)
def read_body() -> Body:
    """Read the body mesh from ``FILE``."""
    data = zlib.decompress(FILE.read_bytes())
    vertices, triangles = np.frombuffer(data, "<u4", 2)
    start, parts = 8, []
    for kind, rows, width in (("<f4", COUNT, 3), ("<u2", triangles, 3), ("<i2", vertices, 3), ("i1", vertices, 3),
                              ("u1", vertices, 4), ("u1", vertices, 4), ("u1", vertices, 1), ("u1", vertices, 1)):
        part = np.frombuffer(data, kind, int(rows) * width, start).reshape(-1, width)
        start += part.nbytes
        parts.append(part)
    joints, faces, places, normals, bones, weights, zones, light = parts
    return Body(joints.astype(float), places / 1e4, unit(normals.astype(float)), bones.astype(int), weights / 255,
                zones[:, 0].astype(int), light[:, 0] / 255, faces.astype(int))


@dataclass(frozen=True)
class Fitted:
    """Body mesh scaled to the bone lengths of a motion, in the bind pose.

    ``turns`` (22, 3, 3) are the joint rotations of the bind pose. A vertex v of joint j moves to
    p + R turns[j]^T (v - joints[j]), with the rotation R and the position p of the joint.
    """

    body: Body
    places: np.ndarray   # (V, 3)
    normals: np.ndarray  # (V, 3)
    joints: np.ndarray   # (22, 3)
    turns: np.ndarray    # (22, 3, 3)

    def halves(self, turns: np.ndarray) -> np.ndarray:
        """Compute the rotations (..., 4, 3, 3) of the helper joints 22 to 25, relative to the bind pose.

        Each is halfway between the rotations of a pair of joints in ``HALVES``. ``turns`` (..., 22, 3, 3) are world
        rotations.
        """
        moves, (above, below) = turns @ self.turns.mT, np.array(HALVES).T
        return _between(moves[..., above, :, :], moves[..., below, :, :], 0.5)

    def shoes(self, turns: np.ndarray) -> np.ndarray:
        """Compute the rotations (..., 2, 3, 3) of the shoes.

        A shoe follows the toe if the toe points further down than the ankle, else the ankle.
        """
        ankles, toes = (turns[..., list(joints), :, :] for joints in zip(*TOES.items(), strict=True))
        ahead = self.turns[list(TOES), 2]  # forward in the pose of the file
        rise = [(rotations[..., 1, :] * ahead).sum(-1)[..., None, None] for rotations in (ankles, toes)]
        return np.where(rise[1] < rise[0], toes, ankles)

    def moves(self, joints: np.ndarray, turns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute skinning transforms from the bind pose: rotations (..., 26, 3, 3) and translations (..., 26, 3)."""
        moves = np.concatenate([turns @ self.turns.mT, self.halves(turns)], -3)
        moves[..., list(TOES), :, :] = self.shoes(turns) @ self.turns[list(TOES)].mT
        return moves, joints[..., ANCHORS, :] - np.einsum("...jab,jb->...ja", moves, self.joints[ANCHORS])

    @cached_property
    def skin(self) -> csr_array:
        """Matrix (2 V, 4 x 26) from skinning transforms to vertex positions and normals, float32."""
        # Sparse, because a dense product would start BLAS threads for every block of frames, which is slower.
        columns = (4 * self.body.bones[..., None] + np.arange(4)).ravel()
        rows = np.repeat(np.arange(2 * len(self.places)), 4 * self.body.bones.shape[1])
        parts = np.concatenate([np.insert(self.places, 3, 1, -1), np.insert(self.normals, 3, 0, -1)])
        weights = np.tile(self.body.weights, (2, 1))[..., None] * parts[:, None]
        skin = csr_array((np.float32(weights).ravel(), (rows, np.tile(columns, 2))))
        skin.eliminate_zeros()
        return skin

    def posed(self, joints: np.ndarray, moves: np.ndarray, moved: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Skin the mesh for joints (T, 22, 3), given the results of the method ``moves``.

        Returns vertex positions and normals, (T, V, 3) float32.
        """
        matrices = np.concatenate([moves, moved[..., None]], -1, dtype=np.float32)  # (T, 26, 3, 4)
        both = self.skin @ matrices.transpose(1, 3, 0, 2).reshape(-1, 3 * len(joints))
        places, normals = both.reshape(2, -1, len(joints), 3).swapaxes(1, 2)
        ground = joints[:, [10, 11], 1].min(1, keepdims=True).clip(max=0)
        places[:, self.body.shod, 1] = np.maximum(places[:, self.body.shod, 1], ground)
        return places, normals


def fit(offsets: np.ndarray, stance: np.ndarray) -> Fitted:
    """Scale the body to bone lengths.

    Args:
        offsets: (22, 3) offset of each joint from its parent in the T-pose, in metres.
        stance: (2, 2) result of ``stances``: how high ankles and toes are while the soles are flat on the floor.
    """
    body = read_body()
    turns = file_turns(offsets, stance)
    lengths = [np.linalg.norm(values, axis=-1) for values in (offsets, body.joints - body.joints[list(PARENTS)])]
    ratio = np.divide(*lengths, out=np.ones(COUNT), where=lengths[1] > 1e-6)
    legs, trunk = ratio[[1, 2, 4, 5, 7, 8]].mean(), lengths[0][[3, 6, 9, 12]].sum() / lengths[1][[3, 6, 9, 12]].sum()
    girth = (legs + trunk) / 2
    joints, scale = np.zeros((COUNT, 3)), np.tile(girth * np.eye(3), (COUNT, 1, 1))
    scale[[0, 3, 6, 9], 1, 1] = trunk
    for joint, parent in enumerate(PARENTS):
        if parent >= 0:
            joints[joint] = joints[parent] + turns[parent] @ offsets[joint]
    for joint in (1, 2, 4, 5, 16, 17, 18, 19):
        along = unit(body.joints[CHILD[joint]] - body.joints[joint])
        scale[joint] += (ratio[CHILD[joint]] - girth) * np.outer(along, along)
    scale = scale[[*range(COUNT), *(above for above, _ in HALVES)]]
    moved = joints[ANCHORS] - np.einsum("jab,jb->ja", scale, body.joints[ANCHORS])
    for ankle, toe in TOES.items():
        moved[[ankle, toe], 1] += girth * SOLE - stance[ankle - 7][1]
    places = (np.einsum("vk,vkab,vb->va", body.weights, scale[body.bones], body.places)
              + np.einsum("vk,vka->va", body.weights, moved[body.bones]))
    return Fitted(body, np.float32(places), np.float32(body.normals), joints, turns)


def file_turns(offsets: np.ndarray, stance: np.ndarray) -> np.ndarray:
    """Compute the joint rotations (22, 3, 3) from the T-pose with ``offsets`` (22, 3) to the bind pose."""
    body, turns = read_body(), np.tile(np.eye(3), (COUNT, 1, 1))
    for joint, parent in enumerate(PARENTS):
        if parent >= 0 and parent not in (0, 9):
            turns[joint] = turns[parent]
        if joint not in CHILD:
            continue
        bone = body.joints[CHILD[joint]] - body.joints[joint]
        if joint in TOES:
            drop = float(np.clip(stance[joint - 7][0] / np.linalg.norm(offsets[TOES[joint]]), -0.5, 0.95))
            ahead = unit(bone * [1, 0, 1])
            bone = ahead * np.sqrt(1 - drop**2) - [0, drop, 0]
        turns[joint] = swing(turns[joint] @ offsets[CHILD[joint]], bone) @ turns[joint]
    return turns


def stances(joints: np.ndarray) -> np.ndarray:
    """Measure standing feet in joints (T, 22, 3): height of the ankle above the toes, and of the toes above the floor.

    Returns an array (2, 2) in metres, with one row each for the left and the right foot.
    """
    found = []
    for ankle, toe in TOES.items():
        feet = joints[:, [ankle, toe]]
        speed = np.linalg.norm(np.diff(feet, axis=0, append=feet[-1:]), axis=-1).max(1)
        height, drop = feet[:, 1, 1], feet[:, 0, 1] - feet[:, 1, 1]
        cost = speed + height - height.min() + 0.5 * np.abs(drop - np.median(drop))
        best = np.argsort(cost, kind="stable")[:max(len(feet) // 5, 1)]
        found.append([np.median(drop[best]), np.clip(np.median(height[best]), 0, HIGHEST)])
    return np.array(found)


def offsets_of(joints: np.ndarray) -> np.ndarray:
    """Estimate T-pose offsets (22, 3) from joints (T, 22, 3).

    Lengths are medians over time. Offsets from the pelvis and the chest keep their mean directions.
    """
    bones = joints - joints[:, list(PARENTS)]
    offsets = unit(REST) * np.median(np.linalg.norm(bones, axis=-1), axis=0)[:, None]
    frames = {0: _pelvis(joints), 9: _chest(joints)}
    rest = {0: _pelvis(_chained(offsets)[None])[0], 9: _chest(_chained(offsets)[None])[0]}
    for joint, parent in enumerate(PARENTS):
        if parent in frames:
            local = np.einsum("tba,tb->ta", frames[parent] @ rest[parent].T, bones[:, joint]).mean(0)
            offsets[joint] = unit(local) * np.linalg.norm(offsets[joint])
    return offsets


def world_turns(joints: np.ndarray, offsets: np.ndarray, stance: np.ndarray) -> np.ndarray:
    """Compute world rotations (T, 22, 3, 3) for joints (T, 22, 3), relative to the T-pose with ``offsets`` (22, 3).

    Neighbouring joints determine the rotations of pelvis and chest, and the spine is interpolated between them. Every
    other bone takes the shortest rotation from its parent. ``bent`` then twists the limbs.
    """
    rest, turns = _chained(offsets)[None], np.tile(np.eye(3), (len(joints), COUNT, 1, 1))
    turns[:, 0] = _pelvis(joints) @ _pelvis(rest)[0].T
    turns[:, 9] = _chest(joints) @ _chest(rest)[0].T
    for joint, share in ((3, 1 / 3), (6, 2 / 3)):
        between, child = _between(turns[:, 0], turns[:, 9], share), joint + 3
        turns[:, joint] = swing(between @ offsets[child], joints[:, child] - joints[:, joint]) @ between
    for joint in range(COUNT):
        if joint in (0, 3, 6, 9):
            continue
        turns[:, joint] = turns[:, PARENTS[joint]]
        if joint in CHILD:
            bone = joints[:, CHILD[joint]] - joints[:, joint]
            turns[:, joint] = swing(turns[:, joint] @ offsets[CHILD[joint]], bone) @ turns[:, joint]
    return bent(joints, turns, offsets, stance)


def bent(joints: np.ndarray, turns: np.ndarray, offsets: np.ndarray, stance: np.ndarray) -> np.ndarray:
    """Twist limbs so that knees and elbows bend about their hinge axes, and keep shoes above the floor.

    Returns world rotations (T, 22, 3, 3). Joint positions do not change.
    """
    turns = turns.copy()
    for joint, child, axis in HINGES:
        upper, lower = (unit(joints[:, CHILD[bone]] - joints[:, bone]) for bone in (joint, child))
        cross = np.cross(upper, lower)
        size = np.linalg.norm(cross, axis=-1)
        bend = np.arctan2(size, (upper * lower).sum(-1))
        now = turns[:, joint] @ np.array(axis, float)
        wanted = cross / np.maximum(size, 1e-9)[:, None]
        twist = np.arctan2((np.cross(now, wanted) * upper).sum(-1), (now * wanted).sum(-1))
        twist *= _ramp(bend, *BENT) * (1 - _ramp(np.abs(twist), *FAR))
        turn = _about(upper, twist)
        end = CHILD[child]
        for moved in (joint, child):
            turns[:, moved] = turn @ turns[:, moved]
        turns[:, child] = swing(turns[:, child] @ offsets[end], lower) @ turns[:, child]
        turns[:, end] = turns[:, child]
        if end in TOES:  # the foot points to its toes, with the smallest rotation from the shin
            foot = joints[:, TOES[end]] - joints[:, end]
            turns[:, end] = swing(turns[:, end] @ offsets[TOES[end]], foot) @ turns[:, end]
    file = file_turns(offsets, stance)
    for ankle, toe in TOES.items():
        height = (joints[:, toe, 1] - stance[ankle - 7][1]).clip(0)
        flat = turns[:, ankle] @ file[ankle].T  # rotation from the bind pose; for a flat foot, about y only
        foot = unit(joints[:, toe] - joints[:, ankle])
        up = np.cross(foot, flat[:, :, 0])[:, 1]
        roll = np.arctan2(-flat[:, 1, 0], up) * _ramp(up, *LEVEL) * (1 - _ramp(height, *NEAR))
        turns[:, ankle] = _about(foot, roll) @ turns[:, ankle]
        flat = _about(foot, roll) @ flat
        down = np.arcsin(np.clip(-flat[:, 1, 2], -1, 1))
        tip, heel = (np.arcsin(np.clip(height / length, 0, 1)) for length in (TIP, HEEL))
        turns[:, toe] = _about(unit(flat[:, :, 0]), down.clip(-heel, tip) - down) @ turns[:, ankle]
    return turns


def swing(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Compute the shortest rotations (..., 3, 3) from directions ``start`` to ``end`` (..., 3)."""
    start, end = unit(np.asarray(start, float)), unit(np.asarray(end, float))
    axis, cos = np.cross(start, end), (start * end).sum(-1)[..., None, None]
    cross = _crossing(axis)
    return np.eye(3) + cross + cross @ cross / np.maximum(1 + cos, 1e-6)


def _pelvis(joints: np.ndarray) -> np.ndarray:
    return _frame(joints[:, 1] - joints[:, 2], joints[:, 3] - (joints[:, 1] + joints[:, 2]) / 2)


def _chest(joints: np.ndarray) -> np.ndarray:
    return _frame(joints[:, 13] - joints[:, 14] + 0.5 * (joints[:, 16] - joints[:, 17]), joints[:, 12] - joints[:, 9])


def _frame(across: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Build rotations (T, 3, 3) whose x axis is ``across`` and whose y axis is close to ``up`` (T, 3)."""
    x = unit(across)
    z = unit(np.cross(x, up))
    return np.stack([x, np.cross(z, x), z], -1)


def _between(start: np.ndarray, end: np.ndarray, share: float) -> np.ndarray:
    """Interpolate rotations (..., 3, 3) from ``start`` (``share`` = 0) to ``end`` (1)."""
    mean = (1 - share) * start + share * end
    return _frame(mean[..., 0], mean[..., 1])


def _about(axis: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Build rotations (T, 3, 3) about unit axes (T, 3) by Rodrigues' formula."""
    cross = _crossing(axis)
    angle = angle[:, None, None]
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def _crossing(vectors: np.ndarray) -> np.ndarray:
    """Build cross-product matrices (..., 3, 3)."""
    x, y, z = np.moveaxis(vectors, -1, 0)
    zero = np.zeros_like(x)
    return np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*vectors.shape[:-1], 3, 3)


def _chained(offsets: np.ndarray) -> np.ndarray:
    joints = np.zeros((COUNT, 3))
    for joint, parent in enumerate(PARENTS):
        if parent >= 0:
            joints[joint] = joints[parent] + offsets[joint]
    return joints


def _ramp(values: np.ndarray, low: float, high: float) -> np.ndarray:
    share = ((values - low) / (high - low)).clip(0, 1)
    return share * share * (3 - 2 * share)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Normalise vectors (..., 3)."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
