"""The text-motion matching evaluator (T2M, Guo et al. 2022), its networks and its losses."""
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from models.config import FOOT_CONTACTS, STEP_FRAMES, EvaluatorConfig
from models.layers import Linear


class Evaluator(nn.Module):
    """Movement, motion and text encoder of T2M (Guo et al., CVPR 2022).

    Rows keep their order. The published wrapper returns embeddings in another order, ``published_order``, which set
    metrics do not depend on.
    """

    def __init__(self, config: EvaluatorConfig) -> None:
        super().__init__()
        self.config = config
        self.movement_encoder = MovementEncoder(
            config.dim_pose - FOOT_CONTACTS, config.dim_movement_enc_hidden, config.dim_movement_latent)
        self.motion_encoder = SequenceEncoder(
            config.dim_movement_latent, config.dim_motion_hidden, config.dim_coemb_hidden)
        self.text_encoder = CaptionEncoder(
            config.dim_word, config.dim_pos_ohot, config.dim_text_hidden, config.dim_coemb_hidden)

    def movements(self, motion: Tensor) -> Tensor:
        """Movements of motion (b, t, d), normalised with the evaluator's mean and std: (b, t/4, latent)."""
        return self.movement_encoder(motion[..., :-FOOT_CONTACTS])

    def encode_motion(self, motion: Tensor, m_lens: Tensor) -> Tensor:
        """Motion (b, t, d), zero from each length on, and lengths in frames (b,) to embeddings (b, coemb).

        Pad to a common length of 196 for metrics comparable with published ones, because the convolutions of the last
        step read a few padded frames. Raises ``ValueError`` for a clip shorter than four frames.
        """
        if int(m_lens.min()) < STEP_FRAMES:
            raise ValueError(f"a motion of {int(m_lens.min())} frames is shorter than one step of {STEP_FRAMES}")
        seen = int(m_lens.max()) + STEP_FRAMES  # frames within reach of the last step of the longest clip
        return self.motion_encoder(self.movements(motion[:, :seen]), m_lens // STEP_FRAMES)

    def encode_text(self, word_emb: Tensor, pos_onehot: Tensor, cap_lens: Tensor) -> Tensor:
        """Word vectors (b, n, word), one-hot classes (b, n, pos), token counts (b,) to embeddings (b, coemb)."""
        return self.text_encoder(word_emb, pos_onehot, cap_lens)

    def networks(self) -> dict[str, nn.Module]:
        """The three networks under their keys in a checkpoint."""
        return {"movement_encoder": self.movement_encoder, "text_encoder": self.text_encoder,
                "motion_encoder": self.motion_encoder}

    def checkpoint(self) -> dict[str, dict[str, Tensor]]:
        """Three state dicts, laid out as in the published ``finest.tar``."""
        return {key: network.state_dict() for key, network in self.networks().items()}

    def load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Load three state dicts; other keys (optimisers, counters) are ignored.

        Raises ``KeyError`` for a missing network and ``RuntimeError`` for names or shapes that do not fit.
        """
        for key, network in self.networks().items():
            network.load_state_dict(checkpoint[key], strict=True)


def published_order(m_lens: Tensor) -> Tensor:
    """Row order (b,) of the published wrapper: descending lengths, equal lengths in reversed input order."""
    return torch.argsort(m_lens, stable=True).flip(0)


class MovementEncoder(nn.Module):
    """Strided convolutions from features to one movement vector for every four frames."""

    def __init__(self, input_size: int, hidden_size: int, output_size: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv1d(input_size, hidden_size, 4, stride=2, padding=1), nn.Dropout(0.2), nn.LeakyReLU(0.2),
            nn.Conv1d(hidden_size, output_size, 4, stride=2, padding=1), nn.Dropout(0.2), nn.LeakyReLU(0.2))
        self.out_net = Linear(output_size, output_size)
        self.apply(_initialise)

    def forward(self, features: Tensor) -> Tensor:
        """Features without foot contacts (b, t, input) to movements (b, t/4, output)."""
        return self.out_net(self.main(features.transpose(1, 2)).transpose(1, 2))


class SequenceEncoder(nn.Module):
    """A bidirectional GRU with a learned initial state; the last states of both directions become one embedding."""

    def __init__(self, input_size: int, hidden_size: int, output_size: int) -> None:
        super().__init__()
        self.input_emb = Linear(input_size, hidden_size)
        self.gru = nn.GRU(hidden_size, hidden_size, batch_first=True, bidirectional=True)
        self.output_net = nn.Sequential(
            Linear(2 * hidden_size, hidden_size), nn.LayerNorm(hidden_size), nn.LeakyReLU(0.2),
            Linear(hidden_size, output_size))
        self.hidden = nn.Parameter(torch.randn(2, 1, hidden_size))
        self.apply(_initialise)

    def forward(self, sequence: Tensor, lengths: Tensor) -> Tensor:
        """Sequence (b, n, input) and lengths (b,) >= 1 in any order to embeddings (b, output), row by row.

        Steps beyond a row's length are ignored.
        """
        packed = pack_padded_sequence(
            self.input_emb(sequence), lengths.cpu(), batch_first=True, enforce_sorted=False)
        _, last = self.gru(packed, self.hidden.repeat(1, len(sequence), 1))
        return self.output_net(torch.cat([last[0], last[1]], dim=-1))


class CaptionEncoder(SequenceEncoder):
    """Captions as word vectors and word classes."""

    def __init__(self, word_size: int, pos_size: int, hidden_size: int, output_size: int) -> None:
        super().__init__(word_size, hidden_size, output_size)
        self.pos_emb = Linear(pos_size, word_size)
        self.pos_emb.apply(_initialise)

    def forward(self, word_emb: Tensor, pos_onehot: Tensor, cap_lens: Tensor) -> Tensor:
        """Word vectors (b, n, word), classes (b, n, pos) and lengths (b,), sos and eos counted, to (b, output)."""
        return super().forward(word_emb + self.pos_emb(pos_onehot), cap_lens)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Conv1d)):
        nn.init.xavier_normal_(module.weight)
        nn.init.zeros_(module.bias)


@dataclass(frozen=True)
class MovementLoss:
    """Losses of the auto-encoder, all ()."""

    total: Tensor
    reconstruction: Tensor  # mean absolute error of the features
    smoothness: Tensor      # mean absolute change from one movement to the next
    sparsity: Tensor        # mean absolute value of a movement


class MovementAutoEncoder(nn.Module):
    """The movement encoder with a mirrored decoder, for reconstruction."""

    def __init__(self, dim_pose: int, hidden: int, latent: int) -> None:
        super().__init__()
        features = dim_pose - FOOT_CONTACTS
        self.encoder = MovementEncoder(features, hidden, latent)
        self.decoder = nn.Sequential(
            nn.Conv1d(latent, latent, 1), nn.LeakyReLU(0.2),
            nn.ConvTranspose1d(latent, hidden, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
            nn.ConvTranspose1d(hidden, features, 4, stride=2, padding=1))

    def loss(self, motion: Tensor, smoothness: float, sparsity: float) -> MovementLoss:
        """L1 reconstruction of normalised motions (b, t, d), t a multiple of 4, and weighted penalties on the movement
        latents."""
        features = motion[..., :-FOOT_CONTACTS]
        movements = self.encoder(features)  # (b, t/4, latent)
        made = self.decoder(movements.transpose(1, 2)).transpose(1, 2)
        reconstruction, sparse = F.l1_loss(made, features), movements.abs().mean()
        smooth = movements.diff(dim=1).abs().mean()
        return MovementLoss(reconstruction + smoothness * smooth + sparsity * sparse, reconstruction, smooth, sparse)


@dataclass(frozen=True)
class MatchingLoss:
    """Losses of the matching, all ()."""

    total: Tensor
    positive: Tensor  # mean squared distance of a text from its own motion
    negative: Tensor  # mean squared shortfall of the distance from other motions


def matching_loss(text: Tensor, motion: Tensor, margin: float, shifts: int, first: int = 0) -> MatchingLoss:
    """Contrastive margin loss (Hadsell et al. 2006) of texts (b, e) and the motions (n, e) of the whole batch;
    the motion of text 0 is row ``first``.

    Negatives are the motions shifted along the batch by 1, 2, ... ``shifts`` rows, at most n - 1; they should be at
    least ``margin`` apart.
    """
    rows = torch.arange(first, first + len(text), device=text.device)
    steps = torch.arange(min(shifts, len(motion) - 1) + 1, device=text.device)
    shifted = motion[(rows[:, None] + steps) % len(motion)]                  # (b, 1 + shifts, e), own motion first
    squares = (text[:, None] - shifted).square().sum(-1)
    positive = squares[:, 0].mean()
    distances = squares[:, 1:].clamp(min=1e-12).sqrt()                       # the root has no slope at zero
    negative = F.relu(margin - distances).square().mean()
    return MatchingLoss(positive + negative, positive, negative)
