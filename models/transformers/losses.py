"""Cross entropy over the tokens that count."""
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class TokenLoss:
    """Cross entropy over the positions that count, and what it was computed from."""

    loss: Tensor         # () mean over the positions
    accuracy: Tensor     # () share of them where the best class is the target
    predictions: Tensor  # (b, n) best class everywhere
    count: Tensor        # () positions that count


def token_loss(logits: Tensor, labels: Tensor, ignore: int) -> TokenLoss:
    """Cross entropy of logits (b, n, classes), in float32, against labels (b, n) where these are not ``ignore``."""
    logits = logits.float()
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=ignore)
    predictions = logits.argmax(-1)
    counted = labels != ignore
    count = counted.sum()
    accuracy = ((predictions == labels) & counted).sum() / count.clamp_min(1)
    return TokenLoss(loss, accuracy, predictions, count)


def padding_of(token_lens: Tensor, length: int) -> Tensor:
    """(b, length), True from each sample's end on; ``token_lens`` (b,)."""
    return torch.arange(length, device=token_lens.device) >= token_lens[:, None]


def needed_width(token_lens: Tensor, length: int) -> int:
    """How many of ``length`` positions are worth computing for samples of ``token_lens`` (b,).

    The CPU saves what lies behind the longest; elsewhere shapes stay the same, and nothing waits to learn the lengths.
    """
    return min(length, int(token_lens.max())) if token_lens.device.type == "cpu" else length
