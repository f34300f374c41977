"""Sampling of tokens from logits, with a random stream per sample, and groups of samples per pass."""
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

SMALLEST_TEMPERATURE = 1e-10
ROUNDING = 1e-9  # rounding tolerance of (1 - thres) * classes: a thres of 1 - 1/classes keeps one class, not two


def cosine_mask_ratio(progress: Tensor) -> Tensor:
    """Fraction of tokens masked at ``progress`` in [0, 1] (MaskGIT, eq. 3)."""
    return torch.cos(progress * math.pi / 2)


def lowest(scores: Tensor, counts: Tensor) -> Tensor:
    """True at the ``counts`` (b,) lowest of ``scores`` (b, n); ties go to the first."""
    ranks = scores.argsort(dim=1, stable=True).argsort(dim=1)
    return ranks < counts[:, None]


def sample_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One random stream per sample, on the CPU, so that a seed gives the same noise on every device."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def kept_classes(classes: int, thres: float) -> int:
    """Number of ``classes`` that may be sampled: ``ceil((1 - thres) * classes)``, at least one."""
    return max(1, math.ceil((1 - thres) * classes - ROUNDING))


def top_k_filter(logits: Tensor, thres: float) -> Tensor:
    """Keep the ``kept_classes`` largest of (..., classes); -inf elsewhere."""
    values, indices = logits.topk(kept_classes(logits.shape[-1], thres), dim=-1)
    return torch.full_like(logits, -math.inf).scatter(-1, indices, values)


def draw_uniform(generators: Sequence[torch.Generator], lengths: Sequence[int], rounds: int, size: Sequence[int],
                 device: torch.device) -> Tensor:
    """Uniform noise (b, rounds, n, ...) on ``device`` for rows of ``size`` (b, n, ...), all rounds in one transfer.

    Row k takes ``lengths[k]`` numbers per round from ``generators[k]``, so that a sample's noise does not depend on its
    padding. Everything else, including rows without a generator, is 0.5.
    """
    rows, length, *rest = size
    noise = torch.full((rows, rounds, length, *rest), 0.5)
    for row, generator, own in zip(noise, generators, lengths, strict=False):
        row[:, :own] = torch.rand(rounds, own, *rest, generator=generator, device=generator.device)
    return noise.to(device)


def sample_tokens(logits: Tensor, thres: float, temperature: float, gumbel: bool, uniform: Tensor) -> Tensor:
    """Ids (b, n) sampled from softmax(logits / temperature) of (b, n, classes), with ``top_k_filter``.

    With ``gumbel`` by the Gumbel-max trick (Maddison et al. 2014) from ``uniform`` (b, n, classes), else by inverting
    the cumulative distribution from ``uniform`` (b, n): the same distribution.
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


ROWS = 64            # rows per pass with many samples
PACKED_ROWS = 32     # rows per pass with packed linear layers
LENGTH_STEP = 49     # tokens of the longest clip of HumanML3D; longer samples run at a multiple of it
CPU_STEP = 3         # the same on the CPU, where padding costs time and new shapes cost nothing

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """Samples of one forward pass."""

    rows: list[int]  # which samples
    size: int        # rows of the pass; those beyond ``rows`` are fillers
    length: int      # tokens of the pass

    def take(self, x: Tensor) -> Tensor:
        """The group's rows of ``x`` (b, ...), the last one repeated as filler: (size, ...)."""
        filled = self.rows + [self.rows[-1]] * (self.size - len(self.rows))
        return x[torch.tensor(filled, device=x.device)]

    def pick(self, things: Sequence[T]) -> list[T]:
        """The group's items of a list with one per sample."""
        return [things[row] for row in self.rows] + [things[self.rows[-1]]] * (self.size - len(self.rows))

    def take_tokens(self, ids: Tensor) -> Tensor:
        """The group's rows of ids (b, n, ...), cut or padded with -1 to (size, length, ...)."""
        rows = self.take(ids)[:, :self.length]
        filler = rows.new_full((self.size, self.length - rows.shape[1], *rows.shape[2:]), -1)
        return torch.cat([rows, filler], 1)


def default_rows(independent: bool) -> int:
    """Default rows per pass, the most that keeps samples independent: one, or many if the results of a row are
    ``independent`` of the other rows (``models.layers.is_packed``)."""
    return PACKED_ROWS if independent else 1


def fixed_shape_groups(token_lens: Sequence[int], device: torch.device, rows: int | None = None, exact: bool = False,
                       independent: bool = False) -> list[Group]:
    """Groups of samples of similar length, at most ``rows`` each (``default_rows``).

    The length of a pass depends on a sample's length only, and with ``exact`` equals it, for models that see padding.
    Groups are filled up to ``rows``, so that all passes have the same shape, unless rows are ``independent``.
    Raises ``ValueError`` for a length below 1.
    """
    if min(token_lens, default=1) < 1:
        raise ValueError(f"every sample needs at least one token, not {min(token_lens)}")
    rows = rows or default_rows(independent)
    if rows == 1 and not independent:
        return [Group([row], 1, length) for row, length in enumerate(token_lens)]
    step = 1 if exact else CPU_STEP if device.type == "cpu" else LENGTH_STEP
    by_length: dict[int, list[int]] = {}
    for row, length in enumerate(token_lens):
        padded = -(-length // step) * step
        # Clips of the maximum length are common, and it is not a multiple of the CPU's step.
        by_length.setdefault(LENGTH_STEP if length <= LENGTH_STEP < padded else padded, []).append(row)
    chunks = [(length, samples[start:start + rows]) for length, samples in sorted(by_length.items())
              for start in range(0, len(samples), rows)]
    return [Group(chunk, len(chunk) if independent else rows, length) for length, chunk in chunks]


def one_group(token_lens: Sequence[int]) -> list[Group]:
    """All samples in one pass at the longest length, for models that see the padding."""
    return [Group(list(range(len(token_lens))), len(token_lens), max(token_lens))]
