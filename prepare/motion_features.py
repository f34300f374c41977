"""Make the features of a data set: ROOT/joints to ROOT/{new_joint_vecs,new_joints,Mean.npy,Std.npy}.

    python prepare/motion_features.py ROOT [--dataset_name kit] [--mirror]
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data.specs import DATASETS
from options.base import Parser, positive_int
from prepare.features import Job, Prepared, prepare_features, reference_offsets, refused_table
from utils.cores import usable_cores
from utils.errors import script


def build_parser() -> Parser:
    """The flags of this script."""
    parser = Parser(
        "Compute motion features (ROOT/new_joint_vecs) and the joints they stand for (ROOT/new_joints) of every clip "
        "ROOT/joints/ID.npy (frames, joints, 3), and Mean.npy and Std.npy over all of them, whatever their split.")
    parser.add_argument("root", type=Path, help="data set folder")
    parser.add_argument("--dataset_name", default="t2m", choices=tuple(DATASETS),
                        help="t2m: 22 joints, metres, 20 fps; kit: 21 joints, millimetres, 12.5 fps")
    parser.add_argument("--mirror", action="store_true",
                        help="also make a mirrored twin M<ID> of every clip, in joints, texts and the split files")
    parser.add_argument("--reference", type=Path, metavar="JOINTS.npy",
                        help="move all clips to the bones of this clip's first frame; by default t2m has the bones of "
                             "HumanML3D, and kit leaves each clip its own (its published body is that of clip 03950)")
    parser.add_argument("--published_yaw", action="store_true",
                        help="keep the published error in the yaw speed where a body turns past half way round")
    parser.add_argument("--workers", type=positive_int, default=usable_cores(), help="processes")
    parser.add_argument("--seed", type=int, default=3407, help="taken by every script; nothing is random in this one")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def report(prepared: Prepared, root: Path) -> None:
    """Say what became of the clips."""
    if prepared.refused:
        print(f"{len(prepared.refused)} clips refused (listed in {root / 'refused.txt'}):")
        print(refused_table(prepared.refused), end="")
    print(f"{len(prepared.clips)} clips, {prepared.rows} rows of features written to {root / 'new_joint_vecs'}")


@script
def main() -> None:
    """Parse, prepare, report."""
    opt = build_parser().parse_args()
    skeleton = DATASETS[opt.dataset_name].skeleton
    print(f"reading {opt.root / 'joints'}")
    offsets = None if opt.reference is None else reference_offsets(opt.reference, skeleton)
    job = Job(opt.root, skeleton, offsets, opt.mirror, opt.published_yaw)
    report(prepare_features(job, opt.workers, opt.quiet), opt.root)


if __name__ == "__main__":
    main()
