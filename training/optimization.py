"""What a training step needs: schedules, weight averaging, the check of gradients, and numbers for the log."""
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from training.runs import total, world_size
from utils import InputError

NAMED = 8  # number of parameters listed in the error of ``GradientGuard``


def trainable(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """The parameters that need a gradient."""
    return [parameter for parameter in parameters if parameter.requires_grad]


def warmup_milestones(warm_up_iter: int, milestones: Sequence[int], gamma: float,
                      after_warmup: bool = True) -> Callable[[int], float]:
    """Linear warm-up ``(it + 1) / (warm_up_iter + 1)``, then x ``gamma`` at each milestone.

    Milestones count from the end of the warm-up (tokenizers) or, with ``after_warmup`` False, from the first step
    (transformers), as the published runs do.
    """
    offset = warm_up_iter if after_warmup else 0

    def factor(step: int) -> float:
        if step < warm_up_iter:
            return (step + 1) / (warm_up_iter + 1)
        return gamma ** sum(step - offset >= milestone for milestone in milestones)

    return factor


def warmup_cosine(warm_up_iter: int, total_iter: int, floor: float = 0.1) -> Callable[[int], float]:
    """Linear warm-up from 1 %, then a half cosine down to ``floor`` at ``total_iter``."""

    def factor(step: int) -> float:
        if step < warm_up_iter:
            return 0.01 + 0.99 * step / warm_up_iter
        progress = min(1.0, (step - warm_up_iter) / max(1, total_iter - warm_up_iter))
        return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2

    return factor


class WeightAverage:
    """Exponential moving average of a model's trained parameters (Polyak and Juditsky 1992).

    Unlike ``torch.optim.swa_utils.AveragedModel`` it copies trained tensors only, not a frozen tokenizer or language
    model, and swaps them in and out of the model.

    Args:
        model: its trainable parameters are averaged.
        buffers: buffers of the model that training changes, such as codebooks; they are averaged too.
        decay: decay per step; smaller in the first steps, ``(1 + n) / (10 + n)``, to forget the random start.
    """

    def __init__(self, model: nn.Module, decay: float, buffers: Iterable[Tensor] = ()) -> None:
        self.decay, self.steps = decay, 0
        self.parameters: list[Tensor] = [*trainable(model.parameters()), *buffers]
        self.values = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Update the average after a step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.values, [parameter.detach() for parameter in self.parameters], 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Context in which the model has the averaged weights."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def state(self) -> dict[str, Any]:
        """State for a checkpoint, taken while the averaged weights are in place: the weights of the last step."""
        return {"steps": self.steps, "weights": self.values}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore a ``state``; the model has the averaged weights before and those of the last step after.

        States of older runs lack the buffers, whose average then restarts. Raises ``ValueError`` for a state of other
        parameters.
        """
        weights: list[Tensor] = state["weights"]
        bare = sum(isinstance(parameter, nn.Parameter) for parameter in self.parameters)
        shapes = [value.shape for value in self.values]
        if [tensor.shape for tensor in weights] not in (shapes, shapes[:bare]):
            raise ValueError("the averaged weights belong to other parameters")
        self.steps = state["steps"]
        for own, tensor in zip(self.values, [*weights, *self.parameters[len(weights):]], strict=True):
            own.copy_(tensor.detach())
        self._exchange()

    def restart(self) -> None:
        """Restart the average from the current weights."""
        self.steps = 0
        for own, parameter in zip(self.values, self.parameters, strict=True):
            own.copy_(parameter.detach())

    def _exchange(self) -> None:
        for number, parameter in enumerate(self.parameters):
            parameter.data, self.values[number] = self.values[number], parameter.data


class GradientGuard:
    """Finds the first step with gradients that AdamW cannot use.

    A gradient is refused if its squared norm is NaN or infinite in float32. This includes finite gradients whose
    squares overflow: they make AdamW's second moments infinite, after which a parameter never changes again.

    Args:
        named: parameters by name, as ``Module.named_parameters`` gives them; those that do not train are skipped.
        device: where the parameters are.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], device: torch.device) -> None:
        self.watched = {name: parameter for name, parameter in named if parameter.requires_grad}
        self.bad = torch.zeros(len(self.watched), dtype=torch.bool, device=device)  # in the first such step
        self.step = torch.full((), -1, device=device)                              # first such step, or -1

    def look(self, step: int) -> None:
        """Check the gradients of a step. The result stays on the device, so that no step waits for it."""
        nothing = self.step.new_zeros((), dtype=torch.float32)
        gradients = [nothing if parameter.grad is None else parameter.grad for parameter in self.watched.values()]
        bad = ~torch.stack([norm.float() for norm in torch._foreach_norm(gradients)]).square().isfinite()
        clean = self.step < 0
        self.bad = torch.where(clean, bad, self.bad)
        self.step.masked_fill_(clean & bad.any(), step)

    def check(self) -> None:
        """Raise ``InputError`` with the names of the parameters where a gradient was not finite."""
        step = int(self.step)
        if step < 0:
            return
        names = [name for name, bad in zip(self.watched, self.bad.tolist(), strict=True) if bad]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        raise InputError(f"step {step}: the gradient is not finite, or overflows when squared, in "
                         f"{', '.join(names[:NAMED])}{more}; nothing was saved since. Try a lower --lr, "
                         "--mixed_precision no, or check the data with prepare/check_data.py")


class StepMetrics:
    """Average losses and gradients of one step over its micro-batches and processes.

    If the loss is a mean over a varying number of items, such as masked tokens, the stage returns that number as
    ``"weight"``; otherwise micro-batches have equal weights. ``pieces``: number of micro-batches of all processes.
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
        """After the last micro-batch, scale the gradients to those of the whole batch. Returns this process's summands
        of the step's metrics."""
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
        """Add this process's summands of one step's metrics."""
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
