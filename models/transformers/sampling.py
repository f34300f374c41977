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


def kept_classes(classes: int, thres: float) -> int:
    """How many of ``classes`` may be drawn: ``ceil((1 - thres) * classes)``, at least one."""
    return max(1, math.ceil((1 - thres) * classes - ROUNDING))


def top_k_filter(logits: Tensor, thres: float) -> Tensor:
    """Keep the ``kept_classes`` largest of (..., classes); -inf elsewhere."""
    values, indices = logits.topk(kept_classes(logits.shape[-1], thres), dim=-1)
    return torch.full_like(logits, -math.inf).scatter(-1, indices, values)


def draw_uniform(generators: Sequence[torch.Generator], lengths: Sequence[int], rounds: int, size: Sequence[int],
                 device: torch.device) -> Tensor:
    """Uniform noise (b, rounds, n, ...) on ``device`` for rows of ``size`` (b, n, ...), all rounds in one transfer.

    Row k gets ``lengths[k]`` draws a round of ``generators[k]``, round after round, so that what a sample draws does
    not depend on how far it is padded. Everything else is 0.5, rows without a generator too.
    """
    rows, length, *rest = size
    noise = torch.full((rows, rounds, length, *rest), 0.5)
    for row, generator, own in zip(noise, generators, lengths, strict=False):
        row[:, :own] = torch.rand(rounds, own, *rest, generator=generator, device=generator.device)
    return noise.to(device)


def sample_tokens(logits: Tensor, thres: float, temperature: float, gumbel: bool, uniform: Tensor) -> Tensor:
    """Ids (b, n) drawn from softmax(logits / temperature) of (b, n, classes), filtered as ``top_k_filter`` does.

    With ``gumbel`` by the Gumbel-max trick (Maddison et al. 2014) from ``uniform`` (b, n, classes), else by inverting
    the cumulative distribution from ``uniform`` (b, n): the same distribution from different draws.
    """
    temperature = max(temperature, SMALLEST_TEMPERATURE)
    if gumbel:
        values, indices = logits.topk(kept_classes(logits.shape[-1], thres), dim=-1)
        chosen = uniform.gather(-1, indices).clamp_min(torch.finfo(torch.float32).tiny)
        best = (values.float() / temperature - torch.log(-torch.log(chosen))).argmax(-1, keepdim=True)
        return indices.gather(-1, best).squeeze(-1)
    scaled = top_k_filter(logits, thres).float() / temperature
    cumulative = F.softmax(scaled.double(), -1).cumsum(-1)
    target = uniform[..., None] * cumulative[..., -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1)
