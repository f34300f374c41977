"""Motion editing by in-painting of tokens, and generation of long motions.

The model reads a window of tokens. Tokens to generate are masked; the others are context. Long motions are generated
window by window, with overlapping windows.
"""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.text_to_motion import Sampling, TextToMotion
from utils.runtime import report_step

FADE = 12  # frames over which a regenerated part is blended with the source
CONTEXT = 4  # context tokens on either side of a window (0.8 s at 20 fps); with more, generated motions tend to float


@dataclass(frozen=True)
class TimelinePart:
    """Part of a motion, tokens ``start`` to ``stop`` (exclusive), to be generated from ``text``."""

    start: int
    stop: int
    text: str


@dataclass(frozen=True)
class Window:
    """Window of tokens ``start`` to ``stop``. Its tokens ``first`` to ``last`` are generated. Ends are exclusive."""

    start: int
    stop: int
    first: int
    last: int
    text: str


class MotionEditor:
    """Editor that regenerates parts of token sequences with a pipeline, using windows of ``window`` tokens."""

    def __init__(self, pipeline: TextToMotion, window: int) -> None:
        if window <= 2 * CONTEXT:
            raise ValueError(f"windows of {window} tokens are too small for {CONTEXT} context tokens on either side")
        self.pipeline, self.window = pipeline, window

    def encode(self, features: np.ndarray) -> Tensor:
        """Encode unnormalised ``features`` (T, d) to tokens (n, q), dropping frames that do not fill the last token.

        Raises ``ValueError`` if the motion is shorter than one token.
        """
        unit = self.pipeline.unit
        whole = len(features) // unit * unit
        if not whole:
            raise ValueError(f"a motion needs at least {unit} frames, not {len(features)}")
        return self.pipeline.encode(features[:whole])

    def edit(self, ids: Tensor, parts: Sequence[TimelinePart], seed: int, sampling: Sampling | None = None) -> Tensor:
        """Regenerate ``parts`` of the tokens ``ids`` (n, q) and keep the others.

        A part that starts at the end of ``ids`` extends the motion. Parts are generated in the given order, each with
        the previous parts as context. If all have the same text and the motion fits into a window, they are generated
        together. Raises ``ValueError`` for empty or overlapping parts and for gaps after the end of ``ids``.
        """
        total = max([len(ids), *(part.stop for part in parts)])
        unknown = torch.zeros(total, dtype=torch.bool)
        for part in parts:
            if not 0 <= part.start < part.stop or unknown[part.start:part.stop].any():
                raise ValueError(f"tokens {part.start} to {part.stop} are empty or overlap another part")
            unknown[part.start:part.stop] = True
        if not unknown[len(ids):].all():
            raise ValueError(f"the motion ends at token {len(ids)}; a part that extends it must start there")
        made = ids.new_full((total, ids.shape[1]), -1)
        made[:len(ids)][~unknown[:len(ids)]] = ids[~unknown[:len(ids)]]
        if total <= self.window and len({part.text for part in parts}) == 1:
            return self._fill(made, Window(0, total, 0, total, parts[0].text), unknown, seed, 0, sampling)
        number = 0
        for part in parts:
            while unknown[part.start:part.stop].any():
                window = next_window(unknown, part, self.window)
                made = self._fill(made, window, unknown, seed, number, sampling)
                unknown[window.first:window.last] = False
                number += 1
                report_step("tokens of long motions", total - int(unknown.sum()), total)
        return made

    def edit_features(self, source: np.ndarray, parts: Sequence[TimelinePart], seed: int,
                      sampling: Sampling | None = None) -> np.ndarray:
        """Regenerate ``parts`` of a motion with unnormalised features ``source`` (T', d). Returns features (T, d).

        The other frames are kept, except those at the end that do not fill a token. Raises ``ValueError`` as ``encode``
        and ``edit`` do.
        """
        ids = self.encode(source)
        edited = self.edit(ids, parts, seed, sampling)
        unknown = np.zeros(len(edited), bool)
        for part in parts:
            unknown[part.start:part.stop] = True
        unit = self.pipeline.unit
        return splice(source[:unit * len(ids)], self.pipeline.features_of([edited])[0], unknown.repeat(unit))

    def generate(self, parts: Sequence[tuple[str, int]], seed: int, sampling: Sampling | None = None) -> Tensor:
        """Generate tokens (n, q) for a motion of any length from a sequence of (text, length in tokens) parts."""
        ends = np.cumsum([count for _, count in parts]).tolist()
        placed = [TimelinePart(end - count, end, text) for end, (text, count) in zip(ends, parts, strict=True)]
        layers = self.pipeline.tokenizer.config.num_quantizers
        return self.edit(torch.empty(0, layers, dtype=torch.long, device=self.pipeline.device), placed, seed, sampling)

    def _fill(self, ids: Tensor, window: Window, unknown: Tensor, seed: int, number: int,
              sampling: Sampling | None) -> Tensor:
        """Generate the tokens of a window where ``unknown`` (n,) is True. Returns all tokens (n, q)."""
        seen = slice(window.start, window.stop)
        made = self.pipeline.fill([window.text], [window.stop - window.start], [seed], ids[None, seen], sampling,
                                  number)[0]
        made = made.view(len(made), -1)  # (n, generated layers)
        filled = ids.clone()
        new = unknown[seen].to(ids.device)
        filled[seen, :made.shape[1]][new] = made[new]
        return filled


def splice(source: np.ndarray, made: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """Take the features ``made`` (T, d) where ``unknown`` (T,) is True, and ``source`` (T', d) elsewhere.

    To avoid jumps, generated parts are blended with the source over ``FADE`` frames at either end, or over a third of
    the part if it is short. A part that starts where the source ends is instead shifted to continue from the last frame
    of the source, and the shift fades out.
    """
    known = np.flatnonzero(~unknown)
    spliced = np.array(made)
    spliced[known] = source[known]
    edges = np.flatnonzero(np.diff(np.concatenate([[0], unknown.astype(int), [0]])))
    for start, stop in edges.reshape(-1, 2).tolist():
        fade = min(FADE, (stop - start) // 3)
        ramp = (np.arange(fade) + 1) / (fade + 1)
        share = (1 - ramp * ramp * (3 - 2 * ramp))[:, None]  # weight of the source
        if start > 0:
            if start + fade <= len(source):
                there = source[start:start + fade]
            else:
                there = made[start:start + fade] + source[start - 1] - made[start - 1]
            spliced[start:start + fade] += share * (there - spliced[start:start + fade])
        if stop < len(made):
            spliced[stop - fade:stop] += share[::-1] * (source[stop - fade:stop] - spliced[stop - fade:stop])
    return spliced


def next_window(unknown: Tensor, part: TimelinePart, size: int) -> Window:
    """Choose the next window of at most ``size`` tokens, which generates the first unknown tokens of ``part``.

    ``unknown`` (n,) is True at tokens to generate. The window includes up to ``CONTEXT`` known tokens on either side,
    and more if there is room. Unknown tokens that do not fit are left for the next window.
    """
    first = part.start + int(unknown[part.start:part.stop].nonzero()[0])
    before = _run(~unknown[:first].flip(0))
    after = _run(~unknown[part.stop:])
    shown = min(before, CONTEXT)
    if shown + part.stop - first + min(after, CONTEXT) <= size:
        last = part.stop
        right = min(after, size - shown - (last - first))
        left = min(before, size - right - (last - first))
    else:
        # Leave at least ``CONTEXT`` tokens for the last window.
        last = min(first + size - shown, max(first + 1, part.stop - CONTEXT))
        right, left = 0, min(before, size - (last - first))
    return Window(first - left, last + right, first, last, part.text)


def _run(flags: Tensor) -> int:
    """Count the leading True values in ``flags`` (n,)."""
    return int(flags.long().cumprod(0).sum())
