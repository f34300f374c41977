"""Hierarchies like those of other programs: a known motion with other bone names, and more or fewer bones."""
from dataclasses import replace

import numpy as np

from motion.bvh import POSITIONS, Bvh
from motion.bvh_fit import T2M_RIG
from motion.source_rig import place_joints
from tests import figures

_TURNS = ("Zrotation", "Yrotation", "Xrotation")
_TRUNK = ("Hips", "Spine", "Spine1", "Spine2", "Neck", "Head")
_LEG = ("{}UpLeg", "{}Leg", "{}Foot", "{}Toe")
_ARM = ("{}Shoulder", "{}Arm", "{}ForeArm", "{}Hand")


def moving(frames: int = 60) -> tuple[Bvh, np.ndarray]:
    """Return a BVH of a walk with a waving left arm, and its joints (T, 22, 3). Only arms, thighs and knees rotate."""
    time = np.arange(frames) / 20
    stride, wave = 0.4 * np.sin(6 * time), 1.4 + np.sin(4 * time)
    thighs, knees, arms = (stride, -stride), (0.2 + stride.clip(0), 0.2 + (-stride).clip(0)), (wave, 0.2 - 0 * wave)
    joints = figures.figure(frames, path=np.stack([0 * time, time], -1), arms=arms, thighs=thighs, knees=knees)
    rest = figures.figure(1, arms=(0, 0))[0][list(T2M_RIG.order)]
    offsets = rest - rest[list(T2M_RIG.parents)]
    offsets[0] = 0
    values = np.zeros((frames, 3 + 3 * len(offsets)))
    values[:, :3] = joints[:, 0]
    for side, sign, arm, thigh, knee in zip(("Left", "Right"), (1, -1), arms, thighs, knees, strict=True):
        for bone, axis, angle in ((f"{side}Arm", 0, sign * arm), (f"{side}UpLeg", 2, -thigh), (f"{side}Leg", 2, knee)):
            values[:, 3 + 3 * T2M_RIG.names.index(bone) + axis] = np.degrees(angle)
    channels = (POSITIONS + _TURNS, *[_TURNS] * (len(offsets) - 1))
    return Bvh(T2M_RIG.names, T2M_RIG.parents, offsets, channels, values, 0.05), joints


def placed(bvh: Bvh) -> np.ndarray:
    """Find the 22 joints in a hierarchy and return their positions (T, 22, 3)."""
    return place_joints(bvh).posed(bvh, bvh.local_positions(), bvh.local_rotations())


def renamed(bvh: Bvh, names: dict[str, str]) -> Bvh:
    return replace(bvh, names=tuple(names.get(name, name) for name in bvh.names))


def without(bvh: Bvh, gone: str) -> Bvh:
    """Remove a joint that does not rotate. Its children become children of its parent."""
    at = bvh.names.index(gone)
    keep = [joint for joint in range(len(bvh.names)) if joint != at]
    parents = [bvh.parents[at] if bvh.parents[joint] == at else bvh.parents[joint] for joint in keep]
    offsets = bvh.offsets.copy()
    for joint, parent in enumerate(bvh.parents):
        if parent == at:
            offsets[joint] += offsets[at]
    columns = np.concatenate([np.arange(bvh.columns[joint].start, bvh.columns[joint].stop) for joint in keep])
    tips = {keep.index(joint): tip for joint, tip in bvh.end_sites.items() if joint != at}
    return Bvh(tuple(bvh.names[joint] for joint in keep), tuple(parent - (parent > at) for parent in parents),
               offsets[keep], tuple(bvh.channels[joint] for joint in keep), bvh.values[:, columns], bvh.frame_time,
               tips)


def inserted(bvh: Bvh, name: str, below: str, share: float = 0.5) -> Bvh:
    """Insert a joint that does not rotate between the joint ``below`` and its parent."""
    at = bvh.names.index(below)
    offsets = np.insert(bvh.offsets, at, share * bvh.offsets[at], 0)
    offsets[at + 1] *= 1 - share
    parents = [parent + (parent >= at) for parent in bvh.parents]
    parents[at:at + 1] = [parents[at], at]
    return Bvh(bvh.names[:at] + (name,) + bvh.names[at:], tuple(parents), offsets,
               bvh.channels[:at] + ((),) + bvh.channels[at:], bvh.values, bvh.frame_time,
               {joint + (joint >= at): tip for joint, tip in bvh.end_sites.items()})


def leaf(bvh: Bvh, name: str, parent: str, offset: tuple[float, float, float]) -> Bvh:
    """Add a child to ``parent`` that does not rotate."""
    return replace(bvh, names=(*bvh.names, name), parents=(*bvh.parents, bvh.names.index(parent)),
                   offsets=np.concatenate([bvh.offsets, [offset]]), channels=(*bvh.channels, ()))


def as_rig(bvh: Bvh, trunk: str, leg: str, arm: str, sides: tuple[str, str]) -> Bvh:
    """Rename and add bones so that ``bvh`` has those of another rig. Names are listed from the root outwards.

    ``{}`` is the side, and ``*`` marks an additional bone. ``trunk`` lists the pelvis, up to three spine bones, the
    neck and the head. ``leg`` may lack a toe, and ``arm`` a collar.
    """
    names = trunk.split()
    spine = [name for name in names[1:] if not name.startswith("*")][:-2]
    for ours in _TRUNK[1 + len(spine):4]:
        bvh = without(bvh, ours)
    bvh = _chain(bvh, names, [ours for ours in _TRUNK if ours in bvh.names])
    for word, side in zip(("Left", "Right"), sides, strict=True):
        for chain, text in ((_LEG, leg), (_ARM, arm)):
            theirs = [name.format(side) for name in text.split()]
            ours = [name.format(word) for name in chain]
            if sum(not name.startswith("*") for name in theirs) < len(ours):
                bvh = without(bvh, ours.pop(3 if chain is _LEG else 0))
            bvh = _chain(bvh, theirs, ours)
    return bvh


def _chain(bvh: Bvh, theirs: list[str], ours: list[str]) -> Bvh:
    ours = list(ours)
    for number, name in enumerate(theirs):
        if name.startswith("*"):
            at = f"{number}*"
            bvh = inserted(bvh, at, ours[0])
            bvh = renamed(bvh, {at: f"={name[1:]}"})
        else:
            bvh = renamed(bvh, {ours.pop(0): f"={name}"})
    return renamed(bvh, {f"={name.lstrip('*')}": name.lstrip("*") for name in theirs})
