"""Check a data set before training: one line and exit status 0 if it is valid, else a table and status 1.

    python prepare/check_data.py ROOT [--fix]
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data.specs import DATASETS, dataset_spec
from options.base import Parser, accept_seed, positive_int
from prepare.captioning import make_tagger
from prepare.checking.check import check_data, fault_table
from prepare.checking.check_fix import fix_data
from utils.cpu import usable_cores
from utils.errors import script


def build_parser() -> Parser:
    """Command-line options of this script."""
    parser = Parser(
        "Find faults that training does not report but that spoil its result: features that are not finite or have the "
        "wrong width, wrong frame rates, feet below the floor, swapped sides, invalid captions, leaks between splits, "
        "statistics of other features.")
    parser.add_argument("root", type=Path, metavar="ROOT", help="data set folder")
    parser.add_argument("--dataset_name", default="t2m", choices=tuple(DATASETS), help="HumanML3D or KIT-ML layout")
    parser.add_argument("--fix", action="store_true",
                        help="repair split files, caption lines and statistics; clip files are not changed")
    parser.add_argument("--shown", type=positive_int, default=3, help="examples listed per fault")
    parser.add_argument("--workers", type=positive_int, default=usable_cores(), help="processes")
    accept_seed(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


@script
def main() -> None:
    """Parse, check, repair, report."""
    opt = build_parser().parse_args()
    spec = dataset_spec(opt.dataset_name, opt.root)
    checked = check_data(spec, opt.workers, opt.quiet)
    if opt.fix and checked.faults:
        tagger, kind = make_tagger()
        fixed = fix_data(spec, checked, tagger)
        print("".join(f"fixed: {line}\n" for line in fixed), end="")
        if any(line.startswith("texts/") for line in fixed):
            print(f"parts of speech from {kind}")
        checked = check_data(spec, opt.workers, opt.quiet)
    print("".join(f"note: {line}\n" for line in checked.notes), end="")
    if checked.faults:
        print(fault_table(checked.faults, opt.shown), end="")
        print(f"{len(checked.faults)} faults in {len(checked.clips)} clips of {opt.root}")
        sys.exit(1)
    splits = ", ".join(f"{len(ids)} {split}" for split, ids in checked.splits.items())
    print(f"{len(checked.clips)} clips of {opt.root} are sound ({splits})")


if __name__ == "__main__":
    main()
