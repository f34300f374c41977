"""Which device a script runs on."""
import torch

from utils.errors import InputError


def select_device(gpu_id: int | None) -> torch.device:
    """The device that ``--gpu_id`` names: -1 the CPU, k the CUDA device k, None the first CUDA device or the CPU.

    Raises ``InputError`` where a CUDA device was asked for that is not there.
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
