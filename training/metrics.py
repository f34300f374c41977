"""Numbers of training steps for the log: losses over micro-batches and processes, and where the time goes."""
import time
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from training.distributed import total, world_size

PARTS = ("data", "forward", "backward", "optimizer")


class StepMetrics:
    """Losses and gradients of one step, averaged over its micro-batches and processes.

    If the loss is a mean over a number of items that varies, such as masked tokens, the stage returns that number as
    ``"weight"``; otherwise micro-batches have equal weights. ``pieces``: micro-batches of all processes.
    """

    def __init__(self, pieces: int) -> None:
        self.alone = pieces == 1
        self.numbers: dict[str, Tensor] = {}
        self.weight: Tensor | float = 0.0

    def add(self, losses: dict[str, Tensor]) -> Tensor:
        """Add the named losses of a micro-batch. Returns the one to call ``backward`` on."""
        weight = losses.pop("weight", None)
        if self.alone:
            self.numbers = losses
            return losses["loss"]
        weight = torch.ones_like(losses["loss"]) if weight is None else weight.detach().float()
        self.weight = self.weight + weight
        for key, value in losses.items():
            self.numbers[key] = self.numbers.get(key, 0) + weight * value.detach()
        return weight * losses["loss"]

    def average(self, parameters: Iterable[nn.Parameter]) -> dict[str, Tensor]:
        """After the last micro-batch, scale the gradients, which are averaged over processes, to those of the whole
        batch. Returns this process's summands of the step's numbers."""
        if self.alone:
            return self.numbers
        weight = total(self.weight)
        torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], world_size() / weight)
        return {key: value / weight for key, value in self.numbers.items()}


class Meter:
    """Running means of named scalars, kept as tensors so that no step waits for the device."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, numbers: dict[str, Tensor]) -> None:
        """Add this process's summands of one step's numbers."""
        for key, value in numbers.items():
            self.sums[key] = self.sums.get(key, 0) + value.detach()
        self.count += 1

    def flush(self) -> dict[str, float]:
        """Means over the steps since the last flush, summed over processes. All processes must call it."""
        if not self.sums:
            return {}
        totals = total(torch.stack([value.float() for value in self.sums.values()]))
        means = {key: value / self.count for key, value in zip(self.sums, totals.tolist(), strict=True)}
        self.sums, self.count = {}, 0
        return means


class StepClock:
    """Milliseconds of each part of a step, averaged since the last flush. CUDA times are read from events at flush."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.cuda = device, device.type == "cuda"
        self.laps: list[tuple[str, float | torch.cuda.Event]] = []
        self.steps = 0

    def start(self) -> None:
        """Start timing; the time before, such as a validation, belongs to no step."""
        self.lap("")

    def lap(self, part: str) -> None:
        """Add the time since the last call to ``part``; the optimizer's ends a step."""
        if self.cuda:
            now = torch.cuda.Event(enable_timing=True)
            now.record(torch.cuda.current_stream(self.device))  # not necessarily the default device
        else:
            now = time.perf_counter()
        self.laps.append((part, now))
        self.steps += part == "optimizer"

    def flush(self) -> dict[str, float]:
        """Milliseconds of a step by part, in the order of ``PARTS``; empty without a step."""
        if not self.steps:
            return {}
        if self.cuda:
            self.laps[-1][1].synchronize()
        sums = dict.fromkeys(PARTS, 0.0)
        for (_, before), (part, after) in zip(self.laps, self.laps[1:], strict=False):
            if part:
                sums[part] += before.elapsed_time(after) if self.cuda else 1000 * (after - before)
        means = {part: value / self.steps for part, value in sums.items()}
        self.laps, self.steps = self.laps[-1:], 0
        return means
