"""Tell what a checkpoint file is, which command uses it, where to put it, and what is missing.

    python prepare/inspect_checkpoint.py t2m.tar
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from options.base import Parser
from storage.released import identify
from storage.source import PREFERRED, SUFFIXES
from utils.errors import InputError, script


@script
def main() -> None:
    parser = Parser("Tell what a checkpoint file is, which command uses it, where to put it, and what is missing.")
    parser.add_argument("file", type=Path, help="torch file or safetensors")
    opt = parser.parse_args()
    if not opt.file.is_file():
        raise InputError(f"{opt.file}: there is no such file")
    found = identify(opt.file)
    stem = opt.file.stem if opt.file.stem in PREFERRED else "latest"
    suffix = opt.file.suffix if opt.file.suffix in SUFFIXES else ".tar"
    print(f"{opt.file}: {found.what}")
    if found.sizes:
        print(f"sizes: {', '.join(f'{key} {value}' for key, value in sorted(found.sizes.items()))}")
        print(f"put it at: checkpoints/{found.dataset or '<t2m or kit>'}/NAME/model/{stem}{suffix}")
    for need in found.needs:
        print(f"beside model/ it needs: {need}")
    print(f"used by: {'; '.join(found.use)}")
    if found.incompatible:
        raise InputError(f"{opt.file} will be refused: {'; '.join(found.incompatible)}")
    if found.sizes:
        print("complete: every tensor is there and has its shape")


if __name__ == "__main__":
    main()
