"""Constraints on a motion: root path, heading, joint positions, poses, ground height and foot contacts.

Joints are (T, J, 3) in metres, y up; headings are radians about y from +z, positive towards +x (to the left of a body
that faces +z). ``error`` is differentiable and gives one value per constrained frame. The error of a mirrored
constraint on the mirrored motion equals that of the constraint on the motion.
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from motion.skeleton import Skeleton, mirror

GROUND = [0, 2]               # x and z
METRES_PER_RADIAN = 0.3       # weight of headings relative to distances: 10 degrees count as 5 cm
_TINY = 1e-12                 # added under square roots, whose slope at 0 is infinite


class Constraint(Protocol):
    """Interface of all constraints."""

    frames: Tensor  # (k,) int64 constrained frames
    label: str      # name in reports
    unit: str       # unit in reports, "m" or "degrees"

    def error(self, joints: Tensor, skeleton: Skeleton) -> Tensor:
        """Error (k,) in metres, or in radians times ``METRES_PER_RADIAN``, of joints (T, J, 3)."""

    def mirrored(self, skeleton: Skeleton) -> "Constraint":
        """The constraint mirrored at x = 0."""


@dataclass(frozen=True)
class RootPath:
    """Ground positions (k, 2), (x, z), of the pelvis at ``frames``; errors below ``tolerance`` are 0."""

    frames: Tensor
    points: Tensor
    tolerance: float = 0.0
    label: str = "path"
    unit = "m"

    def error(self, joints: Tensor, skeleton: Skeleton) -> Tensor:
        """Distance (k,) of the pelvis from the path."""
        del skeleton
        return (_norm(joints[self.frames, 0][:, GROUND] - self.points) - self.tolerance).clamp_min(0)

    def mirrored(self, skeleton: Skeleton) -> "RootPath":
        """The same path with x negated."""
        del skeleton
        return replace(self, points=self.points * self.points.new_tensor([-1.0, 1.0]))


@dataclass(frozen=True)
class Heading:
    """Directions (k,) in radians that hips and shoulders face at ``frames``; errors below ``tolerance`` are 0."""

    frames: Tensor
    angles: Tensor
    tolerance: float = 0.0
    label: str = "heading"
    unit = "degrees"

    def error(self, joints: Tensor, skeleton: Skeleton) -> Tensor:
        """Angle (k,) between actual and wanted heading, times ``METRES_PER_RADIAN``."""
        faced = forward(joints[self.frames], skeleton)
        x, z = self.angles.sin(), self.angles.cos()
        across, along = faced[:, 0] * z - faced[:, 1] * x, faced[:, 0] * x + faced[:, 1] * z
        return METRES_PER_RADIAN * (torch.atan2(across, along).abs() - self.tolerance).clamp_min(0)

    def mirrored(self, skeleton: Skeleton) -> "Heading":
        """The same with left and right swapped."""
        del skeleton
        return replace(self, angles=-self.angles)


@dataclass(frozen=True)
class JointTarget:
    """Positions (k, 3) of one joint at ``frames``; NaN coordinates are free."""

    frames: Tensor
    joint: int
    places: Tensor
    label: str = "joint"
    unit = "m"

    def error(self, joints: Tensor, skeleton: Skeleton) -> Tensor:
        """Distance (k,) along the constrained axes."""
        del skeleton
        missing = joints[self.frames, self.joint] - self.places.nan_to_num()
        return _norm(torch.where(self.places.isnan(), torch.zeros_like(missing), missing))

    def mirrored(self, skeleton: Skeleton) -> "JointTarget":
        """The joint on the other side, with x negated."""
        return replace(self, joint=skeleton.mirror_order[self.joint],
                       places=self.places * self.places.new_tensor([-1.0, 1.0, 1.0]))


@dataclass(frozen=True)
class Pose:
    """Whole poses (k, J, 3) at ``frames``, in world coordinates or, with ``in_body``, relative to the body's position
    and heading."""

    frames: Tensor
    poses: Tensor
    in_body: bool = False
    label: str = "pose"
    unit = "m"

    def error(self, joints: Tensor, skeleton: Skeleton) -> Tensor:
        """Mean distance (k,) over the joints."""
        chosen = joints[self.frames]
        if not self.in_body:
            return _norm(chosen - self.poses).mean(-1)
        return _norm(body_frame(chosen, skeleton) - body_frame(self.poses, skeleton)).mean(-1)

    def placed(self, joints: Tensor, skeleton: Skeleton) -> Tensor:
        """The poses (k, J, 3) in world coordinates; with ``in_body``, moved to the position and heading of ``joints``
        (T, J, 3)."""
        if not self.in_body:
            return self.poses
        chosen = joints[self.frames]
        placed = turned(body_frame(self.poses, skeleton), forward(chosen, skeleton))
        return placed + chosen[:, :1] * chosen.new_tensor([1.0, 0.0, 1.0])

    def mirrored(self, skeleton: Skeleton) -> "Pose":
        """The poses with left and right swapped."""
        return replace(self, poses=mirror(self.poses, skeleton))


@dataclass(frozen=True)
class GroundHeight:
    """Height in metres of the lowest foot joint at ``frames``: a step, a platform, or the floor."""

    frames: Tensor
    height: float
    label: str = "ground"
    unit = "m"

    def error(self, joints: Tensor, skeleton: Skeleton) -> Tensor:
        """Distance (k,) of the lowest foot joint from the height."""
        return (joints[self.frames][:, list(skeleton.feet), 1].amin(-1) - self.height).abs()

    def mirrored(self, skeleton: Skeleton) -> "GroundHeight":
        """The same constraint: mirroring keeps heights."""
        del skeleton
        return self


@dataclass(frozen=True)
class Contacts:
    """Standing feet do not slide: ``held`` (k, F) weighs each of the skeleton's ``feet`` between each of ``frames`` and
    the next frame."""

    frames: Tensor
    held: Tensor
    label: str = "contacts"
    unit = "m"

    def error(self, joints: Tensor, skeleton: Skeleton) -> Tensor:
        """Mean ground distance (k,) that standing feet move to the next frame."""
        feet = joints[:, list(skeleton.feet)][..., GROUND]
        slides = _norm(feet[self.frames + 1] - feet[self.frames])
        return (self.held * slides).sum(-1) / self.held.sum(-1).clamp_min(1)

    def mirrored(self, skeleton: Skeleton) -> "Contacts":
        """The weights of the other side's feet."""
        places = [skeleton.feet.index(skeleton.mirror_order[foot]) for foot in skeleton.feet]
        return replace(self, held=self.held[:, places])


@dataclass(frozen=True)
class Remaining:
    """Remaining error of a constraint, in ``unit``."""

    label: str
    mean: float
    largest: float
    unit: str

    def __str__(self) -> str:
        digits = 1 if self.unit == "degrees" else 3
        return f"{self.label}: mean error {self.mean:.{digits}f} {self.unit}, largest {self.largest:.{digits}f}"


def remaining(constraints: Sequence[Constraint], joints: Tensor, skeleton: Skeleton) -> list[Remaining]:
    """Remaining errors of constraints for joints (T, J, 3)."""
    found = []
    for constraint in constraints:
        scale = math.degrees(1 / METRES_PER_RADIAN) if constraint.unit == "degrees" else 1.0
        errors = scale * constraint.error(joints, skeleton)
        found.append(Remaining(constraint.label, float(errors.mean()), float(errors.max()), constraint.unit))
    return found


def pinned_joints(constraints: Sequence[Constraint], frames: int, joints: int) -> np.ndarray:
    """(frames, joints), whether a constraint sets the position of a joint in a frame; foot locking does not move it."""
    pinned = np.zeros((frames, joints), bool)
    for constraint in constraints:
        if isinstance(constraint, JointTarget):
            pinned[constraint.frames.cpu().numpy(), constraint.joint] = True
        elif isinstance(constraint, Pose):
            pinned[constraint.frames.cpu().numpy()] = True
    return pinned


def forward(joints: Tensor, skeleton: Skeleton) -> Tensor:
    """Facing directions (..., 2) as unit vectors (x, z) of bodies (..., J, 3), from hips and shoulders."""
    right_hip, left_hip, right_shoulder, left_shoulder = skeleton.face_joints
    across = (joints[..., left_hip, :] - joints[..., right_hip, :]
              + joints[..., left_shoulder, :] - joints[..., right_shoulder, :])
    return torch.nn.functional.normalize(torch.stack([-across[..., 2], across[..., 0]], -1), dim=-1)


def body_frame(joints: Tensor, skeleton: Skeleton) -> Tensor:
    """Bodies (..., J, 3) moved to have the pelvis above the origin and face +z."""
    local = joints - joints[..., :1, :] * joints.new_tensor([1.0, 0.0, 1.0])
    facing = forward(joints, skeleton)
    return turned(local, facing * facing.new_tensor([-1.0, 1.0]))


def turned(joints: Tensor, facing: Tensor) -> Tensor:
    """Joints (..., J, 3) rotated about y from +z to the direction ``facing`` (..., 2) as (x, z)."""
    sin, cos = facing[..., None, 0], facing[..., None, 1]
    x, y, z = joints.unbind(-1)
    return torch.stack([x * cos + z * sin, y, z * cos - x * sin], -1)


def _norm(vectors: Tensor) -> Tensor:
    return (vectors.square().sum(-1) + _TINY).sqrt()
