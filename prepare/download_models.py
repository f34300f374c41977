"""Download the published LaMP weights into the folders where the scripts expect them.

    prepare/download_models.sh                      all models, to checkpoints/t2m/ and checkpoints/kit/
    prepare/download_models.sh lamp_t2m lamp_vq     selected models
"""
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from options.base import Parser
from prepare.download import fetch, unpack
from storage.checkpoint import SUFFIXES, load_checkpoint, write_options
from utils.errors import InputError, script
from utils.files import atomic_path

BASE = "https://virutalbuy-public.oss-cn-hangzhou.aliyuncs.com/share/aigc3d/lamp"


@dataclass(frozen=True)
class PublishedModel:
    """A published file, its target folder, and options that cannot be inferred from it."""

    file: str
    dataset: str
    options: dict[str, str] = field(default_factory=dict)


MODELS = {
    "lamp_vq": PublishedModel("vq.tar", "t2m"),
    "lamp_h3d": PublishedModel("h3d-qformer.tar", "t2m", {"vq_name": "lamp_vq"}),
    "lamp_kit": PublishedModel("kit-qformer.tar", "kit"),
    "lamp_t2m": PublishedModel("t2m.tar", "t2m", {"vq_name": "lamp_vq"}),
    "lamp_m2t": PublishedModel("m2t.pth", "t2m", {"lamp_name": "lamp_h3d"}),
}


def install(found: Path, published: PublishedModel, folder: Path) -> Path:
    """Install a downloaded file in ``folder`` as ``model/latest.tar``, with options if there are none. Returns its
    path.

    The file is a checkpoint, or an archive that contains exactly one. Raises ``InputError`` for any other file.
    """
    with tempfile.TemporaryDirectory(prefix=".unpack", dir=found.parent) as unpacked:
        checkpoint = found
        try:
            load_checkpoint(found)
        except InputError as error:
            checkpoint = _inside(found, Path(unpacked), error)
        place = folder / "model" / "latest.tar"
        with atomic_path(place) as temporary:
            shutil.copyfile(checkpoint, temporary)
    if not (folder / "opt.txt").exists() and published.options:
        write_options(folder / "opt.txt", {"name": folder.name, **published.options})
    return place


def _inside(archive: Path, folder: Path, otherwise: InputError) -> Path:
    try:
        unpack(archive, folder)
    except InputError as error:
        raise InputError(f"{otherwise}; {error}") from error
    inner = [path for path in sorted(folder.rglob("*")) if path.suffix in SUFFIXES and path.is_file()]
    if not inner:
        raise otherwise
    if len(inner) > 1:
        raise InputError(f"{archive} contains {len(inner)} checkpoints instead of one: unpack it by hand")
    load_checkpoint(inner[0])
    return inner[0]


@script
def main() -> None:
    parser = Parser("Download the published LaMP weights into the folders where the scripts expect them.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(MODELS)} (default: all)")
    parser.add_argument("--base", default=BASE, help="URL of the folder with the files")
    parser.add_argument("--checkpoints_dir", default="checkpoints", help="folder of models")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    opt = parser.parse_args()
    unknown = [name for name in opt.names if name not in MODELS]
    if unknown:
        raise InputError(f"no published model {unknown[0]!r}: choose from {', '.join(MODELS)}")
    for name in opt.names or MODELS:
        published = MODELS[name]
        folder = Path(opt.checkpoints_dir) / published.dataset / name
        found = fetch(f"{opt.base.rstrip('/')}/{published.file}", folder / "download" / published.file, quiet=opt.quiet)
        print(f"{opt.base.rstrip('/')}/{published.file} -> {install(found, published, folder)}")
        shutil.rmtree(found.parent)


if __name__ == "__main__":
    main()
