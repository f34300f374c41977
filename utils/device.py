"""Device selection and peak memory."""
import sys

import torch

from utils.errors import InputError


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
        raise InputError(f"--gpu_id {gpu_id}: there is no such device ({found} here; -1 is the CPU)")
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
