"""Run the training commands in ``JOBS.json`` one after another, in every process started by a launcher."""
import importlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import utils  # noqa: F401 (sets the thread policy before torch is loaded)

# isort: split
import torch
from torch import nn

from tests.toy import run_here


def without_dropout() -> None:
    """Disable dropout, the only random numbers that differ between processes."""
    nn.Dropout.forward = lambda _, x: x


def main() -> None:
    torch.set_num_threads(1)
    without_dropout()
    jobs = Path(sys.argv[1])
    for script, *arguments in json.loads(jobs.read_text()):
        run_here(importlib.import_module(script).main, *arguments, cwd=jobs.parent)


if __name__ == "__main__":
    main()
