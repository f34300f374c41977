"""Motion constraints: root path, heading, joint positions, poses, ground height and foot contacts.

Joint positions (T, J, 3) are in metres with y up. Headings are angles about y in radians, from +z towards +x. Errors
are differentiable, with one value per constrained frame.
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from motion.skeleton import Skeleton

GROUND = [0, 2]               # x and z
METRES_PER_RADIAN = 0.3       # weight of headings relative to distances: 10 degrees count as 5 cm
_TINY = 1e-12                 # added before taking square roots, whose gradient at 0 is infinite


class Constraint(Protocol):
    """Interface of constraints."""

    frames: Tensor  # (k,) int64 constrained frames
    label: str      # name in reports
    unit: str       # unit in reports, "m" or "degrees"

    def error(self, joints: Tensor, skeleton: Skeleton) -> Tensor:
        """Compute the error (k,) of ``joints`` (T, J, 3) in metres, or in radians times ``METRES_PER_RADIAN``."""


@dataclass(frozen=True)
class RootPath:
    """Path of the pelvis over the ground."""

    frames: Tensor
    points: Tensor          # (k, 2) positions (x, z)
    tolerance: float = 0.0  # metres that do not count as an error
    label: str = "path"
    unit = "m"

    def error(self, joints: Tensor, _: Skeleton) -> Tensor:
        """Compute the distance (k,) between the pelvis and the path."""
        return (_norm(joints[self.frames, 0][:, GROUND] - self.points) - self.tolerance).clamp_min(0)


@dataclass(frozen=True)
class Heading:
    """Target heading of the body. The actual heading is computed from hips and shoulders."""

    frames: Tensor
    angles: Tensor          # (k,) radians
    tolerance: float = 0.0  # radians that do not count as an error
    label: str = "heading"
    unit = "degrees"

    def error(self, joints: Tensor, skeleton: Skeleton) -> Tensor:
        """Compute the angle (k,) between the actual and the target heading, times ``METRES_PER_RADIAN``."""
        faced = forward(joints[self.frames], skeleton)
        x, z = self.angles.sin(), self.angles.cos()
        across, along = faced[:, 0] * z - faced[:, 1] * x, faced[:, 0] * x + faced[:, 1] * z
        return METRES_PER_RADIAN * (torch.atan2(across, along).abs() - self.tolerance).clamp_min(0)


@dataclass(frozen=True)
class JointTarget:
    """Target positions of one joint."""

    frames: Tensor
    joint: int
    places: Tensor  # (k, 3) positions; NaN coordinates are free
    label: str = "joint"
    unit = "m"

    def error(self, joints: Tensor, _: Skeleton) -> Tensor:
        """Compute the distance (k,) between the joint and its target along the constrained axes."""
        missing = joints[self.frames, self.joint] - self.places.nan_to_num()
        return _norm(torch.where(self.places.isnan(), torch.zeros_like(missing), missing))


@dataclass(frozen=True)
class Pose:
    """Target poses of the whole body."""

    frames: Tensor
    poses: Tensor          # (k, J, 3)
    in_body: bool = False  # whether poses are relative to the position and heading of the body
    label: str = "pose"
    unit = "m"

    def error(self, joints: Tensor, skeleton: Skeleton) -> Tensor:
        """Compute the distance (k,) between the actual and the target pose, averaged over the joints."""
        chosen = joints[self.frames]
        if not self.in_body:
            return _norm(chosen - self.poses).mean(-1)
        return _norm(body_frame(chosen, skeleton) - body_frame(self.poses, skeleton)).mean(-1)

    def placed(self, joints: Tensor, skeleton: Skeleton) -> Tensor:
        """Return the poses (k, J, 3) in world coordinates, moved to the body in ``joints`` if ``in_body`` is set."""
        if not self.in_body:
            return self.poses
        chosen = joints[self.frames]
        placed = turned(body_frame(self.poses, skeleton), forward(chosen, skeleton))
        return placed + chosen[:, :1] * chosen.new_tensor([1.0, 0.0, 1.0])


@dataclass(frozen=True)
class GroundHeight:
    """Height of the ground, such as a step or platform, on which the lowest foot joint stands."""

    frames: Tensor
    height: float  # metres
    label: str = "ground"
    unit = "m"

    def error(self, joints: Tensor, skeleton: Skeleton) -> Tensor:
        """Compute the vertical distance (k,) between the lowest foot joint and the ground."""
        return (joints[self.frames][:, list(skeleton.feet), 1].amin(-1) - self.height).abs()


@dataclass(frozen=True)
class Contacts:
    """Foot contacts, during which feet must not slide."""

    frames: Tensor
    held: Tensor  # (k, F) weight of the contact of each of ``skeleton.feet`` between a frame and the next
    label: str = "contacts"
    unit = "m"

    def error(self, joints: Tensor, skeleton: Skeleton) -> Tensor:
        """Compute the horizontal distance (k,) that standing feet slide to the next frame, as a mean over the feet."""
        feet = joints[:, list(skeleton.feet)][..., GROUND]
        slides = _norm(feet[self.frames + 1] - feet[self.frames])
        return (self.held * slides).sum(-1) / self.held.sum(-1).clamp_min(1)


@dataclass(frozen=True)
class Remaining:
    """Mean and largest remaining error of a constraint, in ``unit``."""

    label: str
    mean: float
    largest: float
    unit: str

    def __str__(self) -> str:
        digits = 1 if self.unit == "degrees" else 3
        return f"{self.label}: mean error {self.mean:.{digits}f} {self.unit}, largest {self.largest:.{digits}f}"


def remaining(constraints: Sequence[Constraint], joints: Tensor, skeleton: Skeleton) -> list[Remaining]:
    """Measure the remaining errors of ``constraints`` for ``joints`` (T, J, 3)."""
    found = []
    for constraint in constraints:
        scale = math.degrees(1 / METRES_PER_RADIAN) if constraint.unit == "degrees" else 1.0
        errors = scale * constraint.error(joints, skeleton)
        found.append(Remaining(constraint.label, float(errors.mean()), float(errors.max()), constraint.unit))
    return found


def forward(joints: Tensor, skeleton: Skeleton) -> Tensor:
    """Compute the facing direction of bodies (..., J, 3) from hips and shoulders, as unit vectors (x, z)."""
    right_hip, left_hip, right_shoulder, left_shoulder = skeleton.face_joints
    across = (joints[..., left_hip, :] - joints[..., right_hip, :]
              + joints[..., left_shoulder, :] - joints[..., right_shoulder, :])
    return torch.nn.functional.normalize(torch.stack([-across[..., 2], across[..., 0]], -1), dim=-1)


def body_frame(joints: Tensor, skeleton: Skeleton) -> Tensor:
    """Move bodies (..., J, 3) so that the pelvis is above the origin and they face +z."""
    local = joints - joints[..., :1, :] * joints.new_tensor([1.0, 0.0, 1.0])
    facing = forward(joints, skeleton)
    return turned(local, facing * facing.new_tensor([-1.0, 1.0]))


def turned(joints: Tensor, facing: Tensor) -> Tensor:
    """Rotate ``joints`` (..., J, 3) about y, so that +z becomes the direction ``facing`` (..., 2), given as (x, z)."""
    sin, cos = facing[..., None, 0], facing[..., None, 1]
    x, y, z = joints.unbind(-1)
    return torch.stack([x * cos + z * sin, y, z * cos - x * sin], -1)


def _norm(vectors: Tensor) -> Tensor:
    return (vectors.square().sum(-1) + _TINY).sqrt()
