"""Text-motion retrieval in both directions under named protocols (T2M; TMR, Petrovich et al. 2023, section 4.1).

Similarities are (n, n): rows are texts, columns are motions, matching pairs are on the diagonal. Larger is closer.
"""
import numpy as np

from evaluation.metrics import euclidean_distances

RANKS = (1, 2, 3, 5, 10)
BATCH = 32
ALIKE = 0.95      # similarity from which captions count as equal; 0 is opposite, 1 is identical
DISSIMILAR = 100  # size of the least similar subset


def retrieval_scores(similarity: np.ndarray, same: np.ndarray | None = None,
                     ranks: tuple[int, ...] = RANKS) -> dict[str, float]:
    """Recall and median rank of both directions from similarities (n, n).

    Args:
        similarity: texts as rows, motions as columns.
        same: (n, n) bool, pairs of samples whose captions count as equal; each of them is a hit. By default only the
            sample itself is.
        ranks: values of k for recall at k.

    Returns:
        ``t2m_R1 ... t2m_R10`` in per cent and ``t2m_MedR`` (1 is best) for text-to-motion retrieval, and the same with
        ``m2t`` for motion-to-text retrieval.
    """
    same = np.eye(len(similarity), dtype=bool) if same is None else same
    scores = {}
    for way, rows, accepted in (("t2m", similarity, same), ("m2t", similarity.T, same.T)):
        place = best_ranks(rows, accepted)
        scores |= {f"{way}_R{k}": float(100 * np.mean(place <= k)) for k in ranks}
        scores[f"{way}_MedR"] = float(np.median(place))
    return scores


def best_ranks(similarity: np.ndarray, accepted: np.ndarray) -> np.ndarray:
    """Rank (n,), from 1, of the best accepted entry in each row of (n, m).

    Ties get their middle rank, so that a constant matrix is no better than chance.
    """
    best = np.where(accepted, similarity, -np.inf).max(1, keepdims=True)
    ahead = (similarity > best).sum(1)
    beside = ((similarity == best) & ~accepted).sum(1)
    return 1 + ahead + beside / 2


def batched_retrieval(similarity: np.ndarray, batch: int = BATCH,
                      rng: np.random.Generator | None = None) -> dict[str, float]:
    """Mean scores over batches of ``batch`` pairs from similarities (n, n), as for R-precision.

    The pairs are shuffled if ``rng`` is given. An incomplete last batch is dropped, because ranking fewer candidates
    is easier. Raises ``ValueError`` without a full batch.
    """
    count = len(similarity)
    if count < batch:
        raise ValueError(f"{count} pairs do not fill a batch of {batch}")
    order = np.arange(count) if rng is None else rng.permutation(count)
    scores = [retrieval_scores(similarity[np.ix_(rows, rows)])
              for rows in order[: count // batch * batch].reshape(-1, batch)]
    return {key: float(np.mean([one[key] for one in scores])) for key in scores[0]}


def steady_retrieval(similarity: np.ndarray, draws: int = 10) -> dict[str, float]:
    """Mean scores over ``draws`` fixed shuffles into batches, less noisy than one, to select checkpoints by. All pairs
    form one batch if there are too few for a full one."""
    if len(similarity) < BATCH:
        return retrieval_scores(similarity)
    scores = [batched_retrieval(similarity, rng=np.random.default_rng(seed)) for seed in range(draws)]
    return {key: float(np.mean([one[key] for one in scores])) for key in scores[0]}


def retrieval_protocols(similarity: np.ndarray, sentences: np.ndarray,
                        rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """Scores of TMR's four protocols, for similarities (n, n) of captions and motions, and normalised sentence
    embeddings (n, s) of the captions.

    - ``all``: every sample against all others.
    - ``threshold``: the same, but samples with nearly equal captions (0.95 on a scale from 0 to 1, a cosine of 0.9)
      count as correct for each other.
    - ``dissimilar``: the 100 samples with the least similar captions, against each other; omitted with 100 samples or
      fewer. The selection differs from TMR's, see ``least_alike``.
    - ``batches``: random batches of 32, as for R-precision; omitted without a full batch.
    """
    alike = sentences @ sentences.T
    np.fill_diagonal(alike, 1.0)
    scores = {"all": retrieval_scores(similarity),
              "threshold": retrieval_scores(similarity, (1 + alike) / 2 >= ALIKE)}
    if len(similarity) > DISSIMILAR:
        chosen = least_alike(alike, DISSIMILAR)
        scores["dissimilar"] = retrieval_scores(similarity[np.ix_(chosen, chosen)])
    if len(similarity) >= BATCH:
        scores["batches"] = batched_retrieval(similarity, rng=rng)
    return scores


def least_alike(alike: np.ndarray, count: int) -> np.ndarray:
    """Greedily select ``count`` rows of similarities (n, n): first the row with the lowest sum, then repeatedly the row
    whose highest similarity to the selected ones is lowest."""
    chosen = [int(alike.mean(1).argmin())]
    nearest = alike[chosen[0]].astype(np.float64)
    while len(chosen) < count:
        nearest[chosen[-1]] = np.inf
        chosen.append(int(nearest.argmin()))
        nearest = np.maximum(nearest, alike[chosen[-1]])
    return np.array(chosen)


def cosine_similarity(text: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """Cosines (n, m) of features (n, d) and (m, d)."""
    text, motion = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (text, motion))
    return text @ motion.T


def euclidean_similarity(text: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """Negative distances (n, m) of unnormalised features, by which LaMP's published retrieval evaluation ranks."""
    return -euclidean_distances(text, motion)
