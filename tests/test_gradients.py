"""Gradients that are not finite stop a run, and no checkpoint is saved afterwards."""
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from storage.checkpoint import load_checkpoint
from tests.toy_run import Numbers, Pull, always, options
from training.trainer import Trainer
from utils import InputError
from utils.runtime import BatchSlice


class Burst(Pull):
    """Stage with the gradient 1, except ``burst`` at the first sample of epoch 2."""

    def __init__(self, burst: float) -> None:
        super().__init__()
        self.burst = burst

    def forward(self, batch: Tensor, generator: torch.Generator, batch_slice: BatchSlice) -> dict[str, Tensor]:
        loss = super().forward(batch, generator, batch_slice)["loss"]
        return {"loss": loss * self.burst if 200.0 in batch.tolist() else loss}


@pytest.mark.parametrize("burst", [1e31, math.inf])
def test_a_run_stops_naming_the_parameter_and_keeps_the_checkpoint_of_before(home: Path, burst: float) -> None:
    with pytest.raises(InputError, match=r"step 1\d: the gradient is not finite.* in model\.weight; nothing was saved"):
        Trainer(Burst(burst), options(), Numbers(10), always).run()
    content = load_checkpoint(home / "model" / "latest.tar")
    assert content["ep"] == 2
    assert content["pull_model"]["weight"].isfinite().all()
    assert content["opt_pull"]["state"][0]["exp_avg_sq"].isfinite().all()
