"""Constraints met by optimising what the decoder reads, with no training.

First the summed code vectors of a motion are free: Adam minimises the constraints' errors through decoder, feature
recovery and bones, beside terms that keep the latents near the codes and the motion as smooth and its feet as still as
they were. (Optimising a decoder's input towards spatial constraints: Karunratanakul et al. 2024, DNO; Pinyoanuntapong
et al. 2025, MaskControl.) What is left, millimetres to centimetres, is settled on the joints: the root's path by the
straightest added way, the rest by smooth offsets. Fixed poses are exact.
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.control.constraints import Constraint, Contacts, Remaining, remaining
from models.control.decoding import Decoding
from models.control.looping import Closing, seam_excess
from models.control.settle import fix_poses, offset_joints, shift_root
from models.text_to_motion import TextToMotion
from motion.features import feature_groups, local_positions, root_motion
from motion.rotation import quat_rotate
from utils.progress import report_step

STEPS = 200
MILD = 0.3           # m
FASTEST_BODY = 0.4   # m a frame that a root may go, or what it goes at the start: 8 m/s at 20 frames a second
CLOSING_STEPS = 100  # of a loop without other constraints


@dataclass(frozen=True)
class ControlSettings:
    """How constraints are optimised."""

    steps: int = STEPS          # of the latents
    settle_steps: int = 80      # of the joints' offsets
    lr: float = 0.12            # of Adam, in standard deviations of the latents
    early: float = 0.1          # share of the weights below constraints that counts at first
    constraint: float = 3.0     # weight of the mean error, metres
    square: float = 6.0         # of its mean square, so that no frame is left behind
    near_codes: float = 0.01    # of the latents' mean squared distance from the codes, in standard deviations
    jerk: float = 0.3           # of the share by which the mean jerk exceeds that of the start
    slide: float = 0.5          # the same of feet that stand
    speed: float = 20.0         # of the metres that the root goes too fast
    seam: float = 30.0          # of the metres by which steps over a loop's seam exceed others
    bones: float = 0.3          # the same of the drift of bone lengths


@dataclass(frozen=True)
class Controlled:
    """A motion that follows constraints."""

    joints: np.ndarray                 # (T, J, 3) float32 metres
    features: np.ndarray               # (T, d) float32 in their own units
    remaining: tuple[Remaining, ...]   # error left of each constraint, in their order


def optimise(pipeline: TextToMotion, tokens: Tensor, constraints: Sequence[Constraint],
             settings: ControlSettings | None = None, source: np.ndarray | None = None,
             cyclic: bool = False) -> Controlled:
    """The motion of ``tokens`` (n, q), changed as little as the constraints allow.

    ``source`` are features (T, d) that the tokens stand for, in their own units: an existing motion, of which
    everything else is kept. ``cyclic`` makes a loop, whose first frame follows its last. The motion depends on the
    arguments alone. Constraints that cannot be met, or contradict each other, give the motion with the least error.
    Raises ``ValueError`` for a frame outside the motion.
    """
    settings = settings or ControlSettings()
    start = None if source is None else torch.as_tensor(source, dtype=torch.float32, device=pipeline.device)
    decoding = Decoding(pipeline, tokens, start, cyclic)
    frames = len(decoding.first)
    for constraint in constraints:
        if len(constraint.frames) and not 0 <= int(constraint.frames.min()) <= int(constraint.frames.max()) < frames:
            raise ValueError(f"{constraint.label}: frames outside a motion of {frames} frames")
    latents = _optimised_latents(decoding, constraints, settings)
    with torch.no_grad():
        features = decoding.features(latents)
        joints = decoding.joints(features)
        if not cyclic:  # whose added way would end with a jump
            joints = shift_root(joints, constraints, decoding.skeleton)
        joints = offset_joints(joints, constraints, decoding.bones, decoding.skeleton, settings.settle_steps, cyclic)
        joints = fix_poses(joints, constraints, decoding.skeleton, cyclic)
    left = remaining(constraints, joints, decoding.skeleton)
    rows = with_joints(features, joints / pipeline.metres)
    return Controlled(joints.float().cpu().numpy(), rows.cpu().numpy(), tuple(left))


def _optimised_latents(decoding: Decoding, constraints: Sequence[Constraint], settings: ControlSettings) -> Tensor:
    start, skeleton = decoding.start, decoding.skeleton
    spread = start.std().clamp_min(1e-6)
    with torch.no_grad():
        usual = _physical(decoding, decoding.features(start), decoding.first)
        fastest = max(FASTEST_BODY, float(decoding.first[:, 0].diff(dim=0).norm(dim=-1).max()))
    closing = Closing.of(decoding.features(start), decoding.pipeline.metres) if decoding.cyclic else None
    steps = settings.steps if constraints else min(settings.steps, CLOSING_STEPS)
    moved = torch.zeros_like(start).requires_grad_()  # in standard deviations
    adam = torch.optim.Adam([moved], lr=settings.lr)
    for step in range(steps):
        adam.param_groups[0]["lr"] = settings.lr * (0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2)
        features = decoding.features(start + spread * moved)
        joints = decoding.joints(features)
        # The constraints pull first, then the motion is made as calm as it was.
        calm = min(1.0, settings.early + 1.5 * step / steps)
        loss = settings.near_codes * calm * moved.square().mean()
        for constraint in constraints:
            error = constraint.error(joints, skeleton)
            loss = loss + settings.constraint * error.mean() + settings.square * _mild_square(error).mean()
        loss = loss + settings.speed * _too_fast(joints, fastest)
        if closing is not None:
            loss = loss + settings.constraint * closing.error(features) + settings.seam * seam_excess(joints, skeleton)
        weights = (settings.jerk, settings.slide, settings.bones)
        for weight, now, before in zip(weights, _physical(decoding, features, joints), usual, strict=True):
            loss = loss + weight * calm * (now / before - 1).clamp_min(0)
        adam.zero_grad()
        loss.backward()
        adam.step()
        report_step("constraints", step + 1, steps)
    return start + spread * moved.detach()


def _mild_square(error: Tensor) -> Tensor:
    """Squares of small errors, and straight lines beyond ``MILD``: what is out of reach must not outweigh the rest."""
    near = error.clamp_max(MILD)
    return near.square() + 2 * MILD * (error - near)


def _too_fast(joints: Tensor, fastest: float) -> Tensor:
    """Metres () that the root goes beyond ``fastest`` metres a frame, over all frames."""
    steps = joints[1:, 0] - joints[:-1, 0]
    return ((steps.square().sum(-1) + 1e-12).sqrt() - fastest).clamp_min(0).sum()


def _physical(decoding: Decoding, features: Tensor, joints: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean jerk and slide of standing feet in metres a frame, and mean drift of bone lengths; never quite 0.

    Which feet stand follows from the contact features of the moment, which the decoder was trained to give.
    """
    places = decoding.places(features)
    jerk = joints.diff(3, dim=0).norm(dim=-1).mean() if len(joints) > 3 else joints.new_zeros(())
    held = features[:-1, feature_groups(len(decoding.skeleton)).contacts].detach().clamp(0, 1)
    frames = torch.arange(len(held), device=joints.device)
    slides = Contacts(frames, held).error(joints, decoding.skeleton)
    slide = (slides * held.sum(-1)).sum() / held.sum().clamp_min(1)
    return jerk + 1e-3, slide + 1e-3, decoding.bones.drift(places) + 1e-3


def with_joints(features: Tensor, joints: Tensor) -> Tensor:
    """Features (T, d) whose root motion, local positions and velocities are those of joints (T, J, 3) in their unit.

    Headings, rotations and contacts stay; so does the last row's velocity, which leads to a frame that is not there.
    """
    groups, root = feature_groups(joints.shape[1]), root_motion(features).quat
    made, steps = features.clone(), joints.diff(dim=0)
    made[:-1, groups.root_velocity] = quat_rotate(root[1:], steps[:, 0])[:, [0, 2]]
    made[:, groups.root_height] = joints[:, 0, 1:2]
    made[:, groups.local_positions] = local_positions(joints, root)[:, 1:].flatten(1)
    made[:-1, groups.velocities] = quat_rotate(root[:-1, None], steps).flatten(1)
    return made
