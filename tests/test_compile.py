"""``--compile`` keeps the outputs and parameter names of networks."""
import argparse
from collections.abc import Callable

import pytest
import torch
from torch import nn

from benchmarks.train_jobs import TOY, stage_jobs
from training.stages.lamp import LaMPStage
from training.stages.tokens import MaskStage
from training.stages.vq import VQStage
from training.trainer import Stage, compile_parts

OPTIONS = argparse.Namespace(decoder_only=False, objectives=["ptc"], cond_noise=0, distill=0.0, text_pairs=0.0)
STAGES = {"vq": lambda model: VQStage(model, OPTIONS, None, None, []),
          "lamp": lambda model: LaMPStage(model, OPTIONS, None, None),
          "t2m": lambda model: MaskStage(model, OPTIONS, {}, [])}


@pytest.fixture(autouse=True)
def ran(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """List with an item per run of a compiled graph. Graphs are traced only, as compiling takes minutes."""
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
