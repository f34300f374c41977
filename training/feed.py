"""Batches on the device, one ahead of the step that is computed."""
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from training.batches import EpochBatches
from training.stage import to_device

FREE_SHARE = 0.3  # of a GPU's free memory that a data set may take for good


class Feed:
    """Iterates over the batches of an epoch, on ``device``.

    On CUDA a data set that can take batches out of the device's own memory lies there as a whole, where it fits. Else
    the loader's batches lie in pinned memory, and the next one is copied on a stream of its own while the device
    computes on the one before.
    """

    def __init__(self, dataset: Dataset, batches: EpochBatches, device: torch.device, workers: int = 0) -> None:
        self.dataset, self.batches, self.device = dataset, batches, device
        self.loader = DataLoader(dataset, batch_sampler=batches, num_workers=workers, pin_memory=device.type == "cuda",
                                 generator=torch.Generator())  # own: an epoch start must not move the global one
        self.take = dataset.on_device(device) if fits(dataset, device) else None
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __iter__(self) -> Iterator[Any]:
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(self.batches.epoch)
        if self.take is not None:
            yield from map(self.take, self.batches)
            return
        ahead = None
        for batch in self.loader:
            with self._copying():
                copied = to_device(batch, self.device)
            if ahead is not None:
                yield self._ready(*ahead)
            ahead = copied, None if self.stream is None else self.stream.record_event()
        if ahead is not None:
            yield self._ready(*ahead)

    def _copying(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.stream is None else torch.cuda.stream(self.stream)

    def _ready(self, batch: Any, copied: torch.cuda.Event | None) -> Any:
        if copied is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(copied)
            _keep(batch, current)
        return batch


def fits(dataset: Dataset, device: torch.device) -> bool:
    """Whether a data set has ``on_device`` and ``nbytes``, as ``MotionWindows`` does, and these are few for a GPU."""
    if device.type != "cuda" or not hasattr(dataset, "on_device"):
        return False
    return dataset.nbytes < FREE_SHARE * torch.cuda.mem_get_info(device)[0]


def _keep(batch: Any, stream: torch.cuda.Stream) -> None:
    """Tell the allocator that ``stream`` reads the tensors of a batch, which another stream made."""
    if isinstance(batch, Tensor):
        batch.record_stream(stream)
    elif isinstance(batch, dict):
        for value in batch.values():
            _keep(value, stream)
    elif isinstance(batch, (list, tuple)):
        for value in batch:
            _keep(value, stream)
