"""Print the cost of every stage, at published and bundled sizes, as a markdown table.

    python benchmarks/cost_table.py

Each row has a separate process with one CPU thread. Seconds are processor time, so that other programs matter little.
Networks have random weights, and steps are training steps in float32; ``benchmarks/gpu.py`` measures a GPU.
"""
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import utils  # noqa: F401 (sets the thread policy before torch is loaded)

# isort: split
import torch

from benchmarks.compare import TEXTS
from benchmarks.train_jobs import BUNDLED, PUBLISHED, TOY, make_pipeline, stage_jobs
from data.specs import MAX_MOTION_LENGTH
from models.text_to_motion import Sample
from options.base import Parser, positive_int
from utils.device import in_own_process, peak_gib
from utils.errors import script

SIZES = {"published": PUBLISHED, "bundled": BUNDLED, "toy": TOY}
STAGES = tuple(stage_jobs(PUBLISHED))
SENTENCE = "sentence"  # generation of one motion of the maximum length, instead of a training step


class Cost(NamedTuple):
    """Cost of a training step, or of a generated motion."""

    parameters: int  # of the network in training, frozen ones included
    seconds: float   # processor time per sample
    peak: float      # GiB of the process


def measure(row: tuple[str, str, int]) -> Cost:
    """Cost of a row (sizes, stage, batch size): the second of two runs."""
    sizes, stage, batch = row
    torch.set_num_threads(1)
    if stage == SENTENCE:
        pipeline = make_pipeline(sizes, torch.device("cpu"))
        weights = {weight for network in pipeline.networks for weight in network.parameters()}  # networks share some
        parameters = sum(weight.numel() for weight in weights)
        sample = Sample(TEXTS[0], 0, MAX_MOTION_LENGTH)
        return Cost(parameters, _second(lambda: pipeline.features([sample])), peak_gib())
    job = stage_jobs(SIZES[sizes])[stage](batch)
    parameters = sum(weight.numel() for weight in job.model.parameters())
    return Cost(parameters, _second(job.step()) / batch, peak_gib())


def _second(job: Callable[[], object]) -> float:
    job()
    start = time.process_time()
    job()
    return time.process_time() - start


def line(stage: str, costs: list[Cost]) -> str:
    """A row of the table."""
    cells = [f"{cost.parameters / 1e6:.1f} M | {cost.seconds:.2g} | {cost.peak:.1f}" for cost in costs]
    return f"| {stage} | {' | '.join(cells)} |"


@script
def main() -> None:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--batch", type=positive_int, default=4, help="samples per training step")
    parser.add_argument("--sizes", nargs="+", choices=tuple(SIZES), default=["published", "bundled"],
                        help="sizes of the networks")
    args = parser.parse_args()
    heads = [f"{size}: parameters | s a sample | peak GiB" for size in args.sizes]
    print(f"| stage | {' | '.join(heads)} |", "| --- " * (1 + 3 * len(args.sizes)) + "|", sep="\n")
    stages = STAGES if "toy" in args.sizes else (*STAGES, SENTENCE)
    for stage in stages:
        print(line(stage, [in_own_process(measure, (size, stage, args.batch)) for size in args.sizes]), flush=True)


if __name__ == "__main__":
    main()
