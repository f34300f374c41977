"""Motion in memory: feature files of a split, and fixed windows of them for the tokenizer."""
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from data.specs import DatasetSpec, require
from utils.errors import InputError
from utils.files import read_npy, read_text

_MAKER = "prepare/motion_features.py"


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation a feature column, (d,) float32."""

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def load(cls, mean_path: Path, std_path: Path, dim: int, made_by: str = _MAKER) -> "Normalisation":
        """Read a pair of ``.npy`` files. Raises ``InputError`` where one is missing or damaged, has another width, or
        holds what cannot be a mean or a deviation."""
        mean, std = (read_npy(path, made_by).astype(np.float32) for path in (mean_path, std_path))
        for path, array in ((mean_path, mean), (std_path, std)):
            if array.shape != (dim,):
                raise InputError(f"{path} has shape {array.shape}, expected ({dim},)")
            if not np.isfinite(array).all():
                raise InputError(f"{path} holds numbers that are not finite")
        if not (std > 0).all():
            raise InputError(f"{std_path} holds deviations that are not above zero")
        return cls(mean, std)

    def apply(self, features: np.ndarray) -> np.ndarray:
        """Features (..., d) to zero mean and unit deviation."""
        return (features - self.mean) / self.std

    def invert(self, features: Tensor) -> Tensor:
        """Back to features in their own units, (..., d)."""
        return features * torch.as_tensor(self.std, device=features.device) + torch.as_tensor(
            self.mean, device=features.device)


def read_ids(spec: DatasetSpec, split: str) -> list[str]:
    """Ids of a split file, in its order."""
    path = require(spec.root / f"{split}.txt", "the data set's own preparation")
    ids = [line.strip() for line in read_text(path, "split").splitlines() if line.strip()]
    if not ids:
        raise InputError(f"{path} names no clip")
    return ids


def read_features(spec: DatasetSpec, ids: list[str], quiet: bool = True) -> dict[str, np.ndarray]:
    """Feature arrays (T, d) float32 by id. Clips without a file are left out (refused when they were prepared), and so
    are clips with numbers that are not finite, which is said; a file of another width, or a split of which nothing is
    there, raises ``InputError``."""
    folder = require(spec.root / "new_joint_vecs", _MAKER)
    clips, broken = {}, []
    for name in tqdm(ids, desc=f"reading {folder.parent.name}", disable=quiet or None, leave=False):
        path = folder / f"{name}.npy"
        if path.exists():
            features = _read_clip(path, spec.dim_pose)
            if np.isfinite(features).all():
                clips[name] = features
            else:
                broken.append(path)
    if broken:
        print(f"left out {len(broken)} clips with numbers that are not finite: {', '.join(map(str, broken[:3]))}"
              f"{' ...' * (len(broken) > 3)}")
    if not clips:
        raise InputError(f"{folder} holds none of the {len(ids)} clips of the split; {_MAKER} makes them")
    return clips


def read_whole_clips(spec: DatasetSpec, split: str, quiet: bool = True) -> list[np.ndarray]:
    """Feature arrays (T, d) of a split's clips that are long enough to count. ``InputError`` where there is none."""
    clips = [clip for clip in read_features(spec, read_ids(spec, split), quiet).values()
             if len(clip) >= spec.min_length]
    if not clips:
        raise InputError(f"{spec.root}: split {split} has no clip of at least {spec.min_length} rows")
    return clips


def _read_clip(path: Path, dim: int) -> np.ndarray:
    with np.errstate(over="ignore"):  # too large becomes infinite, and the clip is left out
        features = read_npy(path).astype(np.float32, copy=False)
    if features.ndim != 2 or features.shape[1] != dim:
        raise InputError(f"{path} has shape {features.shape}, expected (frames, {dim})")
    return features


class MotionWindows(Dataset):
    """Every window of ``window`` rows that starts before the last possible one, normalised.

    Item i is a float32 tensor (window, d). Clips shorter than the window are left out.
    """

    def __init__(self, clips: dict[str, np.ndarray], normalisation: Normalisation, window: int) -> None:
        self.window = window
        kept = [clip for clip in clips.values() if len(clip) > window]
        if not kept:
            raise InputError(f"no clip is longer than the window of {window} frames")
        self.clips = [normalisation.apply(clip) for clip in kept]
        self.ends = np.cumsum([len(clip) - window for clip in kept])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Tensor:
        clip = int(np.searchsorted(self.ends, index, side="right"))
        start = index - (int(self.ends[clip - 1]) if clip else 0)
        return torch.from_numpy(self.clips[clip][start:start + self.window])
