"""Linear layers on the CPU, computed by the faster of two libraries.

torch computes float32 matrix products with MKL, which chooses kernels by CPU vendor and does not use AVX-512 on AMD.
Convolutions use oneDNN, which chooses by instruction set. A linear layer is a convolution of kernel size 1, forward and
backward, with the same parameters. bfloat16 products always use oneDNN.
"""
import contextlib
import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.cpu import processor
from utils.errors import InputError
from utils.files import write_text

KINDS = ("mkl", "onednn")
LEAST = 20480    # size of an input from which torch uses oneDNN for a single image
PICTURES = 16    # number of images from which torch uses oneDNN with one thread
PICTURE_ROWS = 8  # rows below which an image costs more than it saves

ROWS, WIDTH = 400, 768  # of the measured product
ROUNDS = 9
GAIN = 0.15

_kind = "mkl"


def use_linear(kind: str) -> None:
    """Set the library for linear layers on the CPU, one of ``KINDS``; torch uses ``mkl``."""
    global _kind
    if kind not in KINDS:
        raise ValueError(f"linear {kind!r} is not one of {', '.join(KINDS)}")
    _kind = kind


def choose_linear(setting: str = "auto") -> str:
    """Set the library by ``--cpu_linear``, one of ``KINDS`` or ``auto``, which measures. Returns the kind.

    The first measurement on a kind of CPU is stored in the user's cache folder, so that later runs use the same kind.
    """
    kind = _remembered() if setting == "auto" else setting
    use_linear(kind)
    return kind


def faster_linear(seconds: Callable[[str], float] | None = None) -> str:
    """The faster kind for a product of typical size: ``onednn`` if it saves at least ``GAIN`` of the time."""
    seconds = seconds or _product_seconds()
    rounds = [{kind: seconds(kind) for kind in KINDS} for _ in range(ROUNDS + 1)][1:]
    best = {kind: min(taken[kind] for taken in rounds) for kind in KINDS}
    return "onednn" if best["onednn"] < (1 - GAIN) * best["mkl"] else "mkl"


def _product_seconds() -> Callable[[str], float]:
    x, weight = torch.ones(ROWS, WIDTH), torch.ones(WIDTH, WIDTH)

    def seconds(kind: str) -> float:
        start = time.perf_counter()
        _BY_KIND[kind](x, weight, None)
        return time.perf_counter() - start

    return seconds


def _remembered() -> str:
    """Cached result of ``faster_linear`` for this kind of CPU."""
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
    """``x @ weight.T + bias`` of x (..., in) and weight (out, in), as ``torch.nn.functional.linear``, then the
    ``activation``, ``none`` or ``gelu``. A packed weight has no gradient."""
    if weight.is_mkldnn:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "none")
    made = (_convolution if _is_faster_as_convolution(x) else F.linear)(x, weight, bias)
    return F.gelu(made) if activation == "gelu" else made


def _is_faster_as_convolution(x: Tensor) -> bool:
    return (_kind == "onednn" and x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > LEAST
            and not (torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling() or torch.jit.is_tracing()))


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    rows = x.numel() // x.shape[-1]
    pictures = 1 if torch.get_num_threads() > 1 else _pictures(rows)
    if pictures is None:
        return F.linear(x, weight, bias)
    # (images, in, rows, 1) in channels-last order, the layout of x
    image = x.reshape(pictures, rows // pictures, 1, x.shape[-1]).permute(0, 3, 1, 2)
    made = F.conv2d(image, weight[:, :, None, None], bias)
    return made.permute(0, 2, 3, 1).reshape(*x.shape[:-1], len(weight))


def _pictures(rows: int) -> int | None:
    """Smallest number of equal images, at least ``PICTURES``, that rows can be divided into."""
    return next((count for count in range(PICTURES, rows // PICTURE_ROWS + 1) if rows % count == 0), None)


_BY_KIND = {"mkl": F.linear, "onednn": _convolution}


class Linear(nn.Linear):
    """``torch.nn.Linear`` computed by ``linear``, with the same parameters."""

    def forward(self, x: Tensor, activation: str = "none") -> Tensor:
        return linear(x, self.weight, self.bias, activation)

    def pack(self) -> None:
        """Keep the weight only in oneDNN's layout, for inference. The state dict does not change."""
        self.weight = nn.Parameter(pack_weight(self.weight), requires_grad=False)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.weight.is_mkldnn:
            destination[f"{prefix}weight"] = self.weight.to_dense()


def can_pack() -> bool:
    """Whether this version of torch has the required operators, which are not public."""
    return torch.backends.mkldnn.is_available() and all(
        hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))


def pack_weight(weight: Tensor) -> Tensor:
    """A weight (out, in) in oneDNN's layout, which only ``linear`` can use."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)


def pack_linears(network: nn.Module) -> None:
    """Pack the linear layers of a network in eval mode on the CPU, in place.

    Products are then faster, and each row of a product is the same for any number of rows. Weights shared by several
    modules are not packed.
    """
    uses = Counter(id(weight) for _, weight in network.named_parameters(remove_duplicate=False))
    for part in network.modules():
        weight = getattr(part, "weight", None)
        if hasattr(part, "pack") and (weight is None or uses[id(weight)] == 1):
            part.pack()


def is_packed(network: object) -> bool:
    """Whether the linear layers of a network are packed, so that a row does not depend on the other rows."""
    return isinstance(network, nn.Module) and any(isinstance(part, Linear) and part.weight.is_mkldnn
                                                  for part in network.modules())


def sinusoid_table(positions: int, dim: int) -> Tensor:
    """Sines and cosines (positions, dim) of falling frequency, alternating (Vaswani et al. 2017, section 3.5)."""
    rate = torch.exp(torch.arange(0, dim, 2).float() * (-math.log(10000.0) / dim))
    angle = torch.arange(positions).float()[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :dim]
