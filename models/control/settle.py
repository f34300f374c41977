"""Correct the last centimetres of constraint errors on the joints, after the latents are optimised."""
from collections.abc import Sequence

import numpy as np
import torch
from scipy.linalg import solveh_banded
from torch import Tensor
from torch.nn import functional as F

from models.control.constraints import GROUND, Constraint, JointTarget, Pose, RootPath
from models.control.decoding import Bones
from motion.skeleton import Skeleton

EXACT = 1e4          # weight of a root position, relative to the smoothness of the added path
SOFT = 0.3           # weight of the root for a target of another joint, which covers the remaining distance
BEND = 4.0           # weight of the added path's acceleration, relative to its velocity
FASTEST = 0.05       # m per frame (1 m/s), largest speed of the added path; farther targets are not reached
FAR = 0.15           # m: joints farther from their target than this are not moved
BLUR = 3.0           # frames (std) over which the offset of a joint is smoothed
FADE = 6             # frames on either side over which a motion is blended into a fixed pose
NEAR = 0.003         # m: smaller errors are not corrected
RATE = 0.1           # learning rate of Adam on the offsets, relative to the largest error


def shift_root(joints: Tensor, constraints: Sequence[Constraint], skeleton: Skeleton) -> Tensor:
    """Joints (T, J, 3) moved over the ground along the straightest path that brings the pelvis to its targets."""
    frames = len(joints)
    weight, pull = np.zeros(frames), np.zeros((frames, 2))
    for constraint in constraints:
        share = SOFT if isinstance(constraint, JointTarget) and constraint.joint else EXACT
        for frame, missing in _root_errors(constraint, joints, skeleton):
            weight[frame] += share
            pull[frame] += share * missing
    if not weight.any():
        return joints
    added = _straightest(weight, pull)
    fastest = np.linalg.norm(np.diff(added, axis=0), axis=-1).max(initial=0)
    added *= min(1, FASTEST / max(fastest, 1e-9))
    shift = torch.zeros(frames, 1, 3, dtype=joints.dtype, device=joints.device)
    shift[..., GROUND] = torch.from_numpy(added).to(shift)[:, None]
    return joints + shift


def _root_errors(constraint: Constraint, joints: Tensor, skeleton: Skeleton) -> list[tuple[int, np.ndarray]]:
    """Frames with the missing ground displacement (2,) of the pelvis."""
    places = joints[constraint.frames, 0][:, GROUND]
    if isinstance(constraint, RootPath):
        missing = constraint.points - places
        share = constraint.error(joints, skeleton) / missing.norm(dim=-1).clamp_min(1e-9)
        missing = missing * share[:, None]
    elif isinstance(constraint, JointTarget):
        missing = (constraint.places - joints[constraint.frames, constraint.joint])[:, GROUND].nan_to_num()
    elif isinstance(constraint, Pose) and not constraint.in_body:
        missing = constraint.poses[:, 0, GROUND] - places
    else:
        return []
    return list(zip(constraint.frames.tolist(), missing.double().cpu().numpy(), strict=True))


def _straightest(weight: np.ndarray, pull: np.ndarray) -> np.ndarray:
    """Path (T, 2) that minimises squared steps, ``BEND`` times squared changes of step, and weighted squared distances
    from targets p with weights w: ``weight`` (T,) is w, ``pull`` (T, 2) is w p. It starts at 0 without a target
    there."""
    frames = len(weight)
    bands = np.zeros((3, frames))  # upper diagonals of the matrix, the main one last, as in LAPACK
    bands[2] = weight + 1e-6
    bands[2, 0] += 0 if weight[0] else EXACT
    bands[2, :-1] += 1
    bands[2, 1:] += 1
    bands[1, 1:] -= 1
    if frames > 2:
        for place, factor in enumerate((1, 4, 1)):
            bands[2, place:frames - 2 + place] += factor * BEND
        bands[1, 1:-1] -= 2 * BEND
        bands[1, 2:] -= 2 * BEND
        bands[0, 2:] += BEND
    return solveh_banded(bands, pull)


def offset_joints(joints: Tensor, constraints: Sequence[Constraint], bones: Bones, skeleton: Skeleton,
                  steps: int, cyclic: bool = False) -> Tensor:
    """Joints (T, J, 3) with smooth offsets and unchanged bone lengths that meet the constraints within reach.

    ``cyclic`` offsets continue from the end to the start.
    """
    errors = [(constraint, float(constraint.error(joints, skeleton).max())) for constraint in constraints
              if not isinstance(constraint, RootPath) and len(constraint.frames)]
    reachable = [constraint for constraint, error in errors if error < FAR]
    needed = max((error for _, error in errors if error < FAR), default=0)
    if needed < NEAR or not steps:
        return joints
    fitted = bones.fitted(joints)
    shift = joints - fitted  # an edited source has different bones
    kernel = _blur(joints)
    offsets = torch.zeros_like(joints).requires_grad_()
    adam = torch.optim.Adam([offsets], lr=RATE * needed)
    for step in range(steps):
        adam.param_groups[0]["lr"] = RATE * needed * (1 - step / steps)
        with torch.enable_grad():
            smooth = _blurred(offsets, kernel, cyclic)
            moved = bones.fitted(fitted + smooth) + shift
            loss = 0.1 * smooth.square().mean().add(1e-12).sqrt()
            for constraint in reachable:
                error = constraint.error(moved, skeleton)
                loss = loss + error.mean() + error.square().mean().sqrt()
            root_moved = (moved[:, 0, GROUND] - joints[:, 0, GROUND]).square().mean()  # already corrected
            adam.zero_grad()
            (loss + 100 * root_moved).backward()
        adam.step()
    return bones.fitted(fitted + _blurred(offsets.detach(), kernel, cyclic)) + shift


def fix_poses(joints: Tensor, constraints: Sequence[Constraint], skeleton: Skeleton,
              cyclic: bool = False) -> Tensor:
    """Joints (T, J, 3) with exact fixed poses; the difference fades out over ``FADE`` frames."""
    for constraint in constraints:
        if not isinstance(constraint, Pose) or float(constraint.error(joints, skeleton).max()) >= FAR:
            continue
        frames = constraint.frames
        away = (torch.arange(len(joints), device=joints.device)[:, None] - frames).abs()  # (T, k)
        nearest, which = (torch.minimum(away, len(joints) - away) if cyclic else away).min(1)
        share = (1 - nearest / (FADE + 1)).clamp_min(0)
        missing = constraint.placed(joints, skeleton) - joints[frames]
        joints = joints + (share.square() * (3 - 2 * share))[:, None, None] * missing[which]
    return joints


def _blur(joints: Tensor) -> Tensor:
    reach = round(3 * BLUR)
    times = torch.arange(-reach, reach + 1, dtype=joints.dtype, device=joints.device)
    kernel = torch.exp(-0.5 * (times / BLUR).square())
    return (kernel / kernel.square().sum().sqrt())[None, None]


def _blurred(offsets: Tensor, kernel: Tensor, cyclic: bool) -> Tensor:
    """Offsets (T, J, 3) smoothed over time."""
    reach = kernel.shape[-1] // 2
    flat = offsets.flatten(1).T[:, None]
    if cyclic:
        flat = flat[..., torch.arange(-reach, flat.shape[-1] + reach, device=flat.device) % flat.shape[-1]]
    return F.conv1d(flat, kernel, padding=0 if cyclic else reach)[:, 0].T.view_as(offsets)
