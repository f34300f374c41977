"""Motion search: cached galleries of LaMP embeddings and nearest-neighbour queries."""
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.dataset import DatasetSpec
from data.motion_files import MotionPart, motion_files, parts_of, read_clip
from evaluation.retrieval import motion_vectors
from motion.asf_amc import find_asf
from storage.checkpoint import load_checkpoint, save_checkpoint
from storage.generation import LoadedLaMP
from utils import InputError
from utils.files import fingerprint

CACHE_SUFFIX = ".gallery.pt"
READING = "2"  # version of the motion reader, part of the cache key
SHOWN = 5      # maximum number of remarks to print


@dataclass(frozen=True)
class Gallery:
    """Unit-length embeddings of motions, one for each part of at most 196 frames."""

    files: list[Path]
    parts: list[MotionPart]     # ``motion`` is the index of the file
    vectors: np.ndarray   # (parts, e) float32

    @classmethod
    def of(cls, encoded: Sequence[tuple[Path, dict[str, Any]]]) -> "Gallery":
        """Build a gallery from encoded files."""
        parts = [MotionPart(number, start, end)
                 for number, (_, one) in enumerate(encoded) for start, end in one["parts"]]
        vectors = torch.cat([one["vectors"] for _, one in encoded]).numpy()
        return cls([path for path, _ in encoded], parts, vectors)


def encode_motions(paths: Sequence[Path], lamp: LoadedLaMP, spec: DatasetSpec, up: str | None = None,
                   trusted: bool = False) -> Gallery:
    """Encode motion files as a gallery. ``up`` and ``trusted`` are passed to ``read_motion``.

    Raises ``InputError`` for an unreadable file.
    """
    motions = [read_clip(path, spec, up, trusted=trusted) for path in paths]
    return Gallery.of(list(zip(paths, _encode(motions, lamp, quiet=True), strict=True)))


def open_gallery(folder: Path, lamp: LoadedLaMP, spec: DatasetSpec, cache: Path | None = None,
                 quiet: bool = True, up: str | None = None) -> Gallery:
    """Encode all motions in ``folder`` and its subfolders, reusing cached embeddings.

    ``cache`` (by default ``<folder>.gallery.pt``) stores the embeddings of each file. Only new and changed files are
    encoded, unless LaMP or ``up`` (see ``read_motion``) has changed. Unreadable files are reported and skipped. Raises
    ``InputError`` if there is no readable motion.
    """
    cache = cache or folder.absolute().with_name(f"{folder.absolute().name}{CACHE_SUFFIX}")
    paths = motion_files(folder)
    stamps = {str(path.relative_to(folder)): _stamp(path) for path in paths}
    key = fingerprint(lamp.fingerprint, spec.name, READING, up or "")
    known = _read(cache, key)
    fresh = {name: known[name] for name, stamp in stamps.items() if name in known and known[name]["stamp"] == stamp}
    if fresh.keys() != stamps.keys() or known.keys() != stamps.keys():
        _write(cache, key, fresh)  # fail early if the cache cannot be written
        motions, made, remarks = {}, {}, []
        for name in (name for name in stamps if name not in fresh):
            try:
                motions[name] = read_clip(folder / name, spec, up, remarks.append)
            except InputError as error:
                made[name] = {"error": str(error)}
        if remarks:
            print("\n".join(remarks[:SHOWN]) + f"\n... and {len(remarks) - SHOWN} more" * (len(remarks) > SHOWN))
        made |= dict(zip(motions, _encode(list(motions.values()), lamp, quiet), strict=True))
        fresh |= {name: {**one, "stamp": stamps[name]} for name, one in made.items()}
        _write(cache, key, fresh)
        print(f"{len(motions)} of {len(stamps)} motions encoded, cached in {cache}")
    broken = [fresh[name]["error"] for name in stamps if "error" in fresh[name]]
    if broken:
        print(f"skipped {len(broken)} files without a readable motion; the first: {broken[0]}")
    if len(broken) == len(stamps):
        raise InputError(f"{folder} contains no readable motion: {broken[0]}")
    return Gallery.of([(folder / name, fresh[name]) for name in stamps if "error" not in fresh[name]])


def _stamp(path: Path) -> list[int]:
    """Return the sizes and modification times of the files that contain a motion."""
    files = [path]
    if path.suffix.lower() == ".amc":
        with suppress(ValueError):  # files without a skeleton are skipped
            files.append(find_asf(path))
    return [number for file in files for number in (file.stat().st_size, file.stat().st_mtime_ns)]


def _encode(motions: Sequence[np.ndarray], lamp: LoadedLaMP, quiet: bool) -> list[dict[str, Any]]:
    """Encode unnormalised motions (T, d). Returns the ``parts`` of each motion and their ``vectors`` (parts, e)."""
    encoded: list[dict[str, Any]] = [{"parts": [], "vectors": []} for _ in motions]
    parts = parts_of(motions)
    clips = [lamp.normalisation.apply(motions[part.motion][part.start:part.end]) for part in parts]
    rows = motion_vectors(clips, lamp.motion_features, quiet) if clips else np.zeros((0, 0))
    for part, row in zip(parts, rows, strict=True):
        encoded[part.motion]["parts"].append((part.start, part.end))
        encoded[part.motion]["vectors"].append(torch.from_numpy(row))
    return [{"parts": one["parts"], "vectors": torch.stack(one["vectors"])} for one in encoded]


def _write(cache: Path, key: str, motions: dict[str, dict[str, Any]]) -> None:
    """Write the cache. All vectors are in one tensor, because thousands of small tensors take seconds to load."""
    vectors = [one["vectors"] for one in motions.values() if "vectors" in one]
    rest = {name: {key: value for key, value in one.items() if key != "vectors"} for name, one in motions.items()}
    try:
        save_checkpoint(cache, {"key": key, "motions": rest, "vectors": torch.cat(vectors or [torch.zeros(0, 0)])})
    except InputError as error:
        raise InputError(f"{error}; choose another cache file with --cache") from error


def _read(cache: Path, key: str) -> dict[str, dict[str, Any]]:
    """Read a cache written by ``_write``. Returns {} if it is missing, damaged or has a different ``key``."""
    if not cache.is_file():
        return {}
    try:
        content = load_checkpoint(cache)
    except InputError:  # a truncated cache is rebuilt
        return {}
    if content.get("key") != key or "vectors" not in content:
        return {}
    motions, row = content["motions"], 0
    for one in motions.values():
        if "parts" in one:
            one["vectors"] = content["vectors"][row:row + len(one["parts"])]
            row += len(one["parts"])
    return motions


@dataclass(frozen=True)
class Neighbour:
    """Search result: a row of the gallery and its cosine similarity."""

    row: int
    score: float  # cosine


def nearest(query: np.ndarray, vectors: np.ndarray, top_k: int, groups: Sequence[int] | None = None) -> list[Neighbour]:
    """Return the ``top_k`` rows of normalised ``vectors`` (n, e) closest to ``query`` (e,) or (m, e), best first.

    With several queries, a row is ranked by its most similar query. With ``groups`` (n,), such as the motion of each
    row, only the best row of each group is returned. Ties keep the order of ``vectors``.
    """
    scores = (vectors @ np.atleast_2d(query).T).max(1)
    if groups is None:
        count = min(top_k, len(scores))
        rows = np.flatnonzero(scores >= np.partition(scores, -count)[-count])
        rows = rows[np.argsort(-scores[rows], kind="stable")]
    else:
        rows = np.argsort(-scores, kind="stable")
        _, first = np.unique(np.asarray(groups)[rows], return_index=True)
        rows = rows[np.sort(first)]
    return [Neighbour(int(row), float(scores[row])) for row in rows[:top_k]]
