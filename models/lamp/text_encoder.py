"""Text encoders: the interface that text-to-motion and length models need, and frozen LaMP as one."""
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from models.lamp.features import ConditionKind, LaMPFeatures
from models.lamp.tokenizer import WordPieces

TEXT_BATCH = 256


class TextEncoder(Protocol):
    """Text features with their width, and a fingerprint of everything they depend on."""

    dim: int
    fingerprint: str

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Features (b, dim) float32 of texts."""


def text_inputs(model: LaMPFeatures, pieces: WordPieces, texts: Sequence[str], longest: int,
                width: int | None = None) -> tuple[Tensor, Tensor]:
    """Ids and mask (b, t) of texts on the model's device, padded to the longest of them or to ``width``, which is
    cut to ``longest`` too.

    The published behaviour pads all of them to ``longest``; so do accelerators, where it costs nothing and keeps the
    shape of a pass, and with it the last digits of a text's features, from depending on the other texts.
    """
    device = model.query_tokens.device
    if model.config.published or device.type != "cpu":
        width = longest
    made = pieces.encode(texts, longest, width and min(width, longest))
    return made.ids.to(device, non_blocking=True), made.mask.to(device, non_blocking=True)


class LaMPText:
    """Features (b, dim) of texts: ``kind`` is that of ``LaMP.condition``."""

    def __init__(self, model: LaMPFeatures, pieces: WordPieces, kind: ConditionKind, max_text_len: int,
                 fingerprint: str = "") -> None:
        """``fingerprint``: a hash of the weights, for caches."""
        self.model, self.pieces, self.kind, self.max_text_len = model.eval(), pieces, kind, max_text_len
        self.dim = model.config.qformer.hidden * (2 if kind == "both" else 1)
        self.fingerprint = f"lamp {fingerprint} {kind} {max_text_len}"

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Word pieces of each text, as many as are read."""
        return self.pieces.encode(texts, self.max_text_len).mask.sum(1).tolist()

    def __call__(self, texts: Sequence[str], width: int | None = None) -> Tensor:
        """Features (b, dim) float32 of texts, on the model's device; ``width`` as in ``text_inputs``."""
        inputs = text_inputs(self.model, self.pieces, texts, self.max_text_len, width)
        return self.model.condition(*inputs, self.kind)


def encode_texts(encoder: Callable[[Sequence[str]], Tensor], texts: Sequence[str], quiet: bool = True) -> Tensor:
    """Features of texts in the given order, on the CPU, computed in batches of texts of similar length."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    rows: list[Tensor] = [torch.empty(0)] * len(texts)
    for start in tqdm(range(0, len(order), TEXT_BATCH), desc="text features", disable=quiet or None, leave=False):
        chosen = order[start:start + TEXT_BATCH]
        for index, feature in zip(chosen, encoder([texts[i] for i in chosen]).cpu(), strict=True):
            rows[index] = feature
    return torch.stack(rows)
