"""Parallel maps over processes and threads."""
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import torch


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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process reports an interruption, once
