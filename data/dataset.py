"""Properties of the supported data sets (``DATASETS``), normalisation, and cached reading of features.

Caches are in the folder ``cache`` of a data set, or in ``.cache`` if the data set is read-only. They can be deleted at
any time.
"""
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from motion.skeleton import KIT, T2M, Skeleton
from utils import InputError
from utils.files import read_npy, read_text, save_npy, write_text

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MAX_MOTION_LENGTH = 196  # maximum number of frames; shorter motions are padded to it
UNIT_LENGTH = 4          # frames per motion token
MAX_TOKENS = MAX_MOTION_LENGTH // UNIT_LENGTH
PARTS = ("train", "val", "test")  # names of the splits
FEATURES_MADE_BY = "prepare/motion_features.py"
LOCKED = "_ik"  # file name suffix of motions with foot locking


@dataclass(frozen=True)
class DatasetSpec:
    """Properties of a data set."""

    name: str
    root: Path
    skeleton: Skeleton
    fps: float
    metres: float              # unit of the joints on disk, in metres
    min_length: int            # clips with fewer frames are dropped
    max_length: int = 200      # clips with this number of frames or more are dropped
    caption_fps: float = 20.0  # frame rate for times in captions; 20 for KIT-ML too, as published

    @property
    def joints_num(self) -> int:
        """Number of joints."""
        return len(self.skeleton)

    @property
    def dim_pose(self) -> int:
        """Number of features per frame."""
        return self.skeleton.feature_count


DATASETS = {spec.name: spec for spec in (
    DatasetSpec("t2m", Path("dataset/HumanML3D"), T2M, fps=20.0, metres=1.0, min_length=40),
    DatasetSpec("kit", Path("dataset/KIT-ML"), KIT, fps=12.5, metres=0.001, min_length=24),
)}


def dataset_spec(name: str, data_root: str | Path | None = None) -> DatasetSpec:
    """Look up a data set, with ``data_root`` as its folder if given. Raises ``InputError`` for an unknown name."""
    if name not in DATASETS:
        raise InputError(f"--dataset_name {name}: known data sets are {', '.join(DATASETS)}")
    spec = DATASETS[name]
    return replace(spec, root=Path(data_root)) if data_root else spec


def require(path: Path, made_by: str) -> Path:
    """Return ``path``. If it is missing, raises an ``InputError`` that names the script ``made_by``."""
    if not path.exists():
        raise InputError(f"{path} is missing; {made_by} creates it")
    return path


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation (d,) of the features."""

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def load(cls, mean_path: Path, std_path: Path, dim: int, made_by: str = FEATURES_MADE_BY) -> "Normalisation":
        """Read mean and std from ``.npy`` files. Raises ``InputError`` if a file is missing or invalid."""
        mean, std = (read_npy(path, made_by).astype(np.float32) for path in (mean_path, std_path))
        for path, array in ((mean_path, mean), (std_path, std)):
            if array.shape != (dim,):
                raise InputError(f"{path} has shape {array.shape}, expected ({dim},)")
            if not np.isfinite(array).all():
                raise InputError(f"{path} has values that are not finite")
        if not (std > 0).all():
            raise InputError(f"{std_path} has standard deviations that are not positive")
        return cls(mean, std)

    def save(self, folder: Path) -> None:
        """Write ``mean.npy`` and ``std.npy``."""
        save_npy(folder / "mean.npy", self.mean)
        save_npy(folder / "std.npy", self.std)

    def apply(self, features: np.ndarray) -> np.ndarray:
        """Normalise an array of features (..., d)."""
        return (features - self.mean) / self.std

    def apply_tensor(self, features: "Tensor") -> "Tensor":
        """Normalise a tensor of features (..., d) on any device."""
        mean, std = self._tensors(features.device)
        return (features - mean) / std

    def invert(self, features: "Tensor") -> "Tensor":
        """Undo the normalisation of a tensor of features (..., d)."""
        mean, std = self._tensors(features.device)
        return features * std + mean

    def _tensors(self, device: "torch.device") -> "tuple[Tensor, Tensor]":
        import torch  # slow to import, and not needed to parse command lines

        return torch.as_tensor(self.mean, device=device), torch.as_tensor(self.std, device=device)


Read = TypeVar("Read")

_SETTLED = 0.02   # seconds after which another change to a file is sure to change its time stamp
_AWAY = Path(".cache")  # cache folder for read-only data sets


def state_of(folder: Path, names: Iterable[str], *facts: object) -> str:
    """Compute a cache key that changes with the files ``names`` in a folder, and with ``facts``.

    It is computed from names, sizes and time stamps, without reading the files. If a file has just been changed, the
    function waits briefly, because an immediate second change might leave its time stamp as it is.
    """
    digest, newest = hashlib.sha256(repr(facts).encode()), 0
    for name in names:
        try:
            stat = os.stat(f"{folder}/{name}")  # faster than Path.stat
        except FileNotFoundError:
            digest.update(f"{name}\0".encode())
            continue
        except OSError as error:
            raise InputError(f"cannot read {folder / name}: {error.strerror}") from error
        newest = max(newest, stat.st_ctime_ns)
        digest.update(f"{name} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}\0".encode())
    age = time.time() - newest / 1e9
    if 0 <= age < _SETTLED:
        time.sleep(_SETTLED - age)
    return digest.hexdigest()[:20]


def load_cached(spec: DatasetSpec, kind: str, key: str, make: Callable[[Path], None], read: Callable[[Path], Read],
                keep: int = 1) -> Read:
    """Read a cached result with ``read``, after creating it with ``make`` if needed (see ``cached_folder``).

    Raises ``InputError`` if the cache is damaged.
    """
    while True:
        folder = cached_folder(spec, kind, key, make, keep)
        try:
            return read(folder)
        except (OSError, EOFError, ValueError, LookupError) as error:
            if folder.is_dir():
                raise InputError(f"{folder} is damaged; delete it to rebuild it ({error})") from error
            # Another process has removed the folder: try again.


def cached_folder(spec: DatasetSpec, kind: str, key: str, make: Callable[[Path], None], keep: int = 1) -> Path:
    """Return the cache folder ``<kind>-<key>``. If it is missing, it is filled by ``make`` and appears once complete.

    Other processes wait until then. Only the ``keep`` most recently used folders of a kind are kept.
    Raises ``InputError`` if the folder cannot be written.
    """
    if (ready := spec.root / "cache" / f"{kind}-{key}").is_dir():  # the folder may be read-only
        return _used(ready)
    cache = _cache_folder(spec)
    folder = cache / f"{kind}-{key}"
    if folder.is_dir():
        return _used(folder)
    try:
        with FileLock(cache / f".{kind}.lock", mode=0o666):  # several users may share a data set
            if folder.is_dir():
                return _used(folder)
            for unfinished in _of_kind(cache, f".{kind}"):  # left over by a process that was killed
                shutil.rmtree(unfinished, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=cache, prefix=f".{kind}-", ignore_cleanup_errors=True) as aside:
                (made := Path(aside, "made")).mkdir()  # with normal permissions, unlike the temporary folder
                make(made)
                latest_first = sorted(_of_kind(cache, kind), key=lambda one: -one.stat().st_mtime_ns)
                os.replace(made, folder)
                for number, one in enumerate(latest_first[keep - 1:]):
                    with suppress(OSError):  # Windows cannot move open files
                        one.rename(Path(aside, str(number)))
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}") from error
    return folder


def _used(folder: Path) -> Path:
    """Mark a cache folder as recently used by updating its time stamp. Returns the folder."""
    with suppress(OSError):  # the folder may belong to another user
        os.utime(folder)
    return folder


def _of_kind(cache: Path, kind: str) -> list[Path]:
    """List the cache folders of a kind."""
    return [path for path in cache.iterdir() if path.name.rpartition("-")[0] == kind]


def _cache_folder(spec: DatasetSpec) -> Path:
    """Return the folder for caches, in the data set or, if it is read-only, in the working directory.

    The folder is created if it is missing. Raises ``InputError`` if neither can be written.
    """
    beside = spec.root / "cache"
    away = _AWAY / f"{spec.root.resolve().name}-{hashlib.sha256(str(spec.root.resolve()).encode()).hexdigest()[:8]}"
    for folder in (beside, away):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise InputError(f"cannot write to {beside} or {away}, one of which is needed to cache the data set")


PACK_FORMAT = 1  # version of the cache format; other versions are rebuilt
_ROWS, _INDEX = "features.float32", "clips.json"


def read_ids(spec: DatasetSpec, split: str) -> list[str]:
    """Read the clip ids of a split. Raises ``InputError`` if there are none."""
    path = require(spec.root / f"{split}.txt", "the preparation of the data set")
    ids = [line.strip() for line in read_text(path, "split").splitlines() if line.strip()]
    if not ids:
        raise InputError(f"{path} lists no clip")
    return ids


def read_features(spec: DatasetSpec, split: str, quiet: bool = True) -> dict[str, np.ndarray]:
    """Read the features of a split. Returns arrays (T, d), float32, keyed by clip id, as views of a memory-mapped file.

    Clips without a file are skipped. Clips with values that are not finite are skipped with a message. Raises
    ``InputError`` for a wrong number of features or an empty split.
    """
    folder, ids = require(spec.root / "new_joint_vecs", FEATURES_MADE_BY), read_ids(spec, split)

    def read(packed: Path) -> tuple[dict[str, list], list[int], np.ndarray]:
        index = json.loads((packed / _INDEX).read_text(encoding="utf-8"))
        borders = np.cumsum([0, *index["rows"]]).tolist()
        rows = np.memmap(packed / _ROWS, np.float32, "c", shape=(borders[-1], spec.dim_pose)).view(np.ndarray)
        return index, borders, rows

    index, borders, rows = load_cached(spec, f"features-{split}", features_state(spec, ids),
                                       lambda made: _pack(made, folder, ids, spec, quiet), read)
    if broken := index["not_finite"]:
        print(f"left out {len(broken)} clips with numbers that are not finite: "
              f"{', '.join(str(folder / f'{name}.npy') for name in broken[:3])}{' ...' * (len(broken) > 3)}")
    return {name: rows[start:end] for name, (start, end) in zip(index["names"], pairwise(borders), strict=True)}


def features_state(spec: DatasetSpec, ids: list[str]) -> str:
    """Compute a cache key that changes if the features of any of the clips ``ids`` change."""
    return state_of(spec.root / "new_joint_vecs", (f"{name}.npy" for name in ids), PACK_FORMAT, spec.dim_pose)


def read_whole_clips(spec: DatasetSpec, split: str, quiet: bool = True) -> list[np.ndarray]:
    """Read the features (T, d) of all clips of a split with at least ``spec.min_length`` frames.

    Raises ``InputError`` if there are none.
    """
    clips = [clip for clip in read_features(spec, split, quiet).values() if len(clip) >= spec.min_length]
    if not clips:
        raise InputError(f"{spec.root}: split {split} has no clip of at least {spec.min_length} rows")
    return clips


def _pack(made: Path, folder: Path, ids: list[str], spec: DatasetSpec, quiet: bool) -> None:
    """Write the features of all clips to one file, and their names and lengths to another file."""
    names, lengths, broken = [], [], []
    with open(made / _ROWS, "wb") as file:
        for name in tqdm(ids, desc=f"packing {spec.root.name}", disable=quiet or None, leave=False):
            if (path := folder / f"{name}.npy").exists():
                features = _read_clip(path, spec.dim_pose)
                if np.isfinite(features).all():
                    file.write(np.ascontiguousarray(features).data)
                    names.append(name)
                    lengths.append(len(features))
                else:
                    broken.append(name)
    if not any(lengths):
        raise InputError(f"{folder} has none of the {len(ids)} clips of the split; {FEATURES_MADE_BY} creates them")
    write_text(made / _INDEX, json.dumps({"names": names, "rows": lengths, "not_finite": broken}))


def _read_clip(path: Path, dim: int) -> np.ndarray:
    with np.errstate(over="ignore"):  # clips with overflowing values, which become infinite, are left out
        features = read_npy(path).astype(np.float32, copy=False)
    if features.ndim != 2 or features.shape[1] != dim:
        raise InputError(f"{path} has shape {features.shape}, expected (frames, {dim})")
    return features
