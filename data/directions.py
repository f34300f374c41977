"""Generate controlled motions from prompts, constraint files and flags."""
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from data.constraints import Entry, FileConstraints, read_constraints
from data.dataset import MAX_MOTION_LENGTH, MAX_TOKENS, UNIT_LENGTH, DatasetSpec
from data.placed_constraints import Stretch, place_constraints
from data.text import Prompt, make_prompt
from models.control.constraints import Constraint
from models.control.director import Direction, Director
from models.control.optimise import ControlSettings, Directed, optimise
from models.motion_edit import MotionEditor
from models.text_to_motion import Sample, Sampling, TextToMotion
from utils import InputError
from utils.files import read_text
from utils.runtime import prompt_seed

Placement = tuple[Sequence[Entry], Stretch]  # constraints, and the part of the motion to which they apply

AS_IT_IS = "-"  # text in an upper-body track that keeps the upper body of the prompt


@dataclass(frozen=True)
class DirectionJob:
    """Motion to generate, with the prompt number, repeat and caption under which its files are written."""

    number: int
    repeat: int
    caption: str
    direction: Direction
    seed: int
    parts: tuple[tuple[int, str], ...] = ()  # first frame and prompt of each part of a timeline


@dataclass(frozen=True)
class Directions:
    """Factory that creates jobs (motions to generate) from prompts and the flags of ``options.generate``."""

    editor: MotionEditor
    spec: DatasetSpec
    sampling: Sampling
    opt: Namespace
    flags: Sequence[Entry]  # constraints from --path and --end

    def of_each(self, prompts: Sequence[Prompt]) -> Iterator[DirectionJob]:
        """Create a job for each repeat of each prompt."""
        opt, pipeline = self.opt, self.editor.pipeline
        lengths = pipeline.token_lengths([Sample(prompt.text, self._seed(prompt), prompt.m_len) for prompt in prompts],
                                         self.sampling)
        counts = [pipeline.unit * length for length in lengths]
        placements = each_placed(self.flags, _written(opt, self.spec, len(prompts)), counts, self.spec.fps)
        for number, (prompt, count, placed) in enumerate(zip(prompts, counts, placements, strict=True)):
            upper = None if opt.upper_body is None else self._short(
                make_prompt(opt.upper_body, None, "--upper_body").text, count)
            direction = Direction(prompt.text, self._short(prompt.text, count), upper, self._place(placed), opt.loop,
                                  opt.best_of)
            for repeat in range(opt.repeat_times):
                yield DirectionJob(number, repeat, self._caption(prompt.text), direction, self._seed(prompt, repeat))

    def of_all(self, prompts: Sequence[Prompt], frames: int | None) -> Iterator[DirectionJob]:
        """Create a job for each repeat. Each of the motions contains all prompts, one after another.

        ``frames`` is the length given by ``--seconds`` for a single prompt, or None for a timeline.
        """
        opt, pipeline = self.opt, self.editor.pipeline
        if frames is not None:
            lengths = [frames // pipeline.unit]
        else:
            lengths = pipeline.token_lengths([Sample(prompt.text, opt.seed, prompt.m_len) for prompt in prompts],
                                             self.sampling)
        parts = [(prompt.text, length) for prompt, length in zip(prompts, lengths, strict=True)]
        starts = [pipeline.unit * start for start in accumulate(lengths[:-1], initial=0)]
        placed = all_placed(self.flags, _written(opt, self.spec, len(prompts)),
                            [pipeline.unit * length for length in lengths], self.spec.fps)
        upper = None
        if opt.upper_body_path is not None:
            upper = self._long(read_track(opt.upper_body_path, parts, pipeline.unit))
        elif opt.upper_body is not None:
            upper = self._long([(make_prompt(opt.upper_body, None, "--upper_body").text, sum(lengths))])
        text = ", then ".join(prompt.text for prompt in prompts)
        marks = tuple(zip(starts, [prompt.text for prompt in prompts], strict=True)) if len(prompts) > 1 else ()
        direction = Direction(text, self._long(parts), upper, self._place(placed), opt.loop, opt.best_of)
        for repeat in range(opt.repeat_times):
            yield DirectionJob(0, repeat, self._caption(text), direction, opt.seed + repeat, marks)

    def _seed(self, prompt: Prompt, repeat: int = 0) -> int:
        text = self.editor.pipeline.clean(prompt.text)
        return prompt_seed(self.opt.seed + repeat, text, self.opt.text_path is not None)

    def _caption(self, text: str) -> str:
        return text if self.opt.upper_body is None else f"{text}; upper body: {self.opt.upper_body.strip()}"

    def _short(self, text: str, frames: int) -> Callable[[int], Tensor]:
        return lambda seed: self.editor.pipeline.tokens([Sample(text, seed, frames)], self.sampling)[0]

    def _long(self, parts: Sequence[tuple[str, int]]) -> Callable[[int], Tensor]:
        return lambda seed: self.editor.generate(parts, seed, self.sampling)

    def _place(self, placed: Sequence[Placement]) -> Callable[[Tensor], list[Constraint]] | None:
        if not any(entries for entries, _ in placed):
            return None
        check_placed(placed, self.spec)
        return partial(_constraints_of, placed, self.spec)


def _constraints_of(placed: Sequence[Placement], spec: DatasetSpec, joints: Tensor) -> list[Constraint]:
    return [constraint for entries, stretch in placed
            for constraint in place_constraints(entries, stretch, joints, spec)]


def _written(opt: Namespace, spec: DatasetSpec, prompts: int) -> FileConstraints:
    if opt.constraints is None:
        return FileConstraints((), ((),) * prompts)
    return read_constraints(opt.constraints, spec, prompts)


def each_placed(flags: Sequence[Entry], written: FileConstraints, counts: Sequence[int],
                fps: float) -> list[list[Placement]]:
    """Assign constraints to separate motions with ``counts`` frames.

    A plain list in a file applies to the first motion, flags to all motions.
    """
    return [[([*flags, *entries, *(written.whole if number == 0 else ())], Stretch(0, count, fps))]
            for number, (entries, count) in enumerate(zip(written.by_prompt, counts, strict=True))]


def all_placed(flags: Sequence[Entry], written: FileConstraints, counts: Sequence[int],
               fps: float) -> list[Placement]:
    """Assign constraints to one motion whose parts have ``counts`` frames.

    Flags, and constraints in a file that is a list rather than an object by prompt, apply to the whole motion.
    """
    starts = accumulate(counts[:-1], initial=0)
    return [([*flags, *written.whole], Stretch(0, sum(counts), fps)),
            *((entries, Stretch(start, count, fps))
              for entries, start, count in zip(written.by_prompt, starts, counts, strict=True))]


def check_placed(placed: Sequence[Placement], spec: DatasetSpec) -> None:
    """Raise ``InputError`` for constraints that do not match the length of their motion."""
    frames = max(stretch.first + stretch.count for _, stretch in placed)
    _constraints_of(placed, spec, torch.zeros(frames, spec.joints_num, 3))


def check_directions(prompts: Sequence[Prompt], frames: int | None, spec: DatasetSpec, opt: Namespace,
                     flags: Sequence[Entry]) -> None:
    """Check constraints and upper-body prompts before any model is loaded. Raises ``InputError`` if one is invalid.

    Lengths that are not known yet are assumed to be the maximum; ``directed_motions`` checks the actual ones.
    ``frames`` is described there.
    """
    counts = [frames or prompt.m_len or MAX_MOTION_LENGTH for prompt in prompts]
    counts = [max(count // UNIT_LENGTH, 1) * UNIT_LENGTH for count in counts]
    written = _written(opt, spec, len(prompts))
    if opt.timeline or frames:
        check_placed(all_placed(flags, written, counts, spec.fps), spec)
    else:
        for placed in each_placed(flags, written, counts, spec.fps):
            check_placed(placed, spec)
    if opt.upper_body is not None:
        make_prompt(opt.upper_body, None, "--upper_body")
    if opt.upper_body_path is not None:
        parts = [(prompt.text, count // UNIT_LENGTH) for prompt, count in zip(prompts, counts, strict=True)]
        read_track(opt.upper_body_path, parts, UNIT_LENGTH)


def read_track(path: str, parts: Sequence[tuple[str, int]], unit: int) -> list[tuple[str, int]]:
    """Read an upper-body track for the timeline ``parts``. Returns texts with their lengths in tokens, like ``parts``.

    A line is ``text#length``, with the length in frames. Lines ``-#length`` keep the upper body of the prompts, as
    does the rest of the timeline after the last line. Raises ``InputError`` for an invalid line or a track that is too
    long.
    """
    owner = [text for text, count in parts for _ in range(count)]  # prompt of each token
    track: list[tuple[str, int]] = []
    for number, line in enumerate(read_text(path, "upper-body track").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"{path}:{number}"
        text, separator, length = line.rpartition("#")
        if not separator or not length.strip().isdecimal() or int(length) < unit:
            raise InputError(f"{where}: expected text#length, with a length of at least {unit} frames")
        count, start = int(length) // unit, sum(count for _, count in track)
        if start + count > len(owner):
            raise InputError(f"{where}: the track is longer than the timeline of {unit * len(owner)} frames")
        if text.strip() == AS_IT_IS:
            track += [(one, 1) for one in owner[start:start + count]]
        else:
            track.append((make_prompt(text, None, where).text, count))
    track += [(one, 1) for one in owner[sum(count for _, count in track):]]
    return joined(track)


def joined(track: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """Merge consecutive parts with the same text."""
    joined: list[tuple[str, int]] = []
    for text, count in track:
        if joined and joined[-1][0] == text:
            joined[-1] = (text, joined[-1][1] + count)
        else:
            joined.append((text, count))
    return joined


def directed_motions(pipeline: TextToMotion, prompts: Sequence[Prompt], frames: int | None, spec: DatasetSpec,
                     opt: Namespace, flags: Sequence[Entry]) -> Iterator[tuple[DirectionJob, Directed]]:
    """Generate motions for prompts with the flags of ``options.generate``. Yields each job with its motion.

    ``flags`` are the constraints from ``--path`` and ``--end``. ``frames`` is the length of a single prompt if it
    exceeds the maximum of the models, else None. Raises ``InputError`` for invalid constraints, or if ``--best_of``
    cannot rank the samples.
    """
    sampling, editor = pipeline.sampling.changed(vars(opt)), MotionEditor(pipeline, MAX_TOKENS)
    director = Director(pipeline, editor, spec.fps, sampling, ControlSettings(steps=opt.control_steps))
    directions = Directions(editor, spec, sampling, opt, flags)
    jobs = list(directions.of_all(prompts, frames) if opt.timeline or frames else directions.of_each(prompts))
    for job in jobs:
        try:
            yield job, director.make(job.direction, job.seed)
        except ValueError as error:
            raise InputError(str(error)) from error


def constrained(editor: MotionEditor, features: np.ndarray, entries: Sequence[Entry], spec: DatasetSpec,
                steps: int) -> Directed:
    """Change a motion with unnormalised ``features`` (T, d) to meet constraints."""
    pipeline = editor.pipeline
    if not entries:
        return Directed(pipeline.joints(features), features)
    tokens = editor.encode(features)
    features = features[:pipeline.unit * len(tokens)]
    start = torch.from_numpy(pipeline.joints(features)).to(pipeline.device)
    constraints = place_constraints(entries, Stretch(0, len(features), spec.fps), start, spec)
    return optimise(pipeline, tokens, constraints, ControlSettings(steps=steps), source=features)
