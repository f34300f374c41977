"""Frozen text features of a training set: computed once, kept in a file beside the run that uses them."""
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from training.checkpoint import load_checkpoint, save_checkpoint
from utils.errors import InputError

BATCH = 256


class TextEncoder(Protocol):
    """What gives text features: a width, a fingerprint of everything that they depend on, and the features."""

    dim: int
    fingerprint: str

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Features (b, dim) float32 of texts."""


def fingerprint(*parts: str | bytes | Path) -> str:
    """A hash of texts and of the contents of files."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def cached_text_features(path: Path, texts: Sequence[str], encoder: TextEncoder, quiet: bool = True) -> Tensor:
    """Features (len(texts), dim) of texts; read from ``path`` where it holds those of the same texts and encoder."""
    key = fingerprint(encoder.fingerprint, "\n".join(texts))
    cached = _read(path) if path.exists() else None
    if cached is not None and cached.get("key") == key:
        return cached["features"]
    features = encode_texts(encoder, texts, quiet)
    save_checkpoint(path, {"key": key, "features": features})
    return features


def _read(path: Path) -> dict | None:
    try:
        return load_checkpoint(path)
    except InputError:  # cut short by a full disk, say: it is only a cache, and is written anew
        return None


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
