"""Evaluate spatial control with the protocol of OmniControl and MaskControl: constraint errors, quality and time.

    python benchmarks/control.py --data_root ROOT [--clips 32] [--every_joint] [--out FILE.json]

Constraints are positions of one joint of the real clip: at 1, 2 or 5 frames, or at 25 % or all of its frames. The
motion is generated from the first caption at the length of the clip. By default, joints alternate over clips and
densities; ``--every_joint`` constrains each joint of every clip.

- ``trajectory50`` (``20``): percentage of motions with a constrained frame that is off by more than 50 (20) cm.
- ``location50``: percentage of constrained frames that are off by more than 50 cm.
- ``average``, ``locked``: mean error in cm, before and after foot locking.
- ``R3``: probability in per cent that a motion's own caption is among the 3 nearest of 32 captions, 31 of them random.
- ``change``: mean difference of ``R3`` from the same captions and seeds without constraints; ``interval``: half of its
  95 % confidence interval over clips.
- ``fid``: FID against the same clips. ``skating``: m/s after foot locking. ``jerk``: m/s^3.
- ``seconds``, ``longest``: median and maximum time to generate a motion.

Rows named ``without`` use the same captions and seeds but no constraints, so their errors are at chance level. Rows
named ``true`` contain the real clips.
"""
import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import hypergeom
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import utils  # noqa: F401 (sets the thread policy before torch is loaded)

# isort: split
import torch

from data.dataset import MAX_TOKENS, DatasetSpec, dataset_spec
from data.text_motion import Pair, load_pairs
from evaluation.metrics import euclidean_distances, fid, pair_distances
from evaluation.protocol import TextMotionEmbedder
from models.control.constraints import JointTarget
from models.control.director import Direction, Director, Place
from models.control.optimise import STEPS, ControlSettings, Directed
from models.motion_edit import MotionEditor
from models.text_to_motion import Sample, speed_up
from motion.body import foot_skating, roughness
from motion.features import features_to_joints
from motion.foot import lock_feet
from options.base import Parser, natural, positive_int
from options.generate import add_models
from storage.checkpoint import model_names
from storage.evaluation import find_evaluator
from storage.generation import load_text_to_motion
from utils import InputError, script
from utils.files import write_text
from utils.runtime import select_device, stream_seed

JOINTS = ("pelvis", "head", "left_wrist", "right_wrist", "left_foot", "right_foot")
DENSITIES = {"1": 1, "2": 2, "5": 5, "25%": 0.25, "100%": 1.0}  # number of constrained frames, or their fraction
TOP, BATCH = 3, 32
WITHOUT, TRUE = "without", "true"


@dataclass
class Measured:
    """Measurements of one motion. Embeddings and R-precision are added last, for all motions together."""

    clip: int
    joint: str
    density: str
    errors: np.ndarray   # (k,) metres
    locked: np.ndarray   # (k,) metres, after foot locking
    features: np.ndarray
    skating: float
    jerk: float
    seconds: float
    embedding: np.ndarray | None = None  # (e,)
    real: np.ndarray | None = None       # (e,) embedding of the real clip
    precision: float = float("nan")      # R-precision in per cent


def build_parser() -> Parser:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--data_root", required=True, help="prepared data set folder")
    parser.add_argument("--split", default="test", help="split of the clips")
    parser.add_argument("--clips", type=positive_int, default=BATCH, help="number of random clips")
    parser.add_argument("--every_joint", action="store_true", help="constrain each joint of every clip in turn")
    parser.add_argument("--steps", type=natural, default=STEPS, help="optimisation steps")
    parser.add_argument("--evaluator", help="evaluator for FID and R-precision")
    add_models(parser, lengths=False)
    parser.add_argument("--checkpoints_dir", default="checkpoints", help="folder of your models")
    parser.add_argument("--gpu_id", type=int, help="CUDA device, or -1 for the CPU")
    parser.add_argument("--seed", type=natural, default=0, help="seed for clips, frames and motions")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the table as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def measure(made: Directed, seconds: float, frames: np.ndarray, joint: str, truth: np.ndarray, key: tuple[int, str],
            spec: DatasetSpec) -> Measured:
    """Measure a motion whose ``joint`` should be at its position in ``truth`` (T, J, 3) at ``frames``."""
    joints, place = made.joints, spec.skeleton.joint_names.index(joint)
    locked = lock_feet(joints, spec.skeleton, spec.fps, made.pinned)
    errors, locked_errors = (np.linalg.norm(motion[frames, place] - truth[frames, place], axis=-1)
                             for motion in (joints, locked))
    return Measured(key[0], joint, key[1], errors, locked_errors, made.features,
                    foot_skating(locked, spec.skeleton, spec.fps), roughness(joints) * spec.fps**3, seconds)


def clip_rows(director: Director, clip: int, pair: Pair, spec: DatasetSpec, args: argparse.Namespace) -> list[Measured]:
    """Generate motions from a clip's caption, with and without constraints. Measure them and the clip itself."""
    length = len(pair.features) // director.pipeline.unit * director.pipeline.unit
    truth = spec.metres * features_to_joints(torch.from_numpy(pair.features[:length]), spec.skeleton).numpy()
    seed, text = stream_seed(args.seed, clip), pair.captions[0]

    def make(place: Place | None = None) -> tuple[Directed, float]:
        begun = time.perf_counter()
        made = director.make(Direction(text, lambda one: director.pipeline.tokens(
            [Sample(text, one, length)], director.sampling)[0], place=place), seed)
        return made, time.perf_counter() - begun

    rows, true, plain = [], (Directed(truth, pair.features[:length]), 0.0), make()
    for number, (density, amount) in enumerate(DENSITIES.items()):
        for joint in JOINTS if args.every_joint else JOINTS[(clip + number) % len(JOINTS):][:1]:
            place = spec.skeleton.joint_names.index(joint)
            count = max(1, round(amount * length)) if isinstance(amount, float) else min(amount, length)
            rng = np.random.default_rng(stream_seed(seed, number, place))
            frames = np.sort(rng.choice(length, count, replace=False))
            wanted = torch.from_numpy(frames), place, torch.from_numpy(truth[frames, place])
            made = make(lambda joints, wanted=wanted: [JointTarget(
                wanted[0].to(joints.device), wanted[1], wanted[2].to(joints))])
            rows += [measure(*motion, frames, joint, truth, (clip, name), spec) for name, motion in (
                (density, made), (f"{WITHOUT} {density}", plain), (f"{TRUE} {density}", true))]
    return rows


def precision(text: np.ndarray, motions: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the R-precision (n,), in per cent, of motion embeddings (n, e) and their ``text`` embeddings (n, e).

    The value is the expectation over random sets of ``BATCH`` - 1 distractors from ``others`` (m, e).
    """
    own = pair_distances(text, motions)[:, None]
    nearer = (euclidean_distances(motions, others) < own - 1e-6).sum(1)  # excludes equal captions
    return 100 * hypergeom.cdf(TOP - 1, len(others), nearer, BATCH - 1)


def mean_interval(clips: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Return the mean of ``values`` (n,) and the half-width of its 95 % interval, clustered by ``clips`` (n,)."""
    mean, number = values.mean(), len(np.unique(clips))
    sums = np.array([(values - mean)[clips == clip].sum() for clip in np.unique(clips)])
    return float(mean), float(1.96 * np.sqrt(np.square(sums).sum() * number / max(number - 1, 1)) / len(values))


def evaluate(rows: Sequence[Measured], pairs: Sequence[Pair], evaluator: TextMotionEmbedder,
             texts: np.ndarray) -> None:
    """Add embeddings and R-precision to all motions. ``texts`` (m, e) are the caption embeddings of the split."""
    own, real = evaluator.texts([pair.tokens[0] for pair in pairs]), evaluator.motions([p.features for p in pairs])
    made, clips = evaluator.motions([row.features for row in rows]), [row.clip for row in rows]
    for row, embedding, share in zip(rows, made, precision(own[clips], made, texts).tolist(), strict=True):
        row.embedding, row.real, row.precision = embedding, real[row.clip], share


def summary(rows: Sequence[Measured], without: dict[tuple[int, str, str], float]) -> dict[str, float]:
    """Compute the metrics of a table row. ``without`` maps (clip, joint, density) to unconstrained R-precision."""
    precisions, worst = np.array([(row.precision, row.errors.max()) for row in rows]).T
    every = np.concatenate([row.errors for row in rows])
    numbers = {
        "motions": len(rows), "trajectory50": 100 * float((worst > 0.5).mean()),
        "trajectory20": 100 * float((worst > 0.2).mean()), "location50": 100 * float((every > 0.5).mean()),
        "average": 100 * float(np.mean([row.errors.mean() for row in rows])),
        "locked": 100 * float(np.mean([row.locked.mean() for row in rows])),
        "skating": float(np.mean([row.skating for row in rows])), "jerk": float(np.mean([row.jerk for row in rows])),
        "seconds": float(np.median([row.seconds for row in rows])), "longest": max(row.seconds for row in rows),
        "R3": float(precisions.mean())}
    if rows[0].density in DENSITIES:
        change = precisions - np.array([without[row.clip, row.joint, row.density] for row in rows])
        numbers["change"], numbers["interval"] = mean_interval(np.array([row.clip for row in rows]), change)
    if len(rows) >= BATCH:
        numbers["fid"] = fid(np.stack([row.real for row in rows]), np.stack([row.embedding for row in rows]))
    return numbers


def table(found: Sequence[Measured]) -> dict[str, dict[str, float]]:
    """Compute the table rows: all motions, groups by density, by joint and by both, and the reference rows."""
    rest = {name: [row for row in found if row.density.startswith(name)] for name in (WITHOUT, TRUE)}
    without = {(row.clip, row.joint, row.density.removeprefix(f"{WITHOUT} ")): row.precision for row in rest[WITHOUT]}
    made = [row for row in found if row.density in DENSITIES]
    groups = {"all": made} | rest
    groups |= {f"at {density}": [row for row in made if row.density == density] for density in DENSITIES}
    groups |= {joint: [row for row in made if row.joint == joint] for joint in JOINTS}
    groups |= {f"{joint} {density}": [row for row in groups[joint] if row.density == density]
               for joint in JOINTS for density in DENSITIES}
    return {name: summary(rows, without) for name, rows in groups.items() if rows}


def report(rows: dict[str, dict[str, float]]) -> str:
    """Format the table as a string."""
    names = list(rows["all"])
    lines = [f"{'':16s}" + "".join(f"{name:>13s}" for name in names)]
    for row, numbers in rows.items():
        lines.append(f"{row:16s}" + "".join(f"{numbers[name]:13.3g}" if name in numbers else f"{'-':>13s}"
                                            for name in names))
    return "\n".join(lines)


@script
def main() -> None:
    args = build_parser().parse_args()
    spec, device = dataset_spec("t2m", args.data_root), select_device(args.gpu_id)
    evaluator = find_evaluator(args.evaluator, spec, args.checkpoints_dir, device)
    if evaluator is None:
        raise InputError(f"no evaluator for {spec.name}; train_evaluator.py trains one")
    pipeline, files = load_text_to_motion(args.name, None, spec, args.checkpoints_dir, device, args.which_epoch,
                                          args.res_name)
    speed_up(pipeline.networks)
    print(f"models: {model_names(files)}")
    pairs = load_pairs(spec, args.split, quiet=args.quiet)
    chosen = np.random.default_rng(args.seed).choice(len(pairs), min(args.clips, len(pairs)), replace=False)
    texts = evaluator.texts([pair.tokens[0] for pair in pairs])
    pairs = [pairs[number] for number in chosen]
    director = Director(pipeline, MotionEditor(pipeline, MAX_TOKENS), spec.fps, None,
                        ControlSettings(steps=args.steps))
    found = [row for clip, pair in enumerate(tqdm(pairs, disable=args.quiet or None, leave=False))
             for row in clip_rows(director, clip, pair, spec, args)]
    evaluate(found, pairs, evaluator, texts)
    rows = table(found)
    print(report(rows))
    if args.out:
        write_text(args.out, json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
