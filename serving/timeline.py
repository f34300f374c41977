"""Timelines: one motion of several prompts, a track for the upper body, waypoints, regenerated blocks."""
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from data.constraints import Entry
from data.dataset import DatasetSpec
from data.directions import constrained, joined
from models.control.director import NOT_MET, UPPER_STREAM, combined_features
from models.control.optimise import STEPS
from models.motion_edit import MotionEditor, TimelinePart
from models.text_to_motion import Sampling
from serving.asks import Ask, Block, Remake
from utils import InputError
from utils.seeding import stream_seed
from visualization.html import marks_of


def make_timeline(editor: MotionEditor, ask: Ask, spec: DatasetSpec, sampling: Sampling,
                  result: Callable[..., Any]) -> Any:
    """Generate a timeline, as ``result(joints, parts, marks, remade, remarks, pinned)``.

    Without waypoints, all frames before a regenerated block stay exactly the same; those after it keep their movement
    and continue from its end.
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
    entries = [Entry("waypoint", {"point": [point.x, point.z], "time": (point.time, point.time)},
                     f"the {point.time:g} s") for point in ask.waypoints]
    made = constrained(editor, features, entries, spec, STEPS)
    unit = pipeline.unit
    parts = tuple((unit * start, block.text) for block, (start, _) in zip(ask.blocks, tokens, strict=True))
    remade = tuple((unit * tokens[one.block][0], unit * tokens[one.block][1] - 1) for one in _of(ask, "body"))
    unmet = tuple(line for line in made.report() if line.endswith(NOT_MET))
    return result(made.joints, parts if len(parts) > 1 else (), marks_of(made.constraints, made.joints), remade, unmet,
                  made.pinned if made.constraints else None)


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
    """Features (T, d) of a track with its regenerated blocks."""
    features = editor.pipeline.features_of([editor.generate(parts, seed, sampling)])[0]
    for remake in remakes:
        part = TimelinePart(*spans[remake.block], blocks[remake.block].text)
        features = editor.edit_features(features, [part], remake.seed, sampling)
    return features
