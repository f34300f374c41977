"""Data sets: the table ``DATASETS`` with every fact that differs between them, normalisation, and cached copies.

Caches are in ``ROOT/cache/<kind>-<key>`` and safe to delete. The clips of a split are packed into one file.
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

MAX_MOTION_LENGTH = 196  # maximum frames of a model's input; shorter clips are padded to it
UNIT_LENGTH = 4          # frames per motion token
MAX_TOKENS = MAX_MOTION_LENGTH // UNIT_LENGTH
PARTS = ("train", "val", "test")  # of a split; every clip is in one of them
FEATURES_MADE_BY = "prepare/motion_features.py"
LOCKED = "_ik"  # suffix of motions with foot locking


@dataclass(frozen=True)
class DatasetSpec:
    """Facts about a data set."""

    name: str
    root: Path
    skeleton: Skeleton
    fps: float
    metres: float              # one unit of the joints on disk
    min_length: int            # clips with fewer rows are dropped
    max_length: int = 200      # clips with this many rows or more are dropped
    caption_fps: float = 20.0  # rows per second of caption times; 20 for KIT-ML too, as published

    @property
    def joints_num(self) -> int:
        """Number of joints."""
        return len(self.skeleton)

    @property
    def dim_pose(self) -> int:
        """Features per frame."""
        return self.skeleton.feature_count


DATASETS = {spec.name: spec for spec in (
    DatasetSpec("t2m", Path("dataset/HumanML3D"), T2M, fps=20.0, metres=1.0, min_length=40),
    DatasetSpec("kit", Path("dataset/KIT-ML"), KIT, fps=12.5, metres=0.001, min_length=24),
)}


def dataset_spec(name: str, data_root: str | Path | None = None) -> DatasetSpec:
    """The row ``name``, with ``data_root`` as its folder if given. Raises ``InputError`` for an unknown name."""
    if name not in DATASETS:
        raise InputError(f"--dataset_name {name}: known data sets are {', '.join(DATASETS)}")
    spec = DATASETS[name]
    return replace(spec, root=Path(data_root)) if data_root else spec


def require(path: Path, made_by: str) -> Path:
    """``path`` if it exists. Raises ``InputError`` naming it and the script that creates it."""
    if not path.exists():
        raise InputError(f"{path} is missing; {made_by} creates it")
    return path


@dataclass(frozen=True)
class Normalisation:
    """Mean and std of each feature, (d,) float32."""

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def load(cls, mean_path: Path, std_path: Path, dim: int, made_by: str = FEATURES_MADE_BY) -> "Normalisation":
        """Read a pair of ``.npy`` files. Raises ``InputError`` if one is missing, damaged, of another width, or has
        values that are not finite or not positive."""
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
        """Normalise features (..., d)."""
        return (features - self.mean) / self.std

    def apply_tensor(self, features: "Tensor") -> "Tensor":
        """``apply`` for a tensor (..., d) on any device."""
        mean, std = self._tensors(features.device)
        return (features - mean) / std

    def invert(self, features: "Tensor") -> "Tensor":
        """Unnormalised features (..., d)."""
        mean, std = self._tensors(features.device)
        return features * std + mean

    def _tensors(self, device: "torch.device") -> "tuple[Tensor, Tensor]":
        import torch  # not above: command lines are parsed before torch is imported

        return torch.as_tensor(self.mean, device=device), torch.as_tensor(self.std, device=device)


Read = TypeVar("Read")

_SETTLED = 0.02   # seconds after which a change of a file is visible in its times
_AWAY = Path(".cache")  # for data sets in read-only folders


def state_of(folder: Path, names: Iterable[str], *facts: object) -> str:
    """A key that changes with the given files of a folder, and with ``facts``.

    It is computed from names, sizes and times of change, without reading 29,000 files. The system sets the time of
    change on every write (on Windows a size or date must change). Waits if a file was changed within the clock's tick,
    as a second change would not show.
    """
    digest, newest = hashlib.sha256(repr(facts).encode()), 0
    for name in names:
        try:
            stat = os.stat(f"{folder}/{name}")  # creating a Path would take longer than the call
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
    """Apply ``read`` to the folder of ``cached_folder``. Raises ``InputError`` if its files are truncated."""
    while True:
        folder = cached_folder(spec, kind, key, make, keep)
        try:
            return read(folder)
        except (OSError, EOFError, ValueError, LookupError) as error:
            if folder.is_dir():
                raise InputError(f"{folder} is damaged; delete it to rebuild it ({error})") from error
            # Removed meanwhile by processes that created other keys.


def cached_folder(spec: DatasetSpec, kind: str, key: str, make: Callable[[Path], None], keep: int = 1) -> Path:
    """The folder filled by ``make`` for this key, now or in an earlier run.

    Folders appear and disappear atomically, and other processes wait for the one that creates it. The ``keep`` most
    recently used folders of a kind are kept; open files of removed ones stay readable.
    """
    if (ready := spec.root / "cache" / f"{kind}-{key}").is_dir():  # the folder may be read-only
        return _used(ready)
    cache = _cache_folder(spec)
    folder = cache / f"{kind}-{key}"
    if folder.is_dir():
        return _used(folder)
    try:
        with FileLock(cache / f".{kind}.lock", mode=0o666):  # permissions by the umask, as a group may share a data set
            if folder.is_dir():
                return _used(folder)
            for unfinished in _of_kind(cache, f".{kind}"):  # left by a process that was killed
                shutil.rmtree(unfinished, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=cache, prefix=f".{kind}-", ignore_cleanup_errors=True) as aside:
                (made := Path(aside, "made")).mkdir()  # permissions of other users do not matter inside
                make(made)
                latest_first = sorted(_of_kind(cache, kind), key=lambda one: -one.stat().st_mtime_ns)
                os.replace(made, folder)
                for number, one in enumerate(latest_first[keep - 1:]):
                    with suppress(OSError):  # Windows does not move open files: they stay complete
                        one.rename(Path(aside, str(number)))
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}") from error
    return folder


def _used(folder: Path) -> Path:
    """Mark a folder as used now."""
    with suppress(OSError):  # owned by another user
        os.utime(folder)
    return folder


def _of_kind(cache: Path, kind: str) -> list[Path]:
    """Folders of a kind, with any key."""
    return [path for path in cache.iterdir() if path.name.rpartition("-")[0] == kind]


def _cache_folder(spec: DatasetSpec) -> Path:
    """The cache folder in the data folder, or in the working directory if the data folder is read-only."""
    beside = spec.root / "cache"
    away = _AWAY / f"{spec.root.resolve().name}-{hashlib.sha256(str(spec.root.resolve()).encode()).hexdigest()[:8]}"
    for folder in (beside, away):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise InputError(f"cannot write {beside} nor {away}; the packed copy of the data set needs one of them")


PACK_FORMAT = 1  # version of the packed files; other versions are rebuilt
_ROWS, _INDEX = "features.float32", "clips.json"


def read_ids(spec: DatasetSpec, split: str) -> list[str]:
    """Ids of a split, in file order."""
    path = require(spec.root / f"{split}.txt", "the preparation of the data set")
    ids = [line.strip() for line in read_text(path, "split").splitlines() if line.strip()]
    if not ids:
        raise InputError(f"{path} lists no clip")
    return ids


def read_features(spec: DatasetSpec, split: str, quiet: bool = True) -> dict[str, np.ndarray]:
    """Feature arrays (T, d) float32 of a split by id, in order, as views of a memory-mapped file.

    Skips clips without a file (refused in preparation) and, with a message, clips with non-finite numbers. Raises
    ``InputError`` for a file of another width or an empty split.
    """
    folder, ids = require(spec.root / "new_joint_vecs", FEATURES_MADE_BY), read_ids(spec, split)
    state = _state(spec, ids)

    def read(packed: Path) -> tuple[dict[str, list], list[int], np.ndarray]:
        index = json.loads((packed / _INDEX).read_text(encoding="utf-8"))
        borders = np.cumsum([0, *index["rows"]]).tolist()
        rows = np.memmap(packed / _ROWS, np.float32, "c", shape=(borders[-1], spec.dim_pose)).view(np.ndarray)
        return index, borders, rows

    index, borders, rows = load_cached(spec, f"features-{split}", state,
                                       lambda made: _pack(made, folder, ids, spec, quiet), read)
    if broken := index["not_finite"]:
        print(f"left out {len(broken)} clips with numbers that are not finite: "
              f"{', '.join(str(folder / f'{name}.npy') for name in broken[:3])}{' ...' * (len(broken) > 3)}")
    return {name: rows[start:end] for name, (start, end) in zip(index["names"], pairwise(borders), strict=True)}


def features_state(spec: DatasetSpec, split: str) -> str:
    """A cache key that changes with the features of a split."""
    return _state(spec, read_ids(spec, split))


def _state(spec: DatasetSpec, ids: list[str]) -> str:
    return state_of(spec.root / "new_joint_vecs", (f"{name}.npy" for name in ids), PACK_FORMAT, spec.dim_pose)


def read_whole_clips(spec: DatasetSpec, split: str, quiet: bool = True) -> list[np.ndarray]:
    """Feature arrays (T, d) of a split's clips of at least ``min_length`` rows. Raises ``InputError`` if none."""
    clips = [clip for clip in read_features(spec, split, quiet).values() if len(clip) >= spec.min_length]
    if not clips:
        raise InputError(f"{spec.root}: split {split} has no clip of at least {spec.min_length} rows")
    return clips


def _pack(made: Path, folder: Path, ids: list[str], spec: DatasetSpec, quiet: bool) -> None:
    """Write the clips one by one, holding one in memory."""
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
    if not any(lengths):  # no clips, or clips without rows
        raise InputError(f"{folder} has none of the {len(ids)} clips of the split; {FEATURES_MADE_BY} creates them")
    write_text(made / _INDEX, json.dumps({"names": names, "rows": lengths, "not_finite": broken}))


def _read_clip(path: Path, dim: int) -> np.ndarray:
    with np.errstate(over="ignore"):  # overflowing values become infinite, and the clip is left out
        features = read_npy(path).astype(np.float32, copy=False)
    if features.ndim != 2 or features.shape[1] != dim:
        raise InputError(f"{path} has shape {features.shape}, expected (frames, {dim})")
    return features
