"""What a text-to-motion pipeline makes, as the evaluation loop asks for it."""
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from evaluation.protocol import Generate
from models.text_to_motion import Sample, Sampling, TextToMotion

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
