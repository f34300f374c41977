"""Evaluation of text-to-motion models: generated motions for the protocol, LaMP-BertScore, LaMP as second evaluator."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from data.dataset import DatasetSpec
from data.text_motion import Pair
from evaluation.protocol import Generate, Row
from evaluation.report import estimates
from evaluation.retrieval import motion_vectors, text_vectors
from models.text_to_motion import Sample, Sampling, TextToMotion
from storage.evaluation import LoadedEvaluator, find_evaluator
from storage.generation import LoadedLaMP, load_lamp
from utils import InputError
from utils.seeding import stream_seed

BASE = "base layer"
ALL = "base + residual"
BATCH = 64  # texts encoded together


class TextMotionEncoder(Protocol):
    """A text encoder with a fingerprint of everything that its features depend on."""

    fingerprint: str

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Features (b, c) of texts."""


class RememberedTexts:
    """Cache of text features, because the repeats of an evaluation use the same texts.

    ``known`` maps texts to features (1, c) and is extended with new ones.
    """

    def __init__(self, encoder: TextMotionEncoder, known: dict[str, Tensor]) -> None:
        self.encoder, self.known = encoder, known

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Features (b, c) of texts; new texts are encoded in batches of similar length."""
        new = sorted({text for text in texts if text not in self.known}, key=lambda text: (len(text), text))
        for start in range(0, len(new), BATCH):
            chosen = new[start:start + BATCH]
            self.known |= zip(chosen, self.encoder(chosen).split(1), strict=True)
        return torch.cat([self.known[text] for text in texts])


def remember_texts(pipeline: TextToMotion, known: dict[str, dict[str, Tensor]]) -> None:
    """Cache all text features of a pipeline in ``known``, by the fingerprint of the encoder, so that its models and
    other pipelines with the same encoder share them."""
    pipeline.text, pipeline.residual_text = (RememberedTexts(encoder, known.setdefault(encoder.fingerprint, {}))
                                             for encoder in (pipeline.text, pipeline.residual_text))


def generated_rows(pipeline: TextToMotion, sampling: Sampling, prefix: str = "") -> Generate:
    """Function that generates motions for two rows, ``prefix`` + ``BASE`` from the base layer alone and, with a
    residual transformer, ``prefix`` + ``ALL`` from the same base tokens with all layers."""

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
_PROMPTS = 1 << 33  # seed offset, distinct from those of the protocol


class LampBertScore:
    """Caption generated motions and compare the captions with the prompts by BERTScore.

    Each clip gives one prompt, sampled from its captions, for a motion of the clip's length.

    Args:
        pairs, clips: clips with captions, and their motions (T, d) cut to whole tokens.
        caption: function from unnormalised motions (T, d) to captions, the best of each motion first.
        bert: BERTScore of captions against one or more references each.
        seed: of the sampled prompts and motions.
    """

    def __init__(self, pairs: Sequence[Pair], clips: Sequence[np.ndarray],
                 caption: Callable[[Sequence[np.ndarray]], list[list[str]]],
                 bert: Callable[[Sequence[str], Sequence[Sequence[str]]], float], seed: int = 0) -> None:
        self.pairs, self.clips, self.caption, self.bert = pairs, clips, caption, bert
        rng = np.random.default_rng(stream_seed(seed, _PROMPTS))
        self.samples = [Sample(str(rng.choice(pair.captions)), stream_seed(seed, _PROMPTS, number), len(clip))
                        for number, (pair, clip) in enumerate(zip(pairs, clips, strict=True))]

    def add_real(self, row: Row) -> None:
        """Add the score of the real clips, the upper bound for a generator."""
        self._add(row, self.clips)

    def add_generated(self, rows: dict[str, Row], generate: Generate) -> None:
        """Score the motions that ``generate`` returns."""
        for name, motions in generate(self.samples).items():
            self._add(rows[name], motions)

    def _add(self, row: Row, motions: Sequence[np.ndarray]) -> None:
        finite = [number for number, motion in enumerate(motions) if np.isfinite(motion).all()]
        made = [captions[0] for captions in self.caption([motions[number] for number in finite])]
        prompts = [(self.samples[number].text,) for number in finite]
        row.numbers |= estimates([{KEY: self.bert(made, prompts) if finite else float("nan")}])
        row.faults += [f"{self.pairs[number].name}, {self.samples[number].text!r}, {KEY}"
                       for number in sorted(set(range(len(motions))) - set(finite))]


PREFIX = "lamp:"
NOTE = "lamp_R1, lamp_mm_dist: the same metrics with LaMP's normalised features"


@dataclass(frozen=True)
class LampSpace:
    """Embedding space of a LaMP model's normalised features, where Euclidean distance and cosine rank alike."""

    lamp: LoadedLaMP

    def texts(self, captions: Sequence[str]) -> np.ndarray:
        """Embeddings (n, e) of cleaned captions."""
        return text_vectors(captions, self.lamp.text_features).cpu().numpy()

    def motions(self, motions: Sequence[np.ndarray]) -> np.ndarray:
        """Embeddings (n, e) of motions (T, d), not normalised."""
        if not motions:
            return np.zeros((0, self.lamp.model.config.embed_dim), np.float32)
        clips = [self.lamp.normalisation.apply(motion) for motion in motions]
        return motion_vectors(clips, self.lamp.motion_features, quiet=True)


def find_evaluators(names: str | None, spec: DatasetSpec, checkpoints_dir: str | Path,
                    device: torch.device | str = "cpu") -> tuple[LoadedEvaluator | None, LampSpace | None]:
    """Load the evaluators of ``NAME``, ``lamp:NAME`` or ``NAME,lamp:NAME``: the evaluator, and a LaMP model if named.

    ``lamp:NAME`` alone leaves the evaluator at its default (``find_evaluator``). Raises ``InputError`` for more names.
    """
    parts = names.split(",") if names is not None else []
    lamps = [part for part in parts if part.startswith(PREFIX)]
    others = [part for part in parts if not part.startswith(PREFIX)]
    if len(lamps) > 1 or len(others) > 1 or PREFIX in lamps or "" in others:
        raise InputError(f"--evaluator {names}: expected NAME, {PREFIX}NAME, or NAME,{PREFIX}NAME")
    judge = find_evaluator(others[0] if others else None, spec, checkpoints_dir, device)
    return judge, LampSpace(load_lamp(lamps[0].removeprefix(PREFIX), spec, checkpoints_dir, device)) if lamps else None
