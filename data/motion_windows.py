"""Normalised motion: statistics, padded batches, and training windows of the tokenizer."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.specs import MAX_MOTION_LENGTH, UNIT_LENGTH
from utils.errors import InputError
from utils.files import read_npy, save_npy

_MAKER = "prepare/motion_features.py"


@dataclass(frozen=True)
class Normalisation:
    """Mean and std of each feature, (d,) float32."""

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def load(cls, mean_path: Path, std_path: Path, dim: int, made_by: str = _MAKER) -> "Normalisation":
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

    def apply_tensor(self, features: Tensor) -> Tensor:
        """``apply`` for a tensor (..., d) on any device."""
        return (features - torch.as_tensor(self.mean, device=features.device)) / torch.as_tensor(
            self.std, device=features.device)

    def invert(self, features: Tensor) -> Tensor:
        """Unnormalised features (..., d)."""
        return features * torch.as_tensor(self.std, device=features.device) + torch.as_tensor(
            self.mean, device=features.device)


class MotionWindows(Dataset):
    """All normalised windows of ``window`` rows except the last of each clip.

    Item i is a float32 tensor (window, d). Clips shorter than the window are skipped.
    """

    def __init__(self, clips: dict[str, np.ndarray], normalisation: Normalisation, window: int) -> None:
        self.window = window
        kept = [clip for clip in clips.values() if len(clip) > window]
        if not kept:
            raise InputError(f"no clip is longer than the window of {window} frames")
        self.clips, self.normalisation = kept, normalisation
        self.ends = np.cumsum([len(clip) - window for clip in kept])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Tensor:
        clip = int(np.searchsorted(self.ends, index, side="right"))
        start = index - (int(self.ends[clip - 1]) if clip else 0)
        return torch.from_numpy(self.normalisation.apply(self.clips[clip][start:start + self.window]))

    @property
    def nbytes(self) -> int:
        """Size of all clips in bytes."""
        return sum(clip.nbytes for clip in self.clips)

    def on_device(self, device: torch.device) -> Callable[[Sequence[int]], Tensor]:
        """Move all clips to ``device``. Returns a function from item indices to a batch (b, window, d) there."""
        rows = torch.cat([torch.from_numpy(self.normalisation.apply(clip)).to(device) for clip in self.clips])
        ends, within = torch.from_numpy(self.ends), torch.arange(self.window)

        def take(numbers: Sequence[int]) -> Tensor:
            items = torch.tensor(numbers)
            # A clip has ``window`` more rows than windows.
            first = items + self.window * torch.searchsorted(ends, items, right=True)
            return rows[(first[:, None] + within).to(device, non_blocking=True)]

        return take


def padded(motions: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Clips (T, d) as one batch (b, 196, d), cut to whole tokens and zero-padded, and their lengths (b,)."""
    lengths = [min(len(motion) // UNIT_LENGTH * UNIT_LENGTH, MAX_MOTION_LENGTH) for motion in motions]
    batch = np.zeros((len(motions), MAX_MOTION_LENGTH, motions[0].shape[1]), dtype=np.float32)
    for row, motion, length in zip(batch, motions, lengths, strict=True):
        row[:length] = motion[:length]
    return torch.from_numpy(batch), torch.tensor(lengths)
