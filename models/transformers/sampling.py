"""How tokens are drawn from logits, every sample from a random stream of its own."""
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

SMALLEST_TEMPERATURE = 1e-10
ROUNDING = 1e-9  # of (1 - thres) * classes: a thres of 1 - 1/classes means one class, not two


def cosine_mask_ratio(progress: Tensor) -> Tensor:
    """Share of tokens that are masked at ``progress`` in [0, 1] (MaskGIT, eq. 3)."""
    return torch.cos(progress * math.pi / 2)


def lowest(scores: Tensor, counts: Tensor) -> Tensor:
    """True at the ``counts`` (b,) lowest of ``scores`` (b, n); among equals the first."""
    ranks = scores.argsort(dim=1, stable=True).argsort(dim=1)
    return ranks < counts[:, None]


def sample_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One random stream a sample. They live on the CPU, so that a seed gives the same noise on every device."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def top_k_filter(logits: Tensor, thres: float) -> Tensor:
    """Keep the ``ceil((1 - thres) * classes)`` largest of (..., classes), at least one; -inf elsewhere."""
    k = max(1, math.ceil((1 - thres) * logits.shape[-1] - ROUNDING))
    values, indices = logits.topk(k, dim=-1)
    return torch.full_like(logits, -math.inf).scatter(-1, indices, values)


def draw_uniform(generators: Sequence[torch.Generator], lengths: Sequence[int], out: Tensor) -> Tensor:
    """Fill ``out`` (b, n, ...) with uniform noise: row k gets ``lengths[k]`` draws of ``generators[k]``, so that what a
    sample draws does not depend on how far it is padded. Everything else is 0.5, rows without a generator too."""
    out.fill_(0.5)
    for row, generator, length in zip(out, generators, lengths, strict=False):
        row[:length] = torch.rand(length, *row.shape[1:], generator=generator, device=generator.device)
    return out


def sample_tokens(logits: Tensor, temperature: float, gumbel: bool, generators: Sequence[torch.Generator],
                  lengths: Sequence[int]) -> Tensor:
    """Ids (b, n) drawn from softmax(logits / temperature) of (b, n, classes).

    With ``gumbel`` by the Gumbel-max trick (Maddison et al. 2014), else by inverting the cumulative distribution: the
    same distribution from different draws. Row k draws for its first ``lengths[k]`` positions from ``generators[k]``;
    rows without a generator get some id.
    """
    scaled = logits.float() / max(temperature, SMALLEST_TEMPERATURE)
    if gumbel:
        uniform = draw_uniform(generators, lengths, torch.empty(logits.shape)).to(logits.device)
        noise = -torch.log(-torch.log(uniform.clamp_min(torch.finfo(torch.float32).tiny)))
        return (scaled + noise).argmax(-1)
    uniform = draw_uniform(generators, lengths, torch.empty(logits.shape[:2])).to(logits.device)
    cumulative = F.softmax(scaled.double(), -1).cumsum(-1)
    target = uniform[..., None] * cumulative[..., -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1)
