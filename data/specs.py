"""Table of data sets, ``DATASETS``, with every fact that differs between them, and the normalisation of their motions.
"""
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from motion.skeleton import KIT, T2M, Skeleton
from utils.errors import InputError
from utils.files import read_npy, save_npy

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MAX_MOTION_LENGTH = 196  # maximum frames of a model's input; shorter clips are padded to it
UNIT_LENGTH = 4          # frames per motion token
MAX_TOKENS = MAX_MOTION_LENGTH // UNIT_LENGTH
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
