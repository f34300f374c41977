"""Estimate the time and memory to train all stages on H100s from the networks' operation and activation counts."""
import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import utils  # noqa: F401 (sets the thread policy before torch is loaded)

# isort: split
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.train_jobs import PUBLISHED, stage_jobs
from data.specs import dataset_spec
from utils.errors import script

PEAK = 989e12        # dense bfloat16 FLOP/s of an H100 SXM
USED = 0.25          # share of the peak that networks of this size reach
LINK = {1: 0.0, 8: 450e9, 64: 50e9}  # bytes per second that a GPU sends: NVLink within a node, 400 Gbit/s between nodes
SHORTEST = 10e-3     # seconds of the shortest step: it launches a few thousand kernels one by one
HIDDEN = 0.7         # share of gradient communication that overlaps with the backward pass
COUNTED = 2          # batch size for counting operations and memory
TOKEN_BYTES = 4 * 6  # per frame: six layers of 4 bytes every 4 frames, from each of 4 start offsets
CLIPS = 23_384       # training clips of HumanML3D, mirrored ones included
FRAMES = 142         # mean length of a clip: 7.1 s
WINDOW = 64
LARGER = 100         # times the clips with a tenth of the epochs, so ten times the samples


@dataclass(frozen=True)
class Recipe:
    """Published training settings of a stage."""

    batch: int
    samples: float  # samples of the whole run on HumanML3D
    most: int       # largest batch that more GPUs may use


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
    """Compute and memory of a stage's network."""

    flops: float       # per sample, forward and backward
    activations: int   # bytes per sample kept for the backward pass, in float32
    trained: int       # trainable parameters
    frozen: int

    def hours(self, samples: float, batch: int, gpus: int) -> float:
        """Hours of a run: compute plus the part of the gradient exchange that does not overlap with it. A step takes at
        least the time to launch its kernels."""
        computing = self.flops * batch / gpus / (PEAK * USED)
        exchange = 2 * 4 * self.trained * (gpus - 1) / gpus / LINK[gpus] if gpus > 1 else 0.0
        step = max(SHORTEST, computing + max(0.0, exchange - HIDDEN * computing))
        return samples / batch * step / 3600

    def gigabytes(self, batch: int, gpus: int) -> float:
        """Memory per GPU in GB: weights, gradients and AdamW's two moments in float32, activations in bfloat16."""
        return (16 * self.trained + 4 * self.frozen + self.activations / 2 * batch / gpus) / 1e9


def count(stage: str) -> StepCost:
    """Count operations and memory of one step of the published network, run on the CPU."""
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


def table(costs: dict[str, StepCost], larger: int) -> str:
    """Markdown table by stage and number of GPUs, for ``larger`` times the clips with a tenth of the epochs."""
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


@script
def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.manual_seed(0)
    costs = {stage: count(stage) for stage in RECIPES}
    width = dataset_spec("t2m").dim_pose
    for larger in (1, LARGER):
        frames = larger * CLIPS * FRAMES
        print(f"\n{larger * CLIPS:,} clips, {frames / 20 / 3600:,.0f} hours of motion: features "
              f"{4 * frames * width / 1e9:.1f} GB, tokens {TOKEN_BYTES * frames / 1e9:.2f} GB\n")
        print(table(costs, larger))


if __name__ == "__main__":
    main()
