"""Script that tests run inside Blender.

    blender -b -P tests/in_blender.py -- build FOLDER      write characters for retargeting
    blender -b -P tests/in_blender.py -- look FILE ...     write FILE.npz with the joints in every frame
"""
import builtins
import math
import sys
from collections.abc import Mapping
from pathlib import Path

import bpy
import numpy as np
from mathutils import Matrix, Vector

FPS = 20
# Parents and offsets (centimetres, y up) of Mixamo's bones. The right side mirrors the left.
TRUNK = {"Hips": ("", (0, 104, 0)), "Spine": ("Hips", (0, 10, -1.2)), "Spine1": ("Spine", (0, 11.7, 0)),
         "Spine2": ("Spine1", (0, 13.4, 0)), "Neck": ("Spine2", (0, 15, 0.9)), "Head": ("Neck", (0, 10.3, 3.1))}
LIMBS = {"Shoulder": ("Spine2", (6.1, 9.1, 0.8)), "Arm": ("Shoulder", (12.9, 0, -0.5)),
         "ForeArm": ("Arm", (27.4, 0, 0)), "Hand": ("ForeArm", (27.6, 0, 0)), "HandMiddle1": ("Hand", (9.5, 0, 0)),
         "UpLeg": ("Hips", (9.1, -6.7, 0.6)), "Leg": ("UpLeg", (0, -40.6, 0.5)), "Foot": ("Leg", (0, -42.1, -2)),
         "ToeBase": ("Foot", (0, -10.5, 12.8)), "Toe_End": ("ToeBase", (0, 0, 10))}
BOX = np.array([[x, y, end] for end in (0, 1) for x in (-2, 2) for y in (-2, 2)])  # corners of a box along a bone
SIDES = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]


def skeleton(arms_down: float, longer: Mapping[str, float]) -> dict[str, tuple[str, Vector]]:
    """Return the parent and position of every bone, parents first.

    Arms are lowered by ``arms_down`` degrees. ``longer`` has length factors of bones.
    """
    bones = {name: (parent, Vector(offset)) for name, (parent, offset) in TRUNK.items()}
    for side, sign in (("Left", 1), ("Right", -1)):
        lowered = Matrix.Rotation(-sign * math.radians(arms_down), 3, "Z")
        for name, (parent, offset) in LIMBS.items():
            offset = Vector(offset) * longer.get(name, 1)
            offset.x *= sign
            bones[side + name] = (side + parent if parent in LIMBS else parent,
                                  lowered @ offset if parent.endswith(("Arm", "Hand")) else offset)
    for name, (parent, offset) in bones.items():
        bones[name] = (parent, offset + (bones[parent][1] if parent else Vector()))
    return bones


def build(path: Path, prefix: str, bones: Mapping[str, tuple[str, Vector]], facing: float = 0.0) -> None:
    """Write a figure made of boxes, in a rig like Mixamo's: centimetres, y up, scaled and rotated.

    ``facing`` is in degrees to the left.
    """
    bpy.ops.wm.read_factory_settings(use_empty=True)
    rig = bpy.data.objects.new("Armature", bpy.data.armatures.new("Armature"))
    bpy.context.collection.objects.link(rig)
    bpy.context.view_layer.objects.active = rig
    bpy.ops.object.mode_set(mode="EDIT")
    for name, (parent, head) in bones.items():
        bone = rig.data.edit_bones.new(prefix + name)
        bone.head, bone.tail, bone.roll = head, head + Vector((1, 5, 2)), 0.3  # arbitrary bone axes
        bone.parent = rig.data.edit_bones.get(prefix + parent)
    bpy.ops.object.mode_set(mode="OBJECT")

    boxed = [(prefix + parent, bones[parent][1], head) for parent, head in bones.values() if parent]
    corners = [start.lerp(end, along) + Vector((x, y, 0)) for _, start, end in boxed for x, y, along in BOX]
    mesh = bpy.data.meshes.new("Doll")
    sides = [[8 * box + corner for corner in side] for box in range(len(boxed)) for side in SIDES]
    mesh.from_pydata(corners, [], sides)
    doll = bpy.data.objects.new("Doll", mesh)
    bpy.context.collection.objects.link(doll)
    for box, (bone, _, _) in enumerate(boxed):
        group = doll.vertex_groups.get(bone) or doll.vertex_groups.new(name=bone)
        group.add(range(8 * box, 8 * box + 8), 1.0, "REPLACE")
    doll.parent = rig
    doll.modifiers.new("Armature", "ARMATURE").object = rig
    rig.matrix_world = (Matrix.Rotation(math.radians(facing), 4, "Z") @ Matrix.Rotation(math.pi / 2, 4, "X")
                        @ Matrix.Scale(0.01, 4))
    rig.pose.bones[0].keyframe_insert("location", frame=7)  # an existing animation, which must be removed
    if path.suffix == ".fbx":
        bpy.ops.export_scene.fbx(filepath=str(path), add_leaf_bones=False)
    else:
        bpy.ops.wm.save_as_mainfile(filepath=str(path))


def build_all(folder: Path) -> None:
    """Write a character in T-pose, one with other proportions in A-pose facing sideways, and one with other bones."""
    build(folder / "t_pose.fbx", "mixamorig:", skeleton(0, {}))
    build(folder / "a_pose.blend", "mixamorig6:", skeleton(50, {"Leg": 1.3, "Foot": 1.1, "Arm": 0.8, "UpLeg": 1.2}), 40)
    build(folder / "robot.blend", "", {"base": ("", Vector()), "lever": ("base", Vector((0, 20, 0)))})


def read(path: Path) -> None:
    """Open a file in Blender, with workarounds for Blender 3.4 on Debian's Python."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.context.scene.render.fps = FPS
    if path.suffix == ".bvh":
        plain = builtins.open
        builtins.open = lambda file, mode="r", *rest, **more: plain(file, mode.replace("U", ""), *rest, **more)
        bpy.ops.import_anim.bvh(filepath=str(path), update_scene_fps=True)
        builtins.open = plain
    elif path.suffix == ".glb":
        np.bool = bool
        bpy.ops.import_scene.gltf(filepath=str(path))
    elif path.suffix == ".fbx":
        bpy.ops.import_scene.fbx(filepath=str(path))
    else:
        bpy.ops.wm.open_mainfile(filepath=str(path))


def look(path: Path) -> dict[str, np.ndarray]:
    """Return names (J,), joints (T, J, 3), lowest points of the mesh (T,), frames (T,) and frame rate of a file."""
    read(path)
    scene = bpy.context.scene
    rig = next(each for each in scene.objects if each.type == "ARMATURE")
    dolls = [each for each in scene.objects if each.type == "MESH" and each.find_armature() == rig]
    first, last = rig.animation_data.action.frame_range
    joints, lowest, frames = [], [], np.arange(round(first), round(last) + 1)
    for frame in frames:
        scene.frame_set(frame)
        joints.append([rig.matrix_world @ bone.head for bone in rig.pose.bones])
        now = bpy.context.evaluated_depsgraph_get()
        lowest.append(min(((doll.matrix_world @ corner.co).z for doll in dolls
                           for corner in doll.evaluated_get(now).data.vertices), default=0.0))
    return {"names": np.array([bone.name for bone in rig.pose.bones]), "joints": np.array(joints),
            "lowest": np.array(lowest), "frames": frames, "fps": scene.render.fps / scene.render.fps_base}


if __name__ == "__main__":
    what, *paths = sys.argv[sys.argv.index("--") + 1 :]
    if what == "build":
        build_all(Path(paths[0]))
    else:
        for path in paths:
            np.savez(f"{path}.npz", **look(Path(path)))
