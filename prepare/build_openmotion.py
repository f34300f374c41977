"""Build the openmotion data set from its public sources, as far as they are there.

    python prepare/build_openmotion.py OUT BANDAI_FOLDER CMU_FOLDER
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from options.base import Parser, accept_seed, positive_int
from prepare.openmotion import build_openmotion
from utils.cpu import usable_cores
from utils.errors import script

SHOWN = 10  # recordings that are missing, and clips that are refused, are named


def build_parser() -> Parser:
    """The flags of this script."""
    parser = Parser(
        "Make OUT/joints, OUT/texts, OUT/contents.json and the split files from the recordings of Bandai-Namco-"
        "Research-Motiondataset 1 and 2 (BVH), CMU (BVH and AMC) and 100STYLE (BVH). assets/openmotion/README.md lists "
        "their sources. A second call adds what was missing in the first.")
    parser.add_argument("out", type=Path, metavar="OUT", help="data set folder to write to")
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="with the recordings, in any subfolder")
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
        print(f"{len(names)} recordings are not there: {', '.join(names[:SHOWN])}{', ...' * (len(names) > SHOWN)}")
    for name, reason in list(built.refused.items())[:SHOWN]:
        print(f"refused: {name}: {reason}")
    print(f"{len(built.clips)} clips written to {opt.out}, {len(built.refused)} refused; "
          f"prepare/motion_features.py {opt.out} --mirror makes features")


if __name__ == "__main__":
    main()
