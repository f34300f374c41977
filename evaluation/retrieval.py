"""Text-motion retrieval in both directions under named protocols (T2M; TMR, Petrovich et al. 2023, section 4.1).

Similarities are (n, n): rows are texts, columns are motions, matching pairs are on the diagonal. Larger is closer.
"""
import numpy as np

from evaluation.metrics import euclidean_distances

RANKS = (1, 2, 3, 5, 10)
BATCH = 32
ALIKE = 0.95      # captions that count as one, 0 being opposite and 1 the same
DISSIMILAR = 100  # samples of the subset that are least alike


def retrieval_scores(similarity: np.ndarray, same: np.ndarray | None = None,
                     ranks: tuple[int, ...] = RANKS) -> dict[str, float]:
    """Recall and median rank of both directions from similarities (n, n).

    Args:
        similarity: texts down, motions across.
        same: (n, n) bool, pairs of samples whose captions count as one; any of them is a hit. Only the own pair
            does where it is left out.
        ranks: the k of every recall at k.

    Returns:
        ``t2m_R1 ... t2m_R10`` in per cent and ``t2m_MedR`` (1 is best) for motions sought by text, the same with
        ``m2t`` for texts sought by motion.
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

    Among equal similarities it stands in the middle, so that a constant matrix is no better than chance.
    """
    best = np.where(accepted, similarity, -np.inf).max(1, keepdims=True)
    ahead = (similarity > best).sum(1)
    beside = ((similarity == best) & ~accepted).sum(1)
    return 1 + ahead + beside / 2


def batched_retrieval(similarity: np.ndarray, batch: int = BATCH,
                      rng: np.random.Generator | None = None) -> dict[str, float]:
    """Mean scores over batches of ``batch`` pairs out of similarities (n, n), as R-precision is measured.

    The pairs are shuffled by ``rng``, or taken in their order without one. A last batch that is not full is left
    out, for a smaller choice is an easier one. Raises ``ValueError`` where there is not one full batch.
    """
    count = len(similarity)
    if count < batch:
        raise ValueError(f"{count} pairs do not fill a batch of {batch}")
    order = np.arange(count) if rng is None else rng.permutation(count)
    scores = [retrieval_scores(similarity[np.ix_(rows, rows)])
              for rows in order[: count // batch * batch].reshape(-1, batch)]
    return {key: float(np.mean([one[key] for one in scores])) for key in scores[0]}


def steady_retrieval(similarity: np.ndarray, draws: int = 10) -> dict[str, float]:
    """Mean scores over ``draws`` shufflings into batches, the same ones every time: less of a chance than one, to
    choose a checkpoint by. Among all pairs at once where they do not fill a batch."""
    if len(similarity) < BATCH:
        return retrieval_scores(similarity)
    scores = [batched_retrieval(similarity, rng=np.random.default_rng(seed)) for seed in range(draws)]
    return {key: float(np.mean([one[key] for one in scores])) for key in scores[0]}


def retrieval_protocols(similarity: np.ndarray, sentences: np.ndarray,
                        rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """The four protocols of TMR in one call, for similarities (n, n) of captions and their motions, and unit vectors
    (n, s) of what the captions mean.

    - ``all``: every sample against all others.
    - ``threshold``: the same, but samples whose captions are nearly alike (0.95 on a scale from 0 to 1, so a cosine of
      0.9) count as right for each other.
    - ``dissimilar``: the 100 samples whose captions are least alike, against each other; left out where there are not
      more than 100. TMR approximates the choice otherwise, see ``least_alike``.
    - ``batches``: random batches of 32, as R-precision is measured; left out where there is not one full batch.
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
    """``count`` of the rows of likenesses (n, n): first the one that is least like all others together, then again and
    again the one that is least like the most like of those chosen."""
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
    """Negative distances (n, m): LaMP's published retrieval evaluation ranks un-normalised features by them."""
    return -euclidean_distances(text, motion)
