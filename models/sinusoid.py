"""The sinusoid table of positions."""
import math

import torch
from torch import Tensor


def sinusoid_table(positions: int, dim: int) -> Tensor:
    """Sines and cosines (positions, dim) of falling frequency, alternating (Vaswani et al. 2017, section 3.5)."""
    rate = torch.exp(torch.arange(0, dim, 2).float() * (-math.log(10000.0) / dim))
    angle = torch.arange(positions).float()[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :dim]
