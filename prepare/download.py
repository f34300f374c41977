"""Download published files into the folders where the scripts expect them.

    prepare/download_models.sh                      all LaMP models, to checkpoints/t2m/ and checkpoints/kit/
    prepare/download_models.sh lamp_t2m lamp_vq     selected models
    prepare/download_glove.sh --source URL          word vectors to glove/
    prepare/download_evaluator.sh --source URL      evaluators to checkpoints/t2m/ (or kit)

An interrupted download resumes where it stopped. Use --source FILE for an archive that you already have.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import argparse
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
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from data.dataset import DATASETS
from options.base import Parser
from storage.checkpoint import SUFFIXES, load_checkpoint, write_options
from utils import InputError, script
from utils.files import atomic_path

_CHUNK = 1 << 20
_TIMEOUT = 60  # seconds without receiving data
_DRIVE = re.compile(r"drive\.google\.com/(?:file/d/|(?:open|uc)\?(?:[^#]*&)?id=)([\w-]+)")


def fetch(address: str, path: Path, sha256: str | None = None, quiet: bool = True) -> Path:
    """Download ``address`` to ``path`` and return ``path``.

    A partial download ``<path>.part`` is resumed if the server supports it. It is renamed to ``path`` once it is
    complete. Raises ``InputError`` if the download fails or does not match ``sha256``.
    """
    part = path.with_name(f"{path.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    on_drive = _DRIVE.search(address)  # a share link of Google Drive, which shows a web page
    direct = f"https://drive.usercontent.google.com/download?id={on_drive[1]}&export=download&confirm=t" if on_drive \
        else address
    try:
        _receive(direct, part, quiet)
    except urllib.error.HTTPError as error:
        raise InputError(f"{address}: the server responded {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise InputError(f"{address} cannot be downloaded ({reason}); partial download kept in {part}") from error
    if sha256 is not None:
        with open(part, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256.lower():
            part.unlink()
            raise InputError(f"{address} is not the expected file: its sha256 is {found}, not {sha256}")
    os.replace(part, path)
    return path


def _receive(address: str, part: Path, quiet: bool) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        total = error.headers.get("Content-Range", "").rpartition("/")[2]
        if error.code == 416 and total == str(have):  # the file is complete
            return
        if error.code != 416:
            raise
        part.unlink()  # the partial download is longer than the file on the server
        answer = urllib.request.urlopen(address, timeout=_TIMEOUT)
    with answer:
        if answer.headers.get_content_type() == "text/html":
            raise ValueError("the server sent a web page; the share link may have expired or require a login")
        resumes = answer.status == 206
        total = int(answer.headers["Content-Length"]) + (have if resumes else 0) \
            if "Content-Length" in answer.headers else None
        with open(part, "ab" if resumes else "wb") as file, \
                tqdm(total=total, initial=file.tell(), unit="B", unit_scale=True, desc=part.stem,
                     disable=quiet or None, leave=False) as bar:
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and part.stat().st_size != total:
        raise ValueError(f"received {part.stat().st_size} of {total} bytes")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip or tar file into ``folder``.

    Raises ``InputError`` for a damaged archive, other formats, links, devices, and paths outside ``folder``.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                kinds = ((one.filename, stat.S_IFMT(one.external_attr >> 16)) for one in opened.infolist())
                # The kind is 0 if the archive was not made on Unix.
                _check(archive, ((name, kind in (0, stat.S_IFREG, stat.S_IFDIR)) for name, kind in kinds))
                opened.extractall(folder)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as opened:
                _check(archive, ((one.name, one.isfile() or one.isdir()) for one in opened.getmembers()))
                opened.extractall(folder, filter="data")
        else:
            raise InputError(f"{archive} is neither a zip nor a tar file")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, RuntimeError) as error:
        raise InputError(f"{archive} cannot be unpacked: {error}") from error


def _check(archive: Path, members: Iterable[tuple[str, bool]]) -> None:
    for name, plain in members:
        path = PurePosixPath(name.replace("\\", "/"))
        if not plain or path.is_absolute() or ".." in path.parts or ":" in path.parts[0:1]:
            raise InputError(f"{archive} is refused: its member {name} is a link, a device or outside the folder")


@dataclass(frozen=True)
class PublishedArchive:
    """A published archive. The path ``landmark`` identifies its root; the glob ``taken`` selects files to install."""

    landmark: str
    taken: str
    folder: str  # target folder; {checkpoints} and {dataset} are filled in


ARCHIVES = {
    "glove": PublishedArchive("our_vab_data.npy", "our_vab_*", "glove"),
    "evaluator": PublishedArchive("text_mot_match/model/finest.tar", "*", "{checkpoints}/{dataset}"),
}


def install(archive: Path, published: PublishedArchive, folder: Path) -> list[str]:
    """Unpack an archive, and move the files and folders matching ``published.taken`` into ``folder``.

    Returns their names. Other files in ``folder`` are kept. Raises ``InputError`` if the archive does not contain
    ``published.landmark``.
    """
    with tempfile.TemporaryDirectory(prefix=".unpack", dir=folder) as unpacked:
        unpack(archive, Path(unpacked))
        found = sorted(Path(unpacked).rglob(published.landmark), key=lambda path: len(path.parts))
        if not found:
            raise InputError(f"{archive} does not contain {published.landmark}")
        home = found[0].parents[len(Path(published.landmark).parts) - 1]
        taken = sorted(home.glob(published.taken))
        for path in [inner for one in taken for inner in (one, *one.rglob("*")) if inner.is_file()]:
            target = folder / path.relative_to(home)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, target)
    return [path.name for path in taken]


BASE = "https://virutalbuy-public.oss-cn-hangzhou.aliyuncs.com/share/aigc3d/lamp"


@dataclass(frozen=True)
class PublishedModel:
    """A published checkpoint, the data set it belongs to, and options that its file does not contain."""

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


def install_model(found: Path, published: PublishedModel, folder: Path) -> Path:
    """Install a download as ``folder/model/latest.tar`` and return this path.

    Writes ``opt.txt`` if it is missing and ``published`` has options. ``found`` is a checkpoint, or an archive with
    exactly one checkpoint. Raises ``InputError`` for any other file.
    """
    with tempfile.TemporaryDirectory(prefix=".unpack", dir=found.parent) as unpacked:
        checkpoint = found
        try:
            load_checkpoint(found)
        except InputError as error:
            checkpoint = _checkpoint_in(found, Path(unpacked), error)
        place = folder / "model" / "latest.tar"
        with atomic_path(place) as temporary:
            shutil.copyfile(checkpoint, temporary)
    if not (folder / "opt.txt").exists() and published.options:
        write_options(folder / "opt.txt", {"name": folder.name, **published.options})
    return place


def _checkpoint_in(archive: Path, folder: Path, otherwise: InputError) -> Path:
    try:
        unpack(archive, folder)
    except InputError as error:
        raise InputError(f"{otherwise}; {error}") from error
    inner = [path for path in sorted(folder.rglob("*")) if path.suffix in SUFFIXES and path.is_file()]
    if not inner:
        raise otherwise
    if len(inner) > 1:
        raise InputError(f"{archive} contains {len(inner)} checkpoints instead of one; unpack it by hand")
    load_checkpoint(inner[0])
    return inner[0]


@script
def main() -> None:
    parser = Parser("Download published files into the folders where the scripts expect them.")
    parser.add_argument("what", choices=("models", *ARCHIVES), help="what to download")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"models: {', '.join(MODELS)} (default: all)")
    parser.add_argument("--base", default=BASE, help="models: URL of the folder with the files")
    parser.add_argument("--source", help="glove, evaluator: URL, Google Drive share link, or local archive")
    parser.add_argument("--sha256", help="glove, evaluator: expected checksum of the file")
    parser.add_argument("--dataset_name", default="t2m", choices=tuple(DATASETS), help="data set of the evaluator")
    parser.add_argument("--checkpoints_dir", default="checkpoints", help="folder of models")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    opt = parser.parse_args()
    (download_models if opt.what == "models" else download_archive)(opt)


def download_models(opt: argparse.Namespace) -> None:
    """Download the published models ``opt.names`` (by default all) from ``opt.base``."""
    unknown = [name for name in opt.names if name not in MODELS]
    if unknown:
        raise InputError(f"no published model {unknown[0]!r}: choose from {', '.join(MODELS)}")
    for name in opt.names or MODELS:
        published, address = MODELS[name], f"{opt.base.rstrip('/')}/{MODELS[name].file}"
        folder = Path(opt.checkpoints_dir) / published.dataset / name
        found = fetch(address, folder / "download" / published.file, quiet=opt.quiet)
        print(f"{address} -> {install_model(found, published, folder)}")
        shutil.rmtree(found.parent)


def download_archive(opt: argparse.Namespace) -> None:
    """Install the files of the archive ``opt.what``, which is downloaded from ``opt.source`` or is a local file."""
    published = ARCHIVES[opt.what]
    if opt.source is None:
        raise InputError(f"no address is known for the {opt.what}: set --source to the address in prepare/download_"
                         f"{opt.what}.sh of MoMask (Google Drive share links work) or to a local file")
    folder = Path(published.folder.format(checkpoints=opt.checkpoints_dir, dataset=opt.dataset_name))
    folder.mkdir(parents=True, exist_ok=True)
    local = "://" not in opt.source
    if local and not Path(opt.source).is_file():
        raise InputError(f"--source {opt.source}: no such file (a URL starts with https://)")
    archive = Path(opt.source) if local else fetch(opt.source, folder / f"{opt.what}.archive", opt.sha256, opt.quiet)
    print(f"{opt.source} -> {folder}: {', '.join(install(archive, published, folder))}")
    if not local:
        archive.unlink()


if __name__ == "__main__":
    main()
