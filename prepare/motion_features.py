"""Compute motion features of a data set: ROOT/joints to ROOT/{new_joint_vecs,new_joints,Mean.npy,Std.npy}.

    python prepare/motion_features.py ROOT [--dataset_name kit] [--mirror]
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from data.dataset import DATASETS
from data.text import mirror_text
from motion.body import TURNED, UncertainAxis, check_coordinates, stand_up
from motion.features import ColumnStatistics, features_to_joints, joints_to_features
from motion.skeleton import UP_AXES, Skeleton, mirror, pose_offsets
from options.base import Parser, add_workers
from prepare.importing import FEATURE_FOLDERS, read_splits, twin_of, write_names
from prepare.motion_sources import read_real_array
from utils import InputError, script
from utils.files import read_text, save_npy, write_text
from utils.runtime import map_jobs

RARE = 0.1  # maximum fraction of rotated clips for which uncertain clips are assumed to be y up


@dataclass(frozen=True)
class FeatureJob:
    root: Path
    skeleton: Skeleton
    target_offsets: np.ndarray | None  # (J, 3) bones of all clips; None: those of the skeleton, else of each clip
    mirrored: bool                     # also write the mirrored twin of each clip
    published_yaw: bool = False
    up: str | None = None              # axis of ``UP_AXES``; None: estimated for each clip


@dataclass
class Prepared:
    rows: int = 0                                            # feature rows of all clips
    clips: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)    # reason by clip
    statistics: ColumnStatistics | None = None
    remarks: dict[str, str] = field(default_factory=dict)    # findings and changes by clip
    uncertain: list[str] = field(default_factory=list)       # clips refused for an uncertain up axis

    def add(self, other: "Prepared") -> None:
        self.rows += other.rows
        self.clips += other.clips
        self.refused |= other.refused
        self.remarks |= other.remarks
        self.uncertain += other.uncertain
        if self.statistics is None:
            self.statistics = other.statistics
        elif other.statistics is not None:
            self.statistics += other.statistics


def prepare_features(job: FeatureJob, workers: int = 1, quiet: bool = False) -> Prepared:
    """Compute the features of every clip under ``job.root``, and the statistics over all of them.

    Clips that cannot be used are listed in ``refused.txt`` with a reason, and their old features are removed. The
    output is deterministic. Raises ``InputError`` if there are no clips or none can be used.
    """
    names = _originals(job)
    result = Prepared()
    for part in map_jobs(partial(_prepare_clip, job), names, workers, "motion features", quiet):
        result.add(part)
    turned = sum(remark.endswith(TURNED) for remark in result.remarks.values())
    if result.uncertain and result.clips and turned <= RARE * len(result.clips):
        # Nearly all clips are y up, so those with an uncertain axis are assumed to be too: their bodies are lying.
        for name in list(result.uncertain):
            del result.refused[name]
            result.add(_prepare_clip(replace(job, up="y"), name))
    if result.refused:
        write_text(job.root / "refused.txt", refused_table(result.refused))
    else:
        (job.root / "refused.txt").unlink(missing_ok=True)
    if result.statistics is None:
        name, reason = next(iter(result.refused.items()))
        raise InputError(f"none of the {len(names)} clips in {job.root / 'joints'} can be used; {name}: {reason}")
    save_statistics(job.root, result.statistics)
    if job.mirrored:
        _add_twins_to_splits(job.root, set(result.clips))
    return result


def save_statistics(root: Path, statistics: ColumnStatistics) -> None:
    """Write ``Mean.npy`` and ``Std.npy``. Constant features, such as foot contacts of KIT-ML, have std 1, not 0."""
    mean, std = statistics.mean_std()
    save_npy(root / "Mean.npy", mean.astype(np.float32))
    save_npy(root / "Std.npy", np.where(std > 0, std, 1.0).astype(np.float32))


def reference_offsets(path: Path, skeleton: Skeleton) -> np.ndarray:
    """Return the bone vectors (J, 3) of the body in frame 0 of a joints file.

    Raises ``InputError`` if the file is invalid.
    """
    try:
        return pose_offsets(_read_joints(path, skeleton)[0], skeleton)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def _originals(job: FeatureJob) -> list[str]:
    """Return the clips to process. With mirroring, twins are excluded because they are regenerated."""
    folder = job.root / "joints"
    if not folder.is_dir():
        raise InputError(f"{folder} is missing; expected ID.npy (frames, {len(job.skeleton)}, 3) for every clip")
    names = {path.stem for path in folder.glob("*.npy") if not path.name.startswith(".")}
    if not names:
        raise InputError(f"{folder} has no .npy files")
    return sorted(name for name in names if not (job.mirrored and name.startswith("M") and name[1:] in names))


def _prepare_clip(job: FeatureJob, name: str) -> Prepared:
    result = Prepared()
    try:
        joints = _read_joints(job.root / "joints" / f"{name}.npy", job.skeleton)
        if len(joints) >= 2:  # else refused below
            check_coordinates(joints, job.skeleton.joint_names)
            standing, remark = stand_up(joints.astype(np.float64), job.skeleton, job.up)
            joints = standing.astype(np.float32)
            result.remarks |= {name: remark} if remark else {}
        result.add(_write_clip(job, name, joints))
    except ValueError as error:
        _refuse(job, name, str(error), result)
        result.uncertain += [name] if isinstance(error, UncertainAxis) else []
        return result
    if job.mirrored:
        twin, joints = twin_of(name), mirror(joints, job.skeleton)
        captions = job.root / "texts" / f"{name}.txt"
        try:
            text = read_text(captions, "captions") if captions.exists() else ""
        except InputError as error:
            _refuse(job, twin, str(error), result)
            return result
        if text:
            write_text(captions.with_stem(twin), mirror_text(text))
        save_npy(job.root / "joints" / f"{twin}.npy", joints)
        try:
            result.add(_write_clip(job, twin, joints))
        except ValueError as error:
            _refuse(job, twin, str(error), result)
    return result


def _read_joints(path: Path, skeleton: Skeleton) -> np.ndarray:
    """Read joints (T, J, 3) as float32. Raises ``ValueError`` if the file is invalid."""
    joints = read_real_array(path)
    if joints.ndim != 3 or joints.shape[1:] != (len(skeleton), 3):
        raise ValueError(f"shape {joints.shape}, expected (frames, {len(skeleton)}, 3)")
    with np.errstate(over="ignore"):  # values that are too large become infinite and are refused later
        return joints.astype(np.float32)


def _write_clip(job: FeatureJob, name: str, joints: np.ndarray) -> Prepared:
    features = joints_to_features(joints, job.skeleton, job.target_offsets, job.published_yaw)
    if not features.isfinite().all():
        raise ValueError("the features are not finite (coordinates too large?)")
    save_npy(job.root / "new_joint_vecs" / f"{name}.npy", features.numpy())
    save_npy(job.root / "new_joints" / f"{name}.npy", features_to_joints(features, job.skeleton).numpy())
    return Prepared(len(features), [name], {}, ColumnStatistics.of(features.numpy()))


def _refuse(job: FeatureJob, name: str, reason: str, result: Prepared) -> None:
    """Record why a clip was refused, and remove its features from an earlier run."""
    result.refused[name] = " ".join(reason.split())
    for folder in FEATURE_FOLDERS:
        (job.root / folder / f"{name}.npy").unlink(missing_ok=True)


def refused_table(refused: dict[str, str]) -> str:
    """Format one line per refused clip with its id and the reason."""
    width = max(map(len, refused), default=0)
    return "".join(f"{name:<{width}}  {reason}\n" for name, reason in sorted(refused.items()))


def _add_twins_to_splits(root: Path, clips: set[str]) -> None:
    for split, names in read_splits(root).items():
        new = clips - set(names)
        write_names(root, split, names + [twin_of(name) for name in names if twin_of(name) in new])


def build_parser() -> Parser:
    parser = Parser(
        "Compute motion features (ROOT/new_joint_vecs) and the joints they encode (ROOT/new_joints) of every clip "
        "ROOT/joints/ID.npy (frames, joints, 3), and Mean.npy and Std.npy over all clips of all splits.")
    parser.add_argument("root", type=Path, help="data set folder")
    parser.add_argument("--dataset_name", default="t2m", choices=tuple(DATASETS),
                        help="t2m: 22 joints, metres, 20 fps; kit: 21 joints, millimetres, 12.5 fps")
    parser.add_argument("--mirror", action="store_true",
                        help="also write a mirrored twin M<ID> of every clip to joints, texts and the split files")
    parser.add_argument("--reference", type=Path, metavar="JOINTS.npy",
                        help="retarget all clips to the bones of this clip's first frame; by default, t2m uses the "
                             "bones of HumanML3D, and kit keeps each clip's bones (its published body is clip 03950)")
    parser.add_argument("--published_yaw", action="store_true",
                        help="reproduce the published error in the yaw speed when a body turns past 180 degrees")
    parser.add_argument("--up", choices=UP_AXES, help="up axis of ROOT/joints (write --up=-y); default: estimated "
                                                      "for each clip")
    add_workers(parser)
    return parser


def report(prepared: Prepared, root: Path) -> None:
    for remark, count in Counter(prepared.remarks.values()).items():
        first = next(name for name, other in prepared.remarks.items() if other == remark)
        print(f"{count} clips, such as {first}: {remark}")
    if prepared.refused:
        print(f"{len(prepared.refused)} clips refused (listed in {root / 'refused.txt'}):")
        print(refused_table(prepared.refused), end="")
    print(f"{len(prepared.clips)} clips, {prepared.rows} rows of features written to {root / 'new_joint_vecs'}")


@script
def main() -> None:
    opt = build_parser().parse_args()
    skeleton = DATASETS[opt.dataset_name].skeleton
    print(f"reading {opt.root / 'joints'}")
    offsets = None if opt.reference is None else reference_offsets(opt.reference, skeleton)
    job = FeatureJob(opt.root, skeleton, offsets, opt.mirror, opt.published_yaw, opt.up)
    report(prepare_features(job, opt.workers, opt.quiet), opt.root)


if __name__ == "__main__":
    main()
