"""What a training stage adds to the loop."""
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from storage.checkpoint import load_strictly, read_state

COMPILED_SHAPES = 64  # of a module: a layer is run in several ways, on texts of several lengths


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
        """Keep a best checkpoint by the FID that ``fid`` measures of the model, where it is given."""
        self.fid = fid
        if fid is not None:
            self.bests = {"net_best_fid": ("fid", "min"), **self.bests}

    def measured_fid(self) -> dict[str, float]:
        """FID under its name, for ``validate``."""
        return {} if self.fid is None else {"fid": self.fid(self.model)}

    def validate(self) -> dict[str, float]:
        """Named numbers on the validation split, the model in eval mode and without gradients."""
        return {}

    def compiled_parts(self) -> list[nn.Module]:
        """Modules whose ``forward`` --compile compiles, each by itself."""
        return []

    def averaged_buffers(self) -> list[Tensor]:
        """Buffers of the model that training changes and ``--ema`` averages with the parameters."""
        return []

    def state(self) -> dict[str, Tensor]:
        """What goes into a checkpoint under ``state_key``."""
        return self.model.state_dict()

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint holds of the model: state dicts by key."""
        return {self.state_key: self.state()}

    def read_weights(self, path: Path) -> dict[str, Tensor]:
        """The model's state dict out of such a checkpoint."""
        return read_state(path, (self.state_key,))

    def load_state(self, state: dict[str, Tensor], path: Path) -> None:
        """Take up what ``state`` gave, which lies at ``path``. ``InputError`` where it does not fit."""
        load_strictly(self.model, state, path)

    def start_from(self, state: dict[str, Tensor], path: Path) -> None:
        """Take the weights of another model, which lie at ``path``. ``InputError`` where they do not fit."""
        self.load_state(state, path)

    def extra_state(self) -> dict[str, Any]:
        """More that training needs to go on as if it had not stopped."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take up what ``extra_state`` gave."""

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for AdamW: by default every trainable tensor, decayed alike."""
        return [{"params": trainable(self.model.parameters()), "weight_decay": weight_decay}]


def trainable(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Those that take part in training."""
    return [parameter for parameter in parameters if parameter.requires_grad]


def compile_parts(parts: Iterable[nn.Module]) -> None:
    """Compile modules where they are, so that no parameter gets another name."""
    torch._dynamo.config.recompile_limit = COMPILED_SHAPES
    for part in parts:
        part.compile()
