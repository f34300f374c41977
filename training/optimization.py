"""Learning rate schedules, weight averaging, gradient checks and metrics for training."""
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from training.runs import total, world_size
from utils import InputError

NAMED = 8  # maximum number of parameters named in an error of ``GradientGuard``


def trainable(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Return the parameters that require a gradient."""
    return [parameter for parameter in parameters if parameter.requires_grad]


def warmup_milestones(warm_up_iter: int, milestones: Sequence[int], gamma: float,
                      after_warmup: bool = True) -> Callable[[int], float]:
    """Create a schedule with linear warm-up that multiplies the learning rate by ``gamma`` at each milestone.

    Milestones count from the end of the warm-up or, with ``after_warmup`` False, from the first step.
    """
    offset = warm_up_iter if after_warmup else 0

    def factor(step: int) -> float:
        if step < warm_up_iter:
            return (step + 1) / (warm_up_iter + 1)
        return gamma ** sum(step - offset >= milestone for milestone in milestones)

    return factor


def warmup_cosine(warm_up_iter: int, total_iter: int, floor: float = 0.1) -> Callable[[int], float]:
    """Create a schedule with linear warm-up from 1 %, followed by cosine decay to ``floor`` at ``total_iter``."""

    def factor(step: int) -> float:
        if step < warm_up_iter:
            return 0.01 + 0.99 * step / warm_up_iter
        progress = min(1.0, (step - warm_up_iter) / max(1, total_iter - warm_up_iter))
        return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2

    return factor


class WeightAverage:
    """Exponential moving average of model weights (Polyak and Juditsky 1992).

    Unlike ``torch.optim.swa_utils.AveragedModel``, it does not copy frozen parameters, such as those of a language
    model.

    Args:
        model: model whose trainable parameters are averaged.
        decay: decay per step. In step n, it is at most ``(1 + n) / (10 + n)``, to forget the random initialisation.
        buffers: additional buffers of the model to average, such as codebooks.
    """

    def __init__(self, model: nn.Module, decay: float, buffers: Iterable[Tensor] = ()) -> None:
        self.decay, self.steps = decay, 0
        self.parameters: list[Tensor] = [*trainable(model.parameters()), *buffers]
        self.values = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Update the average after an optimizer step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.values, [parameter.detach() for parameter in self.parameters], 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Context in which the model uses the averaged weights."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint, with the latest, not averaged, weights. Call it inside ``in_place``."""
        return {"steps": self.steps, "weights": self.values}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore a ``state``. The model must have the averaged weights; afterwards, it has the latest weights.

        If an old checkpoint lacks the buffers, their average restarts. Raises ``ValueError`` if the parameters differ.
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
    """Check for gradients that AdamW cannot use.

    A gradient is invalid if its squared norm is NaN or infinite in float32. This includes finite gradients whose
    squares overflow: AdamW's second moments become infinite, and the parameter never changes again.

    Args:
        named: names and parameters, as returned by ``Module.named_parameters``.
        device: device of the parameters.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], device: torch.device) -> None:
        self.watched = {name: parameter for name, parameter in named if parameter.requires_grad}
        # Parameters with an invalid gradient, and the first step with one, or -1.
        self.bad = torch.zeros(len(self.watched), dtype=torch.bool, device=device)
        self.step = torch.full((), -1, device=device)

    def look(self, step: int) -> None:
        """Check the gradients of a step, without waiting for the device."""
        nothing = self.step.new_zeros((), dtype=torch.float32)
        gradients = [nothing if parameter.grad is None else parameter.grad for parameter in self.watched.values()]
        bad = ~torch.stack([norm.float() for norm in torch._foreach_norm(gradients)]).square().isfinite()
        clean = self.step < 0
        self.bad = torch.where(clean, bad, self.bad)
        self.step.masked_fill_(clean & bad.any(), step)

    def check(self) -> None:
        """If a gradient was invalid, raise an ``InputError`` that names the step and the parameters."""
        step = int(self.step)
        if step < 0:
            return
        names = [name for name, bad in zip(self.watched, self.bad.tolist(), strict=True) if bad]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        raise InputError(f"step {step}: the gradient is not finite, or overflows when squared, in "
                         f"{', '.join(names[:NAMED])}{more}; nothing was saved since. Try a lower --lr, "
                         "--mixed_precision no, or check the data with prepare/check_data.py")


class StepMetrics:
    """Weighted average of losses and gradients over the micro-batches and processes of a step.

    If the loss is a mean over a varying number of items, such as masked tokens, the stage must return this number as
    ``"weight"``. ``pieces`` is the number of micro-batches in all processes.
    """

    def __init__(self, pieces: int) -> None:
        self.alone = pieces == 1
        self.numbers: dict[str, Tensor] = {}
        self.weight: Tensor | float = 0.0

    def add(self, losses: dict[str, Tensor]) -> Tensor:
        """Add the losses of a micro-batch, keyed by name. Returns the loss to call ``backward`` on."""
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
        """Scale the gradients to the mean over the whole batch, after the last micro-batch.

        Returns metrics whose sums over the processes are the metrics of the whole batch.
        """
        if self.alone:
            return self.numbers
        weight = total(self.weight)
        torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], world_size() / weight)
        return {key: value / weight for key, value in self.numbers.items()}


class Meter:
    """Running means of metrics, kept on the device to avoid waiting for it."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, numbers: dict[str, Tensor]) -> None:
        """Add the metrics of a step, as returned by ``StepMetrics.average``."""
        for key, value in numbers.items():
            self.sums[key] = self.sums.get(key, 0) + value.detach()
        self.count += 1

    def flush(self) -> dict[str, float]:
        """Return the means over the steps since the last call. All processes must call it together."""
        if not self.sums:
            return {}
        totals = total(torch.stack([value.float() for value in self.sums.values()]))
        means = {key: value / self.count for key, value in zip(self.sums, totals.tolist(), strict=True)}
        self.sums, self.count = {}, 0
        return means
