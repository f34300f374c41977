"""Decode latents to joint positions with gradients, and measure and close the seams of loops."""
from collections.abc import Callable
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

CYCLE_TOKENS = 8  # number of tokens of a loop that are repeated at either end, for the receptive field of the decoder


class Bones:
    """Bone lengths of a body: the medians over the frames of ``joints`` (T, J, 3)."""

    def __init__(self, joints: Tensor, skeleton: Skeleton) -> None:
        self.parents = list(skeleton.parents)
        self.lengths = self.vectors(joints).norm(dim=-1).median(0).values[..., None]
        # Bones (columns) on the path from the root to each joint (rows).
        paths = torch.zeros(len(skeleton), len(skeleton), device=joints.device, dtype=joints.dtype)
        for chain in skeleton.chains:
            for parent, joint in zip(chain, chain[1:], strict=False):
                paths[joint] = paths[parent]
                paths[joint, joint] = 1
        self.paths = paths

    def vectors(self, joints: Tensor) -> Tensor:
        """Compute the vectors (..., J, 3) from parent to child joints; zero for the root."""
        bones = joints - joints[..., self.parents, :]
        return torch.cat([torch.zeros_like(bones[..., :1, :]), bones[..., 1:, :]], -2)

    def fitted(self, joints: Tensor) -> Tensor:
        """Change ``joints`` (..., J, 3) to have these bone lengths, keeping the root and all bone directions."""
        return joints[..., :1, :] + self.paths @ (normalize(self.vectors(joints), dim=-1) * self.lengths)

    def drift(self, joints: Tensor) -> Tensor:
        """Compute the mean relative deviation of the bone lengths of ``joints`` (..., J, 3) from ``lengths``."""
        used = self.lengths[:, 0] > 0
        lengths = self.vectors(joints).norm(dim=-1)[..., used]
        return (lengths / self.lengths[used, 0] - 1).abs().mean()


class Decoding:
    """Decoder for the latents (1, dim, n) during their optimisation.

    Args:
        tokens: (n, q) or (n,) tokens of the initial motion.
        source: (T, d) unnormalised features of the motion encoded by ``tokens``. Its difference from the decoded tokens
            is added to all decoded features, so that unconstrained parts stay the same.
        cyclic: whether the motion is a loop.
    """

    def __init__(self, pipeline: TextToMotion, tokens: Tensor, source: np.ndarray | Tensor | None = None,
                 cyclic: bool = False) -> None:
        self.pipeline, self.skeleton, self.cyclic = pipeline, pipeline.skeleton, cyclic
        with torch.no_grad():
            self.start = pipeline.tokenizer.latents(tokens.view(1, len(tokens), -1)).detach().float()
            decoded = self._decoded(self.start)
            self.offset = None if source is None else torch.as_tensor(source).to(decoded) - decoded
            places = self.places(self.features(self.start))
            self.bones = Bones(places, self.skeleton)
            fitted = self.bones.fitted(places)
            self.shift = torch.zeros_like(places) if source is None else places - fitted
            self.floor = floor_height(fitted.cpu().numpy(), self.skeleton)
            self.first = fitted + self.shift  # (T, J, 3) joints of the initial motion

    def features(self, latents: Tensor) -> Tensor:
        """Decode latents to unnormalised features (T, d)."""
        decoded = self._decoded(latents)
        return decoded if self.offset is None else decoded + self.offset

    def joints(self, features: Tensor) -> Tensor:
        """Convert ``features`` (T, d) to joints (T, J, 3) in metres, with bone lengths as in ``with_bones``."""
        return self.with_bones(self.places(features))

    def with_bones(self, places: Tensor) -> Tensor:
        """Make the bone lengths of joints (T, J, 3) in metres constant, except for variations in the source motion."""
        return self.bones.fitted(places) + self.shift

    def places(self, features: Tensor) -> Tensor:
        """Convert ``features`` (T, d) to joints (T, J, 3) in metres. Their bone lengths may vary."""
        return self.pipeline.metres * features_to_joints(features, self.skeleton)

    def _decoded(self, latents: Tensor) -> Tensor:
        extra, unit = CYCLE_TOKENS if self.cyclic else 0, self.pipeline.unit
        if self.cyclic:
            count = latents.shape[-1]
            around = torch.arange(-extra, count + extra, device=latents.device) % count
            latents = latents[..., around]
        decoded = self.pipeline.differentiable_tokenizer.decode_latents(latents)[0]
        return self.pipeline.denormalise(decoded[unit * extra:len(decoded) - unit * extra])


SEAM_TOKENS = 3       # tokens on either side of the seam that are regenerated
SEAM_STREAM = 7       # offset of the seed for the seam
TURN_BACK = np.pi / 4  # radians: a loop that turns less than this returns to its initial heading
MARGIN = 0.9          # step size allowed at the seam, relative to the largest step elsewhere
STAY = 0.6            # m: a loop that travels less than this returns to its initial position


def seam_painted(editor: MotionEditor, tokens: Tensor, text: str, seed: int, sampling: Sampling | None) -> Tensor:
    """Regenerate the first and last ``tokens`` (n, q) of a loop, so that the end continues into the start."""
    count = len(tokens)
    half, reach = count // 2, min(SEAM_TOKENS, count // 4)
    if not reach:
        return tokens
    rolled = torch.cat([tokens[half:], tokens[:half]]).view(count, -1)
    seam = count - half
    painted = editor.edit(rolled, [TimelinePart(seam - reach, seam + reach, text)], seed + SEAM_STREAM, sampling)
    return torch.cat([painted[seam:], painted[:seam]])


def closing_error(start: Tensor, metres: float) -> Callable[[Tensor], Tensor]:
    """Return a function that measures the gap between the end and the start of a loop, in metres plus weighted radians.

    Positions in features (T, d) are in units of ``metres``. The loop must return to its initial heading if the motion
    with the features ``start`` turns little, and to its initial position if that motion travels little.
    """
    def after_last(features: Tensor) -> tuple[Tensor, Tensor]:  # turn in radians and displacement (2,) of one cycle
        root = root_motion(torch.cat([features, features[:1]]))
        return 2 * features[:, 0].sum(), metres * root.position[-1, [0, 2]]

    turn, way = after_last(start)
    turns_back, stays = abs(float(turn)) < TURN_BACK, float(way.norm()) < STAY

    def error(features: Tensor) -> Tensor:
        turn, way = after_last(features)
        error = features.new_zeros(())
        if turns_back:
            error = error + METRES_PER_RADIAN * turn.abs()
        if stays:
            error = error + (way.square().sum() + 1e-12).sqrt()
        return error

    return error


def seam_excess(joints: Tensor, skeleton: Skeleton) -> Tensor:
    """Compute by how much velocity and acceleration at the seam of a loop exceed ``MARGIN`` times those elsewhere.

    Returns the sum of both excesses. ``joints`` (T, J, 3) are in metres, and times are in frames.
    """
    excess = joints.new_zeros(())
    for seam, ordinary in _seam_and_ordinary(body_frame(joints, skeleton)):
        excess = excess + (seam - MARGIN * ordinary.detach()).clamp_min(0)
    return excess


def _seam_and_ordinary(local: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Compute the largest mean velocity and acceleration of ``local`` (T, J, 3), each at the seam and elsewhere."""
    around = torch.cat([local, local[:2]])
    steps = around.diff(dim=0)
    sizes, changes = ((values.square().sum(-1) + 1e-12).sqrt().mean(-1) for values in (steps, steps.diff(dim=0)))
    inner = len(local) - 1  # steps that do not cross the seam
    return (sizes[inner], sizes[:inner].max()), (changes[inner - 1:].max(), changes[:inner - 1].max())


@dataclass(frozen=True)
class SeamGaps:
    """Jumps at the seam of a loop, relative to the rest of the motion, in body coordinates."""

    position: float  # step at the seam, as a multiple of the largest step elsewhere
    velocity: float  # change of velocity at the seam, as a multiple of the largest change elsewhere

    def __str__(self) -> str:
        return f"loop seam: {self.position:.2f} x the largest step elsewhere, {self.velocity:.2f} x in velocity"


def seam_gaps(joints: np.ndarray, skeleton: Skeleton) -> SeamGaps:
    """Measure the jumps between the last and the first frame of a loop with ``joints`` (T, J, 3), T >= 4."""
    pairs = _seam_and_ordinary(body_frame(torch.as_tensor(joints, dtype=torch.float64), skeleton))
    return SeamGaps(*(float(seam / ordinary.clamp_min(1e-6)) for seam, ordinary in pairs))
