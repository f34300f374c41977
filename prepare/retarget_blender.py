"""Retarget a generated motion to a Mixamo character in headless Blender. No add-ons are needed.

    blender -b -P prepare/retarget_blender.py -- --motion FILE.bvh --character FILE.fbx --out FILE.fbx

Runs in Blender's Python, which has NumPy but few other packages.
"""
import re
import sys
from argparse import SUPPRESS, Namespace
from functools import partial
from pathlib import Path

import bpy
from mathutils import Matrix, Vector

try:
    import numpy as np
except ImportError:  # not included in Debian's Blender
    print("error: this Blender has no NumPy (apt-get install python3-numpy)", file=sys.stderr)
    sys.exit(2)

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from motion.bvh import read_bvh
from options.base import Parser
from prepare.retarget import Character, SourceRecording, Transfer, retarget
from utils import InputError, script
from utils.files import atomic_path

SUFFIXES = (".fbx", ".glb", ".blend")
HIPS = re.compile(r"(mixamorig\d*[:_]?)Hips")
TO_BLENDER = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # y up to z up, keeping the front view


def parse_options() -> Namespace:
    """Parse the options of this script, which follow ``--`` on Blender's command line."""
    parser = Parser("Retarget a generated motion to a Mixamo character. Arms and legs point as in the motion; "
                    "the travel of hips and feet is scaled by leg length; one key per frame, from frame 0.")
    parser.prog = "blender -b -P prepare/retarget_blender.py --"
    formats = ", ".join(SUFFIXES)
    for name, text in (
            ("motion", "generated motion (.bvh)"),
            ("character", f"character with Mixamo bones ({formats}) in a T-pose or A-pose"),
            ("out", f"output file ({formats})")):
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="FILE", default=SUPPRESS, help=text)
    opt = parser.parse_args(sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else sys.argv[1:])
    for path in (opt.character, opt.out):
        if path.suffix.lower() not in SUFFIXES:
            raise InputError(f"{path} must be one of {formats}")
    return opt


def read_motion(path: Path) -> SourceRecording:
    """Read the motion of a BVH file and convert it to Blender's axes."""
    try:
        bvh = read_bvh(path)
    except ValueError as error:
        raise InputError(str(error)) from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    rest = bvh.offsets.copy()
    for joint, parent in enumerate(bvh.parents):
        rest[joint] += rest[parent] if parent >= 0 else 0
    places, turns = bvh.forward_kinematics()
    turns = TO_BLENDER @ turns @ TO_BLENDER.T
    rest, places, turns = (dict(zip(bvh.names, each, strict=True)) for each in (
        rest @ TO_BLENDER.T, (places @ TO_BLENDER.T).swapaxes(0, 1), turns.swapaxes(0, 1)))
    return SourceRecording(rest, places, turns, 1 / bvh.frame_time)


def open_character(path: Path) -> tuple[bpy.types.Object, str]:
    """Open a character file in Blender. Returns its armature with Mixamo bones, and the prefix of their names."""
    if not path.is_file():
        raise InputError(f"{path} is missing")
    bpy.ops.wm.read_factory_settings(use_empty=True)
    reader = {".fbx": bpy.ops.import_scene.fbx, ".glb": bpy.ops.import_scene.gltf,
              ".blend": partial(bpy.ops.wm.open_mainfile, use_scripts=False)}
    try:
        reader[path.suffix.lower()](filepath=str(path.resolve()))
    except RuntimeError as error:
        raise InputError(f"Blender cannot read {path}: {reason(error)}") from error
    armatures = [each for each in bpy.context.scene.objects if each.type == "ARMATURE"]
    for armature in armatures:
        for bone in armature.data.bones:
            if named := HIPS.fullmatch(bone.name):
                return armature, named[1]
    names = [bone.name for armature in armatures for bone in armature.data.bones][:4]
    raise InputError(f"{path} is not a Mixamo character: there is no bone mixamorig:Hips, "
                     + (f"only {', '.join(names)}, ..." if names else "nor any other"))


def reason(error: RuntimeError) -> str:
    """Return the message of a Blender error, or the relevant line of its traceback."""
    lines = str(error).removeprefix("Error: ").strip().splitlines() or ["no reason given"]
    return next((line for line in reversed(lines) if re.match(r"\w+(Error|Exception)\b", line)), lines[0])


def stand_at_rest(rig: bpy.types.Object, prefix: str, bones: list[str]) -> Character:
    """Remove animation and posing from a rig. Returns it with the world positions of ``bones``, if present."""
    rig.animation_data_clear()
    for action in list(bpy.data.actions):
        if action.users == action.use_fake_user:  # otherwise exported to GLB
            bpy.data.actions.remove(action)
    rig.data.pose_position = "POSE"
    for bone in rig.pose.bones:
        bone.matrix_basis = Matrix()
    bpy.context.view_layer.update()
    heads = {bone.name: np.array(rig.matrix_world @ bone.head_local) for bone in rig.data.bones}
    heights = [head[2] for head in heads.values()]
    for flesh in bpy.context.scene.objects:
        if flesh.type == "MESH" and flesh.find_armature() == rig:
            corners = np.empty(3 * len(flesh.data.vertices), np.float32)
            flesh.data.vertices.foreach_get("co", corners)
            heights.extend(corners.reshape(-1, 3) @ np.array(flesh.matrix_world)[2, :3] + flesh.matrix_world[2][3])
    ours = {mixamo_name(bone, prefix): bone for bone in (*bones, "LeftToeEnd", "RightToeEnd")}
    return Character({ours[name]: head for name, head in heads.items() if name in ours}, min(heights))


def mixamo_name(bone: str, prefix: str) -> str:
    """Return the Mixamo name of a bone of the motion."""
    return prefix + (f"{bone}Base" if bone.endswith("Toe") else bone.replace("ToeEnd", "Toe_End"))


def in_bone_axes(rig: bpy.types.Object, turns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Convert world rotations relative to the rest pose to pose rotations (T, 3, 3) in the axes of each bone."""
    to_world = np.array(rig.matrix_world)
    spin = to_world[:3, :3] / np.cbrt(np.linalg.det(to_world[:3, :3]))
    rest = {bone.name: np.array(bone.matrix_local)[:3, :3] for bone in rig.data.bones}
    posed, basis = {}, {}
    for bone in sorted(rig.data.bones, key=lambda bone: len(bone.parent_recursive)):
        hung = rest[bone.name]  # in the axes of the rig, rotated with its parent
        if bone.parent:
            hung = posed[bone.parent.name] @ rest[bone.parent.name].T @ hung
        posed[bone.name] = hung
        if bone.name in turns:
            posed[bone.name] = spin.T @ turns[bone.name] @ spin @ rest[bone.name]
            basis[bone.name] = hung.swapaxes(-1, -2) @ posed[bone.name]
    return basis


def key(rig: bpy.types.Object, prefix: str, transfer: Transfer, fps: float, name: str) -> None:
    """Insert keyframes from frame 0 in an action called ``name``. Also sets the frame range and rate of the scene."""
    bpy.context.preferences.edit.keyframe_new_interpolation_type = "LINEAR"
    ours = {mixamo_name(bone, prefix): turns for bone, turns in transfer.turns.items()}
    for bone_name, turns in in_bone_axes(rig, ours).items():
        bone = rig.pose.bones[bone_name]
        bone.rotation_mode = "QUATERNION"
        for frame, turn in enumerate(turns):
            quaternion = Matrix(turn).to_quaternion()
            quaternion.make_compatible(bone.rotation_quaternion)
            bone.rotation_quaternion = quaternion
            bone.keyframe_insert("rotation_quaternion", frame=frame, group=bone_name)
    hips = rig.pose.bones[f"{prefix}Hips"]
    to_bone = (rig.matrix_world @ hips.bone.matrix_local).inverted()
    for frame, place in enumerate(transfer.hips):
        hips.location = to_bone @ Vector(place)
        hips.keyframe_insert("location", frame=frame, group=hips.name)
    rig.animation_data.action.name = name

    scene = bpy.context.scene
    scene.frame_start, scene.frame_end = 0, len(transfer.hips) - 1
    scene.render.fps = max(round(fps), 1)
    scene.render.fps_base = scene.render.fps / fps
    scene.frame_set(0)


def write(path: Path) -> None:
    """Write the scene in the format given by the suffix. FBX and GLB include textures."""
    with atomic_path(path) as temporary:
        name = str(temporary.resolve())
        if path.suffix.lower() == ".fbx":
            bpy.ops.export_scene.fbx(
                filepath=name, object_types={"ARMATURE", "MESH", "EMPTY"}, add_leaf_bones=False,
                bake_anim_simplify_factor=0.0, bake_anim_use_nla_strips=False, bake_anim_use_all_actions=False,
                path_mode="COPY", embed_textures=True)
        elif path.suffix.lower() == ".glb":
            bpy.ops.export_scene.gltf(filepath=name, export_format="GLB")
        else:
            bpy.context.preferences.filepaths.save_version = 0  # no backup file
            bpy.ops.wm.save_as_mainfile(filepath=name, copy=True)


@script
def main() -> None:
    opt = parse_options()
    recording = read_motion(opt.motion)
    rig, prefix = open_character(opt.character)
    character = stand_at_rest(rig, prefix, list(recording.rest))
    try:
        transfer = retarget(recording, character)
    except ValueError as error:
        raise InputError(f"cannot retarget {opt.motion} to {opt.character}: {error}") from error
    key(rig, prefix, transfer, recording.fps, opt.motion.stem)
    try:
        write(opt.out)
    except RuntimeError as error:
        raise InputError(f"Blender cannot write {opt.out}: {reason(error)}") from error
    print(f"wrote {opt.out}: {len(transfer.hips)} frames at {recording.fps:g} fps on {rig.name} ({prefix}), whose legs "
          f"are {transfer.scale:.3f} times as long")


if __name__ == "__main__":
    main()
