"""Trained networks made faster, in place: weights in lower precision, layers compiled."""
from collections.abc import Iterable

import torch
from torch import nn

from models.lamp.qformer import Layer as QFormerLayer
from models.transformers.residual import ResidualTransformer
from models.transformers.trunk import EncoderLayer, OutputProcess
from models.vq.encdec import Decoder, Encoder
from models.vq.quantizer import EmaQuantizer
from utils.errors import InputError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def speed_up(networks: Iterable[nn.Module], precision: str = "fp32", compiled: bool = False) -> None:
    """Set networks, in eval mode, to a precision of ``PRECISIONS`` and compile what they spend their time in.

    ``InputError`` for fp16 on the CPU, where it is slow and its range too small to be of use.
    """
    for network in dict.fromkeys(networks):
        dtype = PRECISIONS[precision]
        if dtype == torch.float16 and next(network.parameters()).device.type == "cpu":
            raise InputError("fp16 needs a CUDA device; bf16 is what a CPU may have")
        if dtype != torch.float32:
            _lower(network, dtype)
        if compiled:
            _compile(network)


def _lower(network: nn.Module, dtype: torch.dtype) -> None:
    """Floating weights to ``dtype``, but for those whose rounding would show:

    the head of a token model and the tables around a residual one, whose errors guidance multiplies; the codebook that
    distances are measured to; and the last convolution, since a motion rounded to eight bits trembles.
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


def _compile(network: nn.Module) -> None:
    """Compile layer by layer: equal layers share their code, and a first call waits for one of each kind."""
    for part in network.modules():
        if isinstance(part, (QFormerLayer, EncoderLayer, Encoder, Decoder)):
            part.compile(dynamic=True)
