"""Generate timelines and motions with constraints."""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from data.constraints import Entry, check_entries
from data.dataset import MAX_MOTION_LENGTH, DatasetSpec
from data.directions import check_placed, constrained, joined
from data.placed_constraints import Stretch, place_constraints
from models.control.director import UPPER_STREAM, Direction, Director, combined_features
from models.control.optimise import NOT_MET, STEPS, Directed
from models.motion_edit import MotionEditor, TimelinePart
from models.text_to_motion import Sample, Sampling
from serving.asks import Ask, Block, Remake
from utils import InputError
from utils.runtime import stream_seed
from visualization.html import Mark, marks_of


@dataclass(frozen=True)
class Outcome:
    """A generated motion."""

    joints: np.ndarray  # (T, J, 3) metres
    parts: tuple[tuple[int, str], ...] = ()   # first frame and prompt of each block
    remade: tuple[tuple[int, int], ...] = ()  # first and last frame of regenerated parts
    marks: tuple[Mark, ...] = ()
    remarks: tuple[str, ...] = ()
    pinned: np.ndarray | None = None  # (T, J) bool, joints that foot locking does not move, see ``write_motion``

    @classmethod
    def of(cls, made: Directed, parts: tuple[tuple[int, str], ...] = (),
           remade: tuple[tuple[int, int], ...] = ()) -> "Outcome":
        """Create an outcome from a motion with constraints. ``remarks`` lists unmet constraints."""
        return cls(made.joints, parts, remade, marks_of(made.constraints, made.joints),
                   tuple(line for line in made.report() if line.endswith(NOT_MET)), made.pinned)


def make_timeline(editor: MotionEditor, ask: Ask, spec: DatasetSpec, sampling: Sampling) -> Outcome:
    """Generate the motion of a timeline.

    Without waypoints and constraints, regenerating a block does not change the frames before it. Frames after it keep
    their movement relative to the new end of the block.
    """
    pipeline, tokens = editor.pipeline, [_tokens(block, spec, editor) for block in ask.blocks]
    _check(ask, tokens)
    body = [(block.text, stop - start) for block, (start, stop) in zip(ask.blocks, tokens, strict=True)]
    features = _track(editor, body, ask.seed, tokens, ask.blocks, _of(ask, "body"), sampling)
    if ask.upper:
        spans = [_tokens(block, spec, editor) for block in ask.upper]
        texts = [text for text, count in body for _ in range(count)]
        for block, (start, stop) in zip(ask.upper, spans, strict=True):
            texts[start:stop] = [block.text] * (stop - start)
        seed = stream_seed(ask.seed, UPPER_STREAM)
        upper = _track(editor, joined([(text, 1) for text in texts]), seed, spans, ask.upper, _of(ask, "upper"),
                       sampling)
        features = combined_features(pipeline, pipeline.joints(features), pipeline.joints(upper))
    made = constrained(editor, features, constraints_of(ask, spec), spec, STEPS)
    unit = pipeline.unit
    parts = tuple((unit * start, block.text) for block, (start, _) in zip(ask.blocks, tokens, strict=True))
    remade = tuple((unit * tokens[one.block][0], unit * tokens[one.block][1] - 1) for one in _of(ask, "body"))
    return Outcome.of(made, parts if len(parts) > 1 else (), remade)


def make_directed(editor: MotionEditor, ask: Ask, frames: int, spec: DatasetSpec, sampling: Sampling) -> Outcome:
    """Generate a motion from a prompt and constraints, as ``gen_t2m.py --constraints`` does."""
    pipeline, entries, stretch = editor.pipeline, constraints_of(ask, spec), Stretch(0, frames, spec.fps)
    check_placed([(entries, stretch)], spec)

    def draw(seed: int) -> Tensor:
        if frames > MAX_MOTION_LENGTH:
            return editor.generate([(ask.prompt, frames // pipeline.unit)], seed, sampling)
        return pipeline.tokens([Sample(ask.prompt, seed, frames)], sampling)[0]

    director = Director(pipeline, editor, spec.fps, sampling)
    direction = Direction(ask.prompt, draw, place=lambda joints: place_constraints(entries, stretch, joints, spec))
    return Outcome.of(director.make(direction, ask.seed))


def constraints_of(ask: Ask, spec: DatasetSpec) -> list[Entry]:
    """Return the waypoints and constraints of a request. Raises ``InputError`` for invalid constraints."""
    points = [Entry("waypoint", {"point": [point.x, point.z], "time": (point.time, point.time)},
                    f"the {point.time:g} s") for point in ask.waypoints]
    return [*points, *check_entries(list(ask.constraints), "constraints", spec)]


def _tokens(block: Block, spec: DatasetSpec, editor: MotionEditor) -> tuple[int, int]:
    start, stop = (round(second * spec.fps / editor.pipeline.unit) for second in (block.start, block.end))
    return start, max(stop, start + 1)


def _of(ask: Ask, track: str) -> list[Remake]:
    return [remake for remake in ask.remakes if remake.track == track]


def _check(ask: Ask, tokens: Sequence[tuple[int, int]]) -> None:
    end = 0
    for block, (start, stop) in zip(ask.blocks, tokens, strict=True):
        if start != end:
            raise InputError(f"“{block.text}” starts at {block.start:g} s, but the previous block ends earlier; "
                             "blocks of the whole body must follow one another from 0 s")
        end = stop
    last = ask.blocks[-1].end
    for point in ask.waypoints:
        if point.time > last + 1e-6:
            raise InputError(f"the waypoint at {point.time:g} s is after the timeline of {last:g} s")
    for block in ask.upper:
        if block.end > last + 1e-6:
            raise InputError(f"“{block.text}” ends at {block.end:g} s, after the timeline of {last:g} s")
    for track, blocks in (("body", ask.blocks), ("upper", ask.upper)):
        for remake in _of(ask, track):
            if remake.block >= len(blocks):
                raise InputError(f"there is no block {remake.block} in the {track} track, which has {len(blocks)}")


def _track(editor: MotionEditor, parts: Sequence[tuple[str, int]], seed: int, spans: Sequence[tuple[int, int]],
           blocks: Sequence[Block], remakes: Sequence[Remake], sampling: Sampling) -> np.ndarray:
    """Generate the features (T, d) of a track, then apply ``remakes``, each of which regenerates one block."""
    features = editor.pipeline.features_of([editor.generate(parts, seed, sampling)])[0]
    for remake in remakes:
        part = TimelinePart(*spans[remake.block], blocks[remake.block].text)
        features = editor.edit_features(features, [part], remake.seed, sampling)
    return features
