"""Frozen LaMP as a text encoder: what text-to-motion, length and search models are told of a text."""
from collections.abc import Sequence

import torch
from torch import Tensor

from models.lamp.features import ConditionKind, LaMPFeatures
from models.lamp.tokenizer import WordPieces


class LaMPText:
    """Features (b, dim) of texts: ``kind`` is that of ``LaMP.condition``."""

    def __init__(self, model: LaMPFeatures, pieces: WordPieces, kind: ConditionKind, max_text_len: int,
                 fingerprint: str = "") -> None:
        """``fingerprint``: a hash of the weights, for caches."""
        self.model, self.pieces, self.kind, self.max_text_len = model.eval(), pieces, kind, max_text_len
        self.dim = model.config.qformer.hidden * (2 if kind == "both" else 1)
        self.fingerprint = f"lamp {fingerprint} {kind} {max_text_len}"

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Features (b, dim) float32 of texts, on the model's device."""
        pad_to = self.max_text_len if self.model.config.published else None
        pieces = self.pieces.encode(texts, self.max_text_len, pad_to)
        device = self.model.query_tokens.device
        with torch.no_grad():
            return self.model.condition(pieces.ids.to(device), pieces.mask.to(device), self.kind)
