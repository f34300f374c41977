"""Faster computation: oneDNN linear layers, lower precision, compiled networks, threads and CPU quotas."""
import argparse
import json
from collections.abc import Callable, Iterator
from functools import partialmethod
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.train_jobs import TOY, stage_jobs
from data.dataset import dataset_spec
from models import layers as module
from models.config import MaskTransformerConfig, Sampling
from models.layers import KINDS, Conv1d, Linear, SelfAttention, can_pack, choose_linear, is_packed, linear, pack_linears
from models.text_to_motion import Sample, speed_up
from models.transformers.mask_transformer import MaskTransformer
from models.transformers.trunk import sample_generators
from models.vq.model import VQConfig, build_tokenizer
from storage.generation import load_text_to_motion
from training.stages.lamp import LaMPStage
from training.stages.tokens import MaskStage
from training.stages.vq import VQStage
from training.trainer import Stage, compile_parts
from utils import cpu_quota, set_thread_policy

SHAPES = [(8, 49, 96), (500, 48), (1, 150, 192), (3, 7, 2, 512)]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    kind, threads = module._kind, torch.get_num_threads()
    yield
    module.use_linear(kind)
    torch.set_num_threads(threads)


def with_gradients(made: torch.Tensor, *leaves: torch.Tensor) -> list[torch.Tensor]:
    """Return ``made`` and the gradients of ``leaves``."""
    return [made.detach(), *torch.autograd.grad(made.square().mean(), leaves)]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_and_gradients_are_those_of_torch(shape: tuple[int, ...], bias: bool, threads: int) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    inputs = [torch.randn(shape), torch.randn(40, shape[-1]) / shape[-1]**0.5, *([torch.randn(40)] if bias else [])]
    found = []
    for kind in KINDS:
        module.use_linear(kind)
        leaves = [each.clone().requires_grad_() for each in inputs]
        found.append(with_gradients(linear(*leaves), *leaves))
    for one, other in zip(*found, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5 * float(one.abs().max()))


@pytest.mark.parametrize(("width", "kernel", "settings"), [
    (6, 3, {"padding": 1}), (5, 3, {"padding": 9, "dilation": 9}), (48, 4, {"stride": 2, "padding": 1}),
    (200, 1, {}), (30, 3, {"padding": 1, "bias": False})])
def test_convolutions_are_those_of_torch(width: int, kernel: int, settings: dict[str, int]) -> None:
    torch.manual_seed(0)
    layer = Conv1d(width, 40, kernel, **settings)
    x = torch.randn(3, 64, width).transpose(1, 2)
    found = []
    for kind in KINDS:
        module.use_linear(kind)
        given = x.clone().requires_grad_()
        found.append(with_gradients(layer(given), given, *layer.parameters()))
    before = layer.state_dict()["weight"].clone()
    if can_pack():
        layer.pack()
        assert torch.equal(layer.state_dict()["weight"], before)
        with torch.no_grad():
            packed = layer(x)
            assert torch.equal(layer(x[:1]), packed[:1])
        given = x.clone().requires_grad_()
        found.append([packed, with_gradients(layer(given), given)[1]])  # as in the optimisation of constraints
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=False):
            assert one.shape == other.shape
            torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5 * float(one.abs().max()))


@pytest.mark.skipif(not can_pack(), reason="this torch has no packed linear maps")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_packed_rows_do_not_depend_on_the_number_of_rows(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = Linear(384, 200).to(dtype)
    x = torch.randn(300, 384).to(dtype)
    plain, gelu = F.linear(x, layer.weight, layer.bias), F.gelu(F.linear(x, layer.weight, layer.bias))
    layer.pack()
    together = layer(x)
    for rows in (1, 2, 3, 7, 49, 98, 250):
        assert torch.equal(layer(x[:rows]), together[:rows])
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(together, plain, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(layer(x, "gelu"), gelu, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(layer(x.view(3, 100, 384)[:, 10:20]), plain.view(3, 100, 200)[:, 10:20],
                               rtol=tolerance, atol=tolerance)


@pytest.mark.skipif(not can_pack(), reason="this torch has no packed linear maps")
def test_a_packed_network_writes_the_state_it_was_built_from() -> None:
    network = nn.Sequential(Linear(20, 30), SelfAttention(30, 2, 0.0), Linear(30, 5))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    pack_linears(network)
    assert is_packed(network)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_torch_without_the_operators_uses_mkl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OPERATORS", ("_no_such_operator",))
    module.use_linear("onednn")
    assert module._kind == module.faster_linear() == "mkl"


def test_it_is_measured_once_for_a_kind_of_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    answers = ["onednn", "mkl"]
    monkeypatch.setattr(module, "faster_linear", lambda: answers.pop(0))
    assert [choose_linear(), choose_linear()] == ["onednn", "onednn"]
    assert module._kind == "onednn"
    assert choose_linear("mkl") == module._kind == "mkl"
    (kept,) = tmp_path.rglob("*.json")
    assert list(json.loads(kept.read_text()).values()) == ["onednn"]
    kept.write_text("[")
    assert choose_linear() == "mkl"


TEXTS = ["a person walks forward and turns left", "someone waves with the right hand"]


@torch.no_grad()
def test_bf16_features_are_within_two_per_cent_and_motions_within_millimetres() -> None:
    plain, bf16 = (load_text_to_motion("t2m_demo", None, dataset_spec("t2m"), "no_checkpoints")[0] for _ in range(2))
    speed_up(bf16.networks, "bf16")
    tokens = plain.tokens([Sample(TEXTS[0], 1, 120), Sample(TEXTS[1], 2, 80)])
    motion = torch.as_tensor(plain.normalise(plain.features_of(tokens[:1])[0]))[None]
    for features in (lambda made: made.condition(TEXTS), lambda made: made.text.model.motion_features(motion)):
        one, other = features(plain), features(bf16)
        assert other.dtype == torch.float32
        assert 0 < (one - other).norm() < 0.02 * one.norm()
    for one, other in zip(plain.features_of(tokens), bf16.features_of(tokens), strict=True):
        apart = np.abs(plain.joints(one) - plain.joints(other))
        assert 0 < apart.mean() < 0.002
        assert apart.max() < 0.02


def test_compiled_networks_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_module = torch.nn.Module.compile
    # Skip the C++ compiler, which takes most of the time.
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(compile_module, backend="aot_eager"))
    torch.manual_seed(0)
    model = MaskTransformer(MaskTransformerConfig(num_tokens=16, code_dim=8, cond_dim=6, latent_dim=16, n_heads=2,
                                                  n_layers=2, ff_size=16)).eval()
    tokenizer = build_tokenizer(VQConfig(dim_pose=5, nb_code=16, code_dim=8, output_emb_width=8, width=8, depth=1,
                                         num_quantizers=1)).eval()
    cond, lens = torch.randn(2, 6), [7, 12]

    def results() -> tuple[torch.Tensor, torch.Tensor]:
        ids = model.generate(cond, lens, sample_generators([1, 2]), Sampling(time_steps=3)).ids
        with torch.no_grad():
            return ids, tokenizer.forward_decoder(ids[1:])

    before = results()
    speed_up([model, tokenizer], compiled=True)
    ids, motion = results()
    assert torch.equal(ids, before[0])
    torch.testing.assert_close(motion, before[1], rtol=0, atol=1e-5)


OPTIONS = argparse.Namespace(decoder_only=False, objectives=["ptc"], cond_noise=0, distill=0.0, text_pairs=0.0)
STAGES = {"vq": lambda model: VQStage(model, OPTIONS, None, None, []),
          "lamp": lambda model: LaMPStage(model, OPTIONS, None, None),
          "t2m": lambda model: MaskStage(model, OPTIONS, {}, [])}


@pytest.fixture
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


def policy(patch: pytest.MonkeyPatch, usable: int, **given: str) -> dict[str, str]:
    """Set the thread policy in the environment ``given``, with 64 cores of which ``usable`` may be used."""
    patch.setattr("utils.usable_cores", lambda: usable)
    patch.setattr("utils.bound_cores", lambda: 64)
    set_thread_policy(given)
    return given


def test_threads_sleep_and_follow_the_quota_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    made = policy(monkeypatch, 2)
    assert int(made["GOMP_SPINCOUNT"]) <= 1000 and (made["KMP_BLOCKTIME"], made["OMP_NUM_THREADS"]) == ("0", "2")
    assert "OMP_NUM_THREADS" not in policy(monkeypatch, 64)
    given = {"GOMP_SPINCOUNT": "5", "KMP_BLOCKTIME": "200", "OMP_NUM_THREADS": "3"}
    assert policy(monkeypatch, 2, **given).items() >= given.items()
    active = policy(monkeypatch, 2, OMP_WAIT_POLICY="active")
    assert active["OMP_WAIT_POLICY"] == "active" and "GOMP_SPINCOUNT" not in active


def test_quotas_of_both_versions_of_control_groups_are_read_at_every_level(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("0::/outer/inner\n")
    inner = tmp_path / "v2" / "outer" / "inner"
    inner.mkdir(parents=True)
    (inner / "cpu.max").write_text("max 100000\n")
    assert cpu_quota(tmp_path / "v2", membership) is None
    (inner.parent / "cpu.max").write_text("150000 100000\n")
    assert cpu_quota(tmp_path / "v2", membership) == 1.5
    membership.write_text("3:memory:/m\n1:cpu,cpuacct:/job\n")
    job = tmp_path / "v1" / "cpu" / "job"
    job.mkdir(parents=True)
    for name, value in (("quota", 400000), ("period", 100000)):
        (job / f"cpu.cfs_{name}_us").write_text(f"{value}\n")
    assert cpu_quota(tmp_path / "v1", membership) == 4
    (job / "cpu.cfs_quota_us").write_text("-1\n")
    assert cpu_quota(tmp_path / "v1", membership) is None
    assert cpu_quota(tmp_path / "v1", tmp_path / "missing") is None
