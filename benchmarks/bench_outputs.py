"""Time writing the files of a motion; the reference times are for one clip of 196 frames on 2 cores."""
import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import utils  # noqa: F401 (sets the thread policy before torch is loaded)

# isort: split
import torch

from data.motion_files import read_motion
from data.specs import MAX_MOTION_LENGTH, dataset_spec
from motion.bvh_fit import joints_to_bvh
from motion.features import features_to_joints
from motion.foot_locking import lock_feet
from utils.errors import InputError, script
from visualization.glb import write_glb
from visualization.video import write_video

REFERENCE = {"mp4, 720 px": 4.8, "bvh": 2.9}  # seconds


def seconds(job: Callable[[], object], repeats: int) -> tuple[float, float, float]:
    """Median and best wall time of a warmed-up job, and its lowest CPU time over all its processes."""
    job()
    taken, worked = [], []
    for _ in range(repeats):
        start, before = time.perf_counter(), sum(os.times()[:4])
        job()
        taken.append(time.perf_counter() - start)
        worked.append(sum(os.times()[:4]) - before)
    return statistics.median(taken), min(taken), min(worked)


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("motion", help="a .npy or .bvh of at least 196 frames with the 22 joints")
    parser.add_argument("--repeats", type=int, default=7, help="timed runs per output")
    args = parser.parse_args()
    spec = dataset_spec("t2m")
    features = read_motion(args.motion, spec)[:MAX_MOTION_LENGTH]
    if len(features) < MAX_MOTION_LENGTH:
        raise InputError(f"{args.motion} has {len(features)} frames; the reference times are for {MAX_MOTION_LENGTH}")
    joints = features_to_joints(torch.from_numpy(features), spec.skeleton).numpy()
    bvh = joints_to_bvh(joints, spec.skeleton, spec.fps)
    with tempfile.TemporaryDirectory() as folder:
        jobs = {
            "mp4, 720 px": lambda: write_video(Path(folder) / "a.mp4", [joints], ["a person moves"], spec.fps),
            "bvh": lambda: joints_to_bvh(joints, spec.skeleton, spec.fps).text(),
            "glb of a bvh": lambda: write_glb(Path(folder) / "a.glb", bvh, spec.skeleton),
            "feet planted": lambda: lock_feet(joints, spec.skeleton, spec.fps),
            "both of these": lambda: joints_to_bvh(lock_feet(joints, spec.skeleton, spec.fps), spec.skeleton,
                                                   spec.fps).text(),
        }
        for name, job in jobs.items():
            median, best, cpu = seconds(job, args.repeats)
            beside = f", reference {REFERENCE[name]} s" if name in REFERENCE else ""
            print(f"{name:13} median {median:.3f} s, best {best:.3f} s, CPU {cpu:.2f} s{beside}")


if __name__ == "__main__":
    main()
