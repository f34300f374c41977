"""Correct joint positions to meet constraints, after the latents have been optimised."""
from collections.abc import Sequence

import numpy as np
import torch
from scipy.linalg import solveh_banded
from torch import Tensor
from torch.nn import functional as F

from models.control.constraints import GROUND, Constraint, JointTarget, Pose, RootPath
from models.control.decoding import Bones
from motion.skeleton import Skeleton

EXACT = 1e4          # weight of a target of the root, relative to the smoothness of the displacement
SOFT = 0.3           # weight of a target of another joint, relative to the smoothness of the displacement
BEND = 4.0           # weight of the acceleration of the displacement, relative to its velocity
FASTEST = 0.05       # m per frame (1 m/s): maximum speed of the displacement; targets too far away are not reached
REACH = 0.4          # m: joints farther from their target than this are not moved
SMOOTH = 3.0         # frames: offsets that change faster than this are penalised
USUAL, EXACTNESS = 0.05, 0.003  # m: offset and remaining error that have the same cost
ROOT = 10.0          # weight of the root's offset relative to those of other joints, so that limbs move first
ITERATIONS = 40      # maximum iterations of L-BFGS on the offsets
FADE = 6             # frames on either side over which a motion is blended into a fixed pose


def shift_root(joints: Tensor, constraints: Sequence[Constraint], skeleton: Skeleton) -> Tensor:
    """Move ``joints`` (T, J, 3) horizontally by a smooth displacement that brings the pelvis towards its targets.

    The displacement is at most ``FASTEST`` per frame. Targets of other joints attract the pelvis weakly.
    """
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
    """List the constrained frames, each with the horizontal vector (2,) from the constrained joint to its target."""
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
    """Compute the smoothest displacement (T, 2) near weighted targets.

    It minimises squared velocities, ``BEND`` times squared accelerations, and squared distances from the targets p with
    weights w, where ``weight`` (T,) is w and ``pull`` (T, 2) is w p. A first frame without a target does not move.
    """
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
                  cyclic: bool = False) -> Tensor:
    """Add smooth offsets to ``joints`` (T, J, 3) that meet constraints, keeping all bone lengths.

    The offsets d minimise (|d|^2 + |``SMOOTH``^3 D^3 d|^2) / ``USUAL``^2 + |errors / ``EXACTNESS``|^2, where D is the
    difference between consecutive frames, the root in |d|^2 has the weight ``ROOT``, and errors above ``REACH`` are
    ignored.
    """
    if not constraints:
        return joints
    fitted = bones.fitted(joints)
    shift = joints - fitted  # the bone lengths of an edited source may vary
    kernel = _smoothing(joints)
    rough = torch.zeros_like(joints).requires_grad_()  # offsets before smoothing

    def moved() -> Tensor:
        return bones.fitted(fitted + _filtered(rough, kernel, cyclic)) + shift

    def loss() -> Tensor:
        with torch.enable_grad():
            places = moved()
            cost = (rough / USUAL).square().sum() + (ROOT - 1) * (rough[:, 0] / USUAL).square().sum()
            for constraint in constraints:
                error = constraint.error(places, skeleton).clamp_max(REACH)
                cost = cost + (error / EXACTNESS).square().sum()
            rough.grad, = torch.autograd.grad(cost, rough)
        return cost.detach()

    torch.optim.LBFGS([rough], max_iter=ITERATIONS, history_size=20, line_search_fn="strong_wolfe").step(loss)
    return moved().detach()


def fix_poses(joints: Tensor, constraints: Sequence[Constraint], skeleton: Skeleton,
              cyclic: bool = False) -> Tensor:
    """Make ``joints`` (T, J, 3) match the target poses exactly, blending over ``FADE`` frames on either side.

    A ``Pose`` constraint is skipped if its error is ``REACH`` or more in any of its frames.
    """
    for constraint in constraints:
        if not isinstance(constraint, Pose) or float(constraint.error(joints, skeleton).max()) >= REACH:
            continue
        frames = constraint.frames
        away = (torch.arange(len(joints), device=joints.device)[:, None] - frames).abs()  # (T, k)
        nearest, which = (torch.minimum(away, len(joints) - away) if cyclic else away).min(1)
        share = (1 - nearest / (FADE + 1)).clamp_min(0)
        missing = constraint.placed(joints, skeleton) - joints[frames]
        joints = joints + (share.square() * (3 - 2 * share))[:, None, None] * missing[which]
    return joints


def _smoothing(like: Tensor) -> Tensor:
    """Create a symmetric filter (1, 1, k) that maps r to d, such that |r|^2 = |d|^2 + |``SMOOTH``^3 D^3 d|^2."""
    reach = round(6 * SMOOTH)
    frequencies = np.linspace(0, np.pi, 8 * reach + 1)
    response = (1 + (2 * SMOOTH * np.sin(frequencies / 2)) ** 6) ** -0.5
    return torch.from_numpy(np.roll(np.fft.irfft(response), reach)[:2 * reach + 1]).to(like)[None, None]


def _filtered(offsets: Tensor, kernel: Tensor, cyclic: bool) -> Tensor:
    """Filter ``offsets`` (T, J, 3) over time."""
    reach = kernel.shape[-1] // 2
    flat = offsets.flatten(1).T[:, None]
    if cyclic:
        flat = flat[..., torch.arange(-reach, flat.shape[-1] + reach, device=flat.device) % flat.shape[-1]]
    return F.conv1d(flat, kernel, padding=0 if cyclic else reach)[:, 0].T.view_as(offsets)
