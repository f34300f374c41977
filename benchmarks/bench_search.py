"""Time a search against the matrix product inside it, on random vectors of LaMP's width.

Target: searching 100,000 motions takes less than a second on the CPU.
"""
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measure import benchmark_parser, run_benchmark
from evaluation.search import nearest
from options.base import positive_int
from utils.errors import script


@script
def main() -> None:
    parser = benchmark_parser(__doc__, repeats=7)
    parser.add_argument("--motions", type=positive_int, default=100_000, help="vectors to search among")
    parser.add_argument("--width", type=positive_int, default=256, help="dimensions of a vector")
    parser.add_argument("--top_k", type=positive_int, default=10, help="results to return")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((args.motions, args.width), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    files = np.sort(rng.integers(args.motions, size=args.motions)).tolist()  # some motions are in several parts
    run_benchmark("search", {
        "matrix product": lambda: vectors @ vectors[0],
        "one query": lambda: nearest(vectors[0], vectors, args.top_k),
        "one query, best part of a motion": lambda: nearest(vectors[0], vectors, args.top_k, files),
        "four queries, best part of a motion": lambda: nearest(vectors[:4], vectors, args.top_k, files),
    }, args, {"motions": args.motions, "width": args.width})


if __name__ == "__main__":
    main()
