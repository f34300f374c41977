"""Process setup: ranks, devices, precision, and which rank prints."""
import argparse
import os
import sys
from datetime import timedelta

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs

from storage.source import inherit_settings
from utils import ranks
from utils.device import select_device
from utils.errors import InputError
from utils.seeding import seed_everything

PATIENCE = timedelta(hours=1)  # of processes for one whose part of a validation takes longer


def start_run(opt: argparse.Namespace) -> torch.device:
    """Complete the options (``inherit_settings``), seed everything, join the process group, and let only rank 0 print.

    Returns the device of this process. Raises ``InputError`` if it does not exist.
    """
    inherit_settings(opt)
    seed_everything(opt.seed)
    device = make_accelerator(opt).device
    if not ranks.is_main():
        opt.quiet = True
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (to the end of the process)
    return device


def make_accelerator(opt: argparse.Namespace, find_unused: bool = False) -> Accelerator:
    """The process group and precision that the flags ask for; ``opt.gpu_id`` picks the device of a single process.

    ``find_unused``: some parameters have no part in the loss.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        cpu = opt.gpu_id == -1 or not torch.cuda.is_available()
    else:
        device = select_device(opt.gpu_id)
        cpu = device.type == "cpu"
        if not cpu:
            os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
    if cpu and opt.mixed_precision == "fp16":
        raise InputError("--mixed_precision fp16 needs a GPU; CPUs have bf16")
    # The processes come to the same buffers by themselves, so none needs to be sent.
    wrapper = DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=find_unused,
                                            gradient_as_bucket_view=True)
    return Accelerator(cpu=cpu, mixed_precision=opt.mixed_precision,
                       kwargs_handlers=[wrapper, InitProcessGroupKwargs(timeout=PATIENCE)])
