"""Rigs: skeletons with the bone names, file order and rest pose that animation programs use."""
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from motion.skeleton import KIT, T2M, Skeleton


@dataclass(frozen=True)
class Rig:
    """A skeleton with the bone names, order and rest pose of its BVH files."""

    skeleton: Skeleton
    bones: tuple[tuple[str, int, tuple[float, float, float]], ...]  # name, joint, offset at rest; file order

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Joint of each bone, in file order: parents come before their children."""
        return tuple(joint for _, joint, _ in self.bones)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Name of each bone, in file order."""
        return tuple(name for name, _, _ in self.bones)

    @cached_property
    def parents(self) -> tuple[int, ...]:
        """Parent of each bone as a place in the file order, -1 for the root."""
        return tuple(self.order.index(parent) if (parent := self.skeleton.parents[joint]) >= 0 else -1
                     for joint in self.order)

    @cached_property
    def rest(self) -> np.ndarray:
        """(J, 3) offset of each bone from its parent at rest, in file order."""
        return np.array([offset for _, _, offset in self.bones], dtype=np.float64)


# The body of the published BVH files, in metres: what was set up for those files fits these directions.
T2M_RIG = Rig(T2M, (
    ("Hips", 0, (0.0, 0.0, 0.0)),
    ("LeftUpLeg", 1, (0.069520, -0.091406, -0.006815)),
    ("LeftLeg", 4, (0.034277, -0.375199, -0.004496)),
    ("LeftFoot", 7, (-0.013596, -0.397961, -0.043693)),
    ("LeftToe", 10, (0.026358, -0.055791, 0.119288)),
    ("RightUpLeg", 2, (-0.067670, -0.090522, -0.004320)),
    ("RightLeg", 5, (-0.038290, -0.382569, -0.008850)),
    ("RightFoot", 8, (0.015774, -0.398415, -0.042312)),
    ("RightToe", 11, (-0.025372, -0.048144, 0.123348)),
    ("Spine", 3, (-0.002533, 0.108963, -0.026696)),
    ("Spine1", 6, (0.005487, 0.135180, 0.001092)),
    ("Spine2", 9, (0.001457, 0.052922, 0.025425)),
    ("Neck", 12, (-0.002778, 0.213870, -0.042857)),
    ("Head", 15, (0.005152, 0.064970, 0.051349)),
    ("LeftShoulder", 13, (0.078845, 0.121749, -0.034090)),
    ("LeftArm", 16, (0.090977, 0.030469, -0.008868)),
    ("LeftForeArm", 18, (0.259612, -0.012772, -0.027456)),
    ("LeftHand", 20, (0.249234, 0.008986, -0.001171)),
    ("RightShoulder", 14, (-0.081759, 0.118833, -0.038615)),
    ("RightArm", 17, (-0.096012, 0.032551, -0.009143)),
    ("RightForeArm", 19, (-0.253742, -0.013329, -0.021401)),
    ("RightHand", 21, (-0.255298, 0.007772, -0.005559)),
))

KIT_RIG = Rig(KIT, (
    ("Hips", 0, (0, 0, 0)),
    ("LeftUpLeg", 11, (1, 0, 0)),
    ("LeftLeg", 12, (0, -1, 0)),
    ("LeftFoot", 13, (0, -1, 0)),
    ("LeftMidFoot", 14, (0, 0, 1)),
    ("LeftToe", 15, (0, 0, 1)),
    ("RightUpLeg", 16, (-1, 0, 0)),
    ("RightLeg", 17, (0, -1, 0)),
    ("RightFoot", 18, (0, -1, 0)),
    ("RightMidFoot", 19, (0, 0, 1)),
    ("RightToe", 20, (0, 0, 1)),
    ("Spine", 1, (0, 1, 0)),
    ("Spine1", 2, (0, 1, 0)),
    ("Neck", 3, (0, 1, 0)),
    ("Head", 4, (0, 1, 0)),
    ("LeftArm", 5, (1, 0, 0)),
    ("LeftForeArm", 6, (1, 0, 0)),
    ("LeftHand", 7, (1, 0, 0)),
    ("RightArm", 8, (-1, 0, 0)),
    ("RightForeArm", 9, (-1, 0, 0)),
    ("RightHand", 10, (-1, 0, 0)),
))

_RIGS = {rig.skeleton.name: rig for rig in (T2M_RIG, KIT_RIG)}


def rig_of(skeleton: Skeleton) -> Rig:
    """The rig of a skeleton: its own, or one with the joints' names and rest directions."""
    if skeleton.name in _RIGS:
        return _RIGS[skeleton.name]
    order = dict.fromkeys(joint for chain in skeleton.chains for joint in chain)
    return Rig(skeleton, tuple((skeleton.joint_names[joint], joint, skeleton.raw_offsets[joint]) for joint in order))
