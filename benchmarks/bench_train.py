"""How long a training step of every stage takes, on made-up batches."""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measure import Job, benchmark_parser, run_benchmark
from benchmarks.published import WAY
from benchmarks.train_jobs import BUNDLED, PUBLISHED, published_jobs, stage_jobs
from options.base import positive_int
from utils.device import select_device
from utils.errors import script

LAMP = "lamp, forward and backward, batch 8"
STEPS = {"vq, step, 64 x 64": ("vq", 64), "lamp, step, batch 8": ("lamp", 8), "t2m, step, batch 64": ("t2m", 64),
         "res, step, batch 64": ("res", 64), "len, step, batch 64": ("len", 64),
         "evaluator, step, batch 32": ("evaluator", 32), "m2t, step, batch 16": ("m2t", 16)}


def jobs(args: argparse.Namespace) -> dict[str, Job]:
    """The steps that were asked for, each of a network of its own; on the CPU, at published sizes, beside the published
    way."""
    device, sizes = select_device(args.gpu_id), PUBLISHED if args.sizes == "published" else BUNDLED
    makers = stage_jobs(sizes, device)
    plain = published_jobs(sizes) if sizes is PUBLISHED and device.type == "cpu" else {}
    chosen: dict[str, Job] = {}
    for name, (stage, batch) in STEPS.items():
        if stage in args.stages:
            made = makers[stage](args.batch_size or batch)
            if stage == "lamp":
                chosen[LAMP] = made.forward_backward
                if stage in plain:
                    chosen[LAMP + WAY] = plain[stage](args.batch_size or batch).forward_backward
            elif stage in plain:
                chosen[name + WAY] = plain[stage](args.batch_size or batch).step()
            chosen[name] = made.step(half=args.mixed_precision == "bf16")
    return chosen


@script
def main() -> None:
    parser = benchmark_parser(__doc__, repeats=3)
    parser.add_argument("--stages", nargs="+", choices=[stage for stage, _ in STEPS.values()],
                        default=[stage for stage, _ in STEPS.values()], help="stages to time")
    parser.add_argument("--batch_size", type=positive_int, help="of every stage, instead of those in the names")
    parser.add_argument("--mixed_precision", choices=("no", "bf16"), default="no", help="of the steps")
    args = parser.parse_args()
    run_benchmark("train", jobs(args), args, {"mixed_precision": args.mixed_precision, "batch_size": args.batch_size})


if __name__ == "__main__":
    main()
