"""How long the tokenizer takes for a batch of motions, there and back.

    python benchmarks/bench_codec.py --sizes published --reference benchmarks/reference.json
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import utils  # noqa: F401 (sets the thread policy before torch is loaded)

# isort: split
import torch

from benchmarks import published
from benchmarks.measure import benchmark_parser, run_benchmark
from benchmarks.networks import SPEC, make_tokenizer
from data.specs import MAX_MOTION_LENGTH
from models.speed import speed_up
from options.base import add_speed, positive_int
from utils.device import select_device
from utils.errors import script


@script
def main() -> None:
    parser = benchmark_parser(__doc__.splitlines()[0])
    parser.add_argument("--batch", type=positive_int, default=32, help="motions")
    add_speed(parser)
    args = parser.parse_args()
    device = select_device(args.gpu_id)
    tokenizer = make_tokenizer(args.sizes, device)
    speed_up([tokenizer], args.precision, args.compile)
    motion = torch.randn(args.batch, MAX_MOTION_LENGTH, SPEC.dim_pose, device=device)
    ids = tokenizer.encode(motion)
    size = f"{args.batch} x {MAX_MOTION_LENGTH}"
    jobs = {f"encode {size}": lambda: tokenizer.encode(motion),
            f"decode {size}": lambda: tokenizer.forward_decoder(ids)}
    ways = [""]
    if args.sizes == "published" and device.type == "cpu":
        plain = make_tokenizer(args.sizes, device)
        jobs |= {f"encode {size}{published.WAY}": lambda: published.encode(plain, motion),
                 f"decode {size}{published.WAY}": lambda: plain.forward_decoder(ids)}
        ways.append(published.WAY)
    sums = {f"encode + decode {size}{way}": (f"encode {size}{way}", f"decode {size}{way}") for way in ways}
    with torch.inference_mode():
        run_benchmark("codec", jobs, args, {"precision": args.precision, "compile": args.compile}, sums)


if __name__ == "__main__":
    main()
