"""Print the cost of every stage as markdown tables: measured on this CPU, or estimated for training on H100s.

    python benchmarks/cost_table.py                 at published and bundled sizes
    python benchmarks/cost_table.py --estimate      hours and memory on 1, 8 and 64 H100s, at published sizes

Each row runs in a separate process with one CPU thread. Seconds are CPU time, which other programs hardly affect.
Networks have random weights, and steps are training steps in float32; ``benchmarks/gpu.py`` measures a GPU. Estimates
follow from the operations and activations of one step.
"""
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import utils  # noqa: F401 (sets the thread policy before torch is loaded)

# isort: split
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.train_jobs import BUNDLED, PUBLISHED, TEXTS, TOY, make_pipeline, stage_jobs
from data.dataset import MAX_MOTION_LENGTH, dataset_spec
from models.text_to_motion import Sample
from options.base import Parser, positive_int
from utils import script
from utils.runtime import in_own_process, peak_gib

SIZES = {"published": PUBLISHED, "bundled": BUNDLED, "toy": TOY}
STAGES = tuple(stage_jobs(PUBLISHED))
SENTENCE = "sentence"  # row for the generation of one motion of the maximum length


class Cost(NamedTuple):
    """Cost of a training step or of a generated motion."""

    parameters: int  # including frozen ones
    seconds: float   # CPU time per sample
    peak: float      # peak memory of the process in GiB


def measure(row: tuple[str, str, int]) -> Cost:
    """Measure a row (sizes, stage, batch size), after a warm-up run."""
    sizes, stage, batch = row
    torch.set_num_threads(1)
    if stage == SENTENCE:
        pipeline = make_pipeline(sizes, torch.device("cpu"))
        weights = {weight for network in pipeline.networks for weight in network.parameters()}  # count shared ones once
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
    """Format a row of the table."""
    cells = [f"{cost.parameters / 1e6:.1f} M | {cost.seconds:.2g} | {cost.peak:.1f}" for cost in costs]
    return f"| {stage} | {' | '.join(cells)} |"


PEAK = 989e12        # dense bfloat16 FLOP/s of an H100 SXM
USED = 0.25          # fraction of the peak that networks of this size reach
LINK = {1: 0.0, 8: 450e9, 64: 50e9}  # bytes/s per GPU: NVLink within a node, 400 Gbit/s between nodes
SHORTEST = 10e-3     # minimum seconds of a step, needed to launch a few thousand kernels
HIDDEN = 0.7         # fraction of the compute time that can overlap with the gradient exchange
COUNTED = 2          # batch size for counting operations and memory
TOKEN_BYTES = 4 * 6  # per frame: six layers of 4 bytes every 4 frames, from each of 4 start offsets
CLIPS = 23_384       # training clips of HumanML3D, with mirrored twins
FRAMES = 142         # mean length of a clip: 7.1 s
WINDOW = 64
LARGER = 100         # factor for the number of clips of a larger data set


@dataclass(frozen=True)
class Recipe:
    """Published training settings of a stage."""

    batch: int
    samples: float  # number of samples in a run on HumanML3D
    most: int       # maximum batch size with more GPUs


RECIPES = {
    "vq": Recipe(256, 50 * CLIPS * (FRAMES - WINDOW), 2048),
    "lamp": Recipe(64, 200 * CLIPS, 4096),
    "t2m": Recipe(64, 500 * CLIPS, 4096),
    "res": Recipe(64, 500 * CLIPS, 4096),
    "len": Recipe(64, 300 * 3 * CLIPS, 4096),
    "evaluator": Recipe(32, 300 * CLIPS, 1024),
    "m2t": Recipe(80, 150_000 * 80, 2560),
}


@dataclass(frozen=True)
class StepCost:
    """Operations and memory of a training step."""

    flops: float       # per sample, forward and backward
    activations: int   # bytes per sample saved for the backward pass in float32
    trained: int       # number of trainable parameters
    frozen: int

    def hours(self, samples: float, batch: int, gpus: int) -> float:
        """Estimate the hours of a run: compute time plus the gradient exchange that does not overlap with it."""
        computing = self.flops * batch / gpus / (PEAK * USED)
        exchange = 2 * 4 * self.trained * (gpus - 1) / gpus / LINK[gpus] if gpus > 1 else 0.0
        step = max(SHORTEST, computing + max(0.0, exchange - HIDDEN * computing))
        return samples / batch * step / 3600

    def gigabytes(self, batch: int, gpus: int) -> float:
        """Estimate the GB per GPU: weights, gradients and AdamW moments in float32, activations in bfloat16."""
        return (16 * self.trained + 4 * self.frozen + self.activations / 2 * batch / gpus) / 1e9


def count(stage: str) -> StepCost:
    """Count the operations and memory per sample of a training step at published size, run on the CPU."""
    job = stage_jobs(PUBLISHED)[stage](COUNTED)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = job.loss()
        for parameter in job.model.parameters():
            kept.pop(parameter.untyped_storage().data_ptr(), None)
        loss.backward()
    sizes = {trained: sum(p.numel() for p in job.model.parameters() if p.requires_grad is trained)
             for trained in (True, False)}
    return StepCost(counter.get_total_flops() / COUNTED, sum(kept.values()) // COUNTED, sizes[True], sizes[False])


def estimates(costs: dict[str, StepCost], larger: int) -> str:
    """Format estimates by stage and number of GPUs.

    If ``larger`` is above 1, they are for ``larger`` times the clips and a tenth of the epochs.
    """
    lines = ["| stage | parameters | GFLOP a sample | samples | hours on 1 | on 8 | on 64 | GB on 1 |",
             "| --- | --- | --- | --- | --- | --- | --- | --- |"]
    sums = dict.fromkeys(LINK, 0.0)
    for stage, cost in costs.items():
        recipe = RECIPES[stage]
        samples = recipe.samples * (larger / 10 if larger > 1 else 1)
        hours = {}
        for gpus in LINK:
            batch = min(recipe.most, recipe.batch * gpus)
            hours[gpus] = cost.hours(samples, batch, gpus)
            sums[gpus] += hours[gpus]
        lines.append(f"| {stage} | {(cost.trained + cost.frozen) / 1e6:.1f} M | {cost.flops / 1e9:.2f} | "
                     f"{samples / 1e6:.1f} M | {' | '.join(f'{hours[gpus]:.2f}' for gpus in LINK)} | "
                     f"{cost.gigabytes(recipe.batch, 1):.1f} |")
    lines.append(f"| all | | | | {' | '.join(f'{sums[gpus]:.1f}' for gpus in LINK)} | |")
    return "\n".join(lines)


def print_estimates() -> None:
    """Print estimates for HumanML3D, and for ``LARGER`` times its clips with a tenth of the epochs."""
    torch.manual_seed(0)
    costs = {stage: count(stage) for stage in RECIPES}
    width = dataset_spec("t2m").dim_pose
    for larger in (1, LARGER):
        frames = larger * CLIPS * FRAMES
        print(f"\n{larger * CLIPS:,} clips, {frames / 20 / 3600:,.0f} hours of motion: features "
              f"{4 * frames * width / 1e9:.1f} GB, tokens {TOKEN_BYTES * frames / 1e9:.2f} GB\n")
        print(estimates(costs, larger))


@script
def main() -> None:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--batch", type=positive_int, default=4, help="samples per training step")
    parser.add_argument("--sizes", nargs="+", choices=tuple(SIZES), default=["published", "bundled"],
                        help="sizes of the networks")
    parser.add_argument("--estimate", action="store_true", help="estimate training on H100s instead")
    args = parser.parse_args()
    if args.estimate:
        print_estimates()
        return
    heads = [f"{size}: parameters | s a sample | peak GiB" for size in args.sizes]
    print(f"| stage | {' | '.join(heads)} |", "| --- " * (1 + 3 * len(args.sizes)) + "|", sep="\n")
    stages = STAGES if "toy" in args.sizes else (*STAGES, SENTENCE)
    for stage in stages:
        print(line(stage, [in_own_process(measure, (size, stage, args.batch)) for size in args.sizes]), flush=True)


if __name__ == "__main__":
    main()
