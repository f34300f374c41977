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


def token_loss(logits: Tensor, labels: Tensor, ignore: int) -> TokenLoss:
    """Cross entropy of logits (b, n, classes), in float32, against labels (b, n) where these are not ``ignore``."""
    logits = logits.float()
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=ignore)
    predictions = logits.argmax(-1)
    counted = labels != ignore
    accuracy = ((predictions == labels) & counted).sum() / counted.sum().clamp_min(1)
    return TokenLoss(loss, accuracy, predictions)


def padding_of(token_lens: Tensor, length: int) -> Tensor:
    """(b, length), True from each sample's end on; ``token_lens`` (b,)."""
    return torch.arange(length, device=token_lens.device) >= token_lens[:, None]
