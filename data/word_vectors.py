"""Word vectors and word classes, the evaluator's caption features (T2M, Guo et al. 2022)."""
import pickle
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.dataset import Normalisation, require
from data.text_motion import Pair, TextMotion
from utils import InputError
from utils.files import atomic_path, read_npy, read_text, save_npy, write_text

MAX_TOKENS = 20              # tokens of a caption; with sos and eos a sentence has 22 positions
SENTENCE = MAX_TOKENS + 2
SOS, EOS, UNKNOWN = "sos/OTHER", "eos/OTHER", "unk/OTHER"
MADE_BY = "prepare/word_vectors.py or prepare/download_glove.sh"

WORD_CLASSES = ("VERB", "NOUN", "DET", "ADP", "NUM", "AUX", "PRON", "ADJ", "ADV",
                "Loc_VIP", "Body_VIP", "Obj_VIP", "Act_VIP", "Desc_VIP", "OTHER")

# Words about motion; their class is the list that contains them, regardless of their tag.
_VIP_LISTS = {
    "Loc_VIP": "left right clockwise counterclockwise anticlockwise forward back backward up down straight curve",
    "Body_VIP": "arm chin foot feet face hand mouth leg waist eye knee shoulder thigh",
    "Obj_VIP": "stair dumbbell chair window floor car ball handrail baseball basketball",
    "Act_VIP": "walk run swing pick bring kick put squat throw hop dance jump turn stumble stop sit lift lower raise "
               "wash stand kneel stroll rub bend balance flap jog shuffle lean rotate spin spread climb",
    "Desc_VIP": "slowly carefully fast careful slow quickly happy angry sad happily angrily sadly",
}
_VIP_CLASS = {word: name for name, words in reversed(_VIP_LISTS.items()) for word in words.split()}


@dataclass(frozen=True)
class Sentence:
    """A caption as input of the evaluator's text encoder."""

    word_emb: np.ndarray    # (22, dim) float32
    pos_onehot: np.ndarray  # (22, 15) float32
    cap_len: int            # tokens, including sos and eos


class WordVectors:
    """Vectors by word; unknown words have that of ``unk``.

    Args:
        words: the vocabulary; ``unk`` must be in it.
        vectors: (len(words), dim).
    """

    def __init__(self, words: Sequence[str], vectors: np.ndarray) -> None:
        self._row = {word: row for row, word in enumerate(words)}
        self._vectors = np.asarray(vectors, np.float32)
        if "unk" not in self._row:
            raise InputError("the vocabulary of the word vectors has no word unk")

    @classmethod
    def load(cls, folder: str | Path, prefix: str = "our_vab") -> "WordVectors":
        """Read ``<prefix>_data.npy`` and its words: ``<prefix>_words.txt``, one per line and row, or the published
        ``<prefix>_words.pkl`` and ``<prefix>_idx.pkl`` (word to row).

        Raises ``InputError`` if a file is missing, has more than plain lists, dicts and numbers, or does not match the
        others.
        """
        folder = Path(folder)
        data, text = folder / f"{prefix}_data.npy", folder / f"{prefix}_words.txt"
        vectors = read_npy(data, MADE_BY)
        if text.exists():
            words = read_text(text, "vocabulary").removesuffix("\n").split("\n")
            rows = {word: row for row, word in enumerate(words)}
            source, fits = f"{text} does", len(rows) == len(vectors)
        else:
            paths = [require(folder / f"{prefix}_{name}", MADE_BY) for name in ("words.pkl", "idx.pkl")]
            words, rows = map(_read_plain, paths)
            source, fits = f"{paths[0]} and {paths[1]} do", _is_vocabulary(words, rows, len(vectors))
        if vectors.ndim != 2 or not fits:
            raise InputError(f"{source} not belong to the vectors {vectors.shape} of {data}")
        return cls(words, vectors[[rows[word] for word in words]])

    def save(self, folder: str | Path, pickles: bool = False, prefix: str = "our_vab") -> None:
        """Write ``<prefix>_data.npy`` and ``<prefix>_words.txt``; with ``pickles`` also the published files of words,
        for other programs."""
        folder, words = Path(folder), [*self._row]
        save_npy(folder / f"{prefix}_data.npy", self._vectors)
        write_text(folder / f"{prefix}_words.txt", "".join(f"{word}\n" for word in words))
        if pickles:
            for name, content in (("words", words), ("idx", self._row)):
                with atomic_path(folder / f"{prefix}_{name}.pkl") as temporary:
                    temporary.write_bytes(pickle.dumps(content))

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return self._vectors.shape[1]

    def __contains__(self, word: str) -> bool:
        return word in self._row

    def __len__(self) -> int:
        return len(self._row)

    def vector(self, word: str) -> np.ndarray:
        """The vector (dim,) of a word, or that of ``unk``."""
        return self._vectors[self._row.get(word, self._row["unk"])]

    def sentence(self, tokens: Sequence[str]) -> Sentence:
        """Vectors and classes of ``word/POS`` tokens, in 22 positions (see ``sentence_layout``)."""
        tokens, cap_len = sentence_layout(tokens)
        classes = [word_class(token, self) for token in tokens]
        words = np.stack([self.vector(token.rpartition("/")[0]) for token in tokens])
        return Sentence(words, np.eye(len(WORD_CLASSES), dtype=np.float32)[classes], cap_len)


def word_class(token: str, known: Container[str]) -> int:
    """Index in ``WORD_CLASSES`` of a ``word/POS`` token, with ``known`` for words that have a vector.

    Words of the VIP lists have the class of their list, regardless of the tag; unknown words and tags have OTHER.
    """
    word, _, tag = token.rpartition("/")
    name = _VIP_CLASS.get(word, tag) if word in known else "OTHER"
    return WORD_CLASSES.index(name if name in WORD_CLASSES else "OTHER")


def falls_back(token: str, known: Container[str]) -> bool:
    """Whether a ``word/POS`` token has the vector of ``unk``."""
    word = token.rpartition("/")[0]
    return word not in known or word == "unk"


def sentence_layout(tokens: Sequence[str]) -> tuple[list[str], int]:
    """Tokens padded to 22 positions, and their number: sos, at most 20 tokens, eos, then unk."""
    sentence = [SOS, *tokens[:MAX_TOKENS], EOS]
    return sentence + [UNKNOWN] * (SENTENCE - len(sentence)), len(sentence)


def _is_vocabulary(words: Any, rows: Any, count: int) -> bool:
    """Whether a dict maps every word of a list to a row below ``count``."""
    if not isinstance(words, list) or not isinstance(rows, dict) or len(words) > count:
        return False
    places = [rows.get(word) for word in words if isinstance(word, str)]
    return len(places) == len(words) and all(isinstance(place, int) and 0 <= place < count for place in places)


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it refers to {module}.{name}")


def _read_plain(path: Path) -> Any:
    """Read a pickle of lists, dicts, text and numbers; refuses anything that would run code."""
    with open(path, "rb") as file:
        try:
            return _PlainUnpickler(file).load()
        except (pickle.UnpicklingError, EOFError) as error:
            raise InputError(f"{path} is not a plain pickle: {error}") from error


class MatchingPairs(TextMotion):
    """Items ``motion`` (196, d) normalised and zero-padded, ``m_len``, and for the caption ``word_emb`` (22, dim),
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
