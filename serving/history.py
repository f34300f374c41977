"""History of the motions of each visitor, stored in a folder."""
import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from serving.asks import Ask
from utils import InputError
from utils.files import read_text, write_text

LONGEST = 300  # motions stored per visitor


@dataclass(frozen=True)
class Take:
    """A motion made in the app."""

    id: str              # name of its room
    ask: Ask             # the request that gives the same motion
    frames: int
    fps: float
    made: str            # time, ISO 8601
    picture: str         # SVG
    files: tuple[str, ...] = ()  # in its room
    remarks: tuple[str, ...] = ()
    kept: bool = False   # kept from a comparison

    @property
    def about(self) -> str:
        """Seed, length and settings as text."""
        return f"seed {self.ask.seed} · {self.frames / self.fps:.1f} s · guidance {self.ask.guidance:g}"

    @property
    def label(self) -> str:
        """Prompt, seed and length, for lists."""
        return f"{self.ask.title} · seed {self.ask.seed} · {self.frames / self.fps:.1f} s"

    def text(self) -> str:
        """JSON for ``read``."""
        return json.dumps(asdict(self) | {"ask": self.ask.record()})

    @classmethod
    def read(cls, record: dict) -> "Take":
        """A motion from the JSON of ``text``."""
        return cls(**record | {"ask": Ask.read(record["ask"]), "files": tuple(record["files"]),
                               "remarks": tuple(record["remarks"])})


class History:
    """Motions of each visitor, the newest first, in one file of JSON lines per visitor under ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.lock = folder, threading.RLock()
        self.known: dict[str, tuple[Take, ...]] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def of(self, owner: str) -> tuple[Take, ...]:
        """Motions of a visitor."""
        with self.lock:
            if owner not in self.known:
                path = self._path(owner)
                lines = read_text(path).splitlines() if path.is_file() else []
                self.known[owner] = tuple(Take.read(json.loads(line)) for line in lines)
            return self.known[owner]

    def add(self, owner: str, takes: Sequence[Take]) -> None:
        """Add motions."""
        self._set(owner, lambda known: (*reversed(takes), *known)[:LONGEST])

    def keep(self, owner: str, identity: str) -> None:
        """Mark a motion as kept."""
        self._set(owner, lambda known: tuple(replace(take, kept=True) if take.id == identity else take
                                             for take in known))

    def find(self, owner: str, identity: str | None) -> Take:
        """A motion by its id. Raises ``InputError`` if there is none."""
        for take in self.of(owner):
            if take.id == identity:
                return take
        raise InputError("upload a motion, or choose a generated one")

    def search(self, owner: str, words: str | None) -> list[Take]:
        """Motions whose prompt, seed or settings contain all words."""
        wanted = (words or "").lower().split()
        return [take for take in self.of(owner)
                if all(word in f"{take.ask.title} {take.about}".lower() for word in wanted)]

    def _set(self, owner: str, change: Callable[[tuple[Take, ...]], tuple[Take, ...]]) -> None:
        with self.lock:
            self.known[owner] = change(self.of(owner))
            write_text(self._path(owner), "".join(f"{take.text()}\n" for take in self.known[owner]))

    def _path(self, owner: str) -> Path:
        return self.folder / f"{hashlib.sha256(owner.encode()).hexdigest()[:32]}.jsonl"
