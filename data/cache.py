"""What is made from a data set once and kept beside it: ``ROOT/cache/<kind>-<key>``, safe to delete at any time."""
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

from data.specs import DatasetSpec
from utils.errors import InputError

Read = TypeVar("Read")

_SETTLED = 0.02   # seconds after which a change of a file shows in its times
_AWAY = Path(".cache")  # for data sets in folders that cannot be written


def state_of(folder: Path, names: Iterable[str], *facts: object) -> str:
    """A key that changes whenever one of the files of a folder does, or one of the facts.

    Names, sizes and times of change tell it without reading 29,000 files: the system sets the time of change itself, so
    no content is exchanged without it (but on Windows, where a size or a date has to change). A file that was changed a
    moment ago is waited for, since a second change within the clock's tick would not show.
    """
    digest, newest = hashlib.sha256(repr(facts).encode()), 0
    for name in names:
        try:
            stat = os.stat(f"{folder}/{name}")  # a Path would take longer to make than the call
        except FileNotFoundError:
            digest.update(f"{name}\0".encode())
            continue
        except OSError as error:
            raise InputError(f"cannot read {folder / name}: {error.strerror}") from error
        newest = max(newest, stat.st_ctime_ns)
        digest.update(f"{name} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}\0".encode())
    age = time.time() - newest / 1e9
    if 0 <= age < _SETTLED:
        time.sleep(_SETTLED - age)
    return digest.hexdigest()[:20]


def fingerprint(*parts: str | bytes | Path) -> str:
    """Hash of texts, bytes and the contents of files."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def load(spec: DatasetSpec, kind: str, key: str, make: Callable[[Path], None], read: Callable[[Path], Read],
         keep: int = 1) -> Read:
    """What ``read`` makes of the folder that ``kept`` gives. Raises ``InputError`` where its files are cut short, as a
    power cut may leave them."""
    while True:
        folder = kept(spec, kind, key, make, keep)
        try:
            return read(folder)
        except (OSError, EOFError, ValueError, LookupError) as error:
            if folder.is_dir():
                raise InputError(f"{folder} is damaged: delete it, and it is made anew ({error})") from error
            # Gone since: processes that want other keys have made those.


def kept(spec: DatasetSpec, kind: str, key: str, make: Callable[[Path], None], keep: int = 1) -> Path:
    """The folder that ``make`` filled for this key, now or in an earlier run of any process.

    It appears whole or not at all, and goes so; processes that want the same wait for the one that makes it. Of one
    kind ``keep`` folders stay, those used last: who has another one open keeps what he reads.
    """
    if (ready := spec.root / "cache" / f"{kind}-{key}").is_dir():  # beside data that only others may write to, too
        return _used(ready)
    cache = _cache_folder(spec)
    folder = cache / f"{kind}-{key}"
    if folder.is_dir():
        return _used(folder)
    try:
        with FileLock(cache / f".{kind}.lock", mode=0o666):  # as the umask allows: a group may share a data set
            if folder.is_dir():
                return _used(folder)
            for unfinished in _of_kind(cache, f".{kind}"):  # by a process that was killed
                shutil.rmtree(unfinished, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=cache, prefix=f".{kind}-", ignore_cleanup_errors=True) as aside:
                (made := Path(aside, "made")).mkdir()  # unlike its parent with the permissions of all other folders
                make(made)
                latest_first = sorted(_of_kind(cache, kind), key=lambda one: -one.stat().st_mtime_ns)
                os.replace(made, folder)
                for number, one in enumerate(latest_first[keep - 1:]):
                    with suppress(OSError):  # Windows does not move what somebody reads: it stays, and stays whole
                        one.rename(Path(aside, str(number)))
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}") from error
    return folder


def _used(folder: Path) -> Path:
    """The folder, whose date says from now on that it was used now."""
    with suppress(OSError):  # somebody else's
        os.utime(folder)
    return folder


def _of_kind(cache: Path, kind: str) -> list[Path]:
    """Folders of a kind under any key; one of another kind, whose name goes on, is none of them."""
    return [path for path in cache.iterdir() if path.name.rpartition("-")[0] == kind]


def _cache_folder(spec: DatasetSpec) -> Path:
    """Beside the data; for data that cannot be written to, in the working folder, under a name of its own."""
    beside = spec.root / "cache"
    away = _AWAY / f"{spec.root.resolve().name}-{hashlib.sha256(str(spec.root.resolve()).encode()).hexdigest()[:8]}"
    for folder in (beside, away):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise InputError(f"cannot write {beside} nor {away}, and the data set is read from a packed copy there")
