"""Pairs of motions and captions as the evaluator reads them."""
import torch

from data.motion_windows import Normalisation
from data.text_motion import Pair, TextMotion
from data.word_vectors import WordVectors


class MatchingPairs(TextMotion):
    """Items ``motion`` (196, d) normalised and zero padded, ``m_len``, and of the caption ``word_emb`` (22, dim),
    ``pos_onehot`` (22, 15) and ``cap_len``."""

    def __init__(self, pairs: list[Pair], normalisation: Normalisation, words: WordVectors, training: bool,
                 seed: int = 0) -> None:
        super().__init__(pairs, normalisation, training, seed)
        self.words = words

    def __getitem__(self, index: int) -> dict[str, object]:
        item = super().__getitem__(index)
        sentence = self.words.sentence(self.pairs[index].tokens[self.crop(index).caption])
        return {"motion": item["motion"], "m_len": item["m_len"], "word_emb": torch.from_numpy(sentence.word_emb),
                "pos_onehot": torch.from_numpy(sentence.pos_onehot), "cap_len": sentence.cap_len}
