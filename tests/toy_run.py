"""A toy training run: one weight with a constant gradient."""
import argparse
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from training.trainer import Stage
from utils.runtime import BatchSlice


class Numbers(Dataset):
    """Data set whose items encode their epoch (in hundreds) and their index."""

    def __init__(self, length: int) -> None:
        self.length, self.epoch = length, 0

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor(100.0 * self.epoch + index)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


class Pull(Stage):
    """Training stage with one weight, the gradient ``slope`` and predefined validation metrics."""

    name = "pull"
    state_key = "pull_model"
    optimizer_key = "opt_pull"
    bests = {"net_best_low": ("low", "min"), "net_best_high": ("high", "max")}

    def __init__(self, slope: float = 1.0, numbers: Sequence[tuple[float, float]] = ()) -> None:
        model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(model.weight)
        super().__init__(model)
        self.slope, self.numbers = slope, list(numbers)
        self.gradients, self.batches, self.draws = [], [], []
        model.weight.register_hook(lambda gradient: self.gradients.append(float(gradient)))

    def forward(self, batch: Tensor, generator: torch.Generator, batch_slice: BatchSlice) -> dict[str, Tensor]:
        self.batches.append(batch.tolist())
        self.draws.append(batch_slice.rand(generator, len(batch)).tolist())
        return {"loss": self.slope * self.model(torch.ones(1)).sum()}

    def validate(self) -> dict[str, float]:
        assert not self.model.training
        assert not torch.is_grad_enabled()
        low, high = self.numbers.pop(0) if self.numbers else (0.0, 0.0)
        return {"low": low, "high": high}


def options(**given: object) -> argparse.Namespace:
    """Return options for a run of at most ten epochs on the CPU."""
    return argparse.Namespace(**{
        "name": "run", "dataset_name": "t2m", "checkpoints_dir": "checkpoints", "gpu_id": -1, "seed": 1,
        "batch_size": 2, "betas": (0.9, 0.99), "max_epoch": 10, "total_iter": 0, "lr": 0.1, "weight_decay": 0.0,
        "mixed_precision": "no", "is_continue": False, "log_every": 1000, "save_latest": 1000, "eval_every_e": 1,
        "num_workers": 0, "quiet": True, "ema": 0.0, "init_from": None, "grad_accum": 1, "compile": False,
        "cpu_linear": "mkl"} | given)


def always(_: int) -> float:
    return 1.0
