"""The length estimator's stage."""
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.specs import UNIT_LENGTH
from data.text_motion import Pair
from models.length_estimator import LengthEstimator
from training.stages.stage import Stage


class CaptionLengths(Dataset):
    """Items ``feature`` (c,) and ``token_len``: every caption with the length of its clip in tokens.

    Args:
        features: (c,) by caption.
    """

    def __init__(self, pairs: list[Pair], features: Mapping[str, Tensor]) -> None:
        self.features = torch.stack([features[caption] for pair in pairs for caption in pair.captions])
        self.lengths = [len(pair.features) // UNIT_LENGTH for pair in pairs for _ in pair.captions]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"feature": self.features[index], "token_len": self.lengths[index]}


class LengthStage(Stage):
    """Classify captions by the number of tokens of their motion."""

    name = "len"
    state_key = "estimator"
    optimizer_key = "opt_estimator"
    bests = {"finest": ("loss", "min")}

    def __init__(self, model: LengthEstimator, val_set: CaptionLengths) -> None:
        super().__init__(model)
        self.val_set = val_set

    def forward(self, batch: dict[str, Tensor], *_: object) -> dict[str, Tensor]:
        """Cross entropy of features (b, c)."""
        return {"loss": self.model.loss(batch["feature"], batch["token_len"])}

    def validate(self) -> dict[str, float]:
        """Cross entropy, and the mean error of the expected length in tokens."""
        device = next(self.model.parameters()).device
        features = self.val_set.features.to(device)
        lengths = torch.tensor(self.val_set.lengths, device=device)
        error = (self.model.expected(features) - lengths).abs().float().mean()
        return {"loss": float(self.model.loss(features, lengths)), "error_tokens": float(error)}
