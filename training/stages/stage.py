"""The interface of a training stage."""
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from storage.checkpoint import load_strictly, read_state

COMPILED_SHAPES = 64  # of a module, for several passes and text lengths


class Stage(nn.Module):
    """One training stage: a model, its loss on a batch, and its validation, for subclasses to implement.

    ``forward(batch, generator, batch_slice)`` returns named scalars: ``"loss"`` and optionally ``"weight"`` (see
    ``training.metrics.StepMetrics``). It runs in mixed precision and inside the distributed wrapper. All random numbers
    but dropout come from ``generator`` through ``batch_slice``, so that they depend on the seed and the step only.
    """

    name: str                 # of the stage: the folder under log/
    state_key: str            # of the model's state dict in a checkpoint
    optimizer_key: str        # of the optimizer's state
    bests: Mapping[str, tuple[str, str]] = {}  # file stem -> (validation number, "min" or "max")
    find_unused = False       # whether some trainable parameters have no part in the loss

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.fid: Callable[[nn.Module], float] | None = None

    def choose_by_fid(self, fid: Callable[[nn.Module], float] | None) -> None:
        """Keep a best checkpoint by FID, if ``fid`` is given."""
        self.fid = fid
        if fid is not None:
            self.bests = {"net_best_fid": ("fid", "min"), **self.bests}

    def measured_fid(self) -> dict[str, float]:
        """FID by name, for ``validate``."""
        return {} if self.fid is None else {"fid": self.fid(self.model)}

    def validate(self) -> dict[str, float]:
        """Named numbers on the validation split; called in eval mode, without gradients."""
        return {}

    def compiled_parts(self) -> list[nn.Module]:
        """Modules that --compile compiles, one by one."""
        return []

    def averaged_buffers(self) -> list[Tensor]:
        """Buffers of the model that training changes and ``--ema`` averages with the parameters."""
        return []

    def state(self) -> dict[str, Tensor]:
        """The state dict for a checkpoint, under ``state_key``."""
        return self.model.state_dict()

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """The model's part of a checkpoint: state dicts by key."""
        return {self.state_key: self.state()}

    def read_weights(self, path: Path) -> dict[str, Tensor]:
        """Read the model's state dict from a checkpoint."""
        return read_state(path, (self.state_key,))

    def load_state(self, state: dict[str, Tensor], path: Path) -> None:
        """Load a ``state`` read from ``path``. Raises ``InputError`` if it does not fit."""
        load_strictly(self.model, state, path)

    def start_from(self, state: dict[str, Tensor], path: Path) -> None:
        """Initialise from another model's weights, read from ``path``. Raises ``InputError`` if they do not fit."""
        self.load_state(state, path)

    def extra_state(self) -> dict[str, Any]:
        """Additional state for exact resume."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Restore an ``extra_state``."""

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups for AdamW: by default one with all trainable parameters."""
        return [{"params": trainable(self.model.parameters()), "weight_decay": weight_decay}]


def trainable(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """The parameters that need a gradient."""
    return [parameter for parameter in parameters if parameter.requires_grad]


def compile_parts(parts: Iterable[nn.Module]) -> None:
    """Compile modules in place, which keeps parameter names."""
    torch._dynamo.config.recompile_limit = COMPILED_SHAPES
    for part in parts:
        part.compile()
