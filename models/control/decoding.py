"""Joints of code embeddings while they are optimised, and the seams of loops."""
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from models.control.constraints import METRES_PER_RADIAN, body_frame
from models.motion_edit import MotionEditor, TimelinePart
from models.text_to_motion import Sampling, TextToMotion
from motion.features import features_to_joints, root_motion
from motion.foot import floor_height
from motion.skeleton import Skeleton

CYCLE_TOKENS = 8  # tokens of a loop repeated beyond either end, the reach of the decoder's convolutions


class Bones:
    """Bone lengths (J,) of a body."""

    def __init__(self, joints: Tensor, skeleton: Skeleton) -> None:
        """Take the median lengths in ``joints`` (T, J, 3)."""
        self.parents = list(skeleton.parents)
        self.lengths = self.vectors(joints).norm(dim=-1).median(0).values[..., None]
        # Bones (columns) on the way from the root to each joint (rows).
        paths = torch.zeros(len(skeleton), len(skeleton), device=joints.device, dtype=joints.dtype)
        for chain in skeleton.chains:
            for parent, joint in zip(chain, chain[1:], strict=False):
                paths[joint] = paths[parent]
                paths[joint, joint] = 1
        self.paths = paths

    def vectors(self, joints: Tensor) -> Tensor:
        """Vectors (..., J, 3) from each joint's parent to the joint; zero for the root."""
        bones = joints - joints[..., self.parents, :]
        return torch.cat([torch.zeros_like(bones[..., :1, :]), bones[..., 1:, :]], -2)

    def fitted(self, joints: Tensor) -> Tensor:
        """Joints (..., J, 3) with the same root and bone directions, and the bone lengths of the body."""
        return joints[..., :1, :] + self.paths @ (normalize(self.vectors(joints), dim=-1) * self.lengths)

    def drift(self, joints: Tensor) -> Tensor:
        """Mean relative deviation () of the bone lengths of ``joints`` (..., J, 3)."""
        used = self.lengths[:, 0] > 0
        lengths = self.vectors(joints).norm(dim=-1)[..., used]
        return (lengths / self.lengths[used, 0] - 1).abs().mean()


class Decoding:
    """Decodes latents (1, dim, n) around a starting point.

    Args:
        tokens: ids (n, q) or (n,) of the motion to start from.
        source: unnormalised features (T, d) of the motion that the tokens encode. The difference from the decoded
            start is added to them, so that unconstrained parts stay as in the source.
        cyclic: the motion is a loop, whose first frame follows its last one.
    """

    def __init__(self, pipeline: TextToMotion, tokens: Tensor, source: Tensor | None = None,
                 cyclic: bool = False) -> None:
        self.pipeline, self.skeleton, self.cyclic = pipeline, pipeline.skeleton, cyclic
        with torch.no_grad():
            self.start = pipeline.tokenizer.latents(tokens.view(1, len(tokens), -1)).detach().float()
            decoded = self._decoded(self.start)
            self.offset = None if source is None else source.to(decoded) - decoded
            places = self.places(self.features(self.start))
            self.bones = Bones(places, self.skeleton)
            fitted = self.bones.fitted(places)
            self.shift = torch.zeros_like(places) if source is None else places - fitted
            self.floor = floor_height(fitted.cpu().numpy(), self.skeleton)
            self.first = fitted + self.shift  # (T, J, 3) at the start of the optimisation

    def features(self, latents: Tensor) -> Tensor:
        """Unnormalised features (T, d)."""
        decoded = self._decoded(latents)
        return decoded if self.offset is None else decoded + self.offset

    def joints(self, features: Tensor) -> Tensor:
        """Joints (T, J, 3) in metres of features (T, d), with constant bone lengths."""
        return self.bones.fitted(self.places(features)) + self.shift

    def places(self, features: Tensor) -> Tensor:
        """Joints (T, J, 3) in metres of features (T, d), with any bone lengths."""
        return self.pipeline.metres * features_to_joints(features, self.skeleton)

    def _decoded(self, latents: Tensor) -> Tensor:
        extra, unit = CYCLE_TOKENS if self.cyclic else 0, self.pipeline.unit
        if self.cyclic:
            count = latents.shape[-1]
            around = torch.arange(-extra, count + extra, device=latents.device) % count
            latents = latents[..., around]
        decoded = self.pipeline.tokenizer.decode_latents(latents)[0]
        return self.pipeline.denormalise(decoded[unit * extra:len(decoded) - unit * extra])


SEAM_TOKENS = 3       # tokens on either side of the seam that are regenerated
SEAM_STREAM = 7       # random stream of a seed for the seam, distinct from that of the motion
TURN_BACK = np.pi / 4  # radians: a motion that turns less than this is closed to its initial heading
MARGIN = 0.9          # of the largest step elsewhere, allowed at the seam
STAY = 0.6            # m: a motion that travels less than this is closed to its initial position


def seam_painted(editor: MotionEditor, tokens: Tensor, text: str, seed: int, sampling: Sampling | None) -> Tensor:
    """Tokens (n, q) with those around the seam regenerated, given those after the start and before the end."""
    count = len(tokens)
    half, reach = count // 2, min(SEAM_TOKENS, count // 4)
    if not reach:
        return tokens
    rolled = torch.cat([tokens[half:], tokens[:half]]).view(count, -1)
    seam = count - half
    painted = editor.edit(rolled, [TimelinePart(seam - reach, seam + reach, text)], seed + SEAM_STREAM, sampling)
    return torch.cat([painted[seam:], painted[:seam]])


@dataclass(frozen=True)
class Closing:
    """Whether a loop must return to its initial heading and position after its last frame, decided by the motion."""

    heading: bool
    place: bool
    metres: float  # length of the features' unit

    @classmethod
    def of(cls, features: Tensor, metres: float) -> "Closing":
        """Decide for features (T, d) of a motion to be looped."""
        turn, way = _after_last(features, metres)
        return cls(abs(float(turn)) < TURN_BACK, float(way.norm()) < STAY, metres)

    def error(self, features: Tensor) -> Tensor:
        """Distance () in metres, with weighted radians, between the start of the loop and the frame after its last."""
        turn, way = _after_last(features, self.metres)
        error = features.new_zeros(())
        if self.heading:
            error = error + METRES_PER_RADIAN * turn.abs()
        if self.place:
            error = error + (way.square().sum() + 1e-12).sqrt()
        return error


def _after_last(features: Tensor, metres: float) -> tuple[Tensor, Tensor]:
    """Turn in radians () and displacement in metres (2,) from the first frame to the one after the last."""
    root = root_motion(torch.cat([features, features[:1]]))
    return 2 * features[:, 0].sum(), metres * root.position[-1, [0, 2]]


def seam_excess(joints: Tensor, skeleton: Skeleton) -> Tensor:
    """Metres () by which velocity and acceleration at the seam of joints (T, J, 3) exceed those elsewhere."""
    excess = joints.new_zeros(())
    for seam, ordinary in _seam_and_ordinary(body_frame(joints, skeleton)):
        excess = excess + (seam - MARGIN * ordinary.detach()).clamp_min(0)
    return excess


def _seam_and_ordinary(local: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Largest mean step of the joints ``local`` (T, J, 3), and largest change of step, at the seam and elsewhere."""
    around = torch.cat([local, local[:2]])
    steps = around.diff(dim=0)
    sizes, changes = ((values.square().sum(-1) + 1e-12).sqrt().mean(-1) for values in (steps, steps.diff(dim=0)))
    inner = len(local) - 1  # steps that do not cross the seam
    return (sizes[inner], sizes[:inner].max()), (changes[inner - 1:].max(), changes[:inner - 1].max())


@dataclass(frozen=True)
class SeamGaps:
    """Steps at the seam of a loop, as multiples of the largest step elsewhere."""

    position: float  # of the joint positions in the body's frame
    velocity: float  # of their velocities

    def __str__(self) -> str:
        return f"loop seam: {self.position:.2f} x the largest step elsewhere, {self.velocity:.2f} x in velocity"


def seam_gaps(joints: np.ndarray, skeleton: Skeleton) -> SeamGaps:
    """Gaps between the last and first frame of a loop (T, J, 3), T >= 4, regardless of its travel."""
    pairs = _seam_and_ordinary(body_frame(torch.as_tensor(joints, dtype=torch.float64), skeleton))
    return SeamGaps(*(float(seam / ordinary.clamp_min(1e-6)) for seam, ordinary in pairs))
