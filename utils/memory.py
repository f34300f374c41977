"""How much memory a process has needed."""
import sys

import torch


def peak_gib(device: torch.device | str = "cpu") -> float:
    """The largest amount of memory, GiB, that this process has held so far; on a GPU, of the GPU's.

    On the CPU pages of mapped files count while they are in memory, although the system takes them back when it needs
    to. Windows does not tell; there it is nan.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
