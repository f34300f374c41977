"""A folder of motion capture files made into clips: ``OUT/joints/ID.npy`` (T, 22, 3), metres, 20 fps, floor at y = 0.

A file that cannot be used is left out with a reason; ``OUT/sources.jsonl`` says where every clip is from.
"""
import json
import os
import re
import unicodedata
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.motion_sources import SUFFIXES, Reader, Recording
from data.specs import DATASETS
from motion.recording import (
    FPS,
    UP_AXES,
    check_body,
    guess_up,
    metres_per_unit,
    normalised,
    steady_runs,
    to_y_up,
    windows,
)
from utils.errors import InputError
from utils.files import read_text, save_npy, write_text
from utils.parallel import mapping

# A clip's features have one row fewer than the clip has frames.
SHORTEST, LONGEST = DATASETS["t2m"].min_length + 1, DATASETS["t2m"].max_length - 1
SOURCES = "sources.jsonl"
NOT_IMPORTED = "not_imported.txt"


@dataclass(frozen=True)
class ImportJob:
    """What to import and how."""

    source: Path
    out: Path
    reader: Reader = field(default_factory=Reader)
    unit: str | float | None = None  # of ``UNITS``, or metres; None: found out for each file
    up: str | None = None            # of ``UP_AXES``; None: what most files of a folder show
    window: int = LONGEST    # frames of a clip at most
    overlap: int = 0         # frames that neighbouring clips of a file share at least


@dataclass(frozen=True)
class ClipSource:
    """Where a clip is from; times in seconds of the file."""

    id: str
    file: str  # relative to the source folder
    start: float
    end: float
    rig: str
    unit: str
    up: str


@dataclass
class Imported:
    """What became of a folder."""

    clips: list[ClipSource] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)  # reason by file
    cut: dict[str, float] = field(default_factory=dict)    # seconds left out of a file: no motion, or scraps
    others: int = 0                                        # files of other kinds


def import_motion(job: ImportJob, workers: int = 1, quiet: bool = False) -> Imported:
    """Import every motion file below ``job.source``.

    Raises ``InputError`` where the folder is missing, holds no motion file or none that can be used.
    """
    result = Imported()
    files = _motion_files(job.source, result)
    recordings: dict[str, Recording] = {}
    with mapping(min(workers, len(files))) as apply:
        read = apply(partial(_read, job.reader, job.source), files)
        for name, outcome in tqdm(zip(files, read, strict=True), total=len(files), desc="reading motion",
                                  disable=quiet or None, leave=False):
            if isinstance(outcome, str):
                result.refused[name] = outcome
            else:
                recordings[name] = outcome
    votes = _vote(recordings)
    ids = _Ids(job.out)
    for name, recording in recordings.items():
        try:
            _import_one(job, name, recording, votes.get(os.path.dirname(name)), ids, result)
        except ValueError as error:
            result.refused[name] = " ".join(str(error).split())
    _write_report(job.out, ids, result)
    if not result.clips:
        name, reason = next(iter(result.refused.items()))
        raise InputError(f"none of the {len(result.refused)} motion files in {job.source} can be used; {shown(name)}: "
                         f"{reason}")
    return result


def by_folder(clips: list[ClipSource]) -> dict[str, list[ClipSource]]:
    """Clips by the folder that their file lies in, "" the source folder itself."""
    folders = defaultdict(list)
    for clip in clips:
        folders[os.path.dirname(clip.file)].append(clip)
    return dict(folders)


def shown(name: str) -> str:
    """A file name as it can be printed, whatever bytes it has."""
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in name)


def read_sources(root: Path) -> list[ClipSource]:
    """What ``sources.jsonl`` says of the clips of a data set, nothing where there is none."""
    path = root / SOURCES
    if not path.exists():
        return []
    clips = []
    for number, line in enumerate(read_text(path, "clip sources").splitlines(), 1):
        try:
            clips.append(ClipSource(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise InputError(f"{path}:{number} is not what an import writes: {error}") from error
    return clips


def _motion_files(source: Path, result: Imported) -> list[str]:
    """Names of motion files relative to ``source``. Links to folders are refused, they may lead in circles."""
    if not source.is_dir():
        raise InputError(f"{source} is not a folder of motion files ({', '.join(SUFFIXES)})")
    names = []
    for folder, inner, files in os.walk(source, onerror=partial(_refuse_folder, source, result)):
        inner.sort()
        for name in inner:
            path = Path(folder, name)
            if path.is_symlink():
                result.refused[str(path.relative_to(source))] = "a link to a folder is not followed"
        for name in sorted(files):
            path = Path(folder, name)
            if path.suffix.lower() in SUFFIXES and not name.startswith("."):
                names.append(str(path.relative_to(source)))
            else:
                result.others += 1
    if not names:
        raise InputError(f"{source} has no motion file ({', '.join(SUFFIXES)})")
    return sorted(names)


def _refuse_folder(source: Path, result: Imported, error: OSError) -> None:
    result.refused[os.path.relpath(error.filename, source)] = f"cannot be listed: {error.strerror}"


def _read(reader: Reader, source: Path, name: str) -> Recording | str:
    """The recording, or why there is none."""
    try:
        return reader.read(source / name)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    except (ValueError, MemoryError) as error:
        return " ".join(str(error).split()) or "too large for this machine's memory"


def _vote(recordings: dict[str, Recording]) -> dict[str, str]:
    """The axis that most files of each folder have up, of equally many the more usual one."""
    votes: dict[str, Counter] = defaultdict(Counter)
    for name, recording in recordings.items():
        up = None if recording.up else guess_up(recording.joints)
        if up:
            votes[os.path.dirname(name)][up] += 1
    return {folder: max(UP_AXES, key=count.__getitem__) for folder, count in votes.items()}


def _import_one(job: ImportJob, name: str, recording: Recording, voted: str | None, ids: "_Ids",
                result: Imported) -> None:
    up = job.up or recording.up or _up(recording.joints, voted)
    unit, metres = metres_per_unit(recording.joints, job.unit or recording.unit)
    joints = to_y_up(recording.joints, up) * metres
    check_body(joints)
    runs = steady_runs(joints, SHORTEST)
    if not runs:
        raise ValueError(f"no {SHORTEST / FPS:g} s of steady motion: {len(joints) / FPS:.2f} s in all")
    clips = [clip for run in runs for clip in windows(*run, job.window, job.overlap)]
    stem = ids.stem(name)
    for number, (start, end) in enumerate(clips):
        clip = stem if len(clips) == 1 else f"{stem}_{number:03d}"
        ids.take(clip, name)
        save_npy(job.out / "joints" / f"{clip}.npy", normalised(joints[start:end]))
        seconds = (round(recording.start + frame / FPS, 4) for frame in (start, end))
        result.clips.append(ClipSource(clip, name, *seconds, recording.rig, unit, up))
    left_out = recording.seconds - sum(end - start - 1 for start, end in runs) / FPS
    if left_out >= 1 / FPS:
        result.cut[name] = left_out


def _up(joints: np.ndarray, voted: str | None) -> str:
    own = guess_up(joints)
    if voted is None:
        raise ValueError("cannot tell which axis is up; give it")
    if own not in (None, voted):
        raise ValueError(f"{own} seems to be up, {voted} is in the other files of its folder; give the axis if the "
                         f"body really lies")
    return voted


class _Ids:
    """Ids of clips: one for each clip, whatever the files are called; those of earlier imports stay theirs."""

    def __init__(self, out: Path):
        self.out = out
        self.earlier = read_sources(out)
        self.files = {clip.id: clip.file for clip in self.earlier}

    def stem(self, name: str) -> str:
        """What the ids of the file ``name`` begin with: its path, letters, digits, ``-`` and ``+`` kept."""
        if name.encode("utf-8", "surrogateescape").decode("utf-8", "replace") != name:
            raise ValueError("its name is not UTF-8")
        stem = re.sub(r"[^\w+-]+", "_", unicodedata.normalize("NFC", os.path.splitext(name)[0])).strip("_")
        if not stem:
            raise ValueError("its name has no letter or digit to make an id of")
        return stem

    def take(self, clip: str, file: str) -> None:
        """Give the id ``clip`` to ``file``. ``ValueError`` where it would be mistaken for another clip."""
        owner = self.files.get(clip)
        if owner not in (None, file):
            raise ValueError(f"its clip would have the id {clip}, as that of {owner}")
        twin = next((other for other in (f"M{clip}", clip[1:] if clip.startswith("M") else "")
                     if other in self.files), None)
        if twin:
            raise ValueError(f"its id {clip} and {twin} would be taken for mirrored twins")
        self.files[clip] = file


def _write_report(out: Path, ids: _Ids, result: Imported) -> None:
    """Write where clips are from and what was refused; drop clips that an earlier import had of the same files."""
    now, redone = {clip.id for clip in result.clips}, {clip.file for clip in result.clips}
    kept = [clip for clip in ids.earlier if clip.file not in redone]
    for clip in ids.earlier:
        if clip.file in redone and clip.id not in now:
            (out / "joints" / f"{clip.id}.npy").unlink(missing_ok=True)
    if result.clips:
        clips = sorted(kept + result.clips, key=lambda clip: clip.id)
        write_text(out / SOURCES, "".join(f"{json.dumps(asdict(clip), ensure_ascii=False)}\n" for clip in clips))
    if result.refused:
        lines = (f"{shown(name)}: {reason}\n" for name, reason in sorted(result.refused.items()))
        write_text(out / NOT_IMPORTED, "".join(lines))
    else:
        (out / NOT_IMPORTED).unlink(missing_ok=True)
