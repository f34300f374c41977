"""Write maps from the bones of generated BVH files to Mixamo bones, for Blender's KeeMap add-on.

    python prepare/bone_maps.py [--out assets]
"""
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data.dataset import MAX_MOTION_LENGTH
from options.base import Parser
from utils import script
from utils.files import write_text

PREFIXES = {"mapping.json": "mixamorig:", "mapping6.json": "mixamorig6:"}
NONE = (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0)
# Additional rotation of each bone: Euler angles x, y, z in radians, and a quaternion w, x, y, z. The add-on uses one of
# them, depending on its rotation mode. Published values, tuned by hand on one character per map. Toes and hands need no
# correction.
CORRECTIONS = {
    "Hips": ((2.6180, 0.0, 0.0), (0.2588, 0.9659, 0.0, 0.0)),
    "RightUpLeg": NONE, "LeftUpLeg": NONE,
    "RightLeg": ((0.0, 2.0944, 0.0), NONE[1]), "LeftLeg": ((0.0, 3.6652, 0.0), NONE[1]),
    "RightShoulder": NONE, "LeftShoulder": NONE,
    "RightArm": ((0.0, -1.0472, -0.1745), NONE[1]), "LeftArm": ((0.0, 1.0472, 0.1745), NONE[1]),
    "RightForeArm": ((0.0, -2.0944, 0.0), NONE[1]), "LeftForeArm": ((0.0, 1.5708, 0.0), NONE[1]),
    "Spine": NONE, "Spine1": NONE, "Spine2": NONE, "Neck": NONE,
    "Head": ((0.3491, 0.0, 0.0), NONE[1]),
    "RightFoot": ((-0.1919, 2.9800, -0.0513), (-0.0828, -0.0177, -0.9920, -0.0934)),
    "LeftFoot": ((-0.2559, -2.9369, 0.2451), (0.1161, 0.1077, -0.9808, -0.1136)),
}
CORRECTIONS_6 = CORRECTIONS | {
    "Neck": ((-0.9943, -0.0067, 0.0406), (0.8788, -0.4768, -0.0126, 0.0163)),
    "Head": ((-0.0764, 0.0112, 0.0114), (0.9992, -0.0382, 0.0054, 0.0059)),
    "RightFoot": ((-0.1719, 2.7372, -0.0295), (-0.2013, 0.0028, -0.9762, -0.0812)),
    "LeftFoot": ((-0.0936, -2.9336, -0.1734), (-0.0993, 0.0909, 0.9894, 0.0554)),
}


def bone_map(name: str) -> dict:
    """Build the bone map for the file ``name``, which is a key of ``PREFIXES``."""
    corrections = CORRECTIONS_6 if name == "mapping6.json" else CORRECTIONS
    return {
        "bones": [_bone(bone, PREFIXES[name] + bone, *correction) for bone, correction in corrections.items()],
        "start_frame_to_apply": 0,
        "number_of_frames_to_apply": MAX_MOTION_LENGTH,
        "keyframe_every_n_frames": 1,
        "source_rig_name": f"sample0_repeat0_len{MAX_MOTION_LENGTH}",
        "destination_rig_name": "Armature",
        "bone_rotation_mode": "EULER",
        "bone_mapping_file": f"./assets/{name}",
    }


def _bone(source: str, destination: str, euler: tuple[float, ...], quaternion: tuple[float, ...]) -> dict:
    (x, y, z), (qw, qx, qy, qz) = euler, quaternion
    return {
        "name": source, "label": "", "description": "", "SourceBoneName": source, "DestinationBoneName": destination,
        "keyframe_this_bone": True, "CorrectionFactorX": x, "CorrectionFactorY": y, "CorrectionFactorZ": z,
        "has_twist_bone": False, "TwistBoneName": "", "set_bone_position": source == "Hips", "set_bone_rotation": True,
        "bone_rotation_application_axis": "XYZ", "position_correction_factorX": 0.0, "position_correction_factorY": 0.0,
        "position_correction_factorZ": 0.0, "position_gain": 1.0, "position_pole_distance": 0.3,
        "postion_type": "SINGLE_BONE_OFFSET",  # spelled like this in the add-on
        "set_bone_scale": False, "scale_gain": 1.0, "scale_max": 1.0, "scale_min": 0.5,
        "bone_scale_application_axis": "Y", "QuatCorrectionFactorw": qw, "QuatCorrectionFactorx": qx,
        "QuatCorrectionFactory": qy, "QuatCorrectionFactorz": qz, "scale_secondary_bone_name": "",
    }


@script
def main() -> None:
    parser = Parser("Write the bone maps for Blender's KeeMap add-on.")
    parser.add_argument("--out", type=Path, default=Path("assets"), help="output folder")
    out = parser.parse_args().out
    for name in PREFIXES:
        write_text(out / name, json.dumps(bone_map(name), indent=2) + "\n")
        print(f"wrote {out / name}")


if __name__ == "__main__":
    main()
