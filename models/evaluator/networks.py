"""The three networks of the T2M evaluator; parameter names are those of the published ``finest.tar``."""
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from models.linear import Linear


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

        Steps from a row's length on have no influence.
        """
        packed = pack_padded_sequence(
            self.input_emb(sequence), lengths.cpu(), batch_first=True, enforce_sorted=False)
        _, last = self.gru(packed, self.hidden.repeat(1, len(sequence), 1))
        return self.output_net(torch.cat([last[0], last[1]], dim=-1))


class TextEncoder(SequenceEncoder):
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
