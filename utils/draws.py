"""Random numbers of a step of training that do not depend on how its batch is shared out among processes."""
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Share:
    """Which rows of a step's whole batch are at hand.

    Numbers are drawn for the whole batch, from generators that are alike everywhere, and each share takes those of its
    rows: so two processes with half a batch each do what one does with all of it.

    They come on the generator's device, in training the CPU. Who needs them elsewhere should copy them with
    ``non_blocking``: else a step waits at each until the device has done all that it was given before.
    """

    first: int = 0             # row of the whole batch
    total: int | None = None   # rows of the whole batch; None: those at hand are all
    last: bool = True          # whether no later part of the step's batch follows

    def rand(self, generator: torch.Generator, rows: int, *shape: int) -> Tensor:
        """Uniform numbers (rows, *shape) in [0, 1)."""
        return self._rows(rows, lambda total: torch.rand(total, *shape, generator=generator, device=generator.device))

    def randint(self, generator: torch.Generator, high: int, rows: int, *shape: int) -> Tensor:
        """Whole numbers (rows, *shape) from 0 to ``high`` - 1."""
        return self._rows(rows, lambda total: torch.randint(high, (total, *shape), generator=generator,
                                                            device=generator.device))

    def _rows(self, rows: int, draw: Callable[[int], Tensor]) -> Tensor:
        return draw(rows if self.total is None else self.total)[self.first:self.first + rows]


WHOLE = Share()


def choose(chances: Tensor, uniform: Tensor) -> Tensor:
    """Which column (r,) each row of chances (r, n) >= 0 draws, told by one uniform number (r,) in [0, 1) each.

    The column where the running sum of the chances passes the number's share of their total; the chances need not add
    up to 1. One number a row, where ``torch.multinomial`` and Gumbel noise take one a column.
    """
    sums = chances.cumsum(1)
    chosen = torch.searchsorted(sums, (uniform.to(sums) * sums[:, -1]).unsqueeze(1), right=True).squeeze(1)
    return chosen.clamp_max(chances.shape[1] - 1)
