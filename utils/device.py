"""Device selection, peak memory, parallel maps over processes and threads, and progress of long computations."""
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

import torch

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
