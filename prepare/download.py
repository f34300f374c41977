"""Fetch published files and put them where the scripts look for them.

    prepare/download_glove.sh --source URL          word vectors to glove/
    prepare/download_evaluator.sh --source URL      evaluators to checkpoints/t2m/ (or kit)

A download that was interrupted goes on where it stopped; an archive that is there already is given as --source FILE.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import hashlib
import http.client
import os
import re
import shutil
import stat
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from data.specs import DATASETS
from options.base import Parser
from utils.errors import InputError, script

_CHUNK = 1 << 20
_TIMEOUT = 60  # seconds without a byte
_DRIVE = re.compile(r"drive\.google\.com/(?:file/d/|(?:open|uc)\?(?:[^#]*&)?id=)([\w-]+)")


def direct_address(address: str) -> str:
    """Where a file itself lies: a share link of Google Drive is turned into the address of its file."""
    found = _DRIVE.search(address)
    if not found:
        return address
    return f"https://drive.usercontent.google.com/download?id={found[1]}&export=download&confirm=t"


def fetch(address: str, path: Path, sha256: str | None = None, quiet: bool = True) -> Path:
    """Download ``address`` to ``path`` and give ``path``.

    What was begun as ``<path>.part`` goes on from where it stopped, if the server can. The file appears under its
    name when it is whole and, where ``sha256`` is given, is that very file. Raises ``InputError`` where it is not.
    """
    part = path.with_name(f"{path.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        _receive(direct_address(address), part, quiet)
    except urllib.error.HTTPError as error:
        raise InputError(f"{address}: the server answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise InputError(f"{address} cannot be fetched ({reason}); what there is stays in {part}") from error
    if sha256 is not None and (found := _digest(part)) != sha256.lower():
        part.unlink()
        raise InputError(f"{address} is not the file that was asked for: its sha256 is {found}, not {sha256}")
    os.replace(part, path)
    return path


def _receive(address: str, part: Path, quiet: bool) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        total = error.headers.get("Content-Range", "").rpartition("/")[2]
        if error.code == 416 and total == str(have):  # nothing is left to send
            return
        if error.code != 416:
            raise
        part.unlink()  # what was begun is longer than the file
        answer = urllib.request.urlopen(address, timeout=_TIMEOUT)
    with answer:
        if answer.headers.get_content_type() == "text/html":
            raise ValueError("it is a web page; a share link may have expired or ask for a login")
        goes_on = answer.status == 206
        total = int(answer.headers["Content-Length"]) + (have if goes_on else 0) \
            if "Content-Length" in answer.headers else None
        with open(part, "ab" if goes_on else "wb") as file, \
                tqdm(total=total, initial=file.tell(), unit="B", unit_scale=True, desc=part.stem,
                     disable=quiet or None, leave=False) as bar:
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and part.stat().st_size != total:
        raise ValueError(f"{part.stat().st_size} of {total} bytes came")


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip or tar file into ``folder``. Raises ``InputError`` for a damaged one, and before anything is written
    where a member is neither file nor folder, or would lie outside."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                _check(archive, _zip_members(opened))
                opened.extractall(folder)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as opened:
                _check(archive, ((one.name, one.isfile() or one.isdir()) for one in opened.getmembers()))
                opened.extractall(folder, filter="data")
        else:
            raise InputError(f"{archive} is neither a zip nor a tar file")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, RuntimeError) as error:
        raise InputError(f"{archive} cannot be unpacked: {error}") from error


def _zip_members(archive: zipfile.ZipFile) -> Iterator[tuple[str, bool]]:
    for member in archive.infolist():
        kind = stat.S_IFMT(member.external_attr >> 16)  # 0 where the archive was not made on Unix
        yield member.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR)


def _check(archive: Path, members: Iterable[tuple[str, bool]]) -> None:
    for name, plain in members:
        path = PurePosixPath(name.replace("\\", "/"))
        if not plain or path.is_absolute() or ".." in path.parts or ":" in path.parts[0:1]:
            raise InputError(f"{archive} is refused: its member {name} is no plain file inside it")


def move_into(source: Path, folder: Path) -> None:
    """Move a file or folder into ``folder``, file by file, so that what else lies there stays."""
    files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
    for path in files:
        target = folder / path.relative_to(source.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, target)





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
