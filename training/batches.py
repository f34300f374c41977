"""Which samples a step takes, and which of them fall to a process, part by part."""
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Sampler

from utils.draws import Share
from utils.errors import InputError
from utils.seeding import stream_seed

POOL = 16  # batches among which samples of like length are brought together


class EpochBatches(Sampler[list[int]]):
    """Shuffled whole batches of one epoch. The order follows from (seed, epoch) alone, so that a run which resumes in
    the middle of an epoch goes on with the batches that were left, with however many processes.

    A batch is cut into ``parts`` that follow one another within a step, and each part among ``ranks`` processes; this
    gives what falls to process ``rank``, a list a part. With ``weights`` (length,) an epoch is that many draws with
    replacement, else every sample once. With ``lengths`` (length,) samples of like length share a batch, so that less
    of it is padding: those of every 16 batches are exchanged, and the batches shuffled.

    Raises ``InputError`` where a batch cannot be cut so.
    """

    def __init__(self, length: int, batch_size: int, seed: int, weights: np.ndarray | None = None, *, parts: int = 1,
                 rank: int = 0, ranks: int = 1, lengths: np.ndarray | None = None) -> None:
        pieces = parts * ranks
        if batch_size % pieces:
            raise InputError(f"--batch_size {batch_size} is no multiple of {ranks} processes x --grad_accum {parts}")
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
            for share in self.shares():
                first = batch * self.batch_size + share.first
                yield order[first:first + self.batch_size // (self.parts * self.ranks)]

    def _by_length(self, order: np.ndarray, generator: torch.Generator) -> list[int]:
        """The samples of an epoch, in whole batches of like length."""
        order = order[:len(self) * self.batch_size]
        pools = np.arange(len(order)) // (POOL * self.batch_size)
        batches = order[np.lexsort((self.lengths[order], pools))].reshape(len(self), -1)
        return batches[torch.randperm(len(self), generator=generator).numpy()].ravel().tolist()

    def shares(self) -> list[Share]:
        """Which rows of a step's batch the parts are."""
        rows = self.batch_size // (self.parts * self.ranks)
        return [Share((part * self.ranks + self.rank) * rows, self.batch_size, last=part == self.parts - 1)
                for part in range(self.parts)]
