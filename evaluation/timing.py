"""How long one thing takes by itself, and on what."""
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch

from utils.cores import processor, usable_cores

Item = TypeVar("Item")
TIMED = 10  # items


def seconds_each(action: Callable[[Item], object], items: Sequence[Item]) -> float:
    """Median seconds of ``action`` on each of the first items by itself, after one that does not count."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    action(items[0])
    times = []
    for item in items[:TIMED]:
        start = time.perf_counter()
        action(item)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def hardware(device: torch.device) -> str:
    """What computes: the GPU or the processor by name, cores and threads, and the version of torch."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{processor()}, {usable_cores()} cores, {torch.get_num_threads()} threads"
    return f"{name}, torch {torch.__version__}"
