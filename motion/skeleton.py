"""Skeleton definitions: joint names, kinematic chains and constants. Add new skeletons to ``SKELETONS``.

Joint coordinates are y up. The left side of a person facing +z is at +x.
"""
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

UP_AXES = ("y", "z", "x", "-y", "-z", "-x")


@dataclass(frozen=True)
class Skeleton:
    """Joint layout and constants of a skeleton with J joints."""

    name: str
    joint_names: tuple[str, ...]
    chains: tuple[tuple[int, ...], ...]             # each starts at the root or at a joint of an earlier chain
    raw_offsets: tuple[tuple[int, int, int], ...]   # (J, 3) unit direction of each bone in the rest pose
    face_joints: tuple[int, int, int, int]          # right hip, left hip, right shoulder, left shoulder
    leg_bones: tuple[int, int]                      # the sum of their lengths defines the size of a body
    left_feet: tuple[int, ...]                      # in the order of the contact columns, left first
    right_feet: tuple[int, ...]
    mirror_pairs: tuple[tuple[int, int], ...]       # joints that swap under mirroring
    contact_threshold: float                        # squared displacement per frame below which a foot stands
    target_lengths: tuple[float, ...] | None = None  # bone lengths of the reference body; None: each clip keeps its own

    def __len__(self) -> int:
        return len(self.joint_names)

    @property
    def feature_count(self) -> int:
        """Number of motion features per frame (see ``motion.features``)."""
        return 12 * len(self) - 1

    @cached_property
    def parents(self) -> tuple[int, ...]:
        """Index of each joint's parent, -1 for the root."""
        parents = [-1] * len(self)
        for chain in self.chains:
            for parent, joint in zip(chain, chain[1:], strict=False):
                parents[joint] = parent
        return tuple(parents)

    @cached_property
    def frame_parents(self) -> tuple[int, ...]:
        """Joint relative to which each local rotation is given; 0 (the root) for the first bone of every chain.

        Chains that start at the chest are also relative to the root, not to the chest.
        """
        frames = list(self.parents)
        for chain in self.chains:
            frames[chain[1]] = 0
        return tuple(frames)

    @cached_property
    def feet(self) -> tuple[int, ...]:
        """Indices of the foot joints, in the order of the contact features."""
        return self.left_feet + self.right_feet

    @cached_property
    def mirror_order(self) -> tuple[int, ...]:
        """Index of the joint with which each joint is swapped when left and right are mirrored."""
        order = list(range(len(self)))
        for a, b in self.mirror_pairs:
            order[a], order[b] = b, a
        return tuple(order)

    @property
    def target_offsets(self) -> np.ndarray | None:
        """Bone vectors (J, 3) float32 of the reference body in the rest pose, or None if there is no reference body."""
        if self.target_lengths is None:
            return None
        return np.float32(self.raw_offsets) * np.float32(self.target_lengths)[:, None]


def pose_offsets(pose: ArrayLike, skeleton: Skeleton) -> np.ndarray:
    """Return rest-pose bone vectors (J, 3) of ``skeleton`` with the bone lengths measured in ``pose`` (J, 3)."""
    pose = np.asarray(pose, np.float32)
    bones = pose - pose[list(skeleton.parents)]
    bones[0] = 0
    return np.float32(skeleton.raw_offsets) * np.linalg.norm(bones, axis=-1, keepdims=True)


def mirror(joints: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Mirror joints (..., J, 3), an array or a tensor, across the plane x = 0 and swap left and right joints."""
    mirrored = joints[..., list(skeleton.mirror_order), :]
    mirrored[..., 0] *= -1
    return mirrored


T2M = Skeleton(
    name="t2m",
    joint_names=("pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle",
                 "right_ankle", "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head",
                 "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist"),
    chains=((0, 2, 5, 8, 11), (0, 1, 4, 7, 10), (0, 3, 6, 9, 12, 15), (9, 14, 17, 19, 21), (9, 13, 16, 18, 20)),
    raw_offsets=((0, 0, 0), (1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, -1, 0), (0, 1, 0), (0, -1, 0),
                 (0, -1, 0), (0, 1, 0), (0, 0, 1), (0, 0, 1), (0, 1, 0), (1, 0, 0), (-1, 0, 0), (0, 0, 1),
                 (0, -1, 0), (0, -1, 0), (0, -1, 0), (0, -1, 0), (0, -1, 0), (0, -1, 0)),
    face_joints=(2, 1, 17, 16),
    leg_bones=(5, 8),
    left_feet=(7, 10),
    right_feet=(8, 11),
    mirror_pairs=((1, 2), (4, 5), (7, 8), (10, 11), (13, 14), (16, 17), (18, 19), (20, 21)),
    contact_threshold=0.002,
    # The body of HumanML3D clip 000021, which all processed clips of that data set share. Metres.
    target_lengths=(0.0, 0.10307395, 0.10988335, 0.13156825, 0.39362314, 0.39018813, 0.14319026, 0.43243298,
                    0.42564332, 0.05736471, 0.14338174, 0.14941867, 0.21935999, 0.13748683, 0.14338283, 0.10303927,
                    0.131614, 0.1229843, 0.25683984, 0.2630919, 0.26601186, 0.2698763),
)

KIT = Skeleton(
    name="kit",
    joint_names=("pelvis", "torso", "neck_base", "neck", "head", "left_shoulder", "left_elbow", "left_wrist",
                 "right_shoulder", "right_elbow", "right_wrist", "left_hip", "left_knee", "left_ankle", "left_heel",
                 "left_toe", "right_hip", "right_knee", "right_ankle", "right_heel", "right_toe"),
    chains=((0, 11, 12, 13, 14, 15), (0, 16, 17, 18, 19, 20), (0, 1, 2, 3, 4), (3, 5, 6, 7), (3, 8, 9, 10)),
    raw_offsets=((0, 0, 0), (0, 1, 0), (0, 1, 0), (0, 1, 0), (0, 1, 0), (1, 0, 0), (0, -1, 0), (0, -1, 0),
                 (-1, 0, 0), (0, -1, 0), (0, -1, 0), (1, 0, 0), (0, -1, 0), (0, -1, 0), (0, 0, 1), (0, 0, 1),
                 (-1, 0, 0), (0, -1, 0), (0, -1, 0), (0, 0, 1), (0, 0, 1)),
    face_joints=(11, 16, 5, 8),
    leg_bones=(17, 18),
    left_feet=(19, 20),
    right_feet=(14, 15),
    mirror_pairs=((5, 8), (6, 9), (7, 10), (11, 16), (12, 17), (13, 18), (14, 19), (15, 20)),
    contact_threshold=0.05,
)

SKELETONS = {skeleton.name: skeleton for skeleton in (T2M, KIT)}
