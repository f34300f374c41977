"""Write animated figures as glTF 2.0 binaries (.glb), for Blender and other 3-D software."""
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from pygltflib import (
    ARRAY_BUFFER,
    ELEMENT_ARRAY_BUFFER,
    FLOAT,
    GLTF2,
    UNSIGNED_BYTE,
    UNSIGNED_SHORT,
    Accessor,
    Animation,
    AnimationChannel,
    AnimationChannelTarget,
    AnimationSampler,
    Asset,
    Attributes,
    Buffer,
    BufferView,
    Material,
    Node,
    PbrMetallicRoughness,
    Primitive,
    Scene,
    Skin,
)
from pygltflib import Mesh as GltfMesh

from motion.bvh import POSITIONS, Bvh
from motion.bvh_fit import T2M_RIG, rig_of
from motion.rotation import matrix_to_quat, quat_continuous
from motion.skeleton import T2M, Skeleton
from utils.files import atomic_path
from visualization.body import COUNT, HALVES, PALETTE, TOES, ZONES, bent, fit, stances, unit
from visualization.scene import LEFT as LEFT_COLOUR
from visualization.scene import RIGHT as RIGHT_COLOUR
from visualization.scene import TRUNK as TRUNK_COLOUR

GAMMA = 2.2  # converts picture colours to the linear colours of glTF
COLOURS = {"trunk": TRUNK_COLOUR, "left": LEFT_COLOUR, "right": RIGHT_COLOUR}  # in the order of the figure's sides
SIZES = {("f", 4): FLOAT, ("u", 1): UNSIGNED_BYTE, ("u", 2): UNSIGNED_SHORT}  # component type of each dtype
# Mesh joints with an additional bone: index in the mesh, parent, joint whose position it follows, kind.
MORE = (*((COUNT + number, *pair, "Half") for number, pair in enumerate(HALVES)),
        *((ankle, ankle, toe, "Shoe") for ankle, toe in TOES.items()))
KINDS = {1: "SCALAR", 3: "VEC3", 4: "VEC4", 16: "MAT4"}

TRUNK, LEFT, RIGHT = range(3)  # sides
SIDES = {"left": LEFT, "right": RIGHT}

# Radii in metres at both ends of a part.
HIP, GIRDLE = (0.092, 0.070), (0.066, 0.052)
LEG, FOOT, TIPTOE = ((0.082, 0.055), (0.055, 0.037)), (0.037, 0.036), (0.034, 0.024)
ARM, HAND = ((0.047, 0.037), (0.037, 0.027)), (0.031, 0.020)
TORSO = (0.118, 0.112, 0.120, 0.124, 0.056)  # radii from the pelvis to the neck, evenly spaced
NECK, HEAD = (0.050, 0.046), (0.083, 0.088)
# Start and end of the additional capsule of a limb, in metres past the end of the last bone.
TOES_AT, HAND_AT, HEAD_AT = (0.0, 0.035), (0.025, 0.105), (0.040, 0.075)
DEPTH = 0.7         # depth of the torso relative to its width
SIDES_OF_A_TUBE, RINGS_OF_A_CAP = 16, 4


@dataclass(frozen=True)
class Part:
    """A capsule from joint ``start`` to joint ``end`` or, if ``past`` is given, at these distances beyond ``end``."""

    start: int
    end: int
    radii: tuple[float, float]
    side: int = TRUNK
    depth: float = 1.0                        # depth from front to back relative to width
    past: tuple[float, float] | None = None   # metres


def write_glb(path: str | Path, bvh: Bvh, skeleton: Skeleton, name: str = "motion") -> None:
    """Write a motion as an animated, skinned GLB with the bones of ``bvh``, in metres, and one key per frame.

    Joints have the same positions as in the BVH. For the T2M skeleton the mesh is a person. It has additional bones:
    four named ``...Half`` preserve the volume of shoulders and hips, two named ``...Shoe`` keep heels above the floor.
    ``name`` is the name of the animation.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(_glb(bvh, skeleton, name))


def _glb(bvh: Bvh, skeleton: Skeleton, name: str) -> bytes:
    pack, joints = _Pack(), len(bvh.names)
    rest = np.zeros((joints, 3))
    for joint, parent in enumerate(bvh.parents):
        rest[joint] = bvh.offsets[joint] + (rest[parent] if parent >= 0 else 0)
    dressed = _person(bvh, rest, pack) if skeleton == T2M else _capsules(bvh, skeleton, rest, pack)
    names, parents = (*bvh.names, *dressed.names), (*bvh.parents, *dressed.parents)
    offsets, stand = [*bvh.offsets, *dressed.offsets], matrix_to_quat(torch.from_numpy(dressed.stand)).numpy()
    nodes = [Node(name=bone, translation=offsets[joint].tolist(), rotation=stand[joint][[1, 2, 3, 0]].tolist(),
                  children=[child for child, parent in enumerate(parents) if parent == joint])
             for joint, bone in enumerate(names)]
    nodes[0].translation[1] += dressed.height
    nodes.append(Node(name="Body", mesh=0, skin=0))
    skin = Skin(inverseBindMatrices=pack.add(dressed.bind.reshape(len(names), 16)), skeleton=0,
                joints=list(range(len(names))))

    animation = Animation(name=name, samplers=[], channels=[])
    times = pack.add(np.arange(len(bvh.values), dtype=np.float32)[:, None] * np.float32(bvh.frame_time), bounds=True)
    turns = quat_continuous(matrix_to_quat(torch.from_numpy(dressed.turns))).numpy()[..., [1, 2, 3, 0]]
    tracks = [(joint, "translation", bvh.local_positions()[:, joint])
              for joint, channels in enumerate(bvh.channels) if set(POSITIONS) <= set(channels)]
    tracks += [(joint, "rotation", turns[:, joint]) for joint in range(len(names))]
    for joint, what, values in tracks:
        animation.samplers.append(AnimationSampler(input=times, output=pack.add(np.float32(values))))
        target = AnimationChannelTarget(node=joint, path=what)
        animation.channels.append(AnimationChannel(sampler=len(animation.samplers) - 1, target=target))

    gltf = GLTF2(
        asset=Asset(version="2.0", generator="lamp-motion"), scene=0, scenes=[Scene(nodes=[0, len(names)])],
        nodes=nodes, meshes=[GltfMesh(name="Body", primitives=dressed.primitives)], skins=[skin],
        animations=[animation],
        materials=[Material(name=part, doubleSided=True, pbrMetallicRoughness=PbrMetallicRoughness(
            baseColorFactor=[*(np.array(colour) / 255) ** GAMMA, 1.0], metallicFactor=0.0, roughnessFactor=0.8))
            for part, colour in dressed.colours.items()])
    pack.into(gltf)
    return b"".join(gltf.save_to_bytes())


@dataclass(frozen=True)
class _Dressed:
    """A mesh bound to the bones of a BVH and to additional bones."""

    primitives: list[Primitive]
    colours: dict[str, tuple[int, int, int]]   # keyed by material name
    bind: np.ndarray                           # (J, 4, 4) inverse bind matrices of all bones, transposed
    turns: np.ndarray                          # (T, J, 3, 3) local rotations of all bones
    stand: np.ndarray                          # (J, 3, 3) local rotations of the bind pose
    height: float = 0.0                        # metres of the first bone above the ground in the bind pose
    names: tuple[str, ...] = ()                # of the additional bones
    parents: tuple[int, ...] = ()
    offsets: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))


def _person(bvh: Bvh, rest: np.ndarray, pack: "_Pack") -> _Dressed:
    """Create the person, with one primitive per zone and the additional bones ``MORE``."""
    file = np.argsort(T2M_RIG.order) + len(rest) - COUNT  # index of each joint in the file, after any root bone
    at, world = bvh.forward_kinematics()
    joints, turns, offsets = at[:, file], world[:, file], bvh.offsets[file] * (np.arange(COUNT) > 0)[:, None]
    stance = stances(joints)
    fitted, turns = fit(offsets, stance), bent(joints, turns, offsets, stance)
    more, above, below = (list(column) for column in list(zip(*MORE, strict=True))[:3])
    local = bvh.local_rotations()
    local[:, file[1:]] = turns[:, list(T2M.parents[1:])].mT @ turns[:, 1:]
    local = np.concatenate([local, turns[:, above].mT @ fitted.moves(joints, turns)[0][:, more]], 1)

    # The bind pose. It does not rotate bones of the BVH that are not joints, such as a root bone on the ground.
    up = np.array([0, -fitted.places[:, 1].min(), 0])
    places, joints = fitted.places + up, fitted.joints + up
    bind = np.tile(np.eye(4, dtype=np.float32), (len(rest) + len(MORE), 1, 1))
    bind[:len(rest), 3, :3] = -rest - up
    bind[file, :3, :3] = fitted.turns  # glTF matrices are column-major
    bind[file, 3, :3] = -np.einsum("jba,jb->ja", fitted.turns, joints)
    bind[len(rest):, 3, :3] = -joints[below]
    stand = np.tile(np.eye(3), (len(bind), 1, 1))
    stand[file[1:]] = fitted.turns[list(T2M.parents[1:])].mT @ fitted.turns[1:]
    stand[len(rest):] = fitted.turns[above].mT

    body, place = fitted.body, np.concatenate([file, np.zeros(len(HALVES), int)])
    place[more] = len(rest) + np.arange(len(MORE))
    shade = np.rint(255 * (0.45 + 0.55 * body.light[:, None]) * [1, 1, 1, 0] + [0, 0, 0, 255]).astype(np.uint8)
    attributes = Attributes(
        POSITION=pack.add(np.float32(places), ARRAY_BUFFER, bounds=True),
        NORMAL=pack.add(np.float32(body.normals), ARRAY_BUFFER),
        COLOR_0=pack.add(shade, ARRAY_BUFFER, normalized=True),
        JOINTS_0=pack.add(np.where(body.weights > 0, place[body.bones], 0).astype(np.uint8), ARRAY_BUFFER),
        WEIGHTS_0=pack.add(np.rint(255 * body.weights).astype(np.uint8), ARRAY_BUFFER, normalized=True))
    zones = np.sort(body.zones[body.triangles], 1)[:, 1]
    primitives = [Primitive(attributes=attributes, material=zone, indices=pack.add(
        body.triangles[zones == zone].astype(np.uint16).reshape(-1, 1), ELEMENT_ARRAY_BUFFER))
        for zone in range(len(ZONES))]
    colours = {zone: tuple(bytes.fromhex(colour[1:])) for zone, colour in zip(ZONES, PALETTE, strict=True)}
    return _Dressed(primitives, colours, bind, local, stand, up[1],
                    tuple(f"{bvh.names[file[joint]]}{kind}" for _, _, joint, kind in MORE), tuple(file[above].tolist()),
                    offsets[below])


def _capsules(bvh: Bvh, skeleton: Skeleton, rest: np.ndarray, pack: "_Pack") -> _Dressed:
    """Create capsules along the bones, with one primitive per side. ``rest`` (J, 3) is in file order."""
    order = np.array(rig_of(skeleton).order)
    places = np.argsort(order) + len(rest) - len(order)  # index of each joint in the file, after any root bone
    primitives = []
    for side in range(len(COLOURS)):
        parts = [part for part in parts_of(skeleton) if part.side == side]
        corners, normals, triangles = zip(*(_capsule(part, rest[places]) for part in parts), strict=True)
        counts = [len(rows) for rows in corners]
        bones = np.zeros((sum(counts), 4), np.uint8)
        bones[:, 0] = np.repeat([places[part.start] for part in parts], counts)
        weights = np.zeros_like(bones)
        weights[:, 0] = 255
        attributes = Attributes(
            POSITION=pack.add(np.float32(np.concatenate(corners)), ARRAY_BUFFER, bounds=True),
            NORMAL=pack.add(np.float32(np.concatenate(normals)), ARRAY_BUFFER),
            JOINTS_0=pack.add(bones, ARRAY_BUFFER), WEIGHTS_0=pack.add(weights, ARRAY_BUFFER, normalized=True))
        starts = np.cumsum([0, *counts[:-1]])
        faces = np.concatenate([rows + start for rows, start in zip(triangles, starts, strict=True)])
        indices = pack.add(faces.astype(np.uint16).reshape(-1, 1), ELEMENT_ARRAY_BUFFER)
        primitives.append(Primitive(attributes=attributes, indices=indices, material=side))
    bind = np.tile(np.eye(4, dtype=np.float32), (len(rest), 1, 1))
    bind[:, 3, :3] = -rest
    stand = np.tile(np.eye(3), (len(rest), 1, 1))
    return _Dressed(primitives, COLOURS, bind, bvh.local_rotations(), stand)


class _Pack:
    """Writer that packs arrays into one binary buffer."""

    def __init__(self) -> None:
        self.data, self.views, self.accessors = bytearray(), [], []

    def add(self, rows: np.ndarray, target: int | None = None, bounds: bool = False, normalized: bool = False) -> int:
        """Add ``rows`` (N, 1, 3, 4 or 16) and return the index of its accessor.

        ``bounds`` adds minimum and maximum. If ``normalized``, integers represent values from 0 to 1.
        """
        self.data += bytes(-len(self.data) % 4)
        self.views.append(BufferView(buffer=0, byteOffset=len(self.data), byteLength=rows.nbytes, target=target))
        self.data += rows.tobytes()
        limits = {"min": rows.min(0).tolist(), "max": rows.max(0).tolist()} if bounds else {}
        self.accessors.append(Accessor(
            bufferView=len(self.views) - 1, componentType=SIZES[rows.dtype.kind, rows.dtype.itemsize],
            count=len(rows), type=KINDS[rows.shape[1]], normalized=normalized, **limits))
        return len(self.accessors) - 1

    def into(self, gltf: GLTF2) -> None:
        gltf.bufferViews, gltf.accessors = self.views, self.accessors
        gltf.buffers = [Buffer(byteLength=len(self.data))]
        gltf.set_binary_blob(bytes(self.data))


def parts_of(skeleton: Skeleton) -> list[Part]:
    """Return the capsules for the chains of a skeleton."""
    parts = []
    for chain in skeleton.chains:
        bones = list(zip(chain, chain[1:], strict=False))
        side = SIDES.get(skeleton.joint_names[chain[-1]].split("_")[0], TRUNK)
        if chain[-1] in skeleton.feet:
            radii = [HIP, *LEG, *[FOOT] * (len(bones) - 3)]
            parts += [Part(*bone, pair, side if place else TRUNK)
                      for place, (bone, pair) in enumerate(zip(bones, radii, strict=True))]
            parts.append(Part(*bones[-1], TIPTOE, side, past=TOES_AT))
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


def _capsule(part: Part, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Build vertices, normals and triangles of a capsule for ``pose`` (J, 3), in metres with the left side at +x."""
    first, last = pose[part.start], pose[part.end]
    along = unit(last - first)
    if part.past is not None:
        first, last = (last + along * past for past in part.past)
    across = np.array([0.0, 0.0, 1.0]) if abs(along[0]) > 0.9 else np.array([1.0, 0.0, 0.0])
    across = unit(across - along * (across @ along))
    depth = np.cross(across, along) * (part.depth if abs(along[0]) <= 0.9 else 1.0)
    # Latitudes of both caps: from the first pole to its equator, then from the second equator to its pole.
    south = np.linspace(-np.pi / 2, 0, RINGS_OF_A_CAP)
    latitude, end = np.concatenate([south, -south[::-1]]), np.repeat([0, 1], RINGS_OF_A_CAP)
    turn = np.linspace(0, 2 * np.pi, SIDES_OF_A_TUBE, endpoint=False)
    around = np.cos(turn)[:, None] * across + np.sin(turn)[:, None] * depth            # (S, 3)
    radii = np.array(part.radii)[end][:, None, None]
    up, out = np.sin(latitude)[:, None, None] * along, np.cos(latitude)[:, None, None] * around
    corners = np.stack([first, last])[end][:, None] + radii * (up + out)               # (R, S, 3)
    normals = unit(up + out / np.linalg.norm(around, axis=-1, keepdims=True) ** 2)
    rings, sides = len(latitude), SIDES_OF_A_TUBE
    ring, place = np.meshgrid(np.arange(rings - 1), np.arange(sides), indexing="ij")
    a, b = ring * sides + place, ring * sides + (place + 1) % sides
    squares = np.stack([a, b + sides, b, a, a + sides, b + sides], -1).reshape(-1, 3)
    corners = corners.reshape(-1, 3)
    edges = corners[squares[:, 1:]] - corners[squares[:, :1]]
    flat = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=-1) < 1e-12  # at the poles
    return corners, normals.reshape(-1, 3), squares[~flat]
