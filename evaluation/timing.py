"""How long one thing takes by itself, and on what."""
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from utils.cores import usable_cores

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
        name = f"{_processor()}, {usable_cores()} cores, {torch.get_num_threads()} threads"
    return f"{name}, torch {torch.__version__}"


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(errors="replace").splitlines() if facts.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
