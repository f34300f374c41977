"""What a text-to-motion pipeline makes, as the evaluation loop asks for it."""
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from evaluation.protocol import Generate
from models.text_to_motion import Sample, Sampling, TextFeatures, TextToMotion

BASE = "base layer"
ALL = "base + residual"


class RememberedTexts:
    """Text features that are computed once for every text: the repeats of an evaluation ask for the same ones."""

    def __init__(self, encoder: TextFeatures) -> None:
        self.encoder, self.known = encoder, {}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Features (b, c) of texts."""
        for text in texts:
            if text not in self.known:
                self.known[text] = self.encoder([text])
        return torch.cat([self.known[text] for text in texts])


def remember_texts(pipeline: TextToMotion) -> None:
    """Let a pipeline keep all text features it computes; models that share an encoder share them."""
    shared = pipeline.residual_text is pipeline.text
    pipeline.text = RememberedTexts(pipeline.text)
    pipeline.residual_text = pipeline.text if shared else RememberedTexts(pipeline.residual_text)


def generated_rows(pipeline: TextToMotion, sampling: Sampling, prefix: str = "") -> Generate:
    """Motions of the base layer alone and, where there is a residual transformer, of the same base with all layers: two
    rows out of one generation, named ``prefix`` + ``BASE`` and ``ALL``."""

    def generate(samples: Sequence[Sample]) -> dict[str, list[np.ndarray]]:
        tokens = pipeline.tokens(samples, sampling)
        base = [ids if ids.dim() == 1 else ids[:, 0] for ids in tokens]
        rows = {prefix + BASE: pipeline.features_of(base, sampling.group_rows)}
        if pipeline.residual is not None:
            rows[prefix + ALL] = pipeline.features_of(tokens, sampling.group_rows)
        return rows

    return generate
