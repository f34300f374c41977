"""Files that live for a while: a folder a request, under a name that nobody can guess."""
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path


class Rooms:
    """Folders under ``root`` that go ``keep_seconds`` after they were last written to; uploads beside them, too."""

    def __init__(self, root: Path, keep_seconds: float, clock: Callable[[], float] = time.time) -> None:
        self.made, self.uploads = root / "made", root / "uploads"
        self.keep_seconds, self.clock = keep_seconds, clock
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
        """Remove what is too old."""
        oldest = self.clock() - self.keep_seconds
        for place in (self.made, self.uploads):
            for folder in place.iterdir():
                if folder.is_dir() and _touched(folder) < oldest:
                    shutil.rmtree(folder, ignore_errors=True)


def _touched(folder: Path) -> float:
    """When a folder, or a file in it, was last written to."""
    try:
        return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
    except FileNotFoundError:  # a writer renames its temporary files
        return float("inf")
