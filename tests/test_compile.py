"""``--compile``: the networks compute what they did, under the names that they had."""
import argparse
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.train_jobs import stage_jobs
from tests.test_train_benchmarks import TINY
from tests.toy_run import Numbers, Pull, always, options
from training.lamp_stage import LaMPStage
from training.loop import Trainer
from training.stage import Stage, compile_parts
from training.token_stage import MaskStage
from training.vq_stage import VQStage

OPTIONS = argparse.Namespace(decoder_only=False, objectives=["ptc"])
STAGES = {"vq": lambda model: VQStage(model, OPTIONS, None, None, []),
          "lamp": lambda model: LaMPStage(model, OPTIONS, None, None),
          "t2m": lambda model: MaskStage(model, OPTIONS, {}, [])}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are traced, and run as they are: a compiler behind them takes minutes."""
    compiled = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled(module, backend="eager"))


@pytest.mark.parametrize("kind", STAGES)
def test_compiled_parts_give_the_same_loss_and_gradient(kind: str) -> None:
    torch.manual_seed(0)
    job = stage_jobs(TINY)[kind](4)
    stage: Stage = STAGES[kind](job.model)
    job.model.eval()
    names = list(stage.state())

    def measured() -> tuple[float, float]:
        torch.manual_seed(1)
        job.generator.manual_seed(2)
        job.model.zero_grad()
        loss = job.loss()
        loss.backward()
        return loss.item(), sum(float(p.grad.square().sum()) for p in job.model.parameters() if p.grad is not None)

    before = measured()
    compile_parts(stage.compiled_parts())
    assert measured() == pytest.approx(before, rel=1e-4)
    assert list(stage.state()) == names


def test_a_run_that_compiles_validates_as_it_is(home: Path) -> None:
    stage = Pull()
    stage.compiled_parts = lambda: [stage.model]
    stage.validate = lambda: {"low": float(stage.model(torch.ones(1)).detach()), "high": 0.0}
    Trainer(stage, options(total_iter=2, compile=True), Numbers(4), always).run()
    assert (home / "model" / "latest.tar").is_file()
