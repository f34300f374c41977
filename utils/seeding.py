"""Random streams that depend on what they are for, not on what ran before."""
import random

import numpy as np
import torch

_MASK = (1 << 63) - 1


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators (dropout, initialisation, shuffling)."""
    random.seed(seed)
    np.random.seed(seed % (1 << 32))  # noqa: NPY002 (libraries that still draw from it)
    torch.manual_seed(seed)


def stream_seed(*keys: int) -> int:
    """One 63-bit seed from several integers; different keys give independent streams."""
    # NumPy takes [1], [1, 0] and [1 << 32] apart into 32-bit words without their number: say it, and pad each.
    words = [len(keys), *(word for key in keys for word in (key & 0xFFFFFFFF, key >> 32 & 0xFFFFFFFF))]
    state = np.random.SeedSequence(words).generate_state(2, np.uint32)
    return (int(state[0]) << 32 | int(state[1])) & _MASK
