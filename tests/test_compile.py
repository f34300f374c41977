"""``--compile`` keeps the outputs and the parameter names of networks."""
import argparse
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.train_jobs import TOY, stage_jobs
from tests.toy_run import Numbers, Pull, always, options
from training.stages.lamp import LaMPStage
from training.stages.tokens import MaskStage
from training.stages.vq import VQStage
from training.trainer import Stage, Trainer, compile_parts

OPTIONS = argparse.Namespace(decoder_only=False, objectives=["ptc"], cond_noise=0, distill=0.0, text_pairs=0.0)
STAGES = {"vq": lambda model: VQStage(model, OPTIONS, None, None, []),
          "lamp": lambda model: LaMPStage(model, OPTIONS, None, None),
          "t2m": lambda model: MaskStage(model, OPTIONS, {}, [])}


@pytest.fixture(autouse=True)
def ran(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Trace graphs without compiling them, which would take minutes. The list gets an item per run of a graph."""
    compiled, runs = nn.Module.compile, []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        return lambda *inputs: runs.append(True) or graph(*inputs)

    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled(module, backend=backend))
    return runs


@pytest.mark.parametrize("kind", STAGES)
def test_compiled_parts_give_the_same_loss_and_gradient(kind: str, ran: list[bool]) -> None:
    torch.manual_seed(0)
    job = stage_jobs(TOY)[kind](4)
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
    assert not ran
    assert measured() == pytest.approx(before, rel=1e-4)
    assert ran
    assert list(stage.state()) == names


class Product(nn.Linear):
    """Not one of torch's modules, which are not compiled when they are compiled alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight.T


def test_a_run_that_compiles_validates_as_it_is(home: Path, ran: list[bool]) -> None:
    stage, runs = Pull(), []
    stage.model = Product(1, 1, bias=False)
    stage.compiled_parts = lambda: [stage.model]

    def validate() -> dict[str, float]:
        runs.append(len(ran))
        low = float(stage.model(torch.ones(1)).detach())
        runs.append(len(ran))
        return {"low": low, "high": 0.0}

    stage.validate = validate
    Trainer(stage, options(total_iter=2, compile=True), Numbers(4), always).run()
    assert runs == [2, 2]  # a graph a step, and none while validating
    assert (home / "model" / "latest.tar").is_file()
