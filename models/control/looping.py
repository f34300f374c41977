"""Loops: motions whose last pose and velocity meet the first."""
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.control.constraints import METRES_PER_RADIAN, body_frame
from models.motion_edit import MotionEditor, Part
from models.text_to_motion import Sampling
from motion.features import root_motion
from motion.skeleton import Skeleton

SEAM_TOKENS = 3       # tokens on either side of the seam that are regenerated
SEAM_STREAM = 7       # of a seed: seams draw from other streams than the motion itself
TURN_BACK = np.pi / 4  # radians: a loop that turns by less faces at its end where it did at first,
MARGIN = 0.9          # of the largest ordinary step that the seam may have
STAY = 0.6            # m: and one that goes less far ends where it began


def seam_painted(editor: MotionEditor, tokens: Tensor, text: str, seed: int, sampling: Sampling | None) -> Tensor:
    """Tokens (n, q) with those around the seam made again, in view of what is after the start and before the end."""
    count = len(tokens)
    half, reach = count // 2, min(SEAM_TOKENS, count // 4)
    if not reach:
        return tokens
    rolled = torch.cat([tokens[half:], tokens[:half]]).view(count, -1)
    seam = count - half
    painted = editor.edit(rolled, [Part(seam - reach, seam + reach, text)], seed + SEAM_STREAM, sampling)
    return torch.cat([painted[seam:], painted[:seam]])


@dataclass(frozen=True)
class Closing:
    """What a loop has to come back to after its last frame, decided by the motion that it is made of."""

    heading: bool
    place: bool
    metres: float  # of the features' unit

    @classmethod
    def of(cls, features: Tensor, metres: float) -> "Closing":
        """For features (T, d) of a motion that is to be a loop."""
        turn, way = _after_last(features, metres)
        return cls(abs(float(turn)) < TURN_BACK, float(way.norm()) < STAY, metres)

    def error(self, features: Tensor) -> Tensor:
        """Metres (), radians weighted, between where the loop begins and where it comes to."""
        turn, way = _after_last(features, self.metres)
        error = features.new_zeros(())
        if self.heading:
            error = error + METRES_PER_RADIAN * turn.abs()
        if self.place:
            error = error + (way.square().sum() + 1e-12).sqrt()
        return error


def _after_last(features: Tensor, metres: float) -> tuple[Tensor, Tensor]:
    """Turn in radians () and way in metres (2,) from the first frame to the one after the last."""
    root = root_motion(torch.cat([features, features[:1]]))
    return 2 * features[:, 0].sum(), metres * root.position[-1, [0, 2]]


def seam_excess(joints: Tensor, skeleton: Skeleton) -> Tensor:
    """Metres () by which steps and changes of step over the seam of joints (T, J, 3) exceed ordinary ones."""
    excess = joints.new_zeros(())
    for seam, ordinary in _seam_and_ordinary(body_frame(joints, skeleton)):
        excess = excess + (seam - MARGIN * ordinary.detach()).clamp_min(0)
    return excess


def _seam_and_ordinary(local: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Largest mean step of the joints, and largest change of step, over the seam and elsewhere: ``local`` (T, J, 3)."""
    around = torch.cat([local, local[:2]])
    steps = around.diff(dim=0)
    sizes, changes = ((values.square().sum(-1) + 1e-12).sqrt().mean(-1) for values in (steps, steps.diff(dim=0)))
    inner = len(local) - 1  # steps between frames of the motion itself
    return (sizes[inner], sizes[:inner].max()), (changes[inner - 1:].max(), changes[:inner - 1].max())


@dataclass(frozen=True)
class SeamGaps:
    """Steps over the seam of a loop, as multiples of the largest step between its other frames."""

    position: float  # of the joints in the body's frame
    velocity: float  # of their change from a frame to the next

    def __str__(self) -> str:
        return (f"seam: {self.position:.2f} of the largest ordinary step of position, {self.velocity:.2f} of velocity")


def seam_gaps(joints: np.ndarray, skeleton: Skeleton) -> SeamGaps:
    """Gaps between the last and the first frame of a loop (T, J, 3), T of 4 or more, wherever it went meanwhile."""
    pairs = _seam_and_ordinary(body_frame(torch.as_tensor(joints, dtype=torch.float64), skeleton))
    return SeamGaps(*(float(seam / ordinary.clamp_min(1e-6)) for seam, ordinary in pairs))
