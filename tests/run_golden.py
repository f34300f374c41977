"""Compare this project with parity fixtures: ``python tests/run_golden.py DIR [DIR ...]``.

Prints a line per fixture and finally ``N passed, M failed``. Exit status: 1 if a fixture fails or none is found, 2 if a
folder is missing.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from models.layers import KINDS, use_linear
from tests.golden.runner import run


def main() -> None:
    parser = argparse.ArgumentParser(description="Run parity fixtures against this project's code.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folder of fixtures, searched through")
    parser.add_argument("--cpu_linear", choices=KINDS, default="mkl", help="library of linear layers on the CPU")
    args = parser.parse_args()
    use_linear(args.cpu_linear)
    folders = args.folders
    for folder in folders:
        if not folder.is_dir():
            parser.error(f"no folder {folder}")
    passed, failed = run(folders, lambda line: print(line, flush=True))
    print(f"{passed} passed, {failed} failed")
    sys.exit(0 if passed and not failed else 1)


if __name__ == "__main__":
    main()
