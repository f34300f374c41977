"""Devices, parallel maps, progress of long computations, seeds, and random numbers of divided batches."""
import hashlib
import random
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils import InputError


def select_device(gpu_id: int | None) -> torch.device:
    """The device for ``--gpu_id``: -1 is the CPU, k the CUDA device k, None the first CUDA device or else the CPU.

    Raises ``InputError`` for a CUDA device that does not exist.
    """
    count = torch.cuda.device_count()
    if gpu_id is None:
        gpu_id = 0 if count else -1
    if gpu_id == -1:
        return torch.device("cpu")
    if not 0 <= gpu_id < count:
        found = f"{count} CUDA device{'s' if count != 1 else ''}"
        raise InputError(f"--gpu_id {gpu_id}: no such device (found {found}; -1 is the CPU)")
    return torch.device("cuda", gpu_id)


def peak_gib(device: torch.device | str = "cpu") -> float:
    """Peak memory of this process in GiB, on a GPU that of the GPU; NaN on Windows.

    On the CPU it includes resident pages of mapped files, which the system can reclaim.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


@contextmanager
def mapping(workers: int, chunksize: int = 8) -> Iterator[Callable]:
    """An ordered ``map`` over ``workers`` processes; the plain one for a single worker.

    Each process takes ``chunksize`` jobs at a time; use few for long jobs.
    """
    if workers <= 1:
        yield map
        return
    with ProcessPoolExecutor(workers, initializer=_start_worker) as pool:
        yield partial(pool.map, chunksize=chunksize)


def in_own_process(function: Callable, item: object) -> object:
    """``function(item)``, computed in a process that ends afterwards. Raises ``BrokenProcessPool`` if it crashes."""
    with ProcessPoolExecutor(1, initializer=_start_worker) as pool:
        return pool.submit(function, item).result()


@contextmanager
def side_by_side(workers: int) -> Iterator[Callable]:
    """An ordered ``map`` over ``workers`` threads with single-threaded torch operations, which is faster for many small
    networks. The plain ``map`` for a single worker."""
    if workers <= 1:
        yield map
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(workers)
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _start_worker() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # only the main process reports an interruption


Listener = Callable[[str, int, int], None]  # name of a loop, finished steps, all steps

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def report_step(loop: str, done: int, total: int) -> None:
    """Report a finished step of a loop. A listener may raise an exception, which stops the computation."""
    listener = _listener.get()
    if listener is not None:
        listener(loop, done, total)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Context in which ``listener`` receives the steps of this thread."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


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
