"""Controlled generation: motions with constraints, loops, combined bodies, and the best of several samples."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.control.constraints import Constraint
from models.control.decoding import Decoding, seam_painted
from models.control.optimise import ControlSettings, Directed, optimise
from models.lamp.features import LaMPText, text_inputs
from models.motion_edit import MotionEditor
from models.text_to_motion import Sampling, TextToMotion
from motion.body import bone_length_drift, combine_bodies, floor_penetration, foot_skating, roughness
from motion.features import joints_to_features
from utils.runtime import stream_seed

Draw = Callable[[int], Tensor]                            # generates tokens (n, q) for a seed
Place = Callable[[Tensor], Sequence[Constraint]]          # creates constraints for a motion (T, J, 3) in metres

UPPER_STREAM, CANDIDATE_STREAM, BEST_STREAM = 101, 102, 103  # random streams of a seed
FAR_START = 0.3   # m: if the mean error of a sample is larger, others are tried
CANDIDATES = 4    # maximum number of samples to choose the initial motion from
RETRIED = (0.2, 2.0)  # m: if the largest remaining error is in this range, the next sample is tried
TRIES = 2         # maximum number of samples to optimise
FAULTS = ("skating", "penetration", "jerk", "bone drift")
FAULT_WEIGHT = 0.5      # weight of all faults together, relative to the text match
LEAST_SPREAD = 0.1      # minimum std used to standardise a fault, relative to its mean
LEAST_MATCH = 0.02      # minimum std used to standardise the text match


@dataclass(frozen=True)
class Direction:
    """Request for a controlled motion."""

    text: str                     # used to rank samples and to regenerate the seam of a loop
    draw: Draw                    # generates the motion
    upper: Draw | None = None     # generates a motion whose upper body is combined with the legs from ``draw``
    place: Place | None = None    # creates the constraints
    loop: bool = False            # whether the motion must be a loop
    best_of: int = 1              # number of samples from which the best is chosen


class Director:
    """Generator of controlled motions. Each motion depends only on its ``Direction`` and the seed."""

    def __init__(self, pipeline: TextToMotion, editor: MotionEditor, fps: float, sampling: Sampling | None = None,
                 settings: ControlSettings | None = None) -> None:
        self.pipeline, self.editor, self.fps = pipeline, editor, fps
        self.sampling, self.settings = sampling, settings or ControlSettings()

    def make(self, direction: Direction, seed: int) -> Directed:
        """Generate a motion, the best of ``direction.best_of`` samples.

        Raises ``ValueError`` if samples cannot be ranked. Errors raised by ``direction.place`` are passed on.
        """
        seeds = [seed, *(stream_seed(seed, BEST_STREAM, number) for number in range(1, direction.best_of))]
        made = [self._one(direction, one) for one in seeds]
        if len(made) == 1:
            return made[0]
        faults = np.array([sample_faults(one.joints, self.pipeline, self.fps) for one in made])
        errors = np.array([sum(left.mean for left in one.remaining if left.unit == "m") for one in made])
        match = lamp_scores(self.pipeline, direction.text, [one.features for one in made])
        return made[int(total_scores(match, faults, errors).argmax())]

    def _one(self, direction: Direction, seed: int) -> Directed:
        starts = self._starts(direction, seed)
        first = starts[0]
        if not first.constraints and not direction.loop:
            features = first.source
            if features is None:
                features = self.pipeline.features_of([first.tokens], self.sampling and self.sampling.group_rows)[0]
            return Directed(self.pipeline.joints(features), features)
        made: list[Directed] = []
        for start in starts[:TRIES]:
            made.append(optimise(self.pipeline, start.tokens, start.constraints, self.settings, start.source,
                                 direction.loop))
            if not RETRIED[0] < made[-1].largest < RETRIED[1]:
                break
        return min(made, key=lambda one: one.largest)

    def _starts(self, direction: Direction, seed: int) -> list["_Start"]:
        """Sample up to ``CANDIDATES`` initial motions and create their constraints.

        Sampling stops at the first motion with an error of at most ``FAR_START``. Returns the candidates sorted by
        error, smallest first.
        """
        found: list[_Start] = []
        for one in [seed, *(stream_seed(seed, CANDIDATE_STREAM, number) for number in range(1, CANDIDATES))]:
            tokens, source = self._drawn(direction, one)
            constraints, errors = (), []
            if direction.place is not None:
                joints = Decoding(self.pipeline, tokens, source, direction.loop).first
                constraints = tuple(direction.place(joints))
                errors = [float(constraint.error(joints, self.pipeline.skeleton).mean())
                          for constraint in constraints if len(constraint.frames)]
            found.append(_Start(max(errors, default=0.0), tokens, source, constraints))
            if found[-1].error <= FAR_START:
                break
        return sorted(found, key=lambda start: start.error)

    def _drawn(self, direction: Direction, seed: int) -> tuple[Tensor, np.ndarray | None]:
        tokens, source = direction.draw(seed), None
        if direction.upper is not None:
            upper = direction.upper(stream_seed(seed, UPPER_STREAM))
            source = combined_features(self.pipeline, *map(self.pipeline.decode, (tokens, upper)))
            tokens = self.pipeline.encode(source) if tokens.dim() == 2 else self.pipeline.encode(source)[:, 0]
        if direction.loop:
            return seam_painted(self.editor, tokens, direction.text, seed, self.sampling), None
        return tokens, source


class _Start(NamedTuple):
    """Initial motion of the optimisation."""

    error: float               # largest mean error of a constraint
    tokens: Tensor             # (n, q)
    source: np.ndarray | None  # (T, d) features encoded by the tokens; None: the decoded ones
    constraints: tuple[Constraint, ...]


def combined_features(pipeline: TextToMotion, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Combine the legs and pelvis of ``lower`` with the upper body of ``upper``, both joints (T, J, 3) in metres.

    Returns unnormalised features (T, d). Use them instead of decoding their tokens, because the tokenizer reconstructs
    combined bodies poorly.
    """
    joints = combine_bodies(lower, upper, pipeline.skeleton)
    joints = np.concatenate([joints, 2 * joints[-1:] - joints[-2:-1]]) / pipeline.metres
    return joints_to_features(joints, pipeline.skeleton).numpy()


def lamp_scores(pipeline: TextToMotion, text: str, motions: Sequence[np.ndarray]) -> np.ndarray:
    """Compute LaMP's cosine similarities (n,) between ``text`` and motions, given as unnormalised features (T, d).

    Long motions are split, and the similarities of their parts are averaged. Raises ``ValueError`` if the text encoder
    of the pipeline is not a LaMP model.
    """
    encoder = pipeline.text
    if not isinstance(encoder, LaMPText):
        raise ValueError("ranking samples needs LaMP, but this transformer has another text encoder")
    model = encoder.model
    words = model.text_features(*text_inputs(model, encoder.pieces, [pipeline.clean(text)], encoder.max_text_len))[0]
    longest = model.config.qformer.num_query_tokens * model.config.vq.unit_length
    scores = []
    for motion in motions:
        parts = np.array_split(pipeline.normalise(motion), -(-len(motion) // longest))
        found = [model.motion_query_features(torch.as_tensor(part, dtype=torch.float32, device=words.device)[None])[0]
                 for part in parts]
        scores.append(float(np.mean([float((queries @ words).max()) for queries in found])))
    return np.array(scores)


def sample_faults(joints: np.ndarray, pipeline: TextToMotion, fps: float) -> list[float]:
    """Measure the ``FAULTS`` of a motion with ``joints`` (T, J, 3) in metres."""
    return [foot_skating(joints, pipeline.skeleton, fps), floor_penetration(joints), roughness(joints),
            bone_length_drift(joints, pipeline.skeleton)]


def total_scores(match: np.ndarray, faults: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Combine text match (n,), faults (n, f) and constraint errors (n,) in metres into scores (n,). Higher is better.

    Each measure is standardised over the samples of a prompt.
    """
    def standing(values: np.ndarray, least: np.ndarray | float) -> np.ndarray:
        return (values - values.mean(0)) / np.maximum(values.std(0), least)

    physical = standing(faults, LEAST_SPREAD * faults.mean(0) + 1e-9).mean(1)
    return standing(match, LEAST_MATCH) - FAULT_WEIGHT * physical - standing(errors, 0.02)
