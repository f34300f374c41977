"""Fetch published files and put them where the scripts look for them.

    prepare/download_glove.sh --source URL          word vectors to glove/
    prepare/download_evaluator.sh --source URL      evaluators to checkpoints/t2m/ (or kit)

A download that was interrupted goes on where it stopped; an archive that is there already is given as --source FILE.
"""
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data.specs import DATASETS
from options.base import Parser
from utils.download import fetch, move_into, unpack
from utils.errors import InputError, script


@dataclass(frozen=True)
class Published:
    """An archive: what is in it is known by a path that it must hold, and the pattern of what lies beside that."""

    landmark: str
    taken: str
    folder: str                                # to put it in; {checkpoints} and {dataset} are filled in
    told_by: str                               # who tells the address
    addresses: tuple[tuple[str, str], ...] = ()  # data set -> address, where one is known to be lasting


ARCHIVES = {
    "glove": Published("our_vab_data.npy", "our_vab_*", "glove", "prepare/download_glove.sh of MoMask"),
    "evaluator": Published("text_mot_match/model/finest.tar", "*", "{checkpoints}/{dataset}",
                           "prepare/download_evaluator.sh of MoMask"),
}


def source_of(what: str, dataset: str, given: str | None) -> str:
    """The address to take. ``InputError`` where none is given and the table has none."""
    source = given or dict(ARCHIVES[what].addresses).get(dataset)
    if source is None:
        raise InputError(f"where the {what} lies is not known here: give the address that {ARCHIVES[what].told_by} "
                         "names as --source (a share link of Google Drive will do), or a file that you have")
    return source


def install(archive: Path, published: Published, folder: Path) -> list[str]:
    """Unpack an archive and move what it is known by, and what lies beside that, into ``folder``; their names."""
    with tempfile.TemporaryDirectory(prefix=".unpack", dir=folder) as unpacked:
        unpack(archive, Path(unpacked))
        found = sorted(Path(unpacked).rglob(published.landmark), key=lambda path: len(path.parts))
        if not found:
            raise InputError(f"{archive} holds no {published.landmark}")
        home = found[0].parents[len(Path(published.landmark).parts) - 1]
        taken = sorted(home.glob(published.taken))
        for path in taken:
            move_into(path, folder)
    return [path.name for path in taken]


@script
def main() -> None:
    parser = Parser("Fetch published files and put them where the scripts look for them.")
    parser.add_argument("what", choices=tuple(ARCHIVES), help="what to fetch")
    parser.add_argument("--source", help="address, share link of Google Drive, or archive on this machine")
    parser.add_argument("--sha256", help="refuse any other file than the one with this checksum")
    parser.add_argument("--dataset_name", default="t2m", choices=tuple(DATASETS), help="whose evaluator")
    parser.add_argument("--checkpoints_dir", default="checkpoints", help="where models lie")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    opt = parser.parse_args()
    published, source = ARCHIVES[opt.what], source_of(opt.what, opt.dataset_name, opt.source)
    folder = Path(published.folder.format(checkpoints=opt.checkpoints_dir, dataset=opt.dataset_name))
    folder.mkdir(parents=True, exist_ok=True)
    local = "://" not in source
    if local and not Path(source).is_file():
        raise InputError(f"--source {source}: there is no such file (an address begins with https://)")
    archive = Path(source) if local else fetch(source, folder / f"{opt.what}.archive", opt.sha256, opt.quiet)
    print(f"{source} -> {folder}: {', '.join(install(archive, published, folder))}")
    if not local:
        archive.unlink()


if __name__ == "__main__":
    main()
