"""What the evaluator is trained by: the movement auto-encoder, and the matching of texts and motions."""
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.evaluator.model import FOOT_CONTACTS
from models.evaluator.networks import MovementEncoder


@dataclass(frozen=True)
class MovementLoss:
    """Scalars of the auto-encoder."""

    total: Tensor
    reconstruction: Tensor  # mean absolute error of the features
    smoothness: Tensor      # mean absolute change from one movement to the next
    sparsity: Tensor        # mean absolute value of a movement


class MovementAutoEncoder(nn.Module):
    """The movement encoder and a decoder that mirrors it, so that movements come to hold what a motion is made of."""

    def __init__(self, dim_pose: int, hidden: int, latent: int) -> None:
        super().__init__()
        features = dim_pose - FOOT_CONTACTS
        self.encoder = MovementEncoder(features, hidden, latent)
        self.decoder = nn.Sequential(
            nn.Conv1d(latent, latent, 1), nn.LeakyReLU(0.2),
            nn.ConvTranspose1d(latent, hidden, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
            nn.ConvTranspose1d(hidden, features, 4, stride=2, padding=1))

    def loss(self, motion: Tensor, smoothness: float, sparsity: float) -> MovementLoss:
        """L1 reconstruction of normalised motions (b, t, d), t a multiple of 4, and the weighted terms on movements."""
        features = motion[..., :-FOOT_CONTACTS]
        movements = self.encoder(features)  # (b, t/4, latent)
        made = self.decoder(movements.transpose(1, 2)).transpose(1, 2)
        reconstruction, sparse = F.l1_loss(made, features), movements.abs().mean()
        smooth = movements.diff(dim=1).abs().mean()
        return MovementLoss(reconstruction + smoothness * smooth + sparsity * sparse, reconstruction, smooth, sparse)


@dataclass(frozen=True)
class MatchingLoss:
    """Scalars of the matching."""

    total: Tensor
    positive: Tensor  # mean squared distance of a text from its own motion
    negative: Tensor  # mean squared shortfall of the distance from other motions


def matching_loss(text: Tensor, motion: Tensor, margin: float, shifts: int, first: int = 0) -> MatchingLoss:
    """Contrastive margin loss (Hadsell et al. 2006) of texts (b, e) and the motions (n, e) of the whole batch, in which
    the texts' own ones begin at row ``first``.

    Negatives come from shifting the motions along the batch by 1, 2, ... ``shifts`` rows, at most n - 1: pairs that do
    not belong together shall be ``margin`` apart.
    """
    rows = torch.arange(first, first + len(text), device=text.device)
    steps = torch.arange(min(shifts, len(motion) - 1) + 1, device=text.device)
    shifted = motion[(rows[:, None] + steps) % len(motion)]                  # (b, 1 + shifts, e), own motion first
    squares = (text[:, None] - shifted).square().sum(-1)
    positive = squares[:, 0].mean()
    distances = squares[:, 1:].clamp(min=1e-12).sqrt()                       # the root has no slope at zero
    negative = F.relu(margin - distances).square().mean()
    return MatchingLoss(positive + negative, positive, negative)
