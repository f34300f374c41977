"""Batches of an epoch: their order, their division between processes and micro-batches, and loading to the device."""
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch.utils.data import DataLoader, Dataset, Sampler

from training.distributed import batch_slice
from utils.errors import InputError
from utils.seeding import BatchSlice, stream_seed

POOL = 16         # batches that are sorted by length together
FREE_SHARE = 0.3  # of a GPU's free memory that a data set may occupy


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


class BatchLoader:
    """Iterates over the micro-batches of an epoch on ``device``.

    On CUDA a data set with ``on_device`` and ``nbytes`` (``MotionWindows``) is kept in device memory if it fits; others
    are loaded into pinned memory and copied asynchronously.
    """

    def __init__(self, dataset: Dataset, batches: EpochBatches, device: torch.device, workers: int = 0) -> None:
        self.dataset, self.batches, self.device = dataset, batches, device
        self.loader = DataLoader(dataset, batch_sampler=batches, num_workers=workers, pin_memory=device.type == "cuda",
                                 generator=torch.Generator())  # so that the global one is not advanced
        self.take = dataset.on_device(device) if fits(dataset, device) else None

    def __iter__(self) -> Iterator[Any]:
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(self.batches.epoch)
        if self.take is not None:
            yield from map(self.take, self.batches)
        else:
            yield from (send_to_device(batch, self.device, non_blocking=True) for batch in self.loader)


def fits(dataset: Dataset, device: torch.device) -> bool:
    """Whether a data set with ``on_device`` takes at most ``FREE_SHARE`` of a GPU's free memory."""
    if device.type != "cuda" or not hasattr(dataset, "on_device"):
        return False
    return dataset.nbytes < FREE_SHARE * torch.cuda.mem_get_info(device)[0]
