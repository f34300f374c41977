"""HumanML3D's joints out of AMASS and HumanAct12: ROOT/joints/ID.npy, as its index.csv cuts them.

    python prepare/humanml3d.py ROOT --index index.csv --amass DIR --humanact12 DIR --body_models DIR
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from options.base import Parser, positive_int
from prepare.humanml3d_clips import Sources, make_joints, missing_by_source, read_cuts
from utils.cores import usable_cores
from utils.errors import InputError, script
from utils.files import write_text


def build_parser() -> Parser:
    """The flags of this script."""
    parser = Parser("Make ROOT/joints/ID.npy of HumanML3D out of its sources. prepare/README.md has all steps; a "
                    "second call goes on where the first one ended.")
    parser.add_argument("root", type=Path, metavar="ROOT", help="data set folder to write to")
    parser.add_argument("--index", type=Path, required=True, help="index.csv of HumanML3D")
    parser.add_argument("--amass", type=Path, help="folder of AMASS's sets (SMPL+H G): KIT/..., CMU/...")
    parser.add_argument("--humanact12", type=Path, help="folder of HumanAct12's .npy files")
    parser.add_argument("--body_models", type=Path, help="SMPL-H models: male/model.npz, female/model.npz, ...")
    parser.add_argument("--workers", type=positive_int, default=usable_cores(), help="processes")
    parser.add_argument("--seed", type=int, default=3407, help="taken by every script; nothing is random in this one")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


@script
def main() -> None:
    """Parse, make, report."""
    opt = build_parser().parse_args()
    cuts = read_cuts(opt.index)
    print(f"reading {len(cuts)} clips of {opt.index}")
    made = make_joints(cuts, Sources(opt.amass, opt.humanact12, opt.body_models), opt.root, opt.workers, opt.quiet)
    if made.refused:
        path = opt.root / "not_made.txt"
        write_text(path, "".join(f"{name}: {reason}\n" for name, reason in made.refused.items()))
        sets = ", ".join(f"{count} of {name}" for name, count in missing_by_source(made.refused, cuts).items())
        print(f"{len(made.refused)} clips not made ({sets}); {path} says why")
    if not made.clips:
        name, reason = next(iter(made.refused.items()))
        raise InputError(f"no clip could be made; {name}: {reason}")
    print(f"{len(made.clips)} clips written to {opt.root / 'joints'}")


if __name__ == "__main__":
    main()
