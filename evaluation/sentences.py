"""How alike captions are, which two of the retrieval protocols ask: sentences as unit vectors (n, s).

Who is evaluated should have no say in it, so by default nothing that has learned does: ``word_vectors`` counts words.
"""
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from data.text import clean_caption
from models.lamp.bert import WordPieces, bert_folder, from_bert

Sentences = Callable[[Sequence[str]], np.ndarray]
BATCH = 128


def word_vectors(captions: Sequence[str]) -> np.ndarray:
    """Unit vectors of captions by their words, a rare word weighing more (term counts times log inverse frequency)."""
    bags = [Counter(clean_caption(caption).split()) for caption in captions]
    spread = Counter(word for bag in bags for word in bag)
    columns = {word: column for column, word in enumerate(sorted(spread))}
    rows = np.zeros((len(bags), max(1, len(columns))), np.float32)
    for row, bag in zip(rows, bags, strict=True):
        for word, count in bag.items():
            row[columns[word]] = count * np.log((1 + len(bags)) / spread[word])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12)


class SentenceEncoder:
    """Unit vectors of sentences from a BERT, ``source`` a folder or a name on the hub: the mean over its word states,
    as sentence encoders such as all-MiniLM-L6-v2 are used. Raises ``InputError`` where there is none."""

    def __init__(self, source: str | Path, longest: int = 128) -> None:
        folder = bert_folder(source)
        self.pieces, self.longest = WordPieces(folder), longest
        self.model = from_bert(folder, encoder_width=1).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> np.ndarray:
        """Vectors (n, s) of captions."""
        rows = []
        for start in range(0, len(captions), BATCH):
            made = self.pieces.encode(list(captions[start:start + BATCH]), self.longest)
            states = self.model.text(made.ids, made.mask) * made.mask[..., None]
            rows.append(states.sum(1) / made.mask.sum(1, keepdim=True))
        return torch.nn.functional.normalize(torch.cat(rows), dim=-1).numpy()
