"""Text-motion retrieval scores in both directions (protocols of T2M and of TMR, Petrovich et al. 2023, section 4.1).

Similarities are (n, n): rows are texts, columns are motions, matching pairs are on the diagonal. Larger means closer.
"""
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.text import clean_caption, mirror_text
from data.text_motion import Pair, padded
from evaluation.metrics import euclidean_distances
from evaluation.report import Estimate, estimates
from models.lamp.bert import WordPieces, bert_folder, from_bert
from models.lamp.objectives import similarity
from utils import InputError

RANKS = (1, 2, 3, 5, 10)
BATCH = 32
ALIKE = 0.95      # captions with at least this similarity count as equal (0: opposite, 1: identical)
DISSIMILAR = 100  # size of the least similar subset


def retrieval_scores(similarity: np.ndarray, same: np.ndarray | None = None) -> dict[str, float]:
    """Compute recall at k and median rank for both directions, from ``similarity`` (n, n).

    Args:
        similarity: texts as rows, motions as columns.
        same: (n, n) bool, pairs that count as correct; by default the diagonal.

    Returns:
        ``t2m_R1 ... t2m_R10`` in per cent and ``t2m_MedR`` (1 is best) for text-to-motion retrieval, and the same with
        ``m2t`` for motion-to-text retrieval.
    """
    same = np.eye(len(similarity), dtype=bool) if same is None else same
    scores = {}
    for way, rows, accepted in (("t2m", similarity, same), ("m2t", similarity.T, same.T)):
        place = best_ranks(rows, accepted)
        scores |= {f"{way}_R{k}": float(100 * np.mean(place <= k)) for k in RANKS}
        scores[f"{way}_MedR"] = float(np.median(place))
    return scores


def best_ranks(similarity: np.ndarray, accepted: np.ndarray) -> np.ndarray:
    """Return the rank (n,), from 1, of the best accepted entry in each row of ``similarity`` (n, m).

    Tied entries share their middle rank, so a constant matrix is no better than chance.
    """
    best = np.where(accepted, similarity, -np.inf).max(1, keepdims=True)
    ahead = (similarity > best).sum(1)
    beside = ((similarity == best) & ~accepted).sum(1)
    return 1 + ahead + beside / 2


def batched_retrieval(similarity: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    """Average retrieval scores over shuffled batches of ``BATCH`` pairs, from ``similarity`` (n, n), n >= ``BATCH``.

    An incomplete last batch is dropped, because ranking fewer candidates is easier.
    """
    count = len(similarity)
    order = rng.permutation(count)[:count // BATCH * BATCH].reshape(-1, BATCH)
    return _means([retrieval_scores(similarity[np.ix_(rows, rows)]) for rows in order])


def _means(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([one[key] for one in scores])) for key in scores[0]}


def steady_retrieval(similarity: np.ndarray) -> dict[str, float]:
    """Average batched retrieval scores over ten fixed shuffles, to reduce the noise in checkpoint selection.

    If there are too few pairs for a batch, all pairs form one batch.
    """
    if len(similarity) < BATCH:
        return retrieval_scores(similarity)
    return _means([batched_retrieval(similarity, rng=np.random.default_rng(seed)) for seed in range(10)])


def retrieval_protocols(similarity: np.ndarray, sentences: np.ndarray,
                        rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """Compute the scores of TMR's four protocols.

    ``similarity`` (n, n) compares captions with motions; ``sentences`` (n, s) are normalised caption embeddings.

    - ``all``: every sample against all others.
    - ``threshold``: the same, but samples with nearly equal captions (0.95 on a scale from 0 to 1, a cosine of 0.9)
      count as correct for each other.
    - ``dissimilar``: the 100 samples with the least similar captions, against each other; omitted if there are no more
      than 100 samples. The selection differs from TMR's, see ``least_alike``.
    - ``batches``: random batches of 32, as for R-precision; omitted if there are fewer than 32 samples.
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
    """Greedily select ``count`` dissimilar rows of similarities (n, n).

    Starts with the row that has the lowest mean, then repeatedly adds the row with the lowest maximum similarity to
    the selected rows.
    """
    chosen = [int(alike.mean(1).argmin())]
    nearest = alike[chosen[0]].astype(np.float64)
    while len(chosen) < count:
        nearest[chosen[-1]] = np.inf
        chosen.append(int(nearest.argmin()))
        nearest = np.maximum(nearest, alike[chosen[-1]])
    return np.array(chosen)


def euclidean_similarity(text: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """Return negative distances (n, m) of unnormalised features, as in LaMP's published retrieval evaluation."""
    return -euclidean_distances(text, motion)


Sentences = Callable[[Sequence[str]], np.ndarray]
Compare = Callable[[Tensor, Tensor], Tensor]
SENTENCE_BATCH = 128


def word_vectors(captions: Sequence[str]) -> np.ndarray:
    """Compute normalised TF-IDF vectors of captions: term counts times log inverse document frequency."""
    bags = [Counter(clean_caption(caption).split()) for caption in captions]
    spread = Counter(word for bag in bags for word in bag)
    columns = {word: column for column, word in enumerate(sorted(spread))}
    rows = np.zeros((len(bags), max(1, len(columns))), np.float32)
    for row, bag in zip(rows, bags, strict=True):
        for word, count in bag.items():
            row[columns[word]] = count * np.log((1 + len(bags)) / spread[word])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12)
    return rows


class SentenceEncoder:
    """Encoder of captions to normalised sentence embeddings: a BERT with mean pooling, as in all-MiniLM-L6-v2.

    ``source`` is a folder or a name on the Hugging Face hub. Raises ``InputError`` if it cannot be loaded.
    """

    def __init__(self, source: str | Path, longest: int = 128) -> None:
        folder = bert_folder(source)
        self.pieces, self.longest = WordPieces(folder), longest
        self.model = from_bert(folder, encoder_width=1).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> np.ndarray:
        """Return embeddings (n, s) of captions."""
        rows = []
        for start in range(0, len(captions), SENTENCE_BATCH):
            made = self.pieces.encode(list(captions[start:start + SENTENCE_BATCH]), self.longest)
            states = self.model.text(made.ids, made.mask) * made.mask[..., None]
            rows.append(states.sum(1) / made.mask.sum(1, keepdim=True))
        return torch.nn.functional.normalize(torch.cat(rows), dim=-1).numpy()


PASS = 64      # texts or motions per forward pass
CHUNK = 1024   # texts compared with a batch of motions at once
REPEATS = 20   # random selections of captions and batches


@dataclass(frozen=True)
class LanguageScores:
    """Retrieval scores under every protocol, and LaMP's sensitivity to left and right."""

    retrieval: dict[str, dict[str, Estimate]]  # protocol -> score
    sides: float | None  # percentage of sided captions that are closer to their motion than the same caption with left
                         # and right swapped; None if there are no sided captions
    sided: int           # number of captions that name left or right


def text_vectors(captions: Sequence[str], text_features: Callable[[list[str]], Tensor]) -> Tensor:
    """Compute features (n, e) of captions in batches."""
    return torch.cat([text_features(list(captions[start:start + PASS])) for start in range(0, len(captions), PASS)])


def motion_vectors(motions: Sequence[np.ndarray], motion_features: Callable[[Tensor, Tensor], Tensor],
                   quiet: bool = True) -> np.ndarray:
    """Compute features (n, e) of normalised clips (T, d), cut to whole tokens and at most 196 frames."""
    starts = tqdm(range(0, len(motions), PASS), desc="motion features", disable=quiet or None, leave=False)
    return torch.cat([motion_features(*padded(motions[start:start + PASS])).cpu() for start in starts]).numpy()


def score_language(pairs: Sequence[Pair], normalise: Callable[[np.ndarray], np.ndarray],
                   text_features: Callable[[list[str]], Tensor], motion_features: Callable[[Tensor, Tensor], Tensor],
                   seed: int = 0, sentences: Sentences = word_vectors, repeats: int = REPEATS,
                   compare: Compare = similarity) -> LanguageScores:
    """Compute the retrieval and left/right scores of LaMP, or of any other text and motion encoders.

    Memory grows by 4 bytes per pair of caption and clip. Motion features are kept for one batch at a time.

    Args:
        pairs: clips with captions.
        normalise: maps features (T, d) of a clip to the input of ``motion_features``.
        text_features: maps captions to (b, e).
        motion_features: maps zero-padded motion (b, t, d) and lengths (b,) to (b, e) or (b, queries, e).
        seed: seed of the random selections.
        sentences: maps captions to normalised vectors (n, s), whose dot products are the similarities of captions.
        repeats: number of random selections of one caption per clip.
        compare: maps features of texts and motions to similarities (texts, motions); larger means closer.

    Raises ``InputError`` if a similarity is not finite, because it would silently count as a miss.
    """
    captions = [caption for pair in pairs for caption in pair.captions]
    owners = np.array([number for number, pair in enumerate(pairs) for _ in pair.captions])
    sided = np.array([row for row, caption in enumerate(captions) if mirror_text(caption) != caption], dtype=int)
    texts = text_vectors(captions, text_features)
    mirrored = text_vectors([mirror_text(captions[row]) for row in sided], text_features) if len(sided) else None

    scores = np.empty((len(captions), len(pairs)), np.float32)
    wrong = np.empty(len(sided), np.float32)  # similarities to captions with left and right swapped
    for start in range(0, len(pairs), PASS):
        features = motion_features(*padded([normalise(pair.features) for pair in pairs[start:start + PASS]]))
        for first in range(0, len(captions), CHUNK):
            scores[first:first + CHUNK, start:start + PASS] = compare(texts[first:first + CHUNK], features).cpu()
        rows = np.flatnonzero(owners[sided] // PASS == start // PASS)
        if len(rows):
            made = compare(mirrored[torch.from_numpy(rows)], features).cpu().numpy()
            wrong[rows] = made[np.arange(len(rows)), owners[sided][rows] - start]
    invalid = ~np.isfinite(scores)
    invalid[sided, owners[sided]] |= ~np.isfinite(wrong)
    for row, column in np.argwhere(invalid):
        raise InputError(f"the similarity of {captions[row]!r} and the motion of {pairs[column].name} is not finite")

    meanings, generator = sentences(captions), np.random.default_rng(seed)
    draws = []
    for _ in range(repeats):
        chosen = np.array([generator.choice(np.flatnonzero(owners == clip)) for clip in range(len(pairs))])
        draws.append(retrieval_protocols(scores[chosen], meanings[chosen], generator))
    retrieval = {protocol: estimates([draw[protocol] for draw in draws]) for protocol in draws[0]}
    right = 100 * float((scores[sided, owners[sided]] > wrong).mean()) if len(sided) else None
    return LanguageScores(retrieval, right, len(sided))
