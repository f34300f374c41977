"""Evaluation of text to motion: generated motions for the protocol, and LaMP-BertScore."""
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from data.text_motion import Pair
from evaluation.protocol import Generate, Row
from evaluation.report import estimates
from models.text_to_motion import Sample, Sampling, TextToMotion
from utils.seeding import stream_seed

BASE = "base layer"
ALL = "base + residual"
BATCH = 64  # texts that are encoded together


class Encoder(Protocol):
    """What gives text features, and a fingerprint of everything that they depend on."""

    fingerprint: str

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Features (b, c) of texts."""


class RememberedTexts:
    """Text features that are computed once for every text: the repeats of an evaluation ask for the same ones.

    ``known`` has those of before, (1, c) by text, and takes up the others.
    """

    def __init__(self, encoder: Encoder, known: dict[str, Tensor]) -> None:
        self.encoder, self.known = encoder, known

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Features (b, c) of texts; of those that are new in batches of like length."""
        new = sorted({text for text in texts if text not in self.known}, key=lambda text: (len(text), text))
        for start in range(0, len(new), BATCH):
            chosen = new[start:start + BATCH]
            self.known |= zip(chosen, self.encoder(chosen).split(1), strict=True)
        return torch.cat([self.known[text] for text in texts])


def remember_texts(pipeline: TextToMotion, known: dict[str, dict[str, Tensor]]) -> None:
    """Let a pipeline keep all text features it computes in ``known``, under its encoder's fingerprint: both its models,
    and the next pipeline, have them where the encoder is the same."""
    pipeline.text, pipeline.residual_text = (RememberedTexts(encoder, known.setdefault(encoder.fingerprint, {}))
                                             for encoder in (pipeline.text, pipeline.residual_text))


def generated_rows(pipeline: TextToMotion, sampling: Sampling, prefix: str = "") -> Generate:
    """Motions of the base layer alone and, where there is a residual transformer, of the same base with all layers: two
    rows out of one generation, named ``prefix`` + ``BASE`` and ``ALL``."""

    def generate(samples: Sequence[Sample]) -> dict[str, list[np.ndarray]]:
        for text in (pipeline.text, pipeline.residual_text):
            if isinstance(text, RememberedTexts):
                text([pipeline.clean(sample.text) for sample in samples])
        tokens = pipeline.tokens(samples, sampling)
        base = [ids if ids.dim() == 1 else ids[:, 0] for ids in tokens]
        rows = {prefix + BASE: pipeline.features_of(base, sampling.group_rows)}
        if pipeline.residual is not None:
            rows[prefix + ALL] = pipeline.features_of(tokens, sampling.group_rows)
        return rows

    return generate


KEY = "lamp_bertscore"
LEGEND = f"{KEY}: BERTScore of the motion's caption against its prompt, per cent"
_PROMPTS = 1 << 33  # of the seeds: apart from those of the protocol


class LampBertScore:
    """One prompt a clip, drawn among its captions, and a motion of the clip's length made for each.

    Args:
        pairs, clips: clips with captions, and their motions (T, d) cut to whole tokens.
        tell: motions (T, d) in their own units to captions, the best of a motion first.
        bert: BERTScore of captions against one or more references each.
        seed: of the draws.
    """

    def __init__(self, pairs: Sequence[Pair], clips: Sequence[np.ndarray],
                 tell: Callable[[Sequence[np.ndarray]], list[list[str]]],
                 bert: Callable[[Sequence[str], Sequence[Sequence[str]]], float], seed: int = 0) -> None:
        self.pairs, self.clips, self.tell, self.bert = pairs, clips, tell, bert
        rng = np.random.default_rng(stream_seed(seed, _PROMPTS))
        self.samples = [Sample(str(rng.choice(pair.captions)), stream_seed(seed, _PROMPTS, number), len(clip))
                        for number, (pair, clip) in enumerate(zip(pairs, clips, strict=True))]

    def add_real(self, row: Row) -> None:
        """The score of the clips themselves: what a perfect generator would come to."""
        self._add(row, self.clips)

    def add_generated(self, rows: dict[str, Row], generate: Generate) -> None:
        """Score the motions that ``generate`` returns."""
        for name, motions in generate(self.samples).items():
            self._add(rows[name], motions)

    def _add(self, row: Row, motions: Sequence[np.ndarray]) -> None:
        finite = [number for number, motion in enumerate(motions) if np.isfinite(motion).all()]
        made = [captions[0] for captions in self.tell([motions[number] for number in finite])]
        prompts = [(self.samples[number].text,) for number in finite]
        row.numbers |= estimates([{KEY: self.bert(made, prompts) if finite else float("nan")}])
        row.faults += [f"{self.pairs[number].name}, {self.samples[number].text!r}, {KEY}"
                       for number in sorted(set(range(len(motions))) - set(finite))]
