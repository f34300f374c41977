"""Storage of results and uploads. Each result has a folder with a random name."""
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

KEEP_BYTES = 4 << 30
LOCK = "lock"
PREFIX = "lamp_app_"
YOUNG = 60  # seconds; a newer folder may not be locked yet


class Rooms:
    """Folders for results and uploads in ``root``. They are deleted ``keep_seconds`` after their last change.

    If results or uploads exceed ``keep_bytes``, the oldest folders are deleted earlier. If ``keep_seconds`` is None,
    folders do not expire.
    """

    def __init__(self, root: Path, keep_seconds: float | None, keep_bytes: int = KEEP_BYTES,
                 clock: Callable[[], float] = time.time) -> None:
        self.root, self.made, self.uploads = root, root / "made", root / "uploads"
        self.keep_seconds, self.keep_bytes, self.clock = keep_seconds, keep_bytes, clock
        for folder in (self.made, self.uploads):
            folder.mkdir(parents=True, exist_ok=True)

    def new(self) -> Path:
        """Delete expired folders, then create and return a new folder for results."""
        self.sweep()
        folder = self.made / secrets.token_urlsafe(16)
        folder.mkdir()
        return folder

    def find(self, room: str, file: str) -> Path | None:
        """Return the path of a file in a result folder, or None if it does not exist or is outside that folder."""
        folder = self.made / room
        try:
            path = (folder / file).resolve()
            inside = folder.parent == self.made and path.is_relative_to(folder.resolve())
            return path if inside and room not in ("", ".", "..") and path.is_file() else None
        except (OSError, ValueError):  # a name that is too long, or has a zero byte
            return None

    def sweep(self) -> None:
        """Delete expired folders. If results or uploads exceed ``keep_bytes``, also delete the oldest of them."""
        for place in (self.made, self.uploads):
            oldest = 0.0 if self.keep_seconds is None else self.clock() - self.keep_seconds
            held = 0
            for touched, size, path in sorted(map(_state, place.iterdir()), reverse=True):
                held += size
                if touched < oldest or held > self.keep_bytes:
                    _remove(path)


def sweep_leftovers(folder: Path) -> int:
    """Delete the temporary folders in ``folder`` that crashed apps have left. Returns their number."""
    swept = 0
    for left in folder.glob(f"{PREFIX}*"):
        with suppress(Timeout, OSError):
            if time.time() - left.stat().st_mtime > YOUNG:
                with FileLock(left / LOCK, timeout=0):
                    shutil.rmtree(left, ignore_errors=True)
                swept += 1
    return swept


def _state(path: Path) -> tuple[float, int, Path]:
    """Return the time of the last change, the size in bytes, and the path of a file or folder."""
    try:
        stats = [each.stat() for each in (path, *path.rglob("*"))]
        return max(stat.st_mtime for stat in stats), sum(stat.st_size for stat in stats), path
    except FileNotFoundError:  # a temporary file was renamed in the meantime
        return float("inf"), 0, path


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):  # an incomplete upload may be deleted or still open
            path.unlink()
