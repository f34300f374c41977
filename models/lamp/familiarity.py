"""Familiarity of a text: its similarity to LaMP's training texts, in the space of mean word embeddings.

LaMP's trained text space is unsuitable, because it moves every text to the closest known motion. Word embeddings keep
their meaning. A text is familiar if it is close to a k-means centre of the training texts, and not closer to an
example of texts that no motion shows.
"""
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.lamp.bert import WordPieces

FOREIGN_WEIGHT = 0.75  # of the similarity to examples of unknown texts
FOREIGN = -1.0         # familiarity of texts without words in Latin letters
_WORD = re.compile(r"[^\W\d_]+(['’-][^\W\d_]+)*")


@dataclass(frozen=True)
class Familiarity:
    """Centres of the training texts of a LaMP model, and the threshold of familiarity."""

    centres: Tensor           # (k, h) normalised
    labels: tuple[str, ...]   # a short training text near each centre
    foreign: Tensor           # (u, h) normalised, of texts that no motion shows
    threshold: float

    def scores(self, vectors: Tensor) -> Tensor:
        """Familiarity (b,) of normalised text vectors (b, h): higher is more familiar."""
        known, foreign = ((vectors @ some.T).amax(1) for some in (self.centres, self.foreign))
        return known - FOREIGN_WEIGHT * foreign

    def nearest(self, vector: Tensor, count: int = 2) -> list[str]:
        """Distinct labels of the centres closest to a normalised text vector (h,)."""
        order = (self.centres @ vector).argsort(descending=True).tolist()
        return list(dict.fromkeys(self.labels[row] for row in order))[:count]


def word_means(model: nn.Module, pieces: WordPieces, texts: Sequence[str], longest: int) -> Tensor:
    """Normalised means (b, h) of LaMP's word embeddings over texts, on the CPU; zero for texts without words."""
    made = pieces.encode(texts, longest)
    ids, mask = made.ids.to(model.query_tokens.device), made.mask.to(model.query_tokens.device)
    words = mask & (ids != pieces.cls_id) & (ids != pieces.sep_id)
    with torch.no_grad():
        embedded = model.Qformer.bert.embeddings.word_embeddings(ids).float() * words.unsqueeze(-1)
    return F.normalize(embedded.sum(1), dim=-1).cpu()


def is_latin(text: str) -> bool:
    """Whether most of a text's parts, separated by spaces, are words in Latin letters."""
    parts = [part.strip(".,!?;:()\"'“”…") for part in text.split()]
    words = [part for part in parts if _WORD.fullmatch(part) and all(ord(letter) < 0x250 for letter in part
                                                                     if letter.isalpha())]
    return len(words) > len(parts) / 2


def familiarity_of(known: Familiarity, model: nn.Module, pieces: WordPieces, texts: Sequence[str],
                   longest: int) -> Tensor:
    """Familiarity (b,) of cleaned texts: ``FOREIGN`` for those that are not mostly words in Latin letters."""
    scores = known.scores(word_means(model, pieces, texts, longest))
    return torch.where(torch.tensor([is_latin(text) for text in texts]), scores, FOREIGN)


def k_means(vectors: Tensor, count: int, generator: torch.Generator, rounds: int = 5) -> Tensor:
    """Normalised centres (k, h) of normalised vectors (n, h) by cosine, k at most n."""
    centres = vectors[torch.randperm(len(vectors), generator=generator)[:count]].clone()
    for _ in range(rounds):
        nearest = torch.cat([(part @ centres.T).argmax(1) for part in vectors.split(4096)])
        sums = torch.zeros_like(centres).index_add_(0, nearest, vectors)
        used = sums.norm(dim=1) > 0
        centres[used] = F.normalize(sums[used], dim=1)
    return centres
