"""Evaluate how well LaMP aligns texts with motions, on a split of captioned clips."""
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.motion_windows import padded
from data.text import clean_caption, mirror_text
from data.text_motion import Pair
from evaluation.report import Estimate, estimates
from evaluation.retrieval import retrieval_protocols
from models.lamp.bert import WordPieces, bert_folder, from_bert
from models.lamp.objectives import similarity
from utils.errors import InputError

Sentences = Callable[[Sequence[str]], np.ndarray]
Compare = Callable[[Tensor, Tensor], Tensor]
SENTENCE_BATCH = 128


def word_vectors(captions: Sequence[str]) -> np.ndarray:
    """TF-IDF vectors of captions, normalised: term counts times log inverse document frequency."""
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
    """Normalised sentence embeddings from a BERT, with mean pooling as in all-MiniLM-L6-v2; ``source`` is a folder or a
    name on the hub. Raises ``InputError`` if it cannot be loaded."""

    def __init__(self, source: str | Path, longest: int = 128) -> None:
        folder = bert_folder(source)
        self.pieces, self.longest = WordPieces(folder), longest
        self.model = from_bert(folder, encoder_width=1).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> np.ndarray:
        """Vectors (n, s) of captions."""
        rows = []
        for start in range(0, len(captions), SENTENCE_BATCH):
            made = self.pieces.encode(list(captions[start:start + SENTENCE_BATCH]), self.longest)
            states = self.model.text(made.ids, made.mask) * made.mask[..., None]
            rows.append(states.sum(1) / made.mask.sum(1, keepdim=True))
        return torch.nn.functional.normalize(torch.cat(rows), dim=-1).numpy()


BATCH = 64     # texts or motions per forward pass
CHUNK = 1024   # texts compared with a batch of motions at once
REPEATS = 20  # random selections of one caption per clip, and of batches


@dataclass(frozen=True)
class LanguageScores:
    """Retrieval scores under every protocol, and the sensitivity of LaMP to left and right."""

    retrieval: dict[str, dict[str, Estimate]]  # protocol -> score
    sides: float | None  # per cent of captions naming a side that are closer to their motion than with left and right
                         # swapped; None if no caption names a side
    sided: int           # number of captions that name a side


def text_vectors(captions: Sequence[str], text_features: Callable[[list[str]], Tensor]) -> Tensor:
    """Features (n, e) of captions."""
    return torch.cat([text_features(list(captions[start:start + BATCH])) for start in range(0, len(captions), BATCH)])


def motion_vectors(motions: Sequence[np.ndarray], motion_features: Callable[[Tensor, Tensor], Tensor],
                   quiet: bool = True) -> np.ndarray:
    """Features (n, e) of normalised clips (T, d), cut to whole tokens and at most 196 frames as in
    ``score_language``."""
    starts = tqdm(range(0, len(motions), BATCH), desc="motion features", disable=quiet or None, leave=False)
    return torch.cat([motion_features(*padded(motions[start:start + BATCH])).cpu() for start in starts]).numpy()


def score_language(pairs: Sequence[Pair], normalise: Callable[[np.ndarray], np.ndarray],
                   text_features: Callable[[list[str]], Tensor], motion_features: Callable[[Tensor, Tensor], Tensor],
                   seed: int = 0, sentences: Sentences = word_vectors, repeats: int = REPEATS,
                   compare: Compare = similarity) -> LanguageScores:
    """Score LaMP, or any other pair of text and motion encoders, on pairs.

    Memory grows by 4 bytes per caption and clip; motion features are kept for one batch at a time.

    Args:
        normalise: maps features (T, d) of a clip to the input of ``motion_features``.
        text_features: maps captions to (b, e).
        motion_features: maps zero-padded motion (b, t, d) and lengths (b,) to (b, e) or (b, queries, e).
        seed: of the random selections.
        sentences: maps captions to normalised vectors (n, s) that measure their similarity.
        repeats: number of random selections of one caption per clip.
        compare: maps features of texts and motions to similarities (texts, motions); larger is closer.

    Raises ``InputError`` if a similarity is not finite, which would otherwise count as a miss.
    """
    captions = [caption for pair in pairs for caption in pair.captions]
    owners = np.array([number for number, pair in enumerate(pairs) for _ in pair.captions])
    sided = np.array([row for row, caption in enumerate(captions) if mirror_text(caption) != caption], dtype=int)
    texts = text_vectors(captions, text_features)
    mirrored = text_vectors([mirror_text(captions[row]) for row in sided], text_features) if len(sided) else None

    scores = np.empty((len(captions), len(pairs)), np.float32)
    wrong = np.empty(len(sided), np.float32)  # similarity of each motion to its caption with left and right swapped
    for start in range(0, len(pairs), BATCH):
        features = motion_features(*padded([normalise(pair.features) for pair in pairs[start:start + BATCH]]))
        for first in range(0, len(captions), CHUNK):
            scores[first:first + CHUNK, start:start + BATCH] = compare(texts[first:first + CHUNK], features).cpu()
        rows = np.flatnonzero(owners[sided] // BATCH == start // BATCH)
        if len(rows):
            made = compare(mirrored[torch.from_numpy(rows)], features).cpu().numpy()
            wrong[rows] = made[np.arange(len(rows)), owners[sided][rows] - start]
    for row, column in np.argwhere(~np.isfinite(scores)):
        raise InputError(f"the similarity of {captions[row]!r} and the motion of {pairs[column].name} is not finite")

    meanings, generator = sentences(captions), np.random.default_rng(seed)
    draws = []
    for _ in range(repeats):
        chosen = np.array([generator.choice(np.flatnonzero(owners == clip)) for clip in range(len(pairs))])
        draws.append(retrieval_protocols(scores[chosen], meanings[chosen], generator))
    retrieval = {protocol: estimates([draw[protocol] for draw in draws]) for protocol in draws[0]}
    right = 100 * float((scores[sided, owners[sided]] > wrong).mean()) if len(sided) else None
    return LanguageScores(retrieval, right, len(sided))
