"""Seeds, independent random streams, and the state of the global generators."""
import hashlib
import random
from typing import Any

import numpy as np
import torch

_MASK = (1 << 63) - 1


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators (dropout, initialisation, shuffling)."""
    random.seed(seed)
    np.random.seed(seed % (1 << 32))  # noqa: NPY002 (libraries that still draw from it)
    torch.manual_seed(seed)


def stream_seed(*keys: int) -> int:
    """A 63-bit seed from several integers; different keys give independent streams."""
    # NumPy splits integers into 32-bit words without their count; the length and padding keep keys distinct.
    words = [len(keys), *(word for key in keys for word in (key & 0xFFFFFFFF, key >> 32 & 0xFFFFFFFF))]
    state = np.random.SeedSequence(words).generate_state(2, np.uint32)
    return (int(state[0]) << 32 | int(state[1])) & _MASK


def random_state() -> dict[str, Any]:
    """State of the global generators of Python, NumPy and torch, as plain numbers and tensors."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    state = {"python": [version, list(words), gauss], "torch": torch.get_rng_state(),
             "numpy": [kind, keys.tolist(), position, has_gauss, cached]}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Restore a ``random_state``."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])


def text_key(text: str) -> int:
    """A 63-bit key of a text for ``stream_seed``, the same in every process."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") & _MASK
