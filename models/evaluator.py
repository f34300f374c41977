"""Networks and losses of the text-motion evaluator (T2M, Guo et al. 2022)."""
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from models.config import FOOT_CONTACTS, STEP_FRAMES, EvaluatorConfig
from models.layers import Linear


class Evaluator(nn.Module):
    """Evaluator with movement, motion and text encoders (T2M, Guo et al., CVPR 2022)."""

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
        """Encode ``motion`` (b, t, d), normalised with the evaluator's statistics, to (b, t/4, latent)."""
        return self.movement_encoder(motion[..., :-FOOT_CONTACTS])

    def encode_motion(self, motion: Tensor, m_lens: Tensor) -> Tensor:
        """Embed zero-padded ``motion`` (b, t, d) with lengths ``m_lens`` (b,) in frames. Returns (b, coemb).

        For metrics comparable with published values, pad all motions to 196 frames: the convolutions of the last valid
        step read a few padded frames. Raises ``ValueError`` for a motion shorter than four frames.
        """
        if int(m_lens.min()) < STEP_FRAMES:
            raise ValueError(f"a motion of {int(m_lens.min())} frames is shorter than one step of {STEP_FRAMES}")
        seen = int(m_lens.max()) + STEP_FRAMES  # frames within the receptive field of the last valid step
        return self.motion_encoder(self.movements(motion[:, :seen]), m_lens // STEP_FRAMES)

    def encode_text(self, word_emb: Tensor, pos_onehot: Tensor, cap_lens: Tensor) -> Tensor:
        """Embed captions. Returns (b, coemb).

        ``word_emb`` (b, n, word) are word vectors, ``pos_onehot`` (b, n, pos) are one-hot part-of-speech tags, and
        ``cap_lens`` (b,) are numbers of tokens, including the start and end tokens.
        """
        return self.text_encoder(word_emb, pos_onehot, cap_lens)

    def networks(self) -> dict[str, nn.Module]:
        """Return the three networks, keyed by their names in checkpoints."""
        return {"movement_encoder": self.movement_encoder, "text_encoder": self.text_encoder,
                "motion_encoder": self.motion_encoder}

    def checkpoint(self) -> dict[str, dict[str, Tensor]]:
        """Return the state dicts of the three networks, in the layout of the published ``finest.tar``."""
        return {key: network.state_dict() for key, network in self.networks().items()}


class MovementEncoder(nn.Module):
    """Convolutional encoder that maps every four frames to one movement vector."""

    def __init__(self, input_size: int, hidden_size: int, output_size: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv1d(input_size, hidden_size, 4, stride=2, padding=1), nn.Dropout(0.2), nn.LeakyReLU(0.2),
            nn.Conv1d(hidden_size, output_size, 4, stride=2, padding=1), nn.Dropout(0.2), nn.LeakyReLU(0.2))
        self.out_net = Linear(output_size, output_size)
        self.apply(_initialise)

    def forward(self, features: Tensor) -> Tensor:
        """Encode ``features`` (b, t, input), without foot contacts, to movement vectors (b, t/4, output)."""
        return self.out_net(self.main(features.transpose(1, 2)).transpose(1, 2))


class SequenceEncoder(nn.Module):
    """Bidirectional GRU that embeds a sequence. The initial state is learned."""

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
        """Embed ``sequence`` (b, n, input), ignoring steps beyond ``lengths`` (b,), at least 1. Returns (b, output)."""
        packed = pack_padded_sequence(
            self.input_emb(sequence), lengths.cpu(), batch_first=True, enforce_sorted=False)
        _, last = self.gru(packed, self.hidden.repeat(1, len(sequence), 1))
        return self.output_net(torch.cat([last[0], last[1]], dim=-1))


class CaptionEncoder(SequenceEncoder):
    """Sequence encoder for captions, given as word vectors and part-of-speech tags."""

    def __init__(self, word_size: int, pos_size: int, hidden_size: int, output_size: int) -> None:
        super().__init__(word_size, hidden_size, output_size)
        self.pos_emb = Linear(pos_size, word_size)
        self.pos_emb.apply(_initialise)

    def forward(self, word_emb: Tensor, pos_onehot: Tensor, cap_lens: Tensor) -> Tensor:
        """Embed captions, as ``Evaluator.encode_text`` does. Returns (b, output)."""
        return super().forward(word_emb + self.pos_emb(pos_onehot), cap_lens)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Conv1d)):
        nn.init.xavier_normal_(module.weight)
        nn.init.zeros_(module.bias)


@dataclass(frozen=True)
class MovementLoss:
    """Loss terms of the movement auto-encoder. All are scalars."""

    total: Tensor
    reconstruction: Tensor  # mean absolute error of the features
    smoothness: Tensor      # mean absolute difference between consecutive movement vectors
    sparsity: Tensor        # mean absolute value of the movement vectors


class MovementAutoEncoder(nn.Module):
    """Auto-encoder used to train the movement encoder by reconstruction."""

    def __init__(self, dim_pose: int, hidden: int, latent: int) -> None:
        super().__init__()
        features = dim_pose - FOOT_CONTACTS
        self.encoder = MovementEncoder(features, hidden, latent)
        self.decoder = nn.Sequential(
            nn.Conv1d(latent, latent, 1), nn.LeakyReLU(0.2),
            nn.ConvTranspose1d(latent, hidden, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
            nn.ConvTranspose1d(hidden, features, 4, stride=2, padding=1))

    def loss(self, motion: Tensor, smoothness: float, sparsity: float) -> MovementLoss:
        """Compute the L1 reconstruction loss plus two penalties, weighted by ``smoothness`` and ``sparsity``.

        ``motion`` (b, t, d) is normalised; t is a multiple of 4.
        """
        features = motion[..., :-FOOT_CONTACTS]
        movements = self.encoder(features)  # (b, t/4, latent)
        made = self.decoder(movements.transpose(1, 2)).transpose(1, 2)
        reconstruction, sparse = F.l1_loss(made, features), movements.abs().mean()
        smooth = movements.diff(dim=1).abs().mean()
        return MovementLoss(reconstruction + smoothness * smooth + sparsity * sparse, reconstruction, smooth, sparse)


@dataclass(frozen=True)
class MatchingLoss:
    """Terms of the contrastive matching loss. All are scalars."""

    total: Tensor
    positive: Tensor  # mean squared distance between the texts and their motions
    negative: Tensor  # mean squared hinge loss of the distances to other motions


def matching_loss(text: Tensor, motion: Tensor, margin: float, shifts: int, first: int = 0) -> MatchingLoss:
    """Compute the contrastive loss (Hadsell et al. 2006) between local ``text`` (b, e) and all ``motion`` (n, e).

    ``motion`` has the embeddings of the whole batch. Row i of ``text`` belongs to row ``first`` + i of ``motion``. Its
    negatives are the next ``shifts`` rows, modulo n, whose distances should be at least ``margin``.
    """
    rows = torch.arange(first, first + len(text), device=text.device)
    steps = torch.arange(min(shifts, len(motion) - 1) + 1, device=text.device)
    shifted = motion[(rows[:, None] + steps) % len(motion)]                  # (b, 1 + shifts, e), matching motion first
    squares = (text[:, None] - shifted).square().sum(-1)
    positive = squares[:, 0].mean()
    distances = squares[:, 1:].clamp(min=1e-12).sqrt()                       # sqrt has no gradient at zero
    negative = F.relu(margin - distances).square().mean()
    return MatchingLoss(positive + negative, positive, negative)
