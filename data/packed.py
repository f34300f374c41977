"""The feature files of a split as one memory-mapped array, which opens at once however many they are."""
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.cache import load, state_of
from data.specs import DatasetSpec, require
from utils.errors import InputError
from utils.files import read_npy, read_text, write_text

FORMAT = 1  # of the packed files; another one makes them anew
_MAKER = "prepare/motion_features.py"
_ROWS, _INDEX = "features.float32", "clips.json"


def read_ids(spec: DatasetSpec, split: str) -> list[str]:
    """Ids of a split file, in its order."""
    path = require(spec.root / f"{split}.txt", "the data set's own preparation")
    ids = [line.strip() for line in read_text(path, "split").splitlines() if line.strip()]
    if not ids:
        raise InputError(f"{path} names no clip")
    return ids


def read_features(spec: DatasetSpec, split: str, quiet: bool = True) -> dict[str, np.ndarray]:
    """Feature arrays (T, d) float32 of a split by id, in its order; views of a file that is mapped, not read.

    Clips without a file are left out (refused when they were prepared), and so are clips with numbers that are not
    finite, which is said; a file of another width, or a split of which nothing is there, raises ``InputError``.
    """
    folder, ids = require(spec.root / "new_joint_vecs", _MAKER), read_ids(spec, split)
    state = _state(spec, ids)

    def read(packed: Path) -> tuple[dict[str, list], list[int], np.ndarray]:
        index = json.loads((packed / _INDEX).read_text(encoding="utf-8"))
        borders = np.cumsum([0, *index["rows"]]).tolist()
        rows = np.memmap(packed / _ROWS, np.float32, "c", shape=(borders[-1], spec.dim_pose)).view(np.ndarray)
        return index, borders, rows

    index, borders, rows = load(spec, f"features-{split}", state,
                                lambda made: _pack(made, folder, ids, spec, quiet), read)
    if broken := index["not_finite"]:
        print(f"left out {len(broken)} clips with numbers that are not finite: "
              f"{', '.join(str(folder / f'{name}.npy') for name in broken[:3])}{' ...' * (len(broken) > 3)}")
    return {name: rows[start:end] for name, (start, end) in zip(index["names"], pairwise(borders), strict=True)}


def features_state(spec: DatasetSpec, split: str) -> str:
    """A key that changes with the features of a split."""
    return _state(spec, read_ids(spec, split))


def _state(spec: DatasetSpec, ids: list[str]) -> str:
    return state_of(spec.root / "new_joint_vecs", (f"{name}.npy" for name in ids), FORMAT, spec.dim_pose)


def read_whole_clips(spec: DatasetSpec, split: str, quiet: bool = True) -> list[np.ndarray]:
    """Feature arrays (T, d) of a split's clips that are long enough to count. ``InputError`` where there is none."""
    clips = [clip for clip in read_features(spec, split, quiet).values() if len(clip) >= spec.min_length]
    if not clips:
        raise InputError(f"{spec.root}: split {split} has no clip of at least {spec.min_length} rows")
    return clips


def _pack(made: Path, folder: Path, ids: list[str], spec: DatasetSpec, quiet: bool) -> None:
    """Write the clips one after the other, without holding more than one of them."""
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
    if not any(lengths):  # nothing, or clips without a row
        raise InputError(f"{folder} holds none of the {len(ids)} clips of the split; {_MAKER} makes them")
    write_text(made / _INDEX, json.dumps({"names": names, "rows": lengths, "not_finite": broken}))


def _read_clip(path: Path, dim: int) -> np.ndarray:
    with np.errstate(over="ignore"):  # too large becomes infinite, and the clip is left out
        features = read_npy(path).astype(np.float32, copy=False)
    if features.ndim != 2 or features.shape[1] != dim:
        raise InputError(f"{path} has shape {features.shape}, expected (frames, {dim})")
    return features
