"""Measure foot skating before and after foot locking, compared with the published foot locking.

    python benchmarks/foot_skating.py FOLDER [FILE.npy ...]      # joints (frames, 22, 3) in metres

- ``skating``: speed of feet near the floor, including feet that swing close to it.
- ``weighted``: speed of feet within 2.5 cm of the floor, weighted less the higher they are (Zhang et al. 2018).
- ``standing``: speed of feet near the floor that are in contact in the input, by the rule of HumanML3D.
- ``hardest``: largest acceleration of any joint.
- ``others``: distance of all other joints from the input, and from its BVH without foot locking.
- ``bound``: value that remains if all standing foot joints (``motion.foot``) are perfectly still.

All values are means over the clips. The last line splits ``skating`` into standing, turning and swinging feet.
"""
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import utils  # noqa: F401 (sets the thread policy before torch is loaded)

# isort: split
from benchmarks.physical_measures import FPS
from motion.body import foot_skating, weighted_skating
from motion.bvh_fit import rigid_joints
from motion.foot import (
    HEIGHT_LIMITS,
    floor_height,
    foot_joints,
    lock_feet,
    lock_feet_published,
    per_foot_joint,
    still_steps,
)
from motion.skeleton import T2M
from options.base import Parser
from utils import InputError, script

FEET = foot_joints(T2M)
OTHERS = [joint for joint in range(len(T2M)) if joint not in FEET]


def standing_speed(joints: np.ndarray, source: np.ndarray) -> float:
    """Return the mean ground speed (m/s) in ``joints`` of feet that are low and slow in ``source``, or 0."""
    before, after = source[:, FEET], joints[:, FEET]
    low = before[:-1, :, 1] - floor_height(source, T2M) < per_foot_joint(T2M, *HEIGHT_LIMITS)
    stands = low & (np.square(np.diff(before, axis=0)).sum(-1) < T2M.contact_threshold)
    speed = np.linalg.norm(np.diff(after[..., [0, 2]], axis=0), axis=-1) * FPS
    return float(speed[stands].mean()) if stands.any() else 0.0


def shares(joints: np.ndarray, still: np.ndarray) -> list[float]:
    """Split foot skating (m/s) by foot joints: standing, turning about a standing joint, and swinging."""
    on_other = still.reshape(len(still), -1, 2)[..., ::-1].reshape(still.shape) & ~still
    kinds = (still, on_other, ~still & ~on_other)
    whole = foot_skating(joints, T2M, FPS)
    return [whole - foot_skating(joints, T2M, FPS, held=kind) for kind in kinds]


def row(source: np.ndarray) -> dict[str, list[float]]:
    """Compute all measurements of one clip (T, 22, 3)."""
    plain, ours, published = rigid_joints(source, T2M), lock_feet(source, T2M, FPS), lock_feet_published(source, T2M)
    motions, still = (source, ours, published), still_steps(source, T2M, FPS)
    return {
        **{name: [*(measure(motion, T2M, FPS) for motion in motions), measure(source, T2M, FPS, held=still)]
           for name, measure in (("skating", foot_skating), ("weighted", weighted_skating))},
        "standing": [*(standing_speed(motion, source) for motion in motions)],
        "hardest": [np.linalg.norm(np.diff(motion, 2, axis=0), axis=-1).max() * FPS**2 for motion in motions],
        "others": [1000 * np.linalg.norm((ours - other)[:, OTHERS], axis=-1).mean() for other in (source, plain)],
        "shares": shares(source, still),
    }


@script
def main() -> None:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("motions", nargs="+", type=Path, help=".npy files of joints, or folders of them")
    args = parser.parse_args()
    files = [file for path in args.motions for file in (sorted(path.rglob("*.npy")) if path.is_dir() else [path])]
    try:
        clips = [np.load(file).astype(np.float64) for file in files]
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"cannot read the motions: {error}") from error
    wrong = [file for file, clip in zip(files, clips, strict=True) if clip.shape[1:] != (22, 3) or len(clip) < 3]
    if wrong or not clips:
        raise InputError(f"{wrong[0] if wrong else args.motions[0]} does not contain joints (frames, 22, 3)")
    rows = [row(clip) for clip in clips]
    mean = {name: np.mean([numbers[name] for numbers in rows], axis=0) for name in rows[0]}
    print(f"{len(clips)} clips     input            ours       published           bound")
    for name, unit in (("skating", "m/s"), ("weighted", "m/s"), ("standing", "m/s"), ("hardest", "m/s^2")):
        before, *after = mean[name]
        print(f"{name:12s} {before:6.3f}",
              *(f"{value:8.3f} {100 * (value / before - 1):+5.0f} %" for value in after), unit)
    print("others       {:.1f} mm from the input, {:.1f} mm from its BVH".format(*mean["others"]))
    print("skating of   {:.0f} % standing feet, {:.0f} % turning about a toe or heel, {:.0f} % swinging".format(
        *100 * mean["shares"] / mean["shares"].sum()))


if __name__ == "__main__":
    main()
