"""Build the openmotion data set from the public sources that are available.

    python prepare/build_openmotion.py OUT BANDAI_FOLDER CMU_FOLDER
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from options.base import Parser, accept_seed, positive_int
from prepare.openmotion import build_openmotion
from utils.cpu import usable_cores
from utils.errors import script

SHOWN = 10  # missing recordings and refused clips that are listed


def build_parser() -> Parser:
    """Command-line options of this script."""
    parser = Parser(
        "Write OUT/joints, OUT/texts, OUT/contents.json and the split files from the recordings of Bandai-Namco-"
        "Research-Motiondataset 1 and 2 (BVH), CMU (BVH and AMC) and 100STYLE (BVH). assets/openmotion/README.md lists "
        "their sources. Running it again adds clips whose recordings were missing before.")
    parser.add_argument("out", type=Path, metavar="OUT", help="output data set folder")
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="folder of recordings, with subfolders")
    parser.add_argument("--workers", type=positive_int, default=usable_cores(), help="processes")
    accept_seed(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


@script
def main() -> None:
    """Parse, build, report."""
    opt = build_parser().parse_args()
    print(f"reading {', '.join(map(str, opt.folders))}")
    built = build_openmotion(opt.folders, opt.out, opt.workers, opt.quiet)
    if built.missing:
        names = sorted(built.missing)
        print(f"{len(names)} recordings are missing: {', '.join(names[:SHOWN])}{', ...' * (len(names) > SHOWN)}")
    for name, reason in list(built.refused.items())[:SHOWN]:
        print(f"refused: {name}: {reason}")
    print(f"{len(built.clips)} clips written to {opt.out}, {len(built.refused)} refused; "
          f"next: prepare/motion_features.py {opt.out} --mirror")


if __name__ == "__main__":
    main()
