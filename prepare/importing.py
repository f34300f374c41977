"""Import motion capture files as clips ``OUT/joints/ID.npy`` (T, 22, 3) in metres, 20 fps, floor at y = 0.

Files that cannot be used are skipped with a reason. ``OUT/sources.jsonl`` records the source of every clip.
"""
import hashlib
import json
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.dataset import DATASETS, PARTS
from data.motion_files import REFUSED, SKELETON
from motion.body import Stance, find_stance, to_y_up
from motion.recording import FPS, check_body, metres_per_unit, normalised, steady_runs, windows
from motion.rig_search import UnknownRig
from motion.skeleton import UP_AXES
from prepare.motion_sources import SUFFIXES, Reader, Recording, read_real_array
from utils import InputError
from utils.files import read_text, save_npy, write_text
from utils.runtime import in_own_process, mapping

SPLITS = (*PARTS, "train_val", "all")
FEATURE_FOLDERS = ("new_joint_vecs", "new_joints")


def twin_of(clip: str) -> str:
    """Return the id of the mirrored twin of a clip."""
    return f"M{clip}"


def remove_clips(root: Path, clips: Collection[str]) -> None:
    """Remove clips and their mirrored twins from a data set: joints, features, captions and split entries."""
    gone = {name for clip in clips for name in (clip, twin_of(clip))}
    if not gone:
        return
    for name in gone:
        _remove(root / folder / f"{name}.npy" for folder in ("joints", *FEATURE_FOLDERS))
        _remove([root / "texts" / f"{name}.txt"])
    for split, names in read_splits(root).items():
        kept = [name for name in names if name not in gone]
        if kept != names:
            write_names(root, split, kept)


def read_splits(root: Path) -> dict[str, list[str]]:
    """Return the clip ids of each existing split file of a data set."""
    return {split: read_text(root / f"{split}.txt", "split").split() for split in SPLITS
            if (root / f"{split}.txt").exists()}


def write_names(root: Path, split: str, names: Sequence[str]) -> None:
    write_text(root / f"{split}.txt", "".join(f"{name}\n" for name in names))


def remove_features(root: Path, clip: str) -> None:
    """Remove the features and the mirrored twin of a clip. The twin's split entry is kept."""
    twin = twin_of(clip)
    _remove(root / folder / f"{name}.npy" for folder in FEATURE_FOLDERS for name in (clip, twin))
    _remove([root / "joints" / f"{twin}.npy", root / "texts" / f"{twin}.txt"])


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


# A clip's features have one row fewer than the clip has frames.
SHORTEST, LONGEST = DATASETS["t2m"].min_length + 1, DATASETS["t2m"].max_length - 1
SOURCES = "sources.jsonl"
NOT_IMPORTED = "not_imported.txt"
MAPPINGS = "mappings"  # folder of draft mapping files for unknown rigs
MAX_NAME = 60          # characters, maximum length of the name of a draft
LONGEST_STEM = 200     # bytes; file systems allow 255, including the additions for temporary files

Read = tuple[Recording, Stance]


@dataclass(frozen=True)
class ImportJob:
    source: Path
    out: Path
    reader: Reader = field(default_factory=Reader)
    unit: str | float | None = None  # one of ``UNITS``, or metres; None: estimated for each file
    up: str | None = None            # one of ``UP_AXES``; None: the most frequent axis in each folder
    window: int = LONGEST    # maximum clip length in frames
    overlap: int = 0         # minimum overlap in frames of consecutive clips of a file


@dataclass(frozen=True)
class ClipSource:
    """Source of a clip. Times are in seconds from the start of the file."""

    id: str
    file: str  # relative to the source folder
    start: float
    end: float
    rig: str
    unit: str
    up: str


@dataclass(frozen=True)
class _Refused:
    reason: str
    begun: dict[str, object] = field(default_factory=dict)  # draft mapping if the rig is unknown


@dataclass
class Imported:
    clips: list[ClipSource] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)  # reason by file
    cut: dict[str, float] = field(default_factory=dict)    # omitted seconds (no motion, or too short) by file
    removed: list[str] = field(default_factory=list)       # removed clips of an earlier import
    kept: int = 0                                          # earlier clips of files that are now missing or refused
    others: int = 0                                        # number of files with other suffixes


def import_motion(job: ImportJob, workers: int = 1, quiet: bool = False) -> Imported:
    """Import every motion file below ``job.source``.

    Raises ``InputError`` if the folder is missing or has no usable motion file.
    """
    result = Imported()
    files = _motion_files(job.source, result)
    read, unknown = {}, {}
    for name, outcome in _read_all(job, files, workers, quiet):
        if isinstance(outcome, _Refused):
            result.refused[name], unknown[name] = outcome.reason, outcome.begun
        else:
            read[name] = outcome
    _begin_mappings(job.out, unknown, result)
    votes = _vote({name: stance for name, (recording, stance) in read.items() if not recording.up})
    ids = _Ids(job.out)
    for name, (recording, stance) in read.items():
        try:
            up = job.up or recording.up or _up(stance, votes.get(os.path.dirname(name)))
            _import_one(job, name, recording, up, ids, result)
        except Exception as error:  # a faulty file must not stop the import of the others
            result.refused[name] = _reason(error)
    _write_report(job.out, ids, result)
    if not result.clips:
        name, reason = next(iter(result.refused.items()))
        raise InputError(f"none of the {len(result.refused)} motion files in {job.source} can be used; {shown(name)}: "
                         f"{reason}")
    return result


def shown(name: str) -> str:
    """Escape the unprintable characters of a file name."""
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in name)


def read_sources(root: Path) -> list[ClipSource]:
    """Read the clip sources in ``sources.jsonl`` of a data set. Returns [] if the file is missing."""
    path = root / SOURCES
    if not path.exists():
        return []
    clips = []
    for number, line in enumerate(read_text(path, "clip sources").splitlines(), 1):
        try:
            clips.append(ClipSource(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise InputError(f"{path}:{number} is not a valid import record: {error}") from error
    return clips


def _motion_files(source: Path, result: Imported) -> list[str]:
    """Return the paths of all motion files relative to ``source``. Links to folders are refused."""
    if not source.is_dir():
        raise InputError(f"{source} is not a folder of motion files ({', '.join(SUFFIXES)})")

    def refuse(error: OSError) -> None:
        result.refused[os.path.relpath(error.filename, source)] = f"cannot be listed: {error.strerror}"

    names = []
    for folder, inner, files in os.walk(source, onerror=refuse):
        inner.sort()
        for name in inner:
            path = Path(folder, name)
            if path.is_symlink():
                result.refused[str(path.relative_to(source))] = "links to folders are not followed"
        for name in sorted(files):
            path = Path(folder, name)
            suffix = path.suffix.lower()
            if suffix in (*SUFFIXES, *REFUSED) and suffix != SKELETON and not name.startswith("."):
                names.append(str(path.relative_to(source)))
            elif suffix != SKELETON:
                result.others += 1
    if not names:
        raise InputError(f"{source} has no motion files ({', '.join(SUFFIXES)})")
    return sorted(names)


def _read_all(job: ImportJob, files: Sequence[str], workers: int,
              quiet: bool) -> Iterator[tuple[str, Read | _Refused]]:
    """Yield each file with its recording and stance, or with the reason why it cannot be read.

    If a file crashes the worker process, the other files are still read.
    """
    read, done = partial(_read, job.reader, job.source), 0
    with tqdm(total=len(files), desc="reading motion", disable=quiet or None, leave=False) as bar:
        try:
            with mapping(min(workers, len(files))) as apply:
                for outcome in apply(read, files):
                    yield files[done], outcome
                    done += 1
                    bar.update()
        except BrokenProcessPool:
            for name in files[done:]:
                try:
                    yield name, in_own_process(read, name)
                except BrokenProcessPool:
                    yield name, _Refused("reading it crashed the process, possibly because of a lack of memory")
                bar.update()


def _read(reader: Reader, source: Path, name: str) -> Read | _Refused:
    """Read a file. Returns its recording and stance, or the reason why it cannot be read."""
    try:
        recording = reader.read(source / name)
        return recording, find_stance(recording.joints)
    except Exception as error:  # a faulty file must not stop the reading of the others
        return _Refused(_reason(error), error.begun if isinstance(error, UnknownRig) else {})


def _reason(error: Exception) -> str:
    """Format an error as one line."""
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return text or "too large for this machine's memory"
    return text if isinstance(error, ValueError | InputError) else f"{type(error).__name__}: {text}"


def _begin_mappings(out: Path, unknown: dict[str, dict], result: Imported) -> None:
    """Write a draft mapping for each unknown rig, and add its path to the reason why the file was refused.

    Existing drafts are kept.
    """
    paths: dict[str, Path] = {}
    for name, begun in unknown.items():
        if begun:
            text = json.dumps(begun, indent=1, ensure_ascii=False) + "\n"
            if text not in paths:
                paths[text] = out / MAPPINGS / f"{_letters(os.path.splitext(name)[0])[-MAX_NAME:] or 'rig'}.json"
                if not paths[text].exists():
                    write_text(paths[text], text)
            result.refused[name] += f", draft in {paths[text]}"


def _vote(stances: dict[str, Stance]) -> dict[str, str]:
    """Return the most frequent up axis in each folder. Ties are resolved in the order of ``UP_AXES``.

    Unsure stances count only if a folder has no sure ones, and only those with y up, of a
    body that may be lying down or is upright along y part of the time.
    """
    votes: dict[str, Counter] = defaultdict(Counter)
    for sure in (True, False):
        for name, stance in stances.items():
            folder = os.path.dirname(name)
            if stance.sure is sure and stance.up is not None and (sure or (folder not in votes and stance.up == "y")):
                votes[folder][stance.up] += 1
    return {folder: max(UP_AXES, key=count.__getitem__) for folder, count in votes.items()}


def _import_one(job: ImportJob, name: str, recording: Recording, up: str, ids: "_Ids", result: Imported) -> None:
    unit, metres = metres_per_unit(recording.joints, job.unit or recording.unit)
    joints = to_y_up(recording.joints, up) * metres
    check_body(joints)
    runs = steady_runs(joints, SHORTEST)
    if not runs:
        raise ValueError(f"no {SHORTEST / FPS:g} s of steady motion in a total of {len(joints) / FPS:.2f} s")
    parts = [part for run in runs for part in windows(*run, job.window, job.overlap)]
    clips = []
    for clip, (start, end) in zip(ids.take(name, len(parts)), parts, strict=True):
        _save(job.out, clip, normalised(joints[start:end]))
        seconds = (round(recording.start + frame / FPS, 4) for frame in (start, end))
        clips.append(ClipSource(clip, name, *seconds, recording.rig, unit, up))
    result.clips += clips
    left_out = recording.seconds - sum(end - start - 1 for start, end in runs) / FPS
    if left_out >= 1 / FPS:
        result.cut[name] = left_out


def _save(out: Path, clip: str, joints: np.ndarray) -> None:
    """Write a clip. Data derived from a different motion with the same id is removed."""
    path = out / "joints" / f"{clip}.npy"
    if path.exists():
        try:
            is_same = np.array_equal(read_real_array(path), joints)
        except ValueError:
            is_same = False
        if not is_same:
            remove_features(out, clip)
    save_npy(path, joints)


def _up(stance: Stance, voted: str | None) -> str:
    if voted is None:
        seen = f" (the body is lying, or standing with {stance.up} up)" if stance.up else ""
        raise ValueError(f"cannot determine the up axis{seen}; set it with --up")
    if stance.sure and stance.up != voted:
        raise ValueError(f"{stance.up} seems to be up, but {voted} is up in other files of its folder; set the "
                         f"axis with --up if the body is lying")
    return voted


def _letters(name: str) -> str:
    """Replace all characters of ``name`` except letters, digits, ``-`` and ``+`` with underscores."""
    return re.sub(r"[^\w+-]+", "_", unicodedata.normalize("NFC", name)).strip("_")


class _Ids:
    """Unique clip ids for files. Ids of earlier imports are kept."""

    def __init__(self, out: Path):
        self.earlier = read_sources(out)
        self.files = {clip.id: clip.file for clip in self.earlier}

    def stem(self, name: str) -> str:
        """Return the prefix of the clip ids of a file, made from its path."""
        if name.encode("utf-8", "surrogateescape").decode("utf-8", "replace") != name:
            raise ValueError("its name is not UTF-8")
        stem = _letters(os.path.splitext(name)[0])
        if not stem:
            raise ValueError("its name has no letters or digits to make an id from")
        if len(stem.encode()) > LONGEST_STEM:
            digest = hashlib.sha256(name.encode()).hexdigest()[:12]
            stem = f"{stem.encode()[:LONGEST_STEM - 13].decode(errors='ignore')}_{digest}"
        return stem

    def take(self, file: str, count: int) -> list[str]:
        """Return ids for the ``count`` clips of ``file``. Raises ``ValueError`` if one conflicts with another clip."""
        stem = self.stem(file)
        clips = [stem] if count == 1 else [f"{stem}_{number:03d}" for number in range(count)]
        for clip in clips:
            owner = self.files.get(clip)
            if owner not in (None, file):
                raise ValueError(f"its clip would have the same id {clip} as the clip of {owner}")
            twin = next((other for other in (twin_of(clip), clip[1:] if clip.startswith("M") else "")
                         if other in self.files), None)
            if twin:
                raise ValueError(f"its id {clip} and {twin} would be mistaken for mirrored twins")
        self.files |= dict.fromkeys(clips, file)
        return clips


def _write_report(out: Path, ids: _Ids, result: Imported) -> None:
    """Write the lists of clip sources and of refused files.

    Removes clips that an earlier import created from the same files, unless this import has created them again.
    """
    now, redone = {clip.id for clip in result.clips}, {clip.file for clip in result.clips}
    kept = [clip for clip in ids.earlier if clip.file not in redone]
    result.kept = len(kept)
    result.removed = [clip.id for clip in ids.earlier if clip.file in redone and clip.id not in now]
    remove_clips(out, result.removed)
    if result.clips:
        clips = sorted(kept + result.clips, key=lambda clip: clip.id)
        write_text(out / SOURCES, "".join(f"{json.dumps(asdict(clip), ensure_ascii=False)}\n" for clip in clips))
    if result.refused:
        lines = (f"{shown(name)}: {reason}\n" for name, reason in sorted(result.refused.items()))
        write_text(out / NOT_IMPORTED, "".join(lines))
    else:
        (out / NOT_IMPORTED).unlink(missing_ok=True)
