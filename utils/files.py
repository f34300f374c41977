"""Atomic file writing, file reading with clear errors, run locks, and Hugging Face model folders."""
import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from utils import InputError

ROOT = Path(__file__).resolve().parent.parent  # root folder of the project


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Context manager that yields the path of a temporary file, which replaces ``path`` if the block succeeds.

    The temporary file is created in the folder of ``path`` (itself created if missing). It has the same suffix, because
    some writers depend on it. Raises ``InputError`` if the file cannot be written, for example on a full disk.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    except OSError as error:
        raise InputError(f"cannot write {path}: {_reason(error)}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {_reason(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)  # some libraries raise OSError without strerror


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically, as UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save_npy(path: str | Path, array: np.ndarray) -> None:
    """Save one array as ``.npy`` atomically."""
    with atomic_path(path) as temporary:
        np.save(temporary, array)


def read_npy(path: str | Path, made_by: str | None = None) -> np.ndarray:
    """Read an array of real numbers from a ``.npy`` file.

    Raises ``InputError`` if the file is missing or invalid. ``made_by`` names the script that creates it, for the
    message.
    """
    try:
        array = np.load(path)
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing{f'; {made_by} creates it' if made_by else ''}") from error
    except MemoryError as error:
        raise InputError(f"{path} is not a readable .npy file: its header declares more values than fit in "
                         "memory") from error
    except Exception as error:  # damaged headers can raise almost any exception in NumPy
        raise InputError(f"{path} is not a readable .npy file: {npy_fault(error)}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise InputError(f"{path} is not an array of real numbers")
    return array


def npy_fault(error: Exception) -> str:
    """Return the reason why NumPy could not read a file, in one line."""
    if "pickle" in str(error):
        return "it has no NumPy header, or contains Python objects"
    return next(iter(str(error).splitlines()), type(error).__name__)


def read_text(path: str | Path, what: str = "file") -> str:
    """Read a UTF-8 text file, with or without byte-order mark. Raises ``InputError`` if this fails.

    ``what`` names the kind of file in the message.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{what} {path} is not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise InputError(f"cannot read {what} {path}: {error.strerror}") from error


def fingerprint(*parts: str | bytes | Path) -> str:
    """Return a SHA-256 hash of strings, bytes and the contents of files (given as ``Path``)."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


LOCK = ".lock"


@contextmanager
def run_lock(folder: Path, flag: str) -> Iterator[None]:
    """Context manager that locks ``folder`` for this run.

    If the folder is locked, raises an ``InputError`` that names the start time of the other run and ``flag``, the
    command-line flag that sets the folder. The operating system releases the lock when the process ends, so a crashed
    run leaves no lock. On file systems without locking, nothing is locked.
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
        with suppress(OSError):  # the run wrote something
            folder.rmdir()


def refuse_if_held(folder: Path, flag: str) -> None:
    """If another run has locked ``folder``, raise the same ``InputError`` as ``run_lock``."""
    path = folder / LOCK
    if path.is_file():
        os.close(_open_locked(path, flag))


def _open_locked(path: Path, flag: str) -> int:
    """Open and lock ``path``. Returns the file descriptor. Raises ``InputError`` if another process holds the lock."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(handle, 200, 0).decode("utf-8", "replace") or "another run"
            os.close(handle)
            raise InputError(f"{path.parent} is in use by {holder}; wait for it, or choose another {flag}") from error
        except OSError:  # no locks on this file system
            return handle
        if path.exists() and os.path.samestat(path.stat(), os.fstat(handle)):
            return handle
        os.close(handle)  # the previous owner of the lock has removed the file


WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # of a folder in the Hugging Face layout


def model_folder(source: str | Path, what: str, files: Sequence[str], weights: bool = True) -> Path:
    """Return the folder of a model: ``source`` if it is a folder, else a download from the Hugging Face hub.

    Downloads ``files`` and, if ``weights`` is True, the weight files. Without a network connection, a model in the
    hub's cache is used. Raises ``InputError`` if the model cannot be found; ``what`` names the kind of model in the
    message.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download  # only names need it, and it is slow to import

    try:
        return Path(snapshot_download(str(source), allow_patterns=[*files, *(WEIGHT_FILES if weights else ())]))
    except Exception as error:  # the hub's client raises its own errors, httpx's and OSError
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{source} is not a folder, and no {what} of that name was found: {reason}") from error


@contextmanager
def silent_transformers() -> Iterator[None]:
    """Context manager that hides the progress bars and loading reports of ``transformers``."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
