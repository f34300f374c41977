"""Rows of a training batch in one forward pass, with random numbers and reductions over the whole batch.

A batch may be divided between processes and into micro-batches. Networks draw random numbers and reduce statistics
through a ``BatchSlice``, so that the result does not depend on how it was divided and no network knows about processes;
``training.distributed.DistributedSlice`` exchanges with the other processes.
"""
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class BatchSlice:
    """Rows ``first`` to ``first`` + b of a batch of ``total`` rows, for a single process.

    Random numbers are drawn for the whole batch, from generators in the same state everywhere, and each slice takes
    those of its rows. They are on the generator's device, in training the CPU; copy them with ``non_blocking``, or
    each copy waits for the accelerator.
    """

    first: int = 0
    total: int | None = None  # None: these rows are the whole batch
    last: bool = True         # whether these rows are the last micro-batch of the step
    rank: int = 0
    world_size: int = 1

    def rand(self, generator: torch.Generator, rows: int, *shape: int) -> Tensor:
        """Uniform numbers (rows, *shape) in [0, 1)."""
        return self._rows(rows, lambda total: torch.rand(total, *shape, generator=generator, device=generator.device))

    def randint(self, generator: torch.Generator, high: int, rows: int, *shape: int) -> Tensor:
        """Uniform integers (rows, *shape) from 0 to ``high`` - 1."""
        return self._rows(rows, lambda total: torch.randint(high, (total, *shape), generator=generator,
                                                            device=generator.device))

    def _rows(self, rows: int, draw: Callable[[int], Tensor]) -> Tensor:
        return draw(rows if self.total is None else self.total)[self.first:self.first + rows]

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all processes, without gradient."""
        return tensor

    def gather(self, rows: Tensor, pad: bool = False) -> Tensor:  # noqa: ARG002 (for subclasses)
        """Rows (b, ...) of all processes in order, (all, ...), without gradient; ``pad`` evens out widths by zeros."""
        return rows

    def gather_with_gradient(self, rows: Tensor) -> Tensor:
        """Rows (b, ...) of all processes in order, (all, ...); gradients are summed over the processes."""
        return rows

    def mean_weight(self, count: int, device: torch.device) -> Tensor | float:  # noqa: ARG002 (for subclasses)
        """Weight of a mean over ``count`` items here, so that the average over processes is the mean over all items."""
        return 1.0


WHOLE = BatchSlice()


def sample_columns(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Sample a column (r,) for each row of probabilities (r, n) by inverting the cumulative distribution at ``uniform``
    (r,) in [0, 1). Rows need not sum to 1. Takes one random number a row; ``torch.multinomial`` takes n."""
    sums = probabilities.cumsum(1)
    chosen = torch.searchsorted(sums, (uniform.to(sums) * sums[:, -1]).unsqueeze(1), right=True).squeeze(1)
    return chosen.clamp_max(probabilities.shape[1] - 1)
