"""Transformer encoder layers, and linear and convolutional layers that use the faster of MKL and oneDNN on the CPU.

torch computes float32 matrix products with MKL, which selects kernels by CPU vendor and does not use AVX-512 on AMD.
oneDNN selects them by instruction set. torch has only private operators for oneDNN products; in versions without these
operators, MKL is used. The parameters are the same in both cases.
"""
import contextlib
import json
import math
import os
from collections import Counter
from functools import cached_property, partial
from pathlib import Path
from timeit import timeit
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from models.config import INIT_STD
from utils import InputError, processor
from utils.files import write_text

KINDS = ("mkl", "onednn")
LEAST = 20480  # number of input elements above which oneDNN is used
OPERATORS = ("_reorder_linear_weight", "_linear_pointwise", "_reorder_convolution_weight", "_convolution_pointwise")

ROWS, WIDTH = 400, 768  # size of the matrix product that is timed
ROUNDS = 9
GAIN = 0.15  # share of the time that oneDNN must save

_kind = "mkl"


def use_linear(kind: str) -> None:
    """Select the CPU library for linear layers and convolutions, one of ``KINDS``.

    If oneDNN is not available, MKL is used. Raises ``ValueError`` for an unknown ``kind``.
    """
    global _kind
    if kind not in KINDS:
        raise ValueError(f"linear {kind!r} is not one of {', '.join(KINDS)}")
    _kind = kind if can_pack() else "mkl"


def choose_linear(setting: str = "auto") -> str:
    """Select the library for linear layers on the CPU, and return the selection.

    ``setting`` is one of ``KINDS``, or ``auto`` for the faster library. The first measurement is stored in the user's
    cache folder, so that later runs on the same kind of CPU use the same library.
    """
    kind = _remembered() if setting == "auto" else setting
    use_linear(kind)
    return kind


def faster_linear() -> str:
    """Time a typical matrix product. Returns ``onednn`` if it saves at least ``GAIN`` of the time, else ``mkl``."""
    if not can_pack():
        return "mkl"
    x, weight = torch.ones(ROWS, WIDTH), torch.ones(WIDTH, WIDTH)
    products = {"mkl": partial(F.linear, x, weight), "onednn": partial(_Product.apply, x, weight, None)}
    rounds = [{kind: timeit(product, number=1) for kind, product in products.items()} for _ in range(ROUNDS + 1)][1:]
    best = {kind: min(taken[kind] for taken in rounds) for kind in KINDS}
    return "onednn" if best["onednn"] < (1 - GAIN) * best["mkl"] else "mkl"


def _remembered() -> str:
    """Return the cached result of ``faster_linear`` for this kind of CPU, measuring it if there is none."""
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lamp-motion" / "linear.json"
    key = (f"{processor()}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads, "
           f"torch {torch.__version__}")
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        if known.get(key) in KINDS:
            return known[key]
    except (OSError, ValueError, AttributeError):  # missing or damaged
        known = {}
    kind = faster_linear()
    with contextlib.suppress(InputError):  # not writable: measure every time
        write_text(path, json.dumps({**known, key: kind}, indent=1) + "\n")
    return kind


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """Apply ``torch.nn.functional.linear``, then ``activation`` ("none" or "gelu").

    On the CPU, large products use the library selected by ``use_linear``. A packed ``weight`` receives no gradient.
    """
    if weight.is_mkldnn:
        return _multiply(x, weight, bias, activation)
    made = (_Product.apply if _is_large(x) and _uses_onednn(x) else F.linear)(x, weight, bias)
    return F.gelu(made) if activation == "gelu" else made


def _uses_onednn(x: Tensor) -> bool:
    return (_kind == "onednn" and x.device.type == "cpu"
            and not (torch.compiler.is_compiling() or torch.jit.is_tracing()))


def _is_large(x: Tensor) -> bool:
    return x.numel() > LEAST and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "none")


class _Product(torch.autograd.Function):
    """Linear function computed by oneDNN, forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _multiply(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        rows = grad.reshape(-1, grad.shape[-1])
        return (_multiply(grad, weight.t()) if for_x else None,
                _multiply(rows.t(), x.reshape(-1, x.shape[-1]).t()) if for_weight else None,
                rows.sum(0) if for_bias else None)


class Linear(nn.Linear):
    """``torch.nn.Linear`` that uses the library selected by ``use_linear``."""

    def forward(self, x: Tensor, activation: str = "none") -> Tensor:
        return linear(x, self.weight, self.bias, activation)

    def pack(self) -> None:
        """Convert the weight to oneDNN's layout, for inference only. The state dict stays the same."""
        self.weight = nn.Parameter(pack_weight(self.weight), requires_grad=False)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.weight.is_mkldnn:
            destination[f"{prefix}weight"] = self.weight.to_dense()


class _PackedConvolution(torch.autograd.Function):
    """Packed convolution of stride 1. Only the input receives a gradient, computed by another packed convolution."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: "Conv1d") -> Tensor:
        ctx.layer = layer
        return layer.packed(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.layer.adjoint.packed(grad), None


class Conv1d(nn.Conv1d):
    """``torch.nn.Conv1d`` without groups that uses the library selected by ``use_linear``.

    oneDNN computes it as a 2-D convolution of images of height 1, or as a linear layer if the kernel size is 1. The
    output (b, c, t) is then channels-last in memory.
    """

    def forward(self, x: Tensor) -> Tensor:
        packed, differentiated = self.weight.is_mkldnn, x.requires_grad and torch.is_grad_enabled()
        if packed and not differentiated:
            return self.packed(x)
        if packed and self.stride == (1,):
            return _PackedConvolution.apply(x, self)
        if not (packed or _uses_onednn(x)):
            return super().forward(x)
        weight = self._dense()
        if self.kernel_size == (1,):
            return linear(x.transpose(1, 2), weight.squeeze(2), self.bias).transpose(1, 2)
        image, weight = (part.unsqueeze(2).contiguous(memory_format=torch.channels_last) for part in (x, weight))
        padding, stride, dilation = self._geometry()
        return F.conv2d(image, weight, self.bias, stride, padding, dilation).squeeze(2)

    def packed(self, x: Tensor) -> Tensor:
        """Apply the packed weight to ``x`` (b, c, t), without gradients."""
        if self.kernel_size == (1,):
            return linear(x.transpose(1, 2), self.weight, self.bias).transpose(1, 2)
        image = x.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        return torch.ops.mkldnn._convolution_pointwise(
            image, self.weight, self.bias, *self._geometry(), 1, "none", [], "").squeeze(2)

    @cached_property
    def adjoint(self) -> "Conv1d":
        """Packed layer that maps gradients of the output to gradients of the input, for stride 1."""
        [size], [padding], [dilation] = self.kernel_size, self.padding, self.dilation
        layer = Conv1d(self.out_channels, self.in_channels, size, padding=dilation * (size - 1) - padding,
                       dilation=dilation, bias=False)
        layer.weight = nn.Parameter(self._dense().detach().transpose(0, 1).flip(2).contiguous(), requires_grad=False)
        layer.pack()
        return layer

    def pack(self) -> None:
        """Convert the weight to oneDNN's layout, for inference only. Inputs still receive gradients."""
        weight = self.weight.detach()
        packed = pack_weight(weight.squeeze(2)) if self.kernel_size == (1,) else (
            torch.ops.mkldnn._reorder_convolution_weight(weight.unsqueeze(2), *self._geometry(), 1))
        self.weight = nn.Parameter(packed, requires_grad=False)

    def _dense(self) -> Tensor:
        """Return the weight (out, in, kernel) in torch's layout."""
        shape = self.out_channels, self.in_channels, *self.kernel_size
        return self.weight.to_dense().reshape(shape) if self.weight.is_mkldnn else self.weight

    def _geometry(self) -> tuple[list[int], list[int], list[int]]:
        """Return the padding, stride and dilation of the equivalent 2-D convolution."""
        return [0, *self.padding], [1, *self.stride], [1, *self.dilation]

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.weight.is_mkldnn:
            destination[f"{prefix}weight"] = self._dense()


def can_pack() -> bool:
    """Return whether this version of torch has the private operators for oneDNN."""
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in OPERATORS)


def packs() -> bool:
    """Return whether networks should be packed for inference on the CPU, that is, whether oneDNN is selected."""
    return _kind == "onednn"


def pack_weight(weight: Tensor) -> Tensor:
    """Convert ``weight`` (out, in) to oneDNN's layout, for use with ``linear``."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)


def pack_linears(network: nn.Module) -> None:
    """Convert the linear and convolution weights of ``network`` to oneDNN's layout, in place.

    The network must be in eval mode on the CPU. Matrix products become faster, and each row of a product becomes
    independent of the batch size. Weights shared by several modules are not converted.
    """
    uses = Counter(id(weight) for _, weight in network.named_parameters(remove_duplicate=False))
    for part in network.modules():
        weight = getattr(part, "weight", None)
        if hasattr(part, "pack") and (weight is None or uses[id(weight)] == 1):
            part.pack()


def is_packed(network: object) -> bool:
    """Return whether ``network`` is packed, so that a row of its output does not depend on the rest of the batch."""
    return isinstance(network, nn.Module) and any(isinstance(part, Linear | Conv1d) and part.weight.is_mkldnn
                                                  for part in network.modules())


def initialise(module: nn.Module) -> None:
    """Initialise linear and embedding weights from a normal distribution (std ``INIT_STD``), and biases with zeros."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=INIT_STD)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def sinusoid_table(positions: int, dim: int) -> Tensor:
    """Return sinusoidal position encodings (positions, dim) (Vaswani et al. 2017, section 3.5)."""
    rate = torch.exp(torch.arange(0, dim, 2).float() * (-math.log(10000.0) / dim))
    angle = torch.arange(positions).float()[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :dim]


def take_positions(x: Tensor, at: Tensor) -> Tensor:
    """Gather the positions ``at`` (b, c) of ``x`` (b, s, ...). Returns (b, c, ...)."""
    return x[torch.arange(len(x), device=x.device)[:, None], at]


def attention_bias(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Convert an attention mask to an additive bias in ``dtype``. On the CPU, boolean masks are returned unchanged.

    On other devices, this saves each layer from converting a boolean mask itself and waiting for the device.
    """
    if mask is None or mask.is_floating_point():
        return mask if mask is None else mask.to(dtype)
    if mask.device.type == "cpu":
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, -math.inf)


class SelfAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, section 3.2.2)."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"latent_dim {dim} must be a multiple of n_heads {heads}")
        self.heads = heads
        self.dropout = dropout
        self._packed: dict[tuple[int, int], Tensor] | None = None
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor, mask: Tensor | None, asked: Tensor | None = None) -> Tensor:
        """Attend from ``asked`` (b, c, dim), by default ``x``, to ``x`` (b, s, dim). Returns (b, c, dim).

        ``mask`` broadcasts to (b, heads, c, s). It is boolean, True at visible positions, or a bias for the scores.
        """
        dropout = self.dropout if self.training else 0.0
        if asked is None:
            query, key, value = self._project(x, 0, 3).chunk(3, -1)
        else:
            query = self._project(asked, 0, 1)
            key, value = self._project(x, 1, 3).chunk(2, -1)
        mixed = F.scaled_dot_product_attention(*map(self._split, (query, key, value)), attn_mask=mask,
                                               dropout_p=dropout)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    def pack(self) -> None:
        """Use packed copies of the input projections, created on first use. The parameters stay the same."""
        self._packed = {}

    def _project(self, x: Tensor, first: int, end: int) -> Tensor:
        """Compute the projections ``first`` to ``end`` (exclusive), concatenated: 0 is query, 1 is key, 2 is value."""
        rows = slice(first * x.shape[-1], end * x.shape[-1])
        weight, bias = self.in_proj_weight[rows], self.in_proj_bias[rows]
        if self._packed is not None:
            if (first, end) not in self._packed:
                self._packed[first, end] = pack_weight(weight)
            weight = self._packed[first, end]
        return linear(x, weight, bias)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (b, heads, s, dim / heads)


class EncoderLayer(nn.Module):
    """Post-norm transformer encoder layer."""

    def __init__(self, dim: int, heads: int, ff_size: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = SelfAttention(dim, heads, dropout)
        self.linear1 = Linear(dim, ff_size)
        self.linear2 = Linear(ff_size, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None, asked: Tensor | None = None) -> Tensor:
        """Encode ``x`` (b, s, dim) or, if given, only ``asked`` (b, c, dim), which are some of its positions."""
        x = self.norm1((x if asked is None else asked) + self.dropout(self.self_attn(x, mask, asked)))
        h = self.linear2(self.dropout(self.linear1(x, "gelu")))
        return self.norm2(x + self.dropout(h))


class TransformerEncoder(nn.Module):
    """Stack of transformer encoder layers."""

    def __init__(self, layers: int, dim: int, heads: int, ff_size: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(dim, heads, ff_size, dropout) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor | None, at: Tensor | None = None) -> Tensor:
        """Encode ``x`` (b, s, dim). With ``at`` (b, c), return only the outputs at these positions."""
        *below, last = self.layers
        for layer in below:
            x = layer(x, mask)
        if at is None:
            return last(x, mask)
        if mask is not None and mask.shape[2] > 1:  # the mask differs between queries
            mask = mask.expand(len(x), -1, -1, -1).gather(2, at[:, None, :, None].expand(-1, 1, -1, mask.shape[3]))
        return last(x, mask, take_positions(x, at))
