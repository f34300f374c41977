"""Measure the time of data loading on a synthetic data set, or of writing result files.

    python benchmarks/bench_data.py --sizes published [--data DIR]
    python benchmarks/bench_data.py --motion FILE           video, BVH, GLB and foot locking of one motion

29,000 clips need about 8 GB of disk, half of it for the packed copy. With --data, they stay in DIR for later runs.
"""
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import utils  # noqa: F401 (sets the thread policy before torch is loaded)

# isort: split
import torch

from data.dataset import MAX_MOTION_LENGTH, DatasetSpec, Normalisation, dataset_spec, read_features
from data.motion_files import read_motion
from data.text_motion import MotionWindows, TextMotion, load_pairs
from motion.bvh_fit import joints_to_bvh
from motion.features import features_to_joints
from motion.foot import lock_feet
from options.base import Parser, positive_int
from utils import script
from utils.runtime import peak_gib
from visualization.glb import write_glb
from visualization.video import write_video

BATCH = 256
CLIPS = {"bundled": 2_431, "published": 29_000}  # training clips of openmotion and HumanML3D, with mirrored twins
CAPTIONS = 3
_TAGGED = [
    "a/DET", "person/NOUN", "slowly/ADV", "walk/VERB", "forward/ADV", "and/CCONJ", "then/ADV", "turn/VERB", "to/ADP",
    "the/DET", "left/NOUN", "while/SCONJ", "hold/VERB", "both/DET", "hand/NOUN", "up/ADP", "in/ADP", "front/NOUN",
    "of/ADP", "chest/NOUN"]


def make_synthetic(root: Path, spec: DatasetSpec, clips: int, seed: int = 0, quiet: bool = False) -> None:
    """Write features, texts, statistics and ``train.txt`` of ``clips`` clips with 3 captions each.

    One caption in thirty describes only a part of its clip.
    """
    generator = np.random.default_rng(seed)
    for folder in ("new_joint_vecs", "texts"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    noise = generator.standard_normal((4 * spec.max_length, spec.dim_pose), dtype=np.float32)
    ids = [f"{number:06d}" for number in range(clips)]
    for name in tqdm(ids, desc="synthetic clips", disable=quiet or None, leave=False):
        rows = int(generator.integers(spec.min_length, spec.max_length))
        start = int(generator.integers(len(noise) - rows))
        np.save(root / "new_joint_vecs" / f"{name}.npy", noise[start:start + rows])
        lines = []
        for _ in range(CAPTIONS):
            words = generator.choice(_TAGGED, int(generator.integers(5, 20)))
            times = "0.5#3.0" if generator.random() < 1 / 30 else "0.0#0.0"
            lines.append(f"{' '.join(word.partition('/')[0] for word in words)}#{' '.join(words)}#{times}\n")
        (root / "texts" / f"{name}.txt").write_text("".join(lines))
    np.save(root / "Mean.npy", np.zeros(spec.dim_pose, np.float32))
    np.save(root / "Std.npy", np.ones(spec.dim_pose, np.float32))
    (root / "train.txt").write_text("\n".join(ids) + "\n")


def seconds(job: Callable[[], object], repeats: int) -> float:
    """Return the median CPU time of a job and its child processes in seconds, after a warm-up run."""
    taken = []
    for _ in range(repeats + 1):
        start = sum(os.times()[:4])
        job()
        taken.append(sum(os.times()[:4]) - start)
    return statistics.median(taken[1:])


def time_outputs(motion: Path, repeats: int) -> None:
    """Print the CPU times of video, BVH, GLB and foot locking for a motion, cut to 196 frames."""
    spec = dataset_spec("t2m")
    features = torch.from_numpy(read_motion(motion, spec)[:MAX_MOTION_LENGTH])
    joints = features_to_joints(features, spec.skeleton).numpy()
    bvh = joints_to_bvh(joints, spec.skeleton, spec.fps)
    with tempfile.TemporaryDirectory() as folder:
        for name, job in {
            "video, 720 px": lambda: write_video(Path(folder) / "a.mp4", [joints], ["a person moves"], spec.fps),
            "BVH": lambda: joints_to_bvh(joints, spec.skeleton, spec.fps).text(),
            "GLB from the BVH": lambda: write_glb(Path(folder) / "a.glb", bvh, spec.skeleton),
            "foot locking": lambda: lock_feet(joints, spec.skeleton, spec.fps),
        }.items():
            print(f"{name:26} {seconds(job, repeats):.3f} s CPU time")


@script
def main() -> None:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--sizes", choices=tuple(CLIPS), default="bundled", help="size of openmotion or of HumanML3D")
    parser.add_argument("--repeats", type=positive_int, default=5, help="timed runs, after one warm-up run")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the synthetic data set, created if missing")
    parser.add_argument("--motion", type=Path, metavar="FILE", help="time writing the files of this motion instead")
    args = parser.parse_args()
    if args.motion:
        time_outputs(args.motion, args.repeats)
        return
    root = args.data or Path(tempfile.mkdtemp())
    try:
        spec = dataset_spec("t2m", root)
        if not (root / "train.txt").exists():
            make_synthetic(root, spec, CLIPS[args.sizes])
        shutil.rmtree(root / "cache", ignore_errors=True)
        start = time.perf_counter()
        load_pairs(spec, "train", quiet=False)
        print(f"first start, including packing: {time.perf_counter() - start:.1f} s, peak memory {peak_gib():.2f} GiB")
        normalisation = Normalisation.load(root / "Mean.npy", root / "Std.npy", spec.dim_pose)
        windows = MotionWindows(read_features(spec, "train"), normalisation, 64)
        pairs = TextMotion(load_pairs(spec, "train"), normalisation, training=True)
        generator = np.random.default_rng(0)
        for name, job in {
            "start of train_vq.py": lambda: read_features(spec, "train"),
            "start of the other stages": lambda: load_pairs(spec, "train"),
            f"{BATCH} windows": lambda: [windows[int(i)] for i in generator.integers(len(windows), size=BATCH)],
            f"{BATCH} captioned clips": lambda: [pairs[int(i)] for i in generator.integers(len(pairs), size=BATCH)],
        }.items():
            print(f"{name:26} {seconds(job, args.repeats):.3f} s CPU time")
        print(f"peak memory {peak_gib():.2f} GiB, including reclaimable pages of the packed file")
    finally:
        if not args.data:
            shutil.rmtree(root)


if __name__ == "__main__":
    main()
