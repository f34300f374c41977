"""Seeds, independent random streams, generator states, and random numbers of divided batches."""
import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

_MASK = (1 << 63) - 1


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators (dropout, initialisation, shuffling)."""
    random.seed(seed)
    np.random.seed(seed % (1 << 32))  # noqa: NPY002 (libraries that still draw from it)
    torch.manual_seed(seed)


def stream_seed(*keys: int) -> int:
    """A 63-bit seed from several integers; different keys give independent streams."""
    # NumPy splits integers into 32-bit words without a count; length and padding keep keys distinct.
    words = [len(keys), *(word for key in keys for word in (key & 0xFFFFFFFF, key >> 32 & 0xFFFFFFFF))]
    state = np.random.SeedSequence(words).generate_state(2, np.uint32)
    return (int(state[0]) << 32 | int(state[1])) & _MASK


def random_state() -> dict[str, Any]:
    """State of the global generators of Python, NumPy and torch, as plain numbers and tensors."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    state = {"python": [version, list(words), gauss], "torch": torch.get_rng_state(),
             "numpy": [kind, keys.tolist(), position, has_gauss, cached]}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Restore a ``random_state``."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])


def text_key(text: str) -> int:
    """A 63-bit key of a text for ``stream_seed``, the same in every process."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") & _MASK


def prompt_seed(seed: int, text: str, in_file: bool) -> int:
    """The seed of a prompt's motion. Each prompt of a file has a random stream that depends on ``seed`` and its text,
    not on the other prompts; a single prompt uses ``seed`` itself."""
    return stream_seed(seed, text_key(text)) if in_file else seed


@dataclass(frozen=True)
class BatchSlice:
    """Rows ``first`` to ``first`` + b of a batch of ``total`` rows, for a single process.

    Random numbers are generated for the whole batch, from generators with the same state in all processes, and each
    slice takes those of its rows. They are on the generator's device, in training the CPU; copy them with
    ``non_blocking``, or each copy waits for the accelerator.
    """

    first: int = 0
    total: int | None = None  # None: these rows are the whole batch
    last: bool = True         # whether these rows are the last micro-batch of the step
    rank: int = 0
    world_size: int = 1

    def rand(self, generator: torch.Generator, rows: int, *shape: int) -> Tensor:
        """Uniform numbers (rows, *shape) in [0, 1)."""
        return self._rows(rows, lambda total: torch.rand(total, *shape, generator=generator, device=generator.device))

    def randint(self, generator: torch.Generator, high: int, rows: int, *shape: int) -> Tensor:
        """Uniform integers (rows, *shape) from 0 to ``high`` - 1."""
        return self._rows(rows, lambda total: torch.randint(high, (total, *shape), generator=generator,
                                                            device=generator.device))

    def _rows(self, rows: int, draw: Callable[[int], Tensor]) -> Tensor:
        return draw(rows if self.total is None else self.total)[self.first:self.first + rows]

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all processes, without gradient."""
        return tensor

    def gather(self, rows: Tensor, pad: bool = False) -> Tensor:  # noqa: ARG002 (for subclasses)
        """Rows (b, ...) of all processes in order, (all, ...), without gradient; ``pad`` evens out widths by zeros."""
        return rows

    def gather_with_gradient(self, rows: Tensor) -> Tensor:
        """Rows (b, ...) of all processes in order, (all, ...); gradients are summed over the processes."""
        return rows

    def mean_weight(self, count: int, device: torch.device) -> Tensor | float:  # noqa: ARG002 (for subclasses)
        """Weight of a mean over ``count`` items here, so that the average over processes is the mean over all items."""
        return 1.0


WHOLE = BatchSlice()


def sample_columns(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Sample a column (r,) for each row of probabilities (r, n) by inverting the cumulative distribution at ``uniform``
    (r,) in [0, 1). Rows need not sum to 1. Uses one random number per row; ``torch.multinomial`` uses n."""
    sums = probabilities.cumsum(1)
    chosen = torch.searchsorted(sums, (uniform.to(sums) * sums[:, -1]).unsqueeze(1), right=True).squeeze(1)
    return chosen.clamp_max(probabilities.shape[1] - 1)
