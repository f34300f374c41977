"""What the processes of one run do together. A run of a single process may call all of it, and nothing is exchanged."""
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Item = TypeVar("Item")
Made = TypeVar("Made")


def count() -> int:
    """How many processes the run has."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def number() -> int:
    """Which of them this is, from 0 on."""
    return dist.get_rank() if count() > 1 else 0


def is_main() -> bool:
    """Whether this process is the one that writes and prints."""
    return number() == 0


@torch.no_grad()
def total(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all processes, without gradient."""
    if count() == 1:
        return tensor
    tensor = tensor.detach().clone()
    dist.all_reduce(tensor)
    return tensor


def share_of(amount: Tensor) -> Tensor:
    """By what to multiply a mean over ``amount`` () things here, so that the plain mean over the processes is the mean
    over the things of all. Gradients are such plain means."""
    return count() * amount / total(amount).clamp_min(1)


@torch.no_grad()
def gather(rows: Tensor, width: int | None = None) -> Tensor:
    """Rows (b, ...) of every process in their order, (all, ...), without gradient; all have as many rows.

    Where their second dimension may differ, zeros fill it up to the ``width`` that is given.
    """
    if width is not None and width > rows.shape[1]:
        rows = torch.cat([rows, rows.new_zeros(len(rows), width - rows.shape[1], *rows.shape[2:])], 1)
    return rows if count() == 1 else _all_gather(rows)


def widest(width: int, device: torch.device) -> int:
    """The largest of a number that every process has."""
    if count() == 1:
        return width
    largest = torch.tensor(width, device=device)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def gather_with_gradient(rows: Tensor) -> Tensor:
    """Rows (b, ...) of every process in their order, (all, ...); each row's gradient is the sum over all processes."""
    return rows if count() == 1 else _Gather.apply(rows)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, rows: Tensor) -> Tensor:
        return _all_gather(rows)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        own = gradient.new_empty(len(gradient) // count(), *gradient.shape[1:])
        dist.reduce_scatter_single(own, gradient.contiguous())
        return own


def _all_gather(rows: Tensor) -> Tensor:
    every = rows.new_empty(count() * len(rows), *rows.shape[1:])
    dist.all_gather_single(every, rows.detach().contiguous())
    return every


def divide(items: Sequence[Item], make: Callable[[list[Item]], Sequence[Made]]) -> list[Made]:
    """What ``make`` gives for items, one for each: every process makes a part, and all get all, in the items' order.

    What is made must be of the CPU, as it is sent from process to process.
    """
    if count() == 1:
        return list(make(list(items)))
    own = list(items[number()::count()])
    parts: list[Sequence[Made]] = [[]] * count()
    dist.all_gather_object(parts, make(own) if own else [])  # few items may leave a process without any
    return [parts[index % count()][index // count()] for index in range(len(items))]
