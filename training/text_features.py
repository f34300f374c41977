"""Frozen text features of a training set: computed once, for all runs."""
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.cache import fingerprint, load
from data.specs import DatasetSpec
from models.lamp.text_encoder import TextEncoder

BATCH = 256
KEPT = 4  # of a split: runs differ in encoders, and in paraphrases
_FEATURES = "features.npy"


def cached_text_features(spec: DatasetSpec, split: str, texts: Sequence[str], encoder: TextEncoder,
                         quiet: bool = True) -> Tensor:
    """Features (len(texts), dim) of the texts of a split, computed by the first run that asks for them and kept beside
    the data, with those of other encoders and texts, the last ``KEPT`` of a split."""
    key = fingerprint(encoder.fingerprint, "\n".join(texts))[:20]
    features = load(spec, f"text-{split}", key,
                    lambda made: np.save(made / _FEATURES, encode_texts(encoder, texts, quiet).numpy()),
                    lambda packed: np.load(packed / _FEATURES), KEPT)
    return torch.from_numpy(features)


def encode_texts(encoder: Callable[[Sequence[str]], Tensor], texts: Sequence[str], quiet: bool = True) -> Tensor:
    """Features of texts in batches, in the order given, on the CPU."""
    # Texts of like length share a batch, so that little is spent on padding.
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    rows: list[Tensor] = [torch.empty(0)] * len(texts)
    for start in tqdm(range(0, len(order), BATCH), desc="text features", disable=quiet or None, leave=False):
        chosen = order[start:start + BATCH]
        for index, feature in zip(chosen, encoder([texts[i] for i in chosen]).cpu(), strict=True):
            rows[index] = feature
    return torch.stack(rows)
