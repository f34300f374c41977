"""Work on many files in several processes."""
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial

import torch


@contextmanager
def mapping(workers: int) -> Iterator[Callable]:
    """An ordered ``map`` over ``workers`` processes; the plain one for a single worker."""
    if workers <= 1:
        yield map
        return
    with ProcessPoolExecutor(workers, initializer=_start_worker) as pool:
        yield partial(pool.map, chunksize=8)


def _start_worker() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process tells of an interruption, once
