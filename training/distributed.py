"""Process setup, what the processes of a run exchange (on ``accelerate``), and the division of batches between them.

All functions also work in a single process.
"""
import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs, PartialState
from accelerate.utils import gather, gather_object, pad_across_processes, reduce, send_to_device
from torch import Tensor
from torch.distributed.nn.functional import all_gather
from torch.utils.data import DataLoader, Dataset, Sampler

from models.layers import choose_linear
from storage.runs import inherit_settings
from utils.device import select_device
from utils.errors import InputError
from utils.files import refuse_if_held
from utils.seeding import BatchSlice, seed_everything, stream_seed

TIMEOUT = timedelta(hours=1)  # timeout for a process that waits for a longer validation on another
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
    # Buffers are equal in all processes, so they are not broadcast.
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
    """Whether this is the main process, which writes and prints."""
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


POOL = 16         # number of batches sorted by length together
FREE_SHARE = 0.3  # share of a GPU's free memory that a data set may use


class EpochBatches(Sampler[list[int]]):
    """Indices of the shuffled, whole batches of one epoch. The order depends on (seed, epoch) only, so that a run
    resumes with the remaining batches of an epoch, with any number of processes.

    A batch is divided into ``parts`` micro-batches, and each of them between ``ranks`` processes; this yields the
    indices for process ``rank``, a list per micro-batch. With ``weights`` (length,) an epoch is sampled with
    replacement, otherwise it has every sample once. With ``lengths`` (length,) samples of similar length share a batch
    to save padding: those of every 16 batches are sorted, and the batches shuffled.

    Raises ``InputError`` if a batch cannot be divided.
    """

    def __init__(self, length: int, batch_size: int, seed: int, weights: np.ndarray | None = None, *, parts: int = 1,
                 rank: int = 0, ranks: int = 1, lengths: np.ndarray | None = None) -> None:
        pieces = parts * ranks
        if batch_size % pieces:
            raise InputError(f"--batch_size {batch_size} is not a multiple of {ranks} processes x --grad_accum {parts}")
        if length < pieces:
            raise InputError(f"{length} training samples are too few for {ranks} processes x --grad_accum {parts}")
        self.length, self.seed, self.parts, self.rank, self.ranks = length, seed, parts, rank, ranks
        self.batch_size = min(batch_size, length // pieces * pieces)
        self.weights = None if weights is None else torch.from_numpy(weights)
        self.lengths = lengths
        self.epoch, self.start = 0, 0

    def __len__(self) -> int:
        return self.length // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(stream_seed(self.seed, self.epoch))
        if self.weights is None:
            order = torch.randperm(self.length, generator=generator).tolist()
        else:
            order = torch.multinomial(self.weights, self.length, replacement=True, generator=generator).tolist()
        if self.lengths is not None:
            order = self._by_length(np.array(order), generator)
        for batch in range(self.start, len(self)):
            for part in self.slices():
                first = batch * self.batch_size + part.first
                yield order[first:first + self.batch_size // (self.parts * self.ranks)]

    def _by_length(self, order: np.ndarray, generator: torch.Generator) -> list[int]:
        """The samples of an epoch in whole batches of similar length."""
        order = order[:len(self) * self.batch_size]
        pools = np.arange(len(order)) // (POOL * self.batch_size)
        batches = order[np.lexsort((self.lengths[order], pools))].reshape(len(self), -1)
        return batches[torch.randperm(len(self), generator=generator).numpy()].ravel().tolist()

    def slices(self) -> list[BatchSlice]:
        """The rows of a step's batch in each micro-batch."""
        rows = self.batch_size // (self.parts * self.ranks)
        return [batch_slice((part * self.ranks + self.rank) * rows, self.batch_size, part == self.parts - 1)
                for part in range(self.parts)]


class EpochItems(Dataset):
    """A data set whose copies in worker processes have the epoch of the main process, so that workers can stay."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        self.follow()
        return self.dataset[index]

    def follow(self) -> None:
        """Pass the epoch to the data set, if it has ``set_epoch``."""
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(int(self.epoch))


class BatchLoader:
    """Iterates over the micro-batches of an epoch on ``device``.

    On CUDA a data set with ``on_device`` and ``nbytes`` (``MotionWindows``, ``TextMotion``) is kept in device memory if
    it fits; others are loaded into pinned memory and copied asynchronously, by ``workers`` processes.
    """

    def __init__(self, dataset: Dataset, batches: EpochBatches, device: torch.device, workers: int = 0) -> None:
        self.items, self.batches, self.device = EpochItems(dataset), batches, device
        self.take = dataset.on_device(device) if fits(dataset, device) else None
        # Its own generator keeps the state of the global one.
        self.loader = DataLoader(self.items, batch_sampler=batches, num_workers=workers, generator=torch.Generator(),
                                 pin_memory=device.type == "cuda", persistent_workers=workers > 0)

    def __iter__(self) -> Iterator[Any]:
        self.items.epoch.fill_(self.batches.epoch)
        self.items.follow()
        if self.take is not None:
            yield from map(self.take, self.batches)
        else:
            yield from (send_to_device(batch, self.device, non_blocking=True) for batch in self.loader)


def fits(dataset: Dataset, device: torch.device) -> bool:
    """Whether a data set with ``on_device`` takes at most ``FREE_SHARE`` of a GPU's free memory."""
    if device.type != "cuda" or not hasattr(dataset, "on_device"):
        return False
    return dataset.nbytes < FREE_SHARE * torch.cuda.mem_get_info(device)[0]
