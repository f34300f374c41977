"""The length estimator's stage."""
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.specs import UNIT_LENGTH
from data.text_motion import Pair
from models.text_to_motion import LengthEstimator
from training.trainer import Stage
from utils.seeding import stream_seed


class CaptionLengths(Dataset):
    """Items ``feature`` (c,) and ``token_len``: captions with the length of their clip in tokens.

    A clip with sentences of the language bank adds a fixed random sample of them, as many as it has captions.

    Args:
        features: (c,) for each text.
    """

    def __init__(self, pairs: list[Pair], features: Mapping[str, Tensor], seed: int = 0) -> None:
        texts = [_sampled_texts(pair, np.random.default_rng(stream_seed(seed, row))) for row, pair in enumerate(pairs)]
        self.features = torch.stack([features[text] for some in texts for text in some])
        self.lengths = [len(pair.features) // UNIT_LENGTH for pair, some in zip(pairs, texts, strict=True)
                        for _ in some]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"feature": self.features[index], "token_len": self.lengths[index]}


def _sampled_texts(pair: Pair, generator: np.random.Generator) -> list[str]:
    count = min(len(pair.sentences), max(len(pair.captions), 1))
    chosen = generator.choice(len(pair.sentences), count, replace=False) if count else []
    return [*pair.captions, *(pair.sentences[row] for row in chosen)]


class LengthStage(Stage):
    """Classify captions by the length of their motion in tokens."""

    name = "len"
    state_key = "estimator"
    optimizer_key = "opt_estimator"
    bests = {"finest": ("loss", "min")}

    def __init__(self, model: LengthEstimator, val_set: CaptionLengths) -> None:
        super().__init__(model)
        self.val_set = val_set

    def forward(self, batch: dict[str, Tensor], *_: object) -> dict[str, Tensor]:
        """Cross-entropy of features (b, c)."""
        return {"loss": self.model.loss(batch["feature"], batch["token_len"])}

    def validate(self) -> dict[str, float]:
        """Cross-entropy, and the mean error of the expected length in tokens."""
        device = next(self.model.parameters()).device
        features = self.val_set.features.to(device)
        lengths = torch.tensor(self.val_set.lengths, device=device)
        error = (self.model.expected(features) - lengths).abs().float().mean()
        return {"loss": float(self.model.loss(features, lengths)), "error_tokens": float(error)}
