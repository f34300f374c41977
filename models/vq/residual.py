"""Residual quantization: each layer quantizes what the layers before it left over."""
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.vq.config import SAMPLE_TEMPERATURE
from models.vq.quantizer import EmaQuantizer
from utils.batch_slice import WHOLE, BatchSlice


@dataclass(frozen=True)
class ResidualQuantized:
    """What a stack of quantizers makes of a latent sequence."""

    latent: Tensor      # (b, dim, n) sum of the chosen codes, straight-through
    codes: Tensor       # (b, n, q) int64, -1 where quantizer dropout skipped a layer
    commitment: Tensor  # () mean over the layers that ran
    perplexity: Tensor  # () mean over the layers that ran


class ResidualQuantizer(nn.Module):
    """``num_quantizers`` codebooks over successive residuals (RVQ; Zeghidour et al. 2021, alg. 1)."""

    def __init__(self, num_quantizers: int, codes: int, dim: int, mu: float = 0.99, shared: bool = False,
                 dropout_prob: float = 0.2, published: bool = False,
                 temperature: float = SAMPLE_TEMPERATURE) -> None:
        super().__init__()
        first = EmaQuantizer(codes, dim, mu, published)
        rest = [first if shared else EmaQuantizer(codes, dim, mu, published) for _ in range(num_quantizers - 1)]
        self.layers = nn.ModuleList([first, *rest])
        self.dropout_prob = dropout_prob
        self.temperature = temperature

    def forward(self, latent: Tensor, generator: torch.Generator | None = None, batch_slice: BatchSlice = WHOLE,
                ) -> ResidualQuantized:
        """Quantize (b, dim, n). Training: noise on the choice, and with ``dropout_prob`` only the first 1..q layers run
        (one draw a batch), so that every prefix of the layers decodes. ``generator`` and ``batch_slice`` are those of
        ``EmaQuantizer``."""
        generator = generator or torch.default_generator
        residual, total = latent.float(), torch.zeros_like(latent, dtype=torch.float32)
        codes, commitments, perplexities = [], [], []
        last = self._last_layer(generator) if self.training else len(self.layers) - 1
        temperature = self.temperature if self.training else 0.0
        for number, layer in enumerate(self.layers[:last + 1]):
            result = layer(residual, temperature, generator, batch_slice, number)
            residual = residual - result.latent.detach()
            total = total + result.latent
            codes.append(result.codes)
            commitments.append(result.commitment)
            perplexities.append(result.perplexity)
        codes += [torch.full_like(codes[0], -1)] * (len(self.layers) - len(codes))
        return ResidualQuantized(total, torch.stack(codes, -1), torch.stack(commitments).mean(),
                                 torch.stack(perplexities).mean())

    def _last_layer(self, generator: torch.Generator) -> int:
        drops, last = torch.rand(2, generator=generator, device=generator.device).tolist()
        return int(last * len(self.layers)) if drops < self.dropout_prob else len(self.layers) - 1

    def lookup(self, codes: Tensor) -> Tensor:
        """Vectors of each layer (q', b, n, dim) for codes (b, n, q'), q' <= q; -1 is the zero vector."""
        return torch.stack([layer.lookup(codes[..., i]) for i, layer in enumerate(self.layers[:codes.shape[-1]])])
