"""oneDNN linear layers and convolutions match torch, and the choice between them."""
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import layers as module
from models.layers import KINDS, Conv1d, Linear, SelfAttention, can_pack, choose_linear, is_packed, linear, pack_linears

SHAPES = [(8, 49, 96), (500, 48), (1, 150, 192), (3, 7, 2, 512)]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    kind, threads = module._kind, torch.get_num_threads()
    yield
    module.use_linear(kind)
    torch.set_num_threads(threads)


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
        made = linear(*leaves)
        made.square().mean().backward()
        found.append([made.detach(), *(leaf.grad for leaf in leaves)])
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
        layer.zero_grad()
        given = x.clone().requires_grad_()
        made = layer(given)
        made.square().mean().backward()
        found.append([made.detach(), given.grad, *(parameter.grad for parameter in layer.parameters())])
    before = layer.state_dict()["weight"].clone()
    if can_pack():
        layer.pack()
        assert torch.equal(layer.state_dict()["weight"], before)
        with torch.no_grad():
            packed = layer(x)
            assert torch.equal(layer(x[:1]), packed[:1])
        layer.zero_grad()
        given = x.clone().requires_grad_()
        layer(given).square().mean().backward()  # as in the optimisation of constraints
        found.append([packed, given.grad])
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
    assert not is_packed(network)
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
