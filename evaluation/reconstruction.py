"""Reconstruct whole clips with a tokenizer, and measure the errors."""
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from data.motion_windows import Normalisation
from data.specs import UNIT_LENGTH, DatasetSpec
from evaluation.metrics import mpjpe
from motion.features import features_to_joints

Divide = Callable[[Sequence[Any], Callable[[list[Any]], Sequence[Any]]], Sequence[Any]]


def apply(items: Sequence[Any], make: Callable[[list[Any]], Sequence[Any]]) -> Sequence[Any]:
    """Apply ``make`` to all items in this process."""
    return make(list(items))


@dataclass(frozen=True)
class ReconstructionScores:
    """Means over the frames of all clips; lengths in millimetres."""

    mpjpe: float           # position error per joint with aligned pelvis
    root: float            # distance between the pelvis trajectories, which start at the same point
    codebook_use: float    # share of the base layer's codes that are used
    feature_loss: float    # mean absolute error of the normalised features

    def lines(self) -> dict[str, float]:
        """Scores by name, for logs."""
        return {"mpjpe_mm": self.mpjpe, "root_mm": self.root, "codebook_use": self.codebook_use,
                "loss": self.feature_loss}

    def table(self) -> dict[str, float]:
        """Scores by name, for reports."""
        return {"mpjpe": self.mpjpe, "root": self.root, "codebook_use": self.codebook_use,
                "feature_loss": self.feature_loss}


def batches_of_equal_length(clips: list[np.ndarray], batch_size: int = 64,
                            unit: int = UNIT_LENGTH) -> Iterator[tuple[list[int], np.ndarray]]:
    """Cut clips to a multiple of ``unit`` rows and stack those of equal length: (indices, (b, t, d)).

    Equal lengths need no padding, which convolutions would mix into the last tokens of a clip.
    """
    for chosen in groups_of_equal_length(clips, batch_size, unit):
        yield chosen, _stacked(clips, chosen, unit)


def groups_of_equal_length(clips: Sequence[np.ndarray], batch_size: int = 64, unit: int = UNIT_LENGTH,
                           ) -> list[list[int]]:
    """Group clip indices by the number of whole ``unit`` rows, at most ``batch_size`` per group."""
    groups: dict[int, list[int]] = defaultdict(list)
    for index, clip in enumerate(clips):
        groups[len(clip) // unit].append(index)
    return [members[start:start + batch_size] for _, members in sorted(groups.items())
            for start in range(0, len(members), batch_size)]


def _stacked(clips: Sequence[np.ndarray], chosen: list[int], unit: int) -> np.ndarray:
    length = len(clips[chosen[0]]) // unit * unit
    return np.stack([clips[index][:length] for index in chosen])


@torch.no_grad()
def codes_of(tokenizer: nn.Module, motion: torch.Tensor) -> torch.Tensor:
    """Codes (b, n, q) of motion (b, t, d); q = 1 for a tokenizer with one codebook."""
    codes = tokenizer.encode(motion)
    return codes.unsqueeze(-1) if codes.dim() == 2 else codes


@torch.no_grad()
def reconstruct(tokenizer: nn.Module, motion: torch.Tensor,
                layers: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Reconstruct motion (b, t, d), optionally from the first ``layers`` only. Also returns the codes (b, n, q)."""
    codes = codes_of(tokenizer, motion)
    return tokenizer.forward_decoder(codes[..., :layers]), codes


@torch.no_grad()
def reconstruct_clips(tokenizer: nn.Module, clips: Sequence[np.ndarray], normalisation: Normalisation,
                      layers: int | None = None) -> list[np.ndarray]:
    """Reconstruct unnormalised feature clips (T, d), each cut to whole tokens."""
    device = next(tokenizer.parameters()).device
    made: list[np.ndarray] = [np.empty(0)] * len(clips)
    for indices, batch in batches_of_equal_length(list(clips), unit=tokenizer.config.unit_length):
        recon, _ = reconstruct(tokenizer, torch.from_numpy(normalisation.apply(batch)).to(device), layers)
        for index, clip in zip(indices, normalisation.invert(recon).cpu().numpy(), strict=True):
            made[index] = clip
    return made


@torch.no_grad()
def decode_clips(tokenizer: nn.Module, codes: Sequence[torch.Tensor], normalisation: Normalisation) -> list[np.ndarray]:
    """Decode the codes (n, q) of each clip to unnormalised features (T, d)."""
    device = next(tokenizer.parameters()).device
    made: list[np.ndarray] = [np.empty(0)] * len(codes)
    for indices, batch in batches_of_equal_length([one.cpu().numpy() for one in codes], unit=1):
        clips = normalisation.invert(tokenizer.forward_decoder(torch.from_numpy(batch).to(device)))
        for index, clip in zip(indices, clips.cpu().numpy(), strict=True):
            made[index] = clip
    return made


@torch.no_grad()
def score_reconstruction(tokenizer: nn.Module, clips: list[np.ndarray], normalisation: Normalisation, spec: DatasetSpec,
                         layers: int | None = None, divide: Divide = apply) -> ReconstructionScores:
    """Reconstruction scores of unnormalised feature clips (T, d) through ``tokenizer``, in its current mode.

    ``divide`` applies a function to a list, possibly on several processes (``training.distributed.divide``).
    """
    unit, to_mm = tokenizer.config.unit_length, 1000 * spec.metres

    def score(groups: list[list[int]]) -> list[tuple[np.ndarray, ...]]:
        return [_frame_errors(tokenizer, _stacked(clips, group, unit), normalisation, spec, layers) for group in groups]

    aligned, root, losses, used = zip(*divide(groups_of_equal_length(clips, unit=unit), score), strict=True)
    return ReconstructionScores(
        mpjpe=to_mm * float(np.concatenate(aligned).mean()), root=to_mm * float(np.concatenate(root).mean()),
        codebook_use=len(np.unique(np.concatenate(used))) / tokenizer.config.nb_code,
        feature_loss=float(np.concatenate(losses).mean()))


def _frame_errors(tokenizer: nn.Module, batch: np.ndarray, normalisation: Normalisation, spec: DatasetSpec,
                  layers: int | None) -> tuple[np.ndarray, ...]:
    """Position error, root error and feature loss of every frame of clips (b, t, d), and the base codes in use."""
    motion = torch.from_numpy(normalisation.apply(batch)).to(next(tokenizer.parameters()).device)
    recon, codes = reconstruct(tokenizer, motion, layers)
    loss = (recon - motion).abs().mean((1, 2)).repeat_interleave(motion.shape[1])
    true, made = (features_to_joints(normalisation.invert(x), spec.skeleton).cpu().numpy() for x in (motion, recon))
    return (mpjpe(true.reshape(-1, *true.shape[2:]), made.reshape(-1, *made.shape[2:])),
            np.linalg.norm(true[:, :, 0] - made[:, :, 0], axis=-1).ravel(), loss.cpu().numpy(),
            np.unique(codes[..., 0].cpu().numpy()))
