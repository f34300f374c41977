"""History of generated motions, with thumbnails and the settings that reproduce them."""
import hashlib
import json
import shlex
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import MAX_MOTION_LENGTH
from models.config import Sampling
from motion.foot import foot_joints, standing
from motion.skeleton import Skeleton
from serving.asks import FORMATS, Ask
from serving.models import Models
from utils import InputError
from utils.files import read_text, write_text

LONGEST = 300  # motions stored per visitor
VERSION = 1    # format version of motions.json
POSES = 5
SIZE = 100        # height of a picture and width of a pose, in SVG units
TALL = 2.0        # metres that a picture covers vertically
ACROSS = np.array([0.83, 0.0, -0.56])  # direction to the right, from the camera of the page
COLOURS = {"left": "#2e74d6", "right": "#e86238", "": "#8b95a5"}


@dataclass(frozen=True)
class Take:
    """A motion generated in the app."""

    id: str              # also the name of its folder
    ask: Ask             # request that reproduces the motion
    frames: int
    fps: float
    made: str            # time, ISO 8601
    picture: str         # SVG
    files: tuple[str, ...] = ()  # in its folder
    remarks: tuple[str, ...] = ()
    kept: bool = False   # marked by the user

    @property
    def about(self) -> str:
        """Seed, length and guidance, as a string."""
        return f"seed {self.ask.seed} · {self.frames / self.fps:.1f} s · guidance {self.ask.guidance:g}"

    @property
    def label(self) -> str:
        """Prompt, seed and length, for lists."""
        return f"{self.ask.title} · seed {self.ask.seed} · {self.frames / self.fps:.1f} s"

    @property
    def formats(self) -> list[str]:
        """File formats besides .npy."""
        return [kind for kind in FORMATS if f"{self.ask.stem}.{kind}" in self.files]

    def text(self) -> str:
        """Serialise the take to JSON."""
        return json.dumps(asdict(self) | {"ask": self.ask.record()})

    @classmethod
    def read(cls, record: dict) -> "Take":
        """Create a take from the parsed JSON of ``text``."""
        return cls(**record | {"ask": Ask.read(record["ask"]), "files": tuple(record["files"]),
                               "remarks": tuple(record["remarks"])})


class History:
    """Motions of each visitor, newest first, stored as JSON lines in one file per visitor in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.lock = folder, threading.RLock()
        self.known: dict[str, tuple[Take, ...]] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def of(self, owner: str) -> tuple[Take, ...]:
        """Return the motions of a visitor."""
        with self.lock:
            if owner not in self.known:
                path = self._path(owner)
                lines = read_text(path).splitlines() if path.is_file() else []
                self.known[owner] = tuple(Take.read(json.loads(line)) for line in lines)
            return self.known[owner]

    def add(self, owner: str, takes: Sequence[Take]) -> None:
        """Add motions to the history of a visitor."""
        self._set(owner, lambda known: (*reversed(takes), *known)[:LONGEST])

    def keep(self, owner: str, identity: str) -> None:
        """Mark a motion as kept."""
        self._set(owner, lambda known: tuple(replace(take, kept=True) if take.id == identity else take
                                             for take in known))

    def find(self, owner: str, identity: str | None) -> Take:
        """Return the motion with this id. Raises ``InputError`` if there is none."""
        for take in self.of(owner):
            if take.id == identity:
                return take
        raise InputError("upload a motion, or choose a generated one")

    def search(self, owner: str, words: str | None) -> list[Take]:
        """Return the motions whose prompt, seed, length and guidance together contain all ``words``."""
        wanted = (words or "").lower().split()
        return [take for take in self.of(owner)
                if all(word in f"{take.ask.title} {take.about}".lower() for word in wanted)]

    def _set(self, owner: str, change: Callable[[tuple[Take, ...]], tuple[Take, ...]]) -> None:
        with self.lock:
            self.known[owner] = change(self.of(owner))
            write_text(self._path(owner), "".join(f"{take.text()}\n" for take in self.known[owner]))

    def _path(self, owner: str) -> Path:
        return self.folder / f"{hashlib.sha256(owner.encode()).hexdigest()[:32]}.jsonl"


def manifest(takes: Sequence[Take], names: Mapping[str, str], models: Models, sampling: Sampling) -> str:
    """Return the content of motions.json. ``names`` maps motion ids to file names without suffix."""
    return json.dumps({
        "version": VERSION, "models": models.names, "fingerprint": models.fingerprint, "dataset_name": models.spec.name,
        "motions": [described(take, models, sampling) | {
            "files": [file.replace(take.ask.stem, names[take.id]) for file in take.files],
            "command": command(take, names[take.id], models, sampling)} for take in takes]}, indent=2) + "\n"


def described(take: Take, models: Models, sampling: Sampling) -> dict[str, Any]:
    """Describe a motion, including the request that reproduces it."""
    return {"prompt": take.ask.title, "seed": take.ask.seed, "frames": take.frames, "fps": take.fps,
            "seconds": round(take.frames / take.fps, 3), "made": take.made, "remarks": list(take.remarks),
            "ask": take.ask.record() | {"model": models.fingerprint},
            "sampling": asdict(sampling) | {"cond_scale": take.ask.guidance}}


def command(take: Take, name: str, models: Models, sampling: Sampling) -> str | None:
    """Return a command line that reproduces the motion, or None for timelines and motions with constraints."""
    ask, own = take.ask, asdict(models.pipeline.sampling)
    if ask.blocks or ask.constraints:
        return None
    words = ["--seed", ask.seed]
    for option, value in (asdict(sampling) | {"cond_scale": ask.guidance}).items():
        if value != own[option]:
            words += [f"--{option}", value]
    if ask.sections:
        words = ["edit_t2m.py", "--source_motion", f"{name}_source.npy", "--mask_edit_section", *ask.sections.split(),
                 "--text_prompt", ask.prompt, *words]
    else:
        length = (["--motion_length", take.frames] if take.frames <= MAX_MOTION_LENGTH
                  else ["--seconds", take.frames / take.fps])
        words = ["gen_t2m.py", "--text_prompt", ask.prompt, *length, *words]
    return shlex.join(["python", *map(str, words), *models.flags])


def motion_picture(joints: np.ndarray, skeleton: Skeleton) -> str:
    """Draw an SVG thumbnail with ``POSES`` evenly spaced frames of joints (T, J, 3) in metres."""
    frames = np.linspace(0, len(joints) - 1, POSES).round().astype(int)
    lines = []
    for slot, pose in enumerate(joints[frames]):
        x = ((pose - pose[0]) @ ACROSS / TALL + slot + 0.5) * SIZE
        y = (0.95 - pose[:, 1] / TALL) * SIZE
        for chain in skeleton.chains:
            side = skeleton.joint_names[chain[-1]].split("_")[0]
            points = " ".join(f"{x[joint]:.0f},{y[joint]:.0f}" for joint in chain)
            lines.append(f'<polyline points="{points}" stroke="{COLOURS.get(side, COLOURS[""])}"/>')
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {POSES * SIZE} {SIZE}" fill="none" stroke-width="4" '
            f'stroke-linecap="round" stroke-linejoin="round">{"".join(lines)}</svg>')


def contact_bar(joints: np.ndarray, skeleton: Skeleton, fps: float) -> dict[str, object]:
    """Return the duration and the ground contacts of both feet, in seconds, for joints (T, J, 3) in metres."""
    down = standing(joints, skeleton, fps)
    left = np.array([skeleton.joint_names[joint].startswith("left") for joint in foot_joints(skeleton)])
    return {"seconds": len(joints) / fps, "left": _runs(down[:, left].any(1), fps),
            "right": _runs(down[:, ~left].any(1), fps)}


def _runs(stands: np.ndarray, fps: float) -> list[list[float]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], stands.astype(int), [0]])))
    return (edges.reshape(-1, 2) / fps).round(3).tolist()
