"""Metrics of text-to-motion papers, as pure functions of embeddings (T2M, Guo et al. 2022, section 5).

Text and motion embeddings come from the evaluator; the evaluation loop averages over batches.
"""
import numpy as np

# Both kinds are accepted: published numbers use the legacy generator, seeded globally.
RandomNumbers = np.random.Generator | np.random.RandomState


def euclidean_distances(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Distances (n, m) between the rows of (n, d) and (m, d), by the expanded square."""
    rows, columns = np.asarray(rows, np.float64), np.asarray(columns, np.float64)
    squares = -2 * rows @ columns.T + np.square(rows).sum(1)[:, None] + np.square(columns).sum(1)
    return np.sqrt(np.maximum(squares, 0))  # rounding can make equal rows slightly negative


def hits_at_k(distances: np.ndarray, k: int) -> np.ndarray:
    """Whether column i is among the nearest 1, 2, ... k of row i, (n, k) bool, for distances (n, n)."""
    own = np.arange(len(distances))[:, None]
    return np.cumsum(np.argsort(distances, axis=1)[:, :k] == own, axis=1).astype(bool)


def r_precision(text: np.ndarray, motion: np.ndarray, k: int = 3, batch: int = 32) -> np.ndarray:
    """R-precision at 1..k, (k,), of pairs (n, d): each text is ranked against the motions of its consecutive batch.

    An incomplete last batch is dropped, because ranking fewer candidates is easier. Raises ``ValueError`` without a
    full batch.
    """
    hits = [hits_at_k(euclidean_distances(text[rows], motion[rows]), k) for rows in _batches(len(text), batch)]
    return np.concatenate(hits).mean(0)


def pair_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Distances (...) of corresponding rows of two arrays (..., d)."""
    return np.linalg.norm(first - second, axis=-1)


def matching_score(text: np.ndarray, motion: np.ndarray) -> float:
    """Mean distance between texts and their motions ("MM-Dist"), for pairs (n, d)."""
    return float(pair_distances(text, motion).mean())


def mean_and_covariance(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (d,) and sample covariance (d, d) of embeddings (n, d)."""
    embeddings = np.asarray(embeddings, np.float64)
    return embeddings.mean(0), np.cov(embeddings, rowvar=False)


def frechet_distance(mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 sqrt(A B)) of two normal distributions (Heusel et al. 2017).

    The trace of the root is the sum of the singular values of sqrt(A) sqrt(B). These are real and stay accurate with
    fewer samples than dimensions, where a general matrix root has errors of 1 %.
    """
    roots = np.linalg.svd(_symmetric_root(cov_a) @ _symmetric_root(cov_b), compute_uv=False)
    return float(np.square(mean_a - mean_b).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * roots.sum())


def _symmetric_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T


def fid(real: np.ndarray, generated: np.ndarray) -> float:
    """Frechet distance of two sets of motion embeddings, (n, d) and (m, d)."""
    return frechet_distance(*mean_and_covariance(real), *mean_and_covariance(generated))


def diversity(embeddings: np.ndarray, rng: RandomNumbers) -> float:
    """Mean distance of ``diversity_pairs`` random pairs of embeddings (n, d).

    Raises ``ValueError`` with fewer rows than pairs.
    """
    first, second = draw_pairs(len(embeddings), diversity_pairs(len(embeddings)), rng)
    return float(pair_distances(embeddings[first], embeddings[second]).mean())


def diversity_pairs(total: int) -> int:
    """Number of pairs for diversity: 300, or 100 with at most 300 samples."""
    return 300 if total > 300 else 100


def multimodality(embeddings: np.ndarray, rng: RandomNumbers, pairs: int = 10) -> float:
    """Mean distance between random pairs of motions of one text, for embeddings (texts, repeats, d).

    All texts use the same pairs of repeats. Raises ``ValueError`` with fewer repeats than pairs.
    """
    first, second = draw_pairs(embeddings.shape[1], pairs, rng)
    return float(pair_distances(embeddings[:, first], embeddings[:, second]).mean())


def draw_pairs(total: int, count: int, rng: RandomNumbers) -> tuple[np.ndarray, np.ndarray]:
    """First and second indices (count,) of random pairs among ``total``; each is sampled without replacement."""
    if count > total:
        raise ValueError(f"{count} pairs need at least as many embeddings, there are {total}")
    return rng.choice(total, count, replace=False), rng.choice(total, count, replace=False)


def mpjpe(joints: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Mean per-joint position error (T,) of joints (T, J, 3), with both roots moved to the origin."""
    return pair_distances(joints - joints[:, :1], reference - reference[:, :1]).mean(-1)


def _batches(total: int, size: int) -> list[slice]:
    if total < size:
        raise ValueError(f"{total} pairs do not fill a batch of {size}")
    return [slice(start, start + size) for start in range(0, total - size + 1, size)]
