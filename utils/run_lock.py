"""Lock a result folder against concurrent runs."""
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from utils.errors import InputError

LOCK = ".lock"


@contextmanager
def run_lock(folder: Path, flag: str) -> Iterator[None]:
    """Hold ``folder`` for this run; ``InputError`` with the start of the run that holds it. ``flag`` names the folder.

    The operating system frees a lock once its process ends, however it ends, so locks of dead runs do not count.
    Where the file system has no locks, runs are not kept apart.
    """
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _open_locked(path, flag)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    try:
        os.truncate(handle, 0)
        os.pwrite(handle, f"a run started at {time.strftime('%Y-%m-%d %H:%M:%S')} (process {os.getpid()})".encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)
        with suppress(OSError):  # something was written
            folder.rmdir()


def refuse_if_held(folder: Path, flag: str) -> None:
    """Raise ``InputError`` as ``run_lock`` does where another run holds ``folder``."""
    path = folder / LOCK
    if path.is_file():
        os.close(_open_locked(path, flag))


def _open_locked(path: Path, flag: str) -> int:
    """A handle that has the lock of ``path``."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(handle, 200, 0).decode("utf-8", "replace") or "another run"
            os.close(handle)
            raise InputError(f"{path.parent} is in use by {holder}; wait for it, or give another {flag}") from error
        except OSError:  # this file system has no locks
            return handle
        if path.exists() and os.path.samestat(path.stat(), os.fstat(handle)):
            return handle
        os.close(handle)  # the run that held it removed the file meanwhile
