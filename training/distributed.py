"""Process setup and what the processes of a run exchange, on ``accelerate``.

Every function may be called in a run of a single process, where nothing is exchanged.
"""
import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs, PartialState
from accelerate.utils import gather, gather_object, pad_across_processes, reduce
from torch import Tensor
from torch.distributed.nn.functional import all_gather

from models.layers import choose_linear
from storage.source import inherit_settings
from utils.device import select_device
from utils.errors import InputError
from utils.files import refuse_if_held
from utils.seeding import BatchSlice, seed_everything

TIMEOUT = timedelta(hours=1)  # of a process that waits for a longer validation on another
Item = TypeVar("Item")
Result = TypeVar("Result")


def start_run(opt: argparse.Namespace) -> torch.device:
    """Complete the options (``inherit_settings``), seed everything, join the process group, and let only rank 0 print.

    Returns the device of this process. Raises ``InputError`` if it does not exist, or if another run trains a
    model of this name.
    """
    inherit_settings(opt)
    seed_everything(opt.seed)
    device = make_accelerator(opt).device
    choose_linear(opt.cpu_linear)
    if is_main():
        refuse_if_held(Path(opt.checkpoints_dir) / opt.dataset_name / opt.name, "--name")
    if not is_main():
        opt.quiet = True
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (until the process ends)
    return device


def make_accelerator(opt: argparse.Namespace, find_unused: bool = False) -> Accelerator:
    """The process group and precision for the options; ``opt.gpu_id`` selects the device of a single process.

    ``find_unused``: some parameters do not contribute to the loss.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        cpu = opt.gpu_id == -1 or not torch.cuda.is_available()
    else:
        device = select_device(opt.gpu_id)
        cpu = device.type == "cpu"
        if not cpu:
            os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
    if cpu and opt.mixed_precision == "fp16":
        raise InputError("--mixed_precision fp16 needs a GPU; CPUs have bf16")
    # Buffers are computed alike in all processes, so they are not broadcast.
    wrapper = DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=find_unused,
                                            gradient_as_bucket_view=True)
    return Accelerator(cpu=cpu, mixed_precision=opt.mixed_precision,
                       kwargs_handlers=[wrapper, InitProcessGroupKwargs(timeout=TIMEOUT)])


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Index of this process, 0 for the main one."""
    return dist.get_rank() if world_size() > 1 else 0


def is_main() -> bool:
    """Whether this is the process that writes and prints."""
    return rank() == 0


def total(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all processes, without gradient."""
    return tensor if world_size() == 1 else reduce(tensor.detach(), "sum")


def divide(items: Sequence[Item], make: Callable[[list[Item]], Sequence[Result]]) -> list[Result]:
    """``make(items)``, one result for each item, with the items divided between the processes; every process gets all
    results in order. Results must be on the CPU."""
    if world_size() == 1:
        return list(make(list(items)))
    with PartialState().split_between_processes(list(items)) as own:
        return gather_object(list(make(own)) if own else [])


@dataclass(frozen=True)
class DistributedSlice(BatchSlice):
    """A ``BatchSlice`` that exchanges with the other processes."""

    def sum(self, tensor: Tensor) -> Tensor:
        """See ``BatchSlice``."""
        return total(tensor)

    def gather(self, rows: Tensor, pad: bool = False) -> Tensor:
        """See ``BatchSlice``."""
        rows = rows.detach()
        return gather(pad_across_processes(rows, dim=1) if pad else rows)

    def gather_with_gradient(self, rows: Tensor) -> Tensor:
        """See ``BatchSlice``."""
        return torch.cat(all_gather(rows))

    def mean_weight(self, count: int, device: torch.device) -> Tensor | float:
        """See ``BatchSlice``."""
        amount = torch.tensor(float(count), device=device)
        return self.world_size * amount / total(amount).clamp_min(1)


def batch_slice(first: int, rows: int, last: bool) -> BatchSlice:
    """The slice from row ``first`` of a batch of ``rows`` rows, for this process."""
    kind = DistributedSlice if world_size() > 1 else BatchSlice
    return kind(first, rows, last, rank(), world_size())
