"""What the steps of a run have shown, summed up for its log."""
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from utils import ranks


class Shown:
    """The numbers that a stage gives of one step, and its gradient: means over the whole batch, from its pieces.

    A stage whose loss is a mean over a number of things that differs from piece to piece, such as masked tokens, gives
    that number as ``weight``; else all pieces weigh alike. ``pieces``: of the batch, in all processes.
    """

    def __init__(self, pieces: int) -> None:
        self.alone = pieces == 1
        self.numbers: dict[str, Tensor] = {}
        self.weight: Tensor | float = 0.0

    def add(self, losses: dict[str, Tensor]) -> Tensor:
        """Take what a stage gave for a piece; gives the loss to go backward from."""
        weight = losses.pop("weight", None)
        if self.alone:
            self.numbers = losses
            return losses["loss"]
        weight = torch.ones_like(losses["loss"]) if weight is None else weight.detach().float()
        self.weight = self.weight + weight
        for key, value in losses.items():
            self.numbers[key] = self.numbers.get(key, 0) + weight * value.detach()
        return weight * losses["loss"]

    def settle(self, parameters: Iterable[nn.Parameter]) -> dict[str, Tensor]:
        """After the last piece: make the gradients, which are averaged over the processes, those of the whole batch.
        Gives what this process adds to the step's numbers."""
        if self.alone:
            return self.numbers
        weight = ranks.total(self.weight)
        torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], ranks.count() / weight)
        return {key: value / weight for key, value in self.numbers.items()}


class Meter:
    """Running means of named scalars; keeps tensors until they are asked for, so that no step waits for the device."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, numbers: dict[str, Tensor]) -> None:
        """Take one step's scalars, each the part of it that this process adds to the number of all."""
        for key, value in numbers.items():
            self.sums[key] = self.sums.get(key, 0) + value.detach()
        self.count += 1

    def flush(self) -> dict[str, float]:
        """Means over the steps since the last flush, each step's number being the sum over the processes. All of them
        have to ask."""
        if not self.sums:
            return {}
        totals = ranks.total(torch.stack([value.float() for value in self.sums.values()]))
        means = {key: value / self.count for key, value in zip(self.sums, totals.tolist(), strict=True)}
        self.sums, self.count = {}, 0
        return means
