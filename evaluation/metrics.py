"""Metrics of motion and text embeddings, and of reconstructed motions."""
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from data.dataset import UNIT_LENGTH, DatasetSpec, Normalisation
from motion.features import features_to_joints

# Published numbers were computed with NumPy's legacy generator.
RandomNumbers = np.random.Generator | np.random.RandomState


def euclidean_distances(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Compute distances (n, m) between the rows of (n, d) and (m, d)."""
    rows, columns = np.asarray(rows, np.float64), np.asarray(columns, np.float64)
    squares = -2 * rows @ columns.T + np.square(rows).sum(1)[:, None] + np.square(columns).sum(1)
    return np.sqrt(np.maximum(squares, 0))  # rounding can make equal rows slightly negative


def hits_at_k(distances: np.ndarray, k: int) -> np.ndarray:
    """Return a mask (n, k): whether column i is among the nearest 1, 2, ..., ``k`` in row i of ``distances`` (n, n)."""
    own = np.arange(len(distances))[:, None]
    return np.cumsum(np.argsort(distances, axis=1)[:, :k] == own, axis=1).astype(bool)


def r_precision(text: np.ndarray, motion: np.ndarray, k: int = 3, batch: int = 32) -> np.ndarray:
    """Compute R-precision at 1 to ``k`` of paired embeddings (n, d). Returns (k,).

    For each text, the motions of its batch are ranked by distance. An incomplete last batch is dropped, because
    ranking fewer candidates is easier. Raises ``ValueError`` if there is no complete batch.
    """
    if len(text) < batch:
        raise ValueError(f"{len(text)} pairs do not fill a batch of {batch}")
    parts = [slice(start, start + batch) for start in range(0, len(text) - batch + 1, batch)]
    return np.concatenate([hits_at_k(euclidean_distances(text[rows], motion[rows]), k) for rows in parts]).mean(0)


def pair_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compute distances (...) between corresponding rows of two arrays (..., d)."""
    return np.linalg.norm(first - second, axis=-1)


def matching_score(text: np.ndarray, motion: np.ndarray) -> float:
    """Compute MM-Dist: the mean distance between texts and their motions, for paired embeddings (n, d)."""
    return float(pair_distances(text, motion).mean())


def mean_and_covariance(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean (d,) and the sample covariance (d, d) of embeddings (n, d)."""
    embeddings = np.asarray(embeddings, np.float64)
    return embeddings.mean(0), np.cov(embeddings, rowvar=False)


def frechet_distance(mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray) -> float:
    """Compute |mean_a - mean_b|^2 + tr(A + B - 2 sqrt(A B)) of two normal distributions (Heusel et al. 2017).

    The trace of the root is the sum of the singular values of sqrt(A) sqrt(B). They are real and accurate even with
    fewer samples than dimensions, where a general matrix root has errors of 1 %.
    """
    roots = np.linalg.svd(_symmetric_root(cov_a) @ _symmetric_root(cov_b), compute_uv=False)
    return float(np.square(mean_a - mean_b).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * roots.sum())


def _symmetric_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T


def fid(real: np.ndarray, generated: np.ndarray) -> float:
    """Compute the Frechet distance between two sets of motion embeddings, (n, d) and (m, d)."""
    return frechet_distance(*mean_and_covariance(real), *mean_and_covariance(generated))


def diversity(embeddings: np.ndarray, rng: RandomNumbers) -> float:
    """Return the mean distance of random pairs of embeddings (n, d). Raises ``ValueError`` if n < 100."""
    first, second = draw_pairs(len(embeddings), diversity_pairs(len(embeddings)), rng)
    return float(pair_distances(embeddings[first], embeddings[second]).mean())


def diversity_pairs(total: int) -> int:
    """Return the number of pairs for diversity: 300, or 100 if there are at most 300 samples."""
    return 300 if total > 300 else 100


def multimodality(embeddings: np.ndarray, rng: RandomNumbers, pairs: int = 10) -> float:
    """Compute the mean distance between random pairs of motions of the same text, for embeddings (texts, repeats, d).

    All texts use the same pairs of repeats. Raises ``ValueError`` if there are fewer repeats than pairs.
    """
    first, second = draw_pairs(embeddings.shape[1], pairs, rng)
    return float(pair_distances(embeddings[:, first], embeddings[:, second]).mean())


def draw_pairs(total: int, count: int, rng: RandomNumbers) -> tuple[np.ndarray, np.ndarray]:
    """Sample ``count`` random pairs of indices below ``total``. Returns the first and the second indices.

    The first indices are distinct, and so are the second ones. Raises ``ValueError`` if ``count`` > ``total``.
    """
    if count > total:
        raise ValueError(f"{count} pairs need at least {count} embeddings, but there are {total}")
    return rng.choice(total, count, replace=False), rng.choice(total, count, replace=False)


def mpjpe(joints: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Compute the mean per-joint position error (T,) of joints (T, J, 3), with both roots moved to the origin."""
    return pair_distances(joints - joints[:, :1], reference - reference[:, :1]).mean(-1)


BATCH = 64  # maximum number of clips of equal length that a tokenizer processes together
Divide = Callable[[Sequence[Any], Callable[[list[Any]], Sequence[Any]]], Sequence[Any]]


def apply(items: Sequence[Any], make: Callable[[list[Any]], Sequence[Any]]) -> Sequence[Any]:
    """Apply ``make`` to all items, without other processes."""
    return make(list(items))


def batches_of_equal_length(clips: Sequence[np.ndarray],
                            unit: int = UNIT_LENGTH) -> Iterator[tuple[list[int], np.ndarray]]:
    """Cut clips to a multiple of ``unit`` rows and yield batches of clips of equal length, as (indices, (b, t, d)).

    This avoids padding, which convolutions would mix into the last tokens of a clip.
    """
    for chosen in groups_of_equal_length(clips, unit):
        yield chosen, _stacked(clips, chosen, unit)


def groups_of_equal_length(clips: Sequence[np.ndarray], unit: int) -> list[list[int]]:
    """Group clip indices by length in whole multiples of ``unit`` rows, with at most ``BATCH`` clips per group."""
    groups: dict[int, list[int]] = defaultdict(list)
    for index, clip in enumerate(clips):
        groups[len(clip) // unit].append(index)
    return [members[start:start + BATCH] for _, members in sorted(groups.items())
            for start in range(0, len(members), BATCH)]


def _stacked(clips: Sequence[np.ndarray], chosen: list[int], unit: int) -> np.ndarray:
    length = len(clips[chosen[0]]) // unit * unit
    return np.stack([clips[index][:length] for index in chosen])


@torch.no_grad()
def codes_of(tokenizer: nn.Module, motion: torch.Tensor) -> torch.Tensor:
    """Encode motion (b, t, d) to codes (b, n, q), with q = 1 for a tokenizer with one codebook."""
    codes = tokenizer.encode(motion)
    return codes.unsqueeze(-1) if codes.dim() == 2 else codes


@torch.no_grad()
def reconstruct(tokenizer: nn.Module, motion: torch.Tensor,
                layers: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Reconstruct motion (b, t, d) from the first ``layers`` (by default all). Also returns the codes (b, n, q)."""
    codes = codes_of(tokenizer, motion)
    return tokenizer.forward_decoder(codes[..., :layers]), codes


@torch.no_grad()
def reconstruct_clips(tokenizer: nn.Module, clips: Sequence[np.ndarray], normalisation: Normalisation,
                      layers: int | None = None) -> list[np.ndarray]:
    """Trim each clip to a whole number of tokens and reconstruct its unnormalised features (T, d)."""
    device = next(tokenizer.parameters()).device

    def make(batch: np.ndarray) -> torch.Tensor:
        return reconstruct(tokenizer, torch.from_numpy(normalisation.apply(batch)).to(device), layers)[0]

    return _features_of_clips(clips, tokenizer.config.unit_length, make, normalisation)


@torch.no_grad()
def decode_clips(tokenizer: nn.Module, codes: Sequence[torch.Tensor], normalisation: Normalisation) -> list[np.ndarray]:
    """Decode codes (n, q) of each clip to unnormalised features (T, d)."""
    device = next(tokenizer.parameters()).device
    return _features_of_clips([one.cpu().numpy() for one in codes], 1, lambda batch: tokenizer.forward_decoder(
        torch.from_numpy(batch).to(device)), normalisation)


def _features_of_clips(clips: Sequence[np.ndarray], unit: int, make: Callable[[np.ndarray], torch.Tensor],
                       normalisation: Normalisation) -> list[np.ndarray]:
    """Apply ``make``, which returns normalised features, to batches of clips of equal length.

    Returns unnormalised features (T, d) in the order of ``clips``.
    """
    made: list[np.ndarray] = [np.empty(0)] * len(clips)
    for indices, batch in batches_of_equal_length(clips, unit):
        for index, clip in zip(indices, normalisation.invert(make(batch)).cpu().numpy(), strict=True):
            made[index] = clip
    return made


@torch.no_grad()
def score_reconstruction(tokenizer: nn.Module, clips: list[np.ndarray], normalisation: Normalisation, spec: DatasetSpec,
                         layers: int | None = None, divide: Divide = apply) -> dict[str, float]:
    """Compute the reconstruction errors of ``tokenizer`` on unnormalised clips (T, d), averaged over all frames.

    - ``mpjpe``: position error per joint with the pelvises aligned, in millimetres.
    - ``root``: distance between the pelvis trajectories, both starting at the origin, in millimetres.
    - ``codebook_use``: fraction of the base layer's codes that are used.
    - ``feature_loss``: mean absolute error of the normalised features.

    ``divide`` applies a function to a list, possibly across processes (see ``training.runs.divide``).
    """
    unit, to_mm = tokenizer.config.unit_length, 1000 * spec.metres

    def score(groups: list[list[int]]) -> list[tuple[np.ndarray, ...]]:
        return [_frame_errors(tokenizer, _stacked(clips, group, unit), normalisation, spec, layers) for group in groups]

    aligned, root, losses, used = zip(*divide(groups_of_equal_length(clips, unit), score), strict=True)
    return {"mpjpe": to_mm * float(np.concatenate(aligned).mean()), "root": to_mm * float(np.concatenate(root).mean()),
            "codebook_use": len(np.unique(np.concatenate(used))) / tokenizer.config.nb_code,
            "feature_loss": float(np.concatenate(losses).mean())}


def _frame_errors(tokenizer: nn.Module, batch: np.ndarray, normalisation: Normalisation, spec: DatasetSpec,
                  layers: int | None) -> tuple[np.ndarray, ...]:
    """Return the errors of every frame of clips (b, t, d): joints, root, feature loss; and the base codes used.

    The feature loss of a frame is the mean over its clip.
    """
    motion = torch.from_numpy(normalisation.apply(batch)).to(next(tokenizer.parameters()).device)
    recon, codes = reconstruct(tokenizer, motion, layers)
    loss = (recon - motion).abs().mean((1, 2)).repeat_interleave(motion.shape[1])
    true, made = (features_to_joints(normalisation.invert(x), spec.skeleton).cpu().numpy() for x in (motion, recon))
    return (mpjpe(true.reshape(-1, *true.shape[2:]), made.reshape(-1, *made.shape[2:])),
            np.linalg.norm(true[:, :, 0] - made[:, :, 0], axis=-1).ravel(), loss.cpu().numpy(),
            np.unique(codes[..., 0].cpu().numpy()))
