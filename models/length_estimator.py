"""Estimate the motion length from a text feature."""
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INIT_STD = 0.02


class LengthEstimator(nn.Module):
    """Classifier over numbers of tokens: class k means k tokens (T2M, Guo et al. 2022; MoMask's head).

    Class 0, an empty motion, exists for compatibility with published files and is never predicted.
    """

    def __init__(self, input_size: int = 512, output_size: int = 50, hidden: Sequence[int] = (512, 256, 128),
                 leaky_slope: float = 0.2, dropout: float = 0.2) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = input_size
        for next_width in hidden:
            layers += [nn.Linear(width, next_width), nn.LayerNorm(next_width), nn.LeakyReLU(leaky_slope),
                       nn.Dropout(dropout)]
            width = next_width
        layers[-1:] = [nn.Linear(width, output_size)]  # no dropout before the last layer
        self.output = nn.Sequential(*layers)
        for layer in self.output:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=INIT_STD)
                nn.init.zeros_(layer.bias)

    def forward(self, text_emb: Tensor) -> Tensor:
        """Logits (b, classes) for text features (b, c)."""
        return self.output(text_emb)

    def loss(self, text_emb: Tensor, token_lens: Tensor) -> Tensor:
        """Cross-entropy () with the lengths in tokens (b,)."""
        return F.cross_entropy(self(text_emb).float(), token_lens)

    def probabilities(self, text_emb: Tensor) -> Tensor:
        """Probability of 1, 2, ... tokens, (b, classes - 1), given that there is at least one."""
        return F.softmax(self(text_emb).float()[:, 1:], -1)

    @torch.no_grad()
    def sample(self, text_emb: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Sample lengths in tokens (b,), each from its own random stream."""
        cumulative = self.probabilities(text_emb).double().cpu().cumsum(-1)
        uniform = torch.tensor([torch.rand((), generator=stream, device=stream.device).item() for stream in generators])
        target = uniform[:, None] * cumulative[:, -1:]
        return torch.searchsorted(cumulative, target, right=True).squeeze(1).to(text_emb.device) + 1

    @torch.no_grad()
    def most_likely(self, text_emb: Tensor) -> Tensor:
        """The most probable length in tokens (b,)."""
        return self.probabilities(text_emb).argmax(-1) + 1

    @torch.no_grad()
    def expected(self, text_emb: Tensor) -> Tensor:
        """The mean length in tokens (b,), rounded."""
        probabilities = self.probabilities(text_emb)
        lengths = torch.arange(1, probabilities.shape[1] + 1, device=text_emb.device)
        return (probabilities * lengths).sum(-1).round().long()
