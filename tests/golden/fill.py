"""Weights of the parity fixtures, which depend only on the name and shape of a tensor."""
import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def fill(name: str, shape: Sequence[int]) -> np.ndarray:
    """Return the float32 values of the tensor ``name``.

    They are sampled from N(0, 1) by a generator seeded with the CRC-32 of the name. With two or more dimensions they
    are divided by the root of the fan-in (all sizes except the first), else by ten, and centred at 1 for ``*weight``.
    """
    shape = tuple(shape)
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) > 1:
        return (values / math.sqrt(math.prod(shape[1:]))).astype(np.float32)
    centre = 1.0 if name.endswith("weight") else 0.0
    return np.asarray(centre + 0.1 * values, dtype=np.float32)


@torch.no_grad()
def fill_state_dict(state_dict: Mapping[str, Tensor], skip: Sequence[str] = ()) -> None:
    """Fill the floating-point tensors of a state dict in place, except names that end with one of ``skip``."""
    for name, tensor in state_dict.items():
        if tensor.is_floating_point() and not name.endswith(tuple(skip)):
            tensor.copy_(torch.from_numpy(fill(name, tensor.shape)))
