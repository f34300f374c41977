"""Generate small ASF/AMC files in the style of the CMU database."""
import numpy as np
from scipy.spatial.transform import Rotation

# Name, parent, direction, length, axis and degrees of freedom of CMU's bones without fingers.
_LEG = (("{}hipjoint", "root", (0.66, -0.71, 0.25), 2.5, (0, 0, 0), ""),
        ("{}femur", "{}hipjoint", (0.342, -0.94, 0), 7.6, (0, 0, 20), "rx ry rz"),
        ("{}tibia", "{}femur", (0.342, -0.94, 0), 7.3, (0, 0, 20), "rx"),
        ("{}foot", "{}tibia", (0.089, -0.244, 0.966), 2.2, (-90, 0, 20), "rx rz"),
        ("{}toes", "{}foot", (0, 0, 1), 1.1, (-90, 0, 20), "rx"))
_TRUNK = (("lowerback", "root", (0.01, 1, -0.07), 2.06, (0, 0, 0), "rx ry rz"),
          ("upperback", "lowerback", (0, 1, -0.03), 2.07, (0, 0, 0), "rx ry rz"),
          ("thorax", "upperback", (0, 1, 0), 2.07, (0, 0, 0), "rx ry rz"),
          ("lowerneck", "thorax", (0, 0.995, 0.095), 1.57, (0, 0, 0), "rx ry rz"),
          ("upperneck", "lowerneck", (0, 0.995, -0.1), 1.57, (0, 0, 0), "rx ry rz"),
          ("head", "upperneck", (0, 1, 0), 1.6, (0, 0, 0), "rx ry rz"))
_ARM = (("{}clavicle", "thorax", (0.9, 0.4, 0), 3.5, (0, 0, 0), "ry rz"),
        ("{}humerus", "{}clavicle", (1, 0, 0), 5.0, (180, 30, 90), "rx ry rz"),
        ("{}radius", "{}humerus", (1, 0, 0), 3.5, (180, 30, 90), "rx"),
        ("{}wrist", "{}radius", (1, 0, 0), 1.7, (90, 30, 90), "ry"))


def _bones() -> list[tuple]:
    bones = []
    for chain in (_LEG, _TRUNK, _ARM):
        for side, sign in (("l", 1), ("r", -1)) if chain is not _TRUNK else (("", 1),):
            for name, parent, direction, length, axis, moves in chain:
                bones.append((name.format(side), parent.format(side), np.array(direction) * [sign, 1, 1], length,
                              np.array(axis) * [1, sign, sign], moves))
    return bones


BONES = _bones()


def asf_text(scale: float = 1.0, unit: float = 0.45, radians: bool = False) -> str:
    """Return the text of a skeleton file, with lengths multiplied by ``scale``."""
    angle = np.pi / 180 if radians else 1
    lines = ["# a comment", ":version 1.10", ":name VICON", ":units", "  mass 1.0", f"  length {unit}",
             f"  angle {'rad' if radians else 'deg'}", ":documentation", "   begin and end are words", ":root",
             "   order TX TY TZ RX RY RZ", "   axis XYZ", "   position 0 0 0", "   orientation 0 0 0", ":bonedata"]
    for number, (name, _, direction, length, axis, moves) in enumerate(BONES, 1):
        lines += ["  begin", f"     id {number}", f"     name {name}", "     direction {} {} {}".format(*direction),
                  f"     length {scale * length}", "     axis {} {} {}  XYZ".format(*angle * np.asarray(axis))]
        if moves:
            limits = ["(-160.0 20.0)"] * len(moves.split())
            lines += [f"    dof {moves}", f"    limits {limits[0]}", *(f"           {limit}" for limit in limits[1:])]
        lines.append("  end")
    parents = dict.fromkeys(parent for _, parent, *_ in BONES)
    lines += [":hierarchy", "  begin"]
    lines += [f"    {parent} {' '.join(bone[0] for bone in BONES if bone[1] == parent)}" for parent in parents]
    return "\n".join([*lines, "  end"]) + "\n"


def motion(frames: int = 300) -> dict[str, np.ndarray]:
    """Return joint angles in degrees (T, degrees of freedom) by bone: a walk with hanging arms and a slight turn.

    The root also has its position, before the angles.
    """
    time = np.arange(frames) / 120
    values = {"root": np.stack([0 * time, 17 + 0 * time, 20 * time, 0 * time, 10 * time, 0 * time], -1)}
    for name, *_, moves in BONES:
        if moves:
            values[name] = np.zeros((frames, len(moves.split())))
    for side, sign in (("l", 1), ("r", -1)):
        values[f"{side}femur"][:] = np.stack([-10 + 20 * sign * np.sin(5 * time), 5 * time, 0 * time], -1)
        values[f"{side}tibia"][:, 0] = 25 + 15 * sign * np.sin(5 * time)
        values[f"{side}humerus"][:] = np.stack([10 * np.sin(3 * time), 0 * time, -sign * (70 + 5 * time)], -1)
        values[f"{side}radius"][:, 0] = 30
    return values


def amc_text(values: dict[str, np.ndarray], first: int = 1, header: str = ":FULLY-SPECIFIED\n:DEGREES\n") -> str:
    """Return the text of a motion file for ``values`` (T, degrees of freedom) by bone."""
    frames = len(values["root"])
    blocks = ("\n".join([str(first + frame), *(f"{name} {' '.join(f'{value:.6g}' for value in rows[frame])}"
                                                for name, rows in values.items())]) for frame in range(frames))
    return f"#!OML:ASF C:\\body.ASF\n{header}" + "\n".join(blocks) + "\n"


def world(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Compute the end points (T, 3) of all bones, by G = G_parent C R C^-1."""
    frames = len(values["root"])
    turns, ends = {"root": _turn(values["root"][:, 3:])}, {"root": values["root"][:, :3]}
    for name, parent, direction, length, axis, moves in BONES:
        own = np.zeros((frames, 3))
        for column, move in enumerate(moves.split()):
            own[:, "xyz".index(move[1])] = values[name][:, column] if name in values else 0
        base = _turn(np.asarray(axis, float)[None])
        turns[name] = turns[parent] @ base @ _turn(own) @ base.swapaxes(-1, -2)
        ends[name] = ends[parent] + length * turns[name] @ (direction / np.linalg.norm(direction))
    return ends


def _turn(degrees: np.ndarray) -> np.ndarray:
    """Return rotations (T, 3, 3) Rz Ry Rx."""
    return Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
