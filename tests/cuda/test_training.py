"""Training on CUDA: every stage in every mode, and data on the device."""
import importlib
import shutil
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

from benchmarks.train_jobs import TOY, stage_jobs
from tests.test_resume import STAGES, in_two_processes, latest

MODES = {"float32": [], "bf16": ["--mixed_precision", "bf16"], "compiled": ["--compile"]}
STEPS = 2


def arguments(stage: str, run: str, steps: int = STEPS) -> list[str]:
    return ["--name", f"{stage}_{run}", "--data_root", "data", "--log_every", "1", "--seed", "7", *STAGES[stage][1],
            "--total_iter", str(steps)]


@pytest.fixture(scope="module")
def folder(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(toy_folder, tmp_path_factory.mktemp("cuda"), dirs_exist_ok=True)


def train(device: torch.device, folder: Path, stage: str, *given: str) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)  # precision is set once per process
    number = "-1" if device.type == "cpu" else str(device.index)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["script", *given, "--gpu_id", number])
        importlib.import_module(STAGES[stage][0]).main()


def steps_of(folder: Path, stage: str, run: str) -> int:
    state = latest(folder, f"{stage}_{run}")
    for part in state.values():
        if isinstance(part, dict):
            assert all(tensor.isfinite().all() for tensor in part.values()
                       if isinstance(tensor, torch.Tensor) and tensor.is_floating_point())
    return state["total_it"]


@pytest.fixture(scope="module")
def trained(device: torch.device, folder: Path) -> Path:
    """Folder in which every stage was trained in float32 as run ``<stage>_one``, each on the previous stages."""
    for stage in STAGES:
        train(device, folder, stage, *arguments(stage, "one"))
    return folder


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("mode", MODES)
def test_every_stage_trains_in_every_mode(stage: str, mode: str, device: torch.device, trained: Path) -> None:
    train(device, trained, stage, *arguments(stage, mode), *MODES[mode])
    assert steps_of(trained, stage, mode) == STEPS
    if mode == "float32":
        train(device, trained, stage, *arguments(stage, mode, STEPS + 1), "--is_continue")
        assert steps_of(trained, stage, mode) == STEPS + 1


@pytest.mark.parametrize("stage", stage_jobs(TOY))
def test_the_loss_and_gradient_of_every_stage_are_those_of_the_cpu(stage: str, device: torch.device) -> None:
    def measured(where: torch.device) -> tuple[float, float]:
        torch.manual_seed(0)
        job = stage_jobs(TOY, where)[stage](4)
        for module in job.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        job.generator.manual_seed(2)
        loss = job.forward_backward()
        return loss.item(), sum(float(p.grad.square().sum()) for p in job.model.parameters() if p.grad is not None)

    assert measured(device) == pytest.approx(measured(torch.device("cpu")), rel=1e-2)


def test_two_devices_train_like_one(device: torch.device, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    where = ["--gpu_id", "-1"] if device.type == "cpu" else []
    in_two_processes(folder, [[STAGES["vq"][0], *arguments("vq", "two"), *where]], "" if where else "0,1")
    monkeypatch.setattr(nn.Dropout, "forward", lambda _, x: x)  # as in the two processes
    train(device, folder, "vq", *arguments("vq", "alone"))
    one, two = latest(folder, "vq_alone"), latest(folder, "vq_two")
    assert two["total_it"] == one["total_it"] == STEPS
    for name, tensor in one["vq_model"].items():
        torch.testing.assert_close(two["vq_model"][name], tensor, rtol=1e-2, atol=1e-3)
