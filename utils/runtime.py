"""Devices, parallel maps, progress listeners, seeds, and random numbers for batches split over processes."""
import hashlib
import random
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from utils import InputError


def select_device(gpu_id: int | None) -> torch.device:
    """Return the device for ``--gpu_id``: the CPU for -1, or CUDA device k for k.

    None selects CUDA device 0 or, if there is none, the CPU. Raises ``InputError`` if the CUDA device does not exist.
    """
    count = torch.cuda.device_count()
    if gpu_id is None:
        gpu_id = 0 if count else -1
    if gpu_id == -1:
        return torch.device("cpu")
    if not 0 <= gpu_id < count:
        found = f"{count} CUDA device{'s' if count != 1 else ''}"
        raise InputError(f"--gpu_id {gpu_id}: no such device (found {found}; use -1 for the CPU)")
    return torch.device("cuda", gpu_id)


def peak_gib(device: torch.device | str = "cpu") -> float:
    """Return the peak memory of this process in GiB: GPU memory if ``device`` is a GPU, else main memory.

    Main memory includes resident pages of memory-mapped files, which the system can reclaim. On Windows, the result is
    NaN unless ``device`` is a GPU.
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
    """Context manager that yields an ordered ``map`` over processes, or the built-in ``map`` for one worker.

    Each process takes ``chunksize`` jobs at a time. Use a small value for long jobs.
    """
    if workers <= 1:
        yield map
        return
    with ProcessPoolExecutor(workers, initializer=_start_worker) as pool:
        yield partial(pool.map, chunksize=chunksize)


def map_jobs(function: Callable, jobs: Sequence, workers: int, title: str, quiet: bool) -> Iterator:
    """Yield the result of ``function`` for each job in order, from up to ``workers`` processes, with a progress bar."""
    with mapping(min(workers, len(jobs))) as apply:
        yield from tqdm(apply(function, jobs), total=len(jobs), desc=title, disable=quiet or None, leave=False)


def in_own_process(function: Callable, item: object) -> object:
    """Compute ``function(item)`` in a separate process. Raises ``BrokenProcessPool`` if that process crashes."""
    with ProcessPoolExecutor(1, initializer=_start_worker) as pool:
        return pool.submit(function, item).result()


@contextmanager
def side_by_side(workers: int) -> Iterator[Callable]:
    """Context manager that yields an ordered ``map`` over threads, or the built-in ``map`` for one worker.

    With several workers, torch operations inside the block are single-threaded, which is faster for small networks.
    """
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


Listener = Callable[[str, int, int], None]  # name of a loop, number of finished steps, total number of steps

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def report_step(loop: str, done: int, total: int) -> None:
    """Report a finished step of a loop to the listener. A listener may raise an exception to stop the computation."""
    listener = _listener.get()
    if listener is not None:
        listener(loop, done, total)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Context manager that sends the progress of loops in this thread to ``listener``."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


_MASK = (1 << 63) - 1


def seed_everything(seed: int) -> None:
    """Seed the global random generators of Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed % (1 << 32))  # noqa: NPY002 (some libraries still use it)
    torch.manual_seed(seed)


def stream_seed(*keys: int) -> int:
    """Derive a 63-bit seed from integers. Different ``keys`` give independent random streams."""
    # SeedSequence joins the 32-bit words of all integers. Two words per key and the number of keys keep keys distinct.
    words = [len(keys), *(word for key in keys for word in (key & 0xFFFFFFFF, key >> 32 & 0xFFFFFFFF))]
    state = np.random.SeedSequence(words).generate_state(2, np.uint32)
    return (int(state[0]) << 32 | int(state[1])) & _MASK


def random_state() -> dict[str, Any]:
    """Return the state of the global random generators of Python, NumPy and torch, as plain values and tensors."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    state = {"python": [version, list(words), gauss], "torch": torch.get_rng_state(),
             "numpy": [kind, keys.tolist(), position, has_gauss, cached]}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Restore a state returned by ``random_state``. GPU states are restored only if the number of GPUs is the same."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])


def prompt_seed(seed: int, text: str, in_file: bool) -> int:
    """Return the seed for a prompt's motion.

    The seed of a prompt from a file (``in_file``) is derived from ``seed`` and the text, so other prompts do not affect
    it. A single prompt uses ``seed`` itself.
    """
    if not in_file:
        return seed
    return stream_seed(seed, int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") & _MASK)


@dataclass(frozen=True)
class BatchSlice:
    """The local rows of a batch of ``total`` rows, starting at ``first``, and reductions over all processes.

    This class is for a single process; a subclass communicates with other processes. Random numbers are generated for
    the whole batch, with generators in the same state in all processes, and each slice takes its own rows. They are on
    the generator's device, which is the CPU in training. Copy them with ``non_blocking``, or every copy waits for the
    accelerator.
    """

    first: int = 0
    total: int | None = None  # None: these rows are the whole batch
    last: bool = True         # whether these rows are the last micro-batch of the step
    rank: int = 0
    world_size: int = 1

    def rand(self, generator: torch.Generator, rows: int, *shape: int) -> Tensor:
        """Return uniform random numbers (rows, *shape) in [0, 1)."""
        return self._rows(rows, lambda total: torch.rand(total, *shape, generator=generator, device=generator.device))

    def randint(self, generator: torch.Generator, high: int, rows: int, *shape: int) -> Tensor:
        """Return uniform random integers (rows, *shape) in [0, ``high``)."""
        return self._rows(rows, lambda total: torch.randint(high, (total, *shape), generator=generator,
                                                            device=generator.device))

    def _rows(self, rows: int, draw: Callable[[int], Tensor]) -> Tensor:
        return draw(rows if self.total is None else self.total)[self.first:self.first + rows]

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all processes, without gradient."""
        return tensor

    def gather(self, rows: Tensor, pad: bool = False) -> Tensor:  # noqa: ARG002 (for subclasses)
        """Concatenate the rows (b, ...) of all processes, without gradient. ``pad`` zero-pads them to equal width."""
        return rows

    def gather_with_gradient(self, rows: Tensor) -> Tensor:
        """Concatenate the rows (b, ...) of all processes in order. Gradients are summed over the processes."""
        return rows

    def mean_weight(self, count: int, device: torch.device) -> Tensor | float:  # noqa: ARG002 (for subclasses)
        """Return the weight of a local mean over ``count`` items.

        The average of the weighted means over all processes is the mean over all items.
        """
        return 1.0


WHOLE = BatchSlice()


def sample_columns(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Sample a column index for each row of ``probabilities`` (r, n) from ``uniform`` random numbers (r,).

    Inverts the cumulative distribution. Rows need not sum to 1. ``torch.multinomial`` needs n random numbers per row.
    """
    sums = probabilities.cumsum(1)
    chosen = torch.searchsorted(sums, (uniform.to(sums) * sums[:, -1]).unsqueeze(1), right=True).squeeze(1)
    return chosen.clamp_max(probabilities.shape[1] - 1)
