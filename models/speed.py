"""Faster inference: lower precision, packed or compiled layers, in place."""
from collections.abc import Iterable

import torch
from torch import nn

from models.lamp.qformer import Layer as QFormerLayer
from models.layers import EncoderLayer, choose_linear, pack_linears, packs
from models.transformers.residual import ResidualTransformer
from models.transformers.trunk import GraphCache, OutputProcess, Trunk
from models.vq.model import Decoder, Encoder
from models.vq.quantizer import EmaQuantizer
from utils.errors import InputError

AUTO = "auto"
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def speed_up(networks: Iterable[nn.Module], precision: str = "fp32", compiled: bool = False,
             cpu_linear: str = "auto") -> None:
    """Set networks in eval mode to a precision of ``PRECISIONS`` or ``AUTO``, pack their linear layers on the CPU
    (``models.layers``). With ``compiled``, compile their expensive layers, and on CUDA record the sampling loops of the
    token models as graphs.

    Raises ``InputError`` for fp16 on the CPU, where it is slow and has too small a range.
    """
    choose_linear(cpu_linear)
    for network in dict.fromkeys(networks):
        on_cpu = next(network.parameters()).device.type == "cpu"
        dtype = PRECISIONS[automatic_precision(on_cpu) if precision == AUTO else precision]
        if dtype == torch.float16 and on_cpu:
            raise InputError("fp16 needs a CUDA device; use bf16 on the CPU")
        if dtype != torch.float32:
            _lower(network, dtype)
        if compiled and not on_cpu and isinstance(network, Trunk):
            network.graphs = GraphCache()
        elif compiled:
            compile_layers(network)
        elif on_cpu and packs():
            pack_linears(network)


def automatic_precision(on_cpu: bool) -> str:
    """``bf16`` if the device has hardware bfloat16 products, else ``fp32``."""
    if on_cpu:
        has = torch.cpu.get_capabilities()
        return "bf16" if has.get("avx512_bf16") or has.get("amx_bf16") or has.get("bf16") else "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def _lower(network: nn.Module, dtype: torch.dtype) -> None:
    """Convert floating-point weights to ``dtype``, except those with visible rounding errors:

    the head of a token model and the tables of a residual one, whose errors guidance amplifies; the codebook, for
    distances; and the last convolution, since a motion rounded to 8 bits jitters.
    """
    kept: set[int] = set()
    for part in network.modules():
        if isinstance(part, (Encoder, Decoder)):
            kept |= {id(tensor) for tensor in part.model[-1].parameters()}
        elif isinstance(part, (OutputProcess, EmaQuantizer)):
            kept |= {id(tensor) for tensor in (*part.parameters(), *part.buffers())}
        elif isinstance(part, ResidualTransformer):
            kept |= {id(tensor) for tensor in part.parameters(recurse=False)}
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.is_floating_point() and id(tensor) not in kept:
            tensor.data = tensor.data.to(dtype)


def compile_layers(network: nn.Module) -> None:
    """Compile layer by layer, so that equal layers share their code."""
    for part in network.modules():
        if isinstance(part, (QFormerLayer, EncoderLayer, Encoder, Decoder)):
            part.compile(dynamic=True)
