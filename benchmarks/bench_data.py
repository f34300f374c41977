"""Time data loading on a synthetic data set: the first start of a training, later starts, and batches.

    python benchmarks/bench_data.py --sizes published [--data DIR]

29,000 clips need about 8 GB of disk, half of it for the packed copy. DIR keeps them for later runs.
"""
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measure import benchmark_parser, run_benchmark
from benchmarks.synthetic_data import CLIPS, make_synthetic
from data.cache import read_features
from data.motion_windows import MotionWindows, Normalisation
from data.specs import DatasetSpec, dataset_spec
from data.text_motion import TextMotion, load_pairs
from utils.device import peak_gib
from utils.errors import script

BATCH = 256


@script
def main() -> None:
    parser = benchmark_parser(__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the synthetic data set, created if missing")
    args = parser.parse_args()
    root = args.data or Path(tempfile.mkdtemp())
    try:
        spec = dataset_spec("t2m", root)
        if not (root / "train.txt").exists():
            make_synthetic(root, spec, CLIPS[args.sizes])
        facts = {"clips": CLIPS[args.sizes], "cold_start_s": cold_start(spec)}
        print(f"first start, packs everything: {facts['cold_start_s']:.1f} s")
        start_gib = peak_gib()
        normalisation = Normalisation.load(root / "Mean.npy", root / "Std.npy", spec.dim_pose)
        windows = MotionWindows(read_features(spec, "train"), normalisation, 64)
        pairs = TextMotion(load_pairs(spec, "train"), normalisation, training=True)
        generator = np.random.default_rng(0)
        run_benchmark("data", {
            "start of train_vq.py": lambda: read_features(spec, "train"),
            "start of the other stages": lambda: load_pairs(spec, "train"),
            f"{BATCH} windows": lambda: [windows[int(i)] for i in generator.integers(len(windows), size=BATCH)],
            f"{BATCH} captioned clips": lambda: [pairs[int(i)] for i in generator.integers(len(pairs), size=BATCH)],
        }, args, facts)
        print(f"peak memory {start_gib:.2f} GiB after the first start, {peak_gib():.2f} GiB at the end, "
              "including pages of the packed file that the system may drop")
    finally:
        if not args.data:
            shutil.rmtree(root)


def cold_start(spec: DatasetSpec) -> float:
    """Seconds of a start without packed data, with warm file caches."""
    shutil.rmtree(spec.root / "cache", ignore_errors=True)
    start = time.perf_counter()
    load_pairs(spec, "train", quiet=False)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
