"""Meet constraints by optimising the decoder's input, without training.

First, the summed code vectors of a motion are optimised: Adam minimises the constraints' errors through decoder,
feature recovery and bones. Further terms keep the latents near the codes, and the motion as smooth and its feet as
still as at the start. (Optimising a decoder's input towards spatial constraints: Karunratanakul et al. 2024, DNO;
Pinyoanuntapong et al. 2025, MaskControl.) The remaining millimetres to centimetres are corrected on the joints: the
root path by the straightest added path, other joints by smooth offsets. Fixed poses are exact.
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.control.constraints import GROUND, Constraint, Contacts, Remaining, remaining
from models.control.decoding import Closing, Decoding, seam_excess
from models.control.settle import fix_poses, offset_joints, shift_root
from models.text_to_motion import TextToMotion
from motion.features import feature_groups, local_positions, root_motion
from motion.foot import HEIGHT_LIMITS, foot_joints, per_foot_joint
from motion.rotation import quat_rotate
from motion.skeleton import Skeleton
from utils.runtime import report_step

STEPS = 120
MILD = 0.3           # m up to which errors are squared
HARDER = 3.0         # weight of constraints in a second round,
FAR = 0.25           # m: for errors beyond this
HOPELESS = 1.0       # m; beyond this error a second round does not help
FLOORED = (0.01, 0.05)  # m over their standing height: foot joints below count fully as low, those above not at all
FASTEST_BODY = 0.4   # m per frame (8 m/s) that the root may move, or its speed at the start if higher
CLOSING_STEPS = 100  # steps for a loop without other constraints


@dataclass(frozen=True)
class ControlSettings:
    """Settings of the optimisation."""

    steps: int = STEPS          # steps for the latents
    lr: float = 0.12            # learning rate of Adam, in standard deviations of the latents
    early: float = 0.1          # initial share of all weights except those of constraints
    constraint: float = 3.0     # weight of the mean error, metres
    square: float = 6.0         # weight of the mean squared error, so that no frame is neglected
    near_codes: float = 0.01    # weight of the latents' mean squared distance from the codes, in standard deviations
    jerk: float = 1.0           # weight of the relative increase of the mean jerk over the start
    slide: float = 3.0          # weight of the relative increase of the speed of standing feet
    swing: float = 3.0          # weight of the relative increase of the speed of low feet, whether they stand or not
    ground: float = 30.0        # weight of the mean metres by which the lowest foot is higher than at the start
    speed: float = 20.0         # weight of the metres by which the root is too fast
    seam: float = 30.0          # weight of the metres by which steps at a loop's seam exceed others
    bones: float = 0.3          # weight of the relative increase of the drift of bone lengths


@dataclass(frozen=True)
class Controlled:
    """A motion that follows constraints."""

    joints: np.ndarray                 # (T, J, 3) float32 metres
    features: np.ndarray               # (T, d) float32, unnormalised
    remaining: tuple[Remaining, ...]   # remaining error of each constraint, in order


def optimise(pipeline: TextToMotion, tokens: Tensor, constraints: Sequence[Constraint],
             settings: ControlSettings | None = None, source: np.ndarray | None = None,
             cyclic: bool = False) -> Controlled:
    """Change the motion of ``tokens`` (n, q) to meet constraints, as little as possible.

    ``source`` are unnormalised features (T, d) of an existing motion that the tokens encode; its unconstrained parts
    are kept. ``cyclic`` makes a loop, whose first frame follows its last. The motion depends on the arguments only.
    Constraints that cannot be met or contradict each other give the motion with the smallest error. Raises
    ``ValueError`` for a frame outside the motion.
    """
    settings = settings or ControlSettings()
    start = None if source is None else torch.as_tensor(source, dtype=torch.float32, device=pipeline.device)
    decoding = Decoding(pipeline, tokens, start, cyclic)
    frames = len(decoding.first)
    for constraint in constraints:
        if len(constraint.frames) and not 0 <= int(constraint.frames.min()) <= int(constraint.frames.max()) < frames:
            raise ValueError(f"{constraint.label}: frame outside a motion of {frames} frames")
    latents = optimised_latents(decoding, constraints, settings)
    with torch.no_grad():
        features = decoding.features(latents)
        joints = decoding.joints(features)
        if not cyclic:  # a loop would jump at the end of the added path
            joints = shift_root(joints, constraints, decoding.skeleton)
        joints = offset_joints(joints, constraints, decoding.bones, decoding.skeleton, cyclic)
        joints = fix_poses(joints, constraints, decoding.skeleton, cyclic)
    left = remaining(constraints, joints, decoding.skeleton)
    rows = with_joints(features, joints / pipeline.metres)
    return Controlled(joints.float().cpu().numpy(), rows.cpu().numpy(), tuple(left))


def optimised_latents(decoding: Decoding, constraints: Sequence[Constraint], settings: ControlSettings) -> Tensor:
    """Latents (1, dim, n) whose motion is near the constraints; ``optimise`` corrects the rest on the joints."""
    start, skeleton = decoding.start, decoding.skeleton
    spread = start.std().clamp_min(1e-6)
    with torch.no_grad():
        usual = _physical(decoding, decoding.features(start), decoding.first)
        standing = support(decoding.first, skeleton).clamp_min(decoding.floor)
        fastest = max(FASTEST_BODY, float(decoding.first[:, 0].diff(dim=0).norm(dim=-1).max()))
    closing = Closing.of(decoding.features(start), decoding.pipeline.metres) if decoding.cyclic else None
    steps = settings.steps if constraints else min(settings.steps, CLOSING_STEPS)
    moved = torch.zeros_like(start).requires_grad_()  # in standard deviations
    for pull in (1.0, HARDER):
        adam = torch.optim.Adam([moved], lr=settings.lr)
        errors: list[Tensor] = []
        for step in range(steps):
            adam.param_groups[0]["lr"] = settings.lr * (0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2)
            features = decoding.features(start + spread * moved)
            joints = decoding.joints(features)
            # Constraints dominate at first; then the other terms restore the smoothness of the start.
            calm = min(1.0, settings.early + 1.5 * step / steps)
            loss = settings.near_codes * calm * moved.square().mean() + settings.speed * _too_fast(joints, fastest)
            loss = loss + settings.ground * (support(joints, skeleton) - standing).clamp_min(0).mean()
            errors = [constraint.error(joints, skeleton) for constraint in constraints]
            for error in errors:
                loss = loss + pull * (settings.constraint * error.mean()
                                      + settings.square * _mild_square(error).mean())
            if closing is not None:
                loss = loss + settings.constraint * closing.error(features)
                loss = loss + settings.seam * seam_excess(joints, skeleton)
            weights = (settings.jerk, settings.slide, settings.swing, settings.bones)
            for weight, now, before in zip(weights, _physical(decoding, features, joints), usual, strict=True):
                loss = loss + weight * calm * (now / before - 1).clamp_min(0)
            adam.zero_grad()
            loss.backward()
            adam.step()
            report_step("constraints", step + 1, steps)
        worst = max((float(error.detach().max()) for error in errors if len(error)), default=0.0)
        if not FAR < worst < HOPELESS:
            break
    return start + spread * moved.detach()


def _mild_square(error: Tensor) -> Tensor:
    """Huber-like loss, quadratic up to ``MILD`` and then linear, so that unreachable targets do not dominate."""
    near = error.clamp_max(MILD)
    return near.square() + 2 * MILD * (error - near)


def support(joints: Tensor, skeleton: Skeleton) -> Tensor:
    """Height (T,) of the lowest foot joint of joints (T, J, 3): a foot is lifted while the other one stands."""
    return joints[:, list(skeleton.feet), 1].amin(-1)


def _too_fast(joints: Tensor, fastest: float) -> Tensor:
    """Metres () by which the root exceeds ``fastest`` metres per frame, summed over all frames."""
    steps = joints[1:, 0] - joints[:-1, 0]
    return ((steps.square().sum(-1) + 1e-12).sqrt() - fastest).clamp_min(0).sum()


def _physical(decoding: Decoding, features: Tensor, joints: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean jerk, slide of standing feet and speed of low feet in metres per frame, and mean drift of bone lengths;
    always positive.

    Standing feet are those with current contact features, which the decoder was trained to predict.
    """
    places = decoding.places(features)
    jerk = joints.diff(3, dim=0).norm(dim=-1).mean() if len(joints) > 3 else joints.new_zeros(())
    held = features[:-1, feature_groups(len(decoding.skeleton)).contacts].detach().clamp(0, 1)
    frames = torch.arange(len(held), device=joints.device)
    slides = Contacts(frames, held).error(joints, decoding.skeleton)
    slide = (slides * held.sum(-1)).sum() / held.sum().clamp_min(1)
    swing = low_speed(joints, decoding.skeleton, decoding.floor)
    return jerk + 1e-3, slide + 1e-3, swing + 1e-3, decoding.bones.drift(places) + 1e-3


def low_speed(joints: Tensor, skeleton: Skeleton, floor: float) -> Tensor:
    """Mean ground speed () in metres per frame of foot joints, weighted by how near they are to their standing height.

    Feet that step stay as high above the floor as at the start. (Zhang et al. 2018, MANN, weigh skating this way.)
    """
    low, high = FLOORED
    feet = joints[:, foot_joints(skeleton)]
    standing = feet.new_tensor(per_foot_joint(skeleton, HEIGHT_LIMITS[0] - HEIGHT_LIMITS[1], 0.0))
    height = feet[:-1, :, 1] - floor - standing
    steps = (feet.diff(dim=0)[..., GROUND].square().sum(-1) + 1e-12).sqrt()
    return (steps * ((high - height) / (high - low)).clamp(0, 1)).mean()


def with_joints(features: Tensor, joints: Tensor) -> Tensor:
    """Features (T, d) with the root motion, local positions and velocities of joints (T, J, 3) in their unit.

    Headings, rotations, contacts and the velocity of the last row, whose next frame does not exist, are kept.
    """
    groups, root = feature_groups(joints.shape[1]), root_motion(features).quat
    made, steps = features.clone(), joints.diff(dim=0)
    made[:-1, groups.root_velocity] = quat_rotate(root[1:], steps[:, 0])[:, [0, 2]]
    made[:, groups.root_height] = joints[:, 0, 1:2]
    made[:, groups.local_positions] = local_positions(joints, root)[:, 1:].flatten(1)
    made[:-1, groups.velocities] = quat_rotate(root[:-1, None], steps).flatten(1)
    return made
