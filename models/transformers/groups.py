"""Which samples share a forward pass, so that no sample's result depends on the others.

Noise from streams of their own is not enough for that: kernels choose their order of summation by the shape of the
batch, logits then differ in the last digits, and now and then a near tie between two tokens falls the other way.
So the shape of every pass depends on the sample alone. On the CPU each sample runs by itself at its own length, which
costs little where there are few; elsewhere groups of a fixed number of rows run at a fixed length, short groups filled
up, and so they do on the CPU where the caller has many samples and names a number of rows.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

ROWS = 64            # of a pass on an accelerator
LENGTH_STEP = 49     # tokens of the longest clip of HumanML3D; longer samples run at a multiple of it
CPU_STEP = 3         # the same on the CPU, where padding costs what it is long and another shape costs nothing

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
        """The same of one thing a sample."""
        return [things[row] for row in self.rows] + [things[self.rows[-1]]] * (self.size - len(self.rows))

    def take_tokens(self, ids: Tensor) -> Tensor:
        """The group's rows of ids (b, n, ...), cut or filled up with -1 to (size, length, ...)."""
        rows = self.take(ids)[:, :self.length]
        filler = rows.new_full((self.size, self.length - rows.shape[1], *rows.shape[2:]), -1)
        return torch.cat([rows, filler], 1)


def fixed_shape_groups(token_lens: Sequence[int], device: torch.device, rows: int | None = None,
                       exact: bool = False) -> list[Group]:
    """Groups of equal shape for samples of the given lengths; ``rows`` 1 on the CPU and 64 elsewhere by default.

    With ``exact`` none runs longer than it is, for models that look at padding. Raises ``ValueError`` for a length
    below 1.
    """
    if min(token_lens, default=1) < 1:
        raise ValueError(f"every sample needs at least one token, not {min(token_lens)}")
    rows = rows or (1 if device.type == "cpu" else ROWS)
    if rows == 1:
        return [Group([row], 1, length) for row, length in enumerate(token_lens)]
    step = 1 if exact else CPU_STEP if device.type == "cpu" else LENGTH_STEP
    by_length: dict[int, list[int]] = {}
    for row, length in enumerate(token_lens):
        padded = -(-length // step) * step
        # The longest clips are many, and no multiple of the CPU's step.
        by_length.setdefault(LENGTH_STEP if length <= LENGTH_STEP < padded else padded, []).append(row)
    return [Group(samples[start:start + rows], rows, length)
            for length, samples in sorted(by_length.items()) for start in range(0, len(samples), rows)]


def one_group(token_lens: Sequence[int]) -> list[Group]:
    """All samples together at the longest length, where the model is meant to see the padding."""
    return [Group(list(range(len(token_lens))), len(token_lens), max(token_lens))]
