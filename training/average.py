"""A running mean of the weights: what a run has learned, without the noise of its last steps."""
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from training.stage import trainable


class WeightAverage:
    """Exponential moving average of a model's trained parameters (Polyak and Juditsky 1992).

    Args:
        model: its parameters that need a gradient are followed, by their order.
        buffers: of the model, which training changes too, such as codebooks; they are averaged with the parameters.
        decay: share of the mean that one step leaves in place; less in the first steps, ``(1 + n) / (10 + n)``, so
            that the random start is soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float, buffers: Iterable[Tensor] = ()) -> None:
        self.decay, self.steps = decay, 0
        self.parameters: list[Tensor] = [*trainable(model.parameters()), *buffers]
        self.values = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.values, [parameter.detach() for parameter in self.parameters], 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within this context the model has the mean weights."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs to go on, taken while the mean weights are in place: the weights of the last step."""
        return {"steps": self.steps, "weights": self.values}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what ``state`` gave; the model has the mean weights before and those of the last step after.

        The state of a run that did not average buffers yet lacks these; their mean restarts. Raises ``ValueError``
        where the state is of other parameters.
        """
        weights: list[Tensor] = state["weights"]
        bare = sum(isinstance(parameter, nn.Parameter) for parameter in self.parameters)
        shapes = [value.shape for value in self.values]
        if [tensor.shape for tensor in weights] not in (shapes, shapes[:bare]):
            raise ValueError("the weights beside their mean are of other parameters")
        self.steps = state["steps"]
        for own, tensor in zip(self.values, [*weights, *self.parameters[len(weights):]], strict=True):
            own.copy_(tensor.detach())
        self._exchange()

    def restart(self) -> None:
        """Begin anew from the weights as they are."""
        self.steps = 0
        for own, parameter in zip(self.values, self.parameters, strict=True):
            own.copy_(parameter.detach())

    def _exchange(self) -> None:
        for number, parameter in enumerate(self.parameters):
            parameter.data, self.values[number] = self.values[number], parameter.data
