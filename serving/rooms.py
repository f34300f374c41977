"""Files that live for a while: a folder a request, under a name that nobody can guess."""
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

KEEP_BYTES = 4 << 30


class Rooms:
    """Folders under ``root`` that go ``keep_seconds`` after they were last written to; uploads beside them, too.

    Of either kind, what was written first goes earlier where all together have more than ``keep_bytes``: nobody fills
    the disk.
    """

    def __init__(self, root: Path, keep_seconds: float, keep_bytes: int = KEEP_BYTES,
                 clock: Callable[[], float] = time.time) -> None:
        self.made, self.uploads = root / "made", root / "uploads"
        self.keep_seconds, self.keep_bytes, self.clock = keep_seconds, keep_bytes, clock
        for folder in (self.made, self.uploads):
            folder.mkdir(parents=True)

    def new(self) -> Path:
        """An empty folder; what is too old goes."""
        self.sweep()
        folder = self.made / secrets.token_urlsafe(16)
        folder.mkdir()
        return folder

    def find(self, room: str, file: str) -> Path | None:
        """A file of a room, None where there is none: no room of that name, no such file, or one outside."""
        folder = self.made / room
        try:
            path = (folder / file).resolve()
            inside = folder.parent == self.made and path.is_relative_to(folder.resolve())
            return path if inside and room not in ("", ".", "..") and path.is_file() else None
        except (OSError, ValueError):  # what no file can be called: too long, or with a zero byte
            return None

    def sweep(self) -> None:
        """Remove what is too old, or too much."""
        oldest = self.clock() - self.keep_seconds
        for place in (self.made, self.uploads):
            held = 0
            for touched, size, path in sorted(map(_state, place.iterdir()), reverse=True):
                held += size
                if touched < oldest or held > self.keep_bytes:
                    _remove(path)


def _state(path: Path) -> tuple[float, int, Path]:
    """When a folder or anything in it was last written to, how many bytes it has, and the folder; or that of a file."""
    try:
        stats = [each.stat() for each in (path, *path.rglob("*"))]
        return max(stat.st_mtime for stat in stats), sum(stat.st_size for stat in stats), path
    except FileNotFoundError:  # a writer renames its temporary files
        return float("inf"), 0, path


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):  # what a broken upload has left may have gone, or still be open
            path.unlink()
