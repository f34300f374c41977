"""Motions made as directed: samples drawn, bodies combined, loops closed, constraints met, the best one kept."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from models.control.constraints import Constraint, Remaining
from models.control.decoding import Decoding
from models.control.looping import SeamGaps, seam_gaps, seam_painted
from models.control.optimise import Controlled, ControlSettings, optimise
from models.control.ranking import lamp_scores, physical_faults, total_scores
from models.motion_edit import MotionEditor
from models.text_to_motion import Sampling, TextToMotion
from motion.body_parts import combine_bodies
from motion.features import joints_to_features
from utils.seeding import stream_seed

Draw = Callable[[int], Tensor]                            # tokens (n, q) of a seed
Place = Callable[[Tensor], Sequence[Constraint]]          # constraints for a start (T, J, 3) in metres

UPPER_STREAM, CANDIDATE_STREAM, BEST_STREAM = 101, 102, 103  # of a seed
CANDIDATES = 4    # samples of which the one nearest to the constraints is taken,
MET = {"m": 0.05, "degrees": 10.0}  # largest error of a constraint that counts as met
FAR_START = 0.3   # m: where the first one is farther away than this on average


@dataclass(frozen=True)
class Directed:
    """A motion that was made as directed."""

    joints: np.ndarray                         # (T, J, 3) float32 metres
    features: np.ndarray                       # (T, d) float32 in their own units
    constraints: tuple[Constraint, ...] = ()
    remaining: tuple[Remaining, ...] = ()      # of each constraint
    seam: SeamGaps | None = None               # of a loop

    def report(self) -> list[str]:
        """A line for each constraint and for the seam; constraints that are not met say so."""
        lines = [f"{left}{' NOT MET' if left.largest > MET[left.unit] else ''}" for left in self.remaining]
        return lines if self.seam is None else [*lines, str(self.seam)]


@dataclass(frozen=True)
class Direction:
    """What a motion is to be, beside its text."""

    text: str                     # ranks samples, and fills the seam of a loop
    draw: Draw
    upper: Draw | None = None     # of the motion whose upper body it has
    place: Place | None = None
    loop: bool = False
    best_of: int = 1


class Director:
    """Makes motions with a pipeline; a motion follows from its direction and seed alone."""

    def __init__(self, pipeline: TextToMotion, editor: MotionEditor, fps: float, sampling: Sampling | None = None,
                 settings: ControlSettings | None = None) -> None:
        self.pipeline, self.editor, self.fps = pipeline, editor, fps
        self.sampling, self.settings = sampling, settings or ControlSettings()

    def make(self, direction: Direction, seed: int) -> Directed:
        """The motion of a seed, or the best of ``direction.best_of``. Raises ``ValueError`` where samples cannot be
        ranked, and what ``direction.place`` raises."""
        seeds = [seed, *(stream_seed(seed, BEST_STREAM, number) for number in range(1, direction.best_of))]
        made = [self._one(direction, one) for one in seeds]
        if len(made) == 1:
            return made[0]
        faults = np.array([physical_faults(one.joints, self.pipeline, self.fps) for one in made])
        errors = np.array([sum(left.mean for left in one.remaining if left.unit == "m") for one in made])
        match = lamp_scores(self.pipeline, direction.text, [one.features for one in made])
        return made[int(total_scores(match, faults, errors).argmax())]

    def _one(self, direction: Direction, seed: int) -> Directed:
        tokens, constraints = self._start(direction, seed)
        if not constraints and not direction.loop:
            features = self.pipeline.features_of([tokens], self.sampling and self.sampling.group_rows)[0]
            return Directed(self.pipeline.joints(features), features)
        controlled = optimise(self.pipeline, tokens, constraints, self.settings, cyclic=direction.loop)
        return directed(controlled, constraints, self.pipeline, direction.loop)

    def _start(self, direction: Direction, seed: int) -> tuple[Tensor, Sequence[Constraint]]:
        """Tokens to start from, and the constraints on them: of several samples where the first one is far away."""
        tokens = self._tokens(direction, seed)
        if direction.place is None:
            return tokens, ()
        best = (*self._placed(direction, tokens), tokens)
        for number in range(1, CANDIDATES):
            if best[0] <= FAR_START:
                break
            other = self._tokens(direction, stream_seed(seed, CANDIDATE_STREAM, number))
            found = (*self._placed(direction, other), other)
            best = found if found[0] < best[0] else best
        return best[2], best[1]

    def _placed(self, direction: Direction, tokens: Tensor) -> tuple[float, Sequence[Constraint]]:
        start = Decoding(self.pipeline, tokens, cyclic=direction.loop).first
        constraints = tuple(direction.place(start))
        errors = [float(constraint.error(start, self.pipeline.skeleton).mean()) for constraint in constraints
                  if len(constraint.frames)]
        return max(errors, default=0.0), constraints

    def _tokens(self, direction: Direction, seed: int) -> Tensor:
        tokens = direction.draw(seed)
        if direction.upper is not None:
            tokens = self.combined(tokens, direction.upper(stream_seed(seed, UPPER_STREAM)))
        if direction.loop:
            tokens = seam_painted(self.editor, tokens, direction.text, seed, self.sampling)
        return tokens

    def combined(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Tokens (n, q) of the pelvis and legs of one motion and the upper body of the other, both (n, q), through the
        tokenizer once."""
        joints = combine_bodies(*(self.pipeline.decode(tokens) for tokens in (lower, upper)), self.pipeline.skeleton)
        joints = np.concatenate([joints, 2 * joints[-1:] - joints[-2:-1]]) / self.pipeline.metres
        features = joints_to_features(joints, self.pipeline.skeleton).numpy()
        tokens = self.pipeline.encode(features)
        return tokens if lower.dim() == 2 else tokens[:, 0]


def directed(controlled: Controlled, constraints: Sequence[Constraint], pipeline: TextToMotion,
             loop: bool = False) -> Directed:
    """A result of ``optimise`` with what it was made for."""
    seam = seam_gaps(controlled.joints, pipeline.skeleton) if loop and len(controlled.joints) >= 4 else None
    return Directed(controlled.joints, controlled.features, tuple(constraints), controlled.remaining, seam)
