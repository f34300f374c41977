"""Optimise a motion to meet constraints, without training.

Adam minimises the constraint errors over the latents of the motion, the input of the decoder (similar to DNO,
Karunratanakul et al. 2024, and MaskControl, Pinyoanuntapong et al. 2025). Further loss terms keep the latents near the
codes, the motion smooth and standing feet in place. ``models.control.settle`` then moves the joints to correct the
remaining errors.
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from models.control.constraints import GROUND, Constraint, Contacts, JointTarget, Pose, Remaining, RootPath, remaining
from models.control.decoding import Decoding, SeamGaps, closing_error, seam_excess, seam_gaps
from models.control.settle import fix_poses, offset_joints, shift_root
from models.text_to_motion import TextToMotion
from motion.features import feature_groups, local_positions, root_motion
from motion.foot import HEIGHT_LIMITS, foot_joints, per_foot_joint
from motion.rotation import quat_rotate
from motion.skeleton import Skeleton
from utils.runtime import report_step

STEPS = 60
NEAR = 0.1           # m: positions with smaller errors are met by offsets of the joints alone
MILD = 0.3           # m: errors are squared up to this value, and linear beyond
HARDER = 3.0         # factor of the constraint weights in a second round
FAR = 0.25           # m: a second round follows if the largest error is above this
HOPELESS = 1.0       # m: there is no second round if the largest error is above this
FLOORED = (0.01, 0.05)  # m above the standing height: the weight of a low foot joint falls from 1 to 0 in this range
MET = {"m": 0.05, "degrees": 10.0}  # largest error of a constraint that counts as met
NOT_MET = " NOT MET"  # suffix in reports of constraints that are not met
FASTEST_BODY = 0.4   # m per frame (8 m/s): maximum speed of the root, unless it is faster initially


@dataclass(frozen=True)
class ControlSettings:
    """Settings of the optimisation. "Relative increase" is relative to the initial motion."""

    steps: int = STEPS          # optimisation steps of a round
    lr: float = 0.12            # learning rate of Adam, in standard deviations of the latents
    early: float = 0.1          # initial factor of all weights except those of constraints
    constraint: float = 3.0     # weight of the mean error in metres
    square: float = 6.0         # weight of the mean squared error
    near_codes: float = 0.01    # weight of the mean squared change of the latents, in standard deviations
    jerk: float = 1.0           # weight of the relative increase of the mean jerk
    slide: float = 3.0          # weight of the relative increase of the speed of standing feet
    swing: float = 3.0          # weight of the relative increase of the speed of low feet, standing or not
    ground: float = 30.0        # weight of the increase of the height of the lowest foot, in metres
    speed: float = 20.0         # weight of the excess of the root's speed, in metres per frame
    seam: float = 30.0          # weight of the jumps at the seam of a loop, in metres
    bones: float = 0.3          # weight of the relative increase of the bone length drift


@dataclass(frozen=True)
class Directed:
    """Generated motion with its constraints and their remaining errors."""

    joints: np.ndarray                         # (T, J, 3) float32, metres
    features: np.ndarray                       # (T, d) float32, unnormalised
    constraints: tuple[Constraint, ...] = ()
    remaining: tuple[Remaining, ...] = ()      # remaining error of each constraint
    seam: SeamGaps | None = None               # jumps at the seam of a loop

    @property
    def largest(self) -> float:
        """Largest remaining position error, in metres."""
        return max((left.largest for left in self.remaining if left.unit == "m"), default=0.0)

    @property
    def pinned(self) -> np.ndarray:
        """Mask (T, J) of joints whose position is constrained. Foot locking must not move them."""
        pinned = np.zeros(self.joints.shape[:2], bool)
        for constraint in self.constraints:
            if isinstance(constraint, JointTarget):
                pinned[constraint.frames.cpu().numpy(), constraint.joint] = True
            elif isinstance(constraint, Pose):
                pinned[constraint.frames.cpu().numpy()] = True
        return pinned

    def report(self) -> list[str]:
        """Describe the remaining errors, one line per constraint and one for the seam of a loop."""
        lines = [f"{left}{NOT_MET if left.largest > MET[left.unit] else ''}" for left in self.remaining]
        return lines if self.seam is None else [*lines, str(self.seam)]


def optimise(pipeline: TextToMotion, tokens: Tensor, constraints: Sequence[Constraint],
             settings: ControlSettings | None = None, source: np.ndarray | None = None,
             cyclic: bool = False) -> Directed:
    """Change the motion encoded by ``tokens`` (n, q) as little as possible to meet ``constraints``.

    If the constraints contradict each other or are out of reach, errors remain (see ``Directed.remaining``).

    Args:
        source: (T, d) unnormalised features of the motion encoded by ``tokens``. Its unconstrained parts are kept.
        cyclic: whether to make a loop, whose first frame follows its last one.

    Raises ``ValueError`` for a frame outside the motion.
    """
    settings = settings or ControlSettings()
    decoding = Decoding(pipeline, tokens, source, cyclic)
    frames = len(decoding.first)
    for constraint in constraints:
        if len(constraint.frames) and not 0 <= int(constraint.frames.min()) <= int(constraint.frames.max()) < frames:
            raise ValueError(f"{constraint.label}: frame outside a motion of {frames} frames")
    latents = decoding.start
    if cyclic or not is_near(decoding.first, constraints, decoding.skeleton):
        latents = optimised_latents(decoding, constraints, settings)
    with torch.no_grad():
        features = decoding.features(latents)
        joints = decoding.joints(features)
        if not cyclic:  # a loop would jump at the seam
            joints = shift_root(joints, constraints, decoding.skeleton)
        joints = offset_joints(joints, constraints, decoding.bones, decoding.skeleton, cyclic)
        joints = fix_poses(joints, constraints, decoding.skeleton, cyclic)
    left = remaining(constraints, joints, decoding.skeleton)
    rows, places = with_joints(features, joints / pipeline.metres), joints.float().cpu().numpy()
    seam = seam_gaps(places, decoding.skeleton) if cyclic and frames >= 4 else None
    return Directed(places, rows.cpu().numpy(), tuple(constraints), tuple(left), seam)


def is_near(joints: Tensor, constraints: Sequence[Constraint], skeleton: Skeleton) -> bool:
    """Return whether all constraints are position targets that ``joints`` (T, J, 3) miss by at most ``NEAR``.

    If so, the latents are not optimised, unless the motion is a loop: Adam's steps do not shrink with the error, and
    would change gestures more than needed.
    """
    return all(isinstance(constraint, RootPath | JointTarget | Pose)
               and bool((constraint.error(joints, skeleton) <= NEAR).all()) for constraint in constraints)


def optimised_latents(decoding: Decoding, constraints: Sequence[Constraint], settings: ControlSettings) -> Tensor:
    """Optimise the latents (1, dim, n) of a motion. Small constraint errors remain."""
    start, skeleton = decoding.start, decoding.skeleton
    spread = start.std().clamp_min(1e-6)
    with torch.no_grad():
        features = decoding.features(start)
        usual = _physical(decoding, features, decoding.places(features), decoding.first)
        standing = support(decoding.first, skeleton).clamp_min(decoding.floor)
        fastest = max(FASTEST_BODY, float(decoding.first[:, 0].diff(dim=0).norm(dim=-1).max()))
    closing = closing_error(features, decoding.pipeline.metres) if decoding.cyclic else None
    steps = settings.steps
    moved = torch.zeros_like(start).requires_grad_()  # in standard deviations
    for pull in (1.0, HARDER):
        adam = torch.optim.Adam([moved], lr=settings.lr)
        errors: list[Tensor] = []
        for step in range(steps):
            adam.param_groups[0]["lr"] = settings.lr * (0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2)
            features = decoding.features(start + spread * moved)
            places = decoding.places(features)
            joints = decoding.with_bones(places)
            # Constraints dominate at first; later the other terms restore the smoothness of the motion.
            calm = min(1.0, settings.early + 1.5 * step / steps)
            loss = settings.near_codes * calm * moved.square().mean() + settings.speed * _too_fast(joints, fastest)
            loss = loss + settings.ground * (support(joints, skeleton) - standing).clamp_min(0).mean()
            errors = [constraint.error(joints, skeleton) for constraint in constraints]
            for error in errors:  # the Huber loss keeps unreachable targets from dominating
                huber = 2 * huber_loss(error, torch.zeros_like(error), delta=MILD)
                loss = loss + pull * (settings.constraint * error.mean() + settings.square * huber)
            if closing is not None:
                loss = loss + settings.constraint * closing(features)
                loss = loss + settings.seam * seam_excess(joints, skeleton)
            weights = (settings.jerk, settings.slide, settings.swing, settings.bones)
            physical = _physical(decoding, features, places, joints)
            for weight, now, before in zip(weights, physical, usual, strict=True):
                loss = loss + weight * calm * (now / before - 1).clamp_min(0)
            adam.zero_grad()
            loss.backward()
            adam.step()
            report_step("constraints", step + 1, steps)
        worst = max((float(error.detach().max()) for error in errors if len(error)), default=0.0)
        if not FAR < worst < HOPELESS:
            break
    return start + spread * moved.detach()


def support(joints: Tensor, skeleton: Skeleton) -> Tensor:
    """Compute the height (T,) of the lowest foot joint in ``joints`` (T, J, 3)."""
    return joints[:, list(skeleton.feet), 1].amin(-1)


def _too_fast(joints: Tensor, fastest: float) -> Tensor:
    """Compute the excess of the root's speed over ``fastest``, in metres per frame, summed over all frames."""
    steps = joints[1:, 0] - joints[:-1, 0]
    return ((steps.square().sum(-1) + 1e-12).sqrt() - fastest).clamp_min(0).sum()


def _physical(decoding: Decoding, features: Tensor, places: Tensor, joints: Tensor) -> tuple[Tensor, ...]:
    """Compute the mean jerk, the sliding of standing feet, the speed of low feet and the bone length drift.

    ``joints`` (T, J, 3) and ``places`` (T, J, 3) are in metres; ``places`` are the joints before bone lengths are made
    constant. The drift is relative; the other values are per frame. Contact features determine which feet stand. 1e-3
    is added to each value, so that none is zero.
    """
    jerk = joints.diff(3, dim=0).norm(dim=-1).mean() if len(joints) > 3 else joints.new_zeros(())
    held = features[:-1, feature_groups(len(decoding.skeleton)).contacts].detach().clamp(0, 1)
    frames = torch.arange(len(held), device=joints.device)
    slides = Contacts(frames, held).error(joints, decoding.skeleton)
    slide = (slides * held.sum(-1)).sum() / held.sum().clamp_min(1)
    swing = low_speed(joints, decoding.skeleton, decoding.floor)
    return jerk + 1e-3, slide + 1e-3, swing + 1e-3, decoding.bones.drift(places) + 1e-3


def low_speed(joints: Tensor, skeleton: Skeleton, floor: float) -> Tensor:
    """Compute the mean horizontal speed, in metres per frame, of foot joints near their standing height.

    The weight of a joint falls with its height (MANN, Zhang et al. 2018).
    """
    low, high = FLOORED
    feet = joints[:, foot_joints(skeleton)]
    standing = feet.new_tensor(per_foot_joint(skeleton, HEIGHT_LIMITS[0] - HEIGHT_LIMITS[1], 0.0))
    height = feet[:-1, :, 1] - floor - standing
    steps = (feet.diff(dim=0)[..., GROUND].square().sum(-1) + 1e-12).sqrt()
    return (steps * ((high - height) / (high - low)).clamp(0, 1)).mean()


def with_joints(features: Tensor, joints: Tensor) -> Tensor:
    """Replace the root motion, positions and velocities in ``features`` (T, d) by the values of ``joints`` (T, J, 3).

    Headings, rotations, contacts and the velocities of the last frame stay the same.
    """
    groups, root = feature_groups(joints.shape[1]), root_motion(features).quat
    made, steps = features.clone(), joints.diff(dim=0)
    made[:-1, groups.root_velocity] = quat_rotate(root[1:], steps[:, 0])[:, [0, 2]]
    made[:, groups.root_height] = joints[:, 0, 1:2]
    made[:, groups.local_positions] = local_positions(joints, root)[:, 1:].flatten(1)
    made[:-1, groups.velocities] = quat_rotate(root[:-1, None], steps).flatten(1)
    return made
