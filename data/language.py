"""Additional training texts (language bank and paraphrases), and the word vectors of the T2M evaluator.

The language bank has sentences for each content, that is, each kind of motion, such as "walk" or "raise-hand".
"""
import argparse
import json
import lzma
import pickle
import re
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.dataset import DatasetSpec, Normalisation, require
from data.text import clean_caption
from data.text_motion import CroppedPairs, Pair, TextMotion, load_pairs, normalised_crop
from utils import InputError
from utils.files import ROOT, atomic_path, read_npy, read_text, save_npy, write_text
from utils.runtime import stream_seed

BANK = ROOT / "assets" / "language" / "bank.jsonl.xz"
CONTENTS = "contents.json"
HELD_OUT = 5  # every fifth sentence of a content is held out of training, for tests with unseen wordings
OTHER_SIDE = {"left": "right", "right": "left", "": ""}


@lru_cache
def read_bank() -> dict[str, tuple[str, ...]]:
    """Read the language bank. Returns sentence templates keyed by content.

    In the templates, ``{side}`` stands for the side of the content and ``{other}`` for the opposite side.
    """
    with lzma.open(BANK, "rt", encoding="utf-8") as lines:
        entries = [json.loads(line) for line in lines]
    return {entry["content"]: tuple(entry["sentences"]) for entry in entries}


def sentences(content: str, side: str = "", held_out: bool = False) -> list[str]:
    """Return the cleaned sentences for a content class: the training sentences, or the held-out ones if ``held_out``.

    A class is a content with a side. If no ``side`` is given, only sentences that name no side are returned.
    """
    chosen = [text for number, text in enumerate(read_bank().get(content, ()))
              if (number % HELD_OUT == HELD_OUT - 1) == held_out]
    return [clean_caption(text.replace("{side}", side).replace("{other}", OTHER_SIDE[side]))
            for text in chosen if side or "{" not in text]


@lru_cache
def classes() -> dict[tuple[str, str], int]:
    """Return the class numbers, keyed by (content, side)."""
    return {(content, side): 3 * number + place for number, content in enumerate(read_bank())
            for place, side in enumerate(OTHER_SIDE)}


def training_pairs(spec: DatasetSpec, opt: argparse.Namespace) -> list[Pair]:
    """Load the training pairs, with the texts added by ``--paraphrases`` and ``--bank``."""
    pairs = with_paraphrases(load_pairs(spec, "train", quiet=opt.quiet), opt.paraphrases, opt.seed)
    pairs = with_bank(pairs, spec) if opt.bank else pairs
    return by_rarest_content(pairs) if getattr(opt, "balance_by", "family") == "content" else pairs


def load_text_motion(spec: DatasetSpec, normalisation: Normalisation,
                     opt: argparse.Namespace) -> tuple[TextMotion, TextMotion]:
    """Create the training and validation sets. ``--paraphrases`` and ``--bank`` add texts to the training set only."""
    train_set = TextMotion(training_pairs(spec, opt), normalisation, training=True, seed=opt.seed,
                           labelled=len(classes()) if opt.bank else 0, paired=getattr(opt, "text_pairs", 0) > 0)
    val_set = TextMotion(load_pairs(spec, "val", quiet=opt.quiet), normalisation, training=False)
    print(f"{len(train_set)} training pairs, {len(val_set)} validation pairs")
    return train_set, val_set


def with_bank(pairs: Sequence[Pair], spec: DatasetSpec) -> list[Pair]:
    """Add the sentences of the language bank that describe each clip, and new pairs for described parts of clips.

    ``contents.json`` in the folder of the data set maps clip ids to ``{"family": str, "contents": [[content, side],
    ...], "stretches": [[content, side, first frame, end frame], ...]}``, where sides are "left", "right" or "". Raises
    ``InputError`` if this file is missing or names an unknown content.
    """
    path = spec.root / CONTENTS
    if not path.exists():
        raise InputError(f"{path} is missing: --bank needs the contents of each clip (format: data.language.with_bank)")
    listed = json.loads(read_text(path, "contents"))
    unknown = {content for entry in listed.values() for content, *_ in entry["contents"] + entry["stretches"]}
    if unknown := unknown - set(read_bank()):
        raise InputError(f"{path}: unknown contents {', '.join(sorted(unknown)[:5])}")
    extended = []
    for pair in pairs:
        entry = listed.get(pair.name)
        if entry is None:
            extended.append(pair)
            continue
        extended.append(_described(pair, entry["contents"], entry["family"]))
        extended += [_described(replace(pair, name=f"{content}_{first}_{pair.name}", captions=(), tokens=(),
                                        features=pair.features[first:end], start=pair.start + first),
                                [(content, side)], content)
                     for content, side, first, end in entry["stretches"]]
    return extended


def by_rarest_content(pairs: Sequence[Pair]) -> list[Pair]:
    """Use the rarest content class of each pair as its family. Pairs without contents keep their family."""
    counts = Counter(content for pair in pairs for content in pair.contents)
    return [replace(pair, family=str(min(pair.contents, key=lambda one: (counts[one], one)))) if pair.contents else pair
            for pair in pairs]


def _described(pair: Pair, contents: Sequence[Sequence[str]], family: str) -> Pair:
    found = [(text, classes()[content, side]) for content, side in contents for text in sentences(content, side)]
    return replace(pair, family=family, contents=frozenset(classes()[content, side] for content, side in contents),
                   sentences=tuple(text for text, _ in found), sentence_classes=tuple(one for _, one in found))


PARAPHRASES = ROOT / "assets" / "paraphrases.txt"
SPECIAL = ("doer", "doing", "scene")
REPLACED = 0.5    # probability of replacing each wording that has alternatives
DESCRIBED = 0.3   # probability of adding a participle to a new subject
PLACED = 0.25     # probability of adding a scene
# Neutral subjects of captions.
_DOER = re.compile(r"(?<!like )\b(?:(?:a|the|this) (?:person|figure|man|guy)|(?:a|the) human|(?:an|the) individual"
                   r"|someone|somebody)\b(?!'s)")
_ARTICLE = re.compile(r"\ban? (?=(\w))")
_SIDES = ("left", "right")


class Paraphraser:
    """Paraphraser that randomly replaces wordings with others from the same group.

    ``path`` is a file in the format of ``assets/paraphrases.txt``. Raises ``InputError`` if it is invalid.
    """

    def __init__(self, path: Path = PARAPHRASES) -> None:
        self.special: dict[str, list[str]] = {}
        self.others: dict[str, list[str]] = {}  # wording -> possible replacements
        for number, line in enumerate(read_text(path, "paraphrases").splitlines(), 1):
            if line.strip() and not line.startswith("#"):
                self._add(line, f"{path}:{number}")
        missing = [name for name in SPECIAL if name not in self.special]
        if missing:
            raise InputError(f"{path} has no group {', '.join(missing)}")
        longest_first = sorted(self.others, key=len, reverse=True)
        self.wordings = re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b")

    def _add(self, line: str, where: str) -> None:
        name, colon, rest = line.partition(":")
        wordings = [wording.strip() for wording in (rest if colon else line).split(" / ")]
        if len(wordings) < 2 or not all(wordings):
            raise InputError(f"{where}: a group needs at least two wordings, separated by ' / '")
        if colon:
            self.special[name] = wordings
            return
        for side in _SIDES if "{side}" in line else ("",):
            group = [wording.replace("{side}", side) for wording in wordings]
            for wording in group:
                self.others.setdefault(wording, [other for other in group if other != wording])

    def __call__(self, caption: str, generator: np.random.Generator) -> str:
        """Return a random paraphrase of a cleaned caption, with the same sides, counts and style."""
        def other(found: re.Match[str]) -> str:
            if generator.random() >= REPLACED:
                return found.group()
            return self._pick(self.others[found.group()], generator)

        def doer(found: re.Match[str]) -> str:
            if generator.random() >= REPLACED:
                return found.group()
            described = [self._pick(self.special["doing"], generator)] if generator.random() < DESCRIBED else []
            article = ("a", "the")[generator.integers(2)]
            return " ".join([article, *described, self._pick(self.special["doer"], generator)])

        caption = self.wordings.sub(other, _DOER.sub(doer, caption))
        if generator.random() < PLACED:
            caption = f"{caption} {self._pick(self.special['scene'], generator)}"
        return _ARTICLE.sub(lambda found: "an " if found.group(1) in "aeiou" else "a ", caption)

    def _pick(self, wordings: Sequence[str], generator: np.random.Generator) -> str:
        return wordings[int(generator.integers(len(wordings)))]


def with_paraphrases(pairs: Sequence[Pair], count: int, seed: int) -> list[Pair]:
    """Add ``count`` paraphrases of every caption to its pair."""
    if not count:
        return list(pairs)
    paraphraser = Paraphraser()
    extended = []
    for number, pair in enumerate(pairs):
        generator = np.random.default_rng(stream_seed(seed, number))
        made = [paraphraser(caption, generator) for _ in range(count) for caption in pair.captions]
        extended.append(replace(pair, captions=pair.captions + tuple(made)))
    return extended


CAPTION_TOKENS = 20              # maximum number of tokens of a caption, without the start and end tokens
SENTENCE = CAPTION_TOKENS + 2
SOS, EOS, UNKNOWN = "sos/OTHER", "eos/OTHER", "unk/OTHER"
MADE_BY = "prepare/word_vectors.py or prepare/download_glove.sh"
WORD_FILES = ("data.npy", "words.txt", "words.pkl", "idx.pkl")

WORD_CLASSES = ("VERB", "NOUN", "DET", "ADP", "NUM", "AUX", "PRON", "ADJ", "ADV",
                "Loc_VIP", "Body_VIP", "Obj_VIP", "Act_VIP", "Desc_VIP", "OTHER")

# Words about motion, which have the class of their list instead of their part of speech.
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
    """Caption encoded for the evaluator's text encoder."""

    word_emb: np.ndarray    # (22, dim) float32, word vectors
    pos_onehot: np.ndarray  # (22, 15) float32, one-hot word classes
    cap_len: int            # number of tokens, including the start and end tokens


class WordVectors:
    """Word vectors (len(words), dim). Unknown words have the vector of ``unk``, which must be one of ``words``."""

    def __init__(self, words: Sequence[str], vectors: np.ndarray) -> None:
        self._row = {word: row for row, word in enumerate(words)}
        self._vectors = np.asarray(vectors, np.float32)
        if "unk" not in self._row:
            raise InputError("the vocabulary of the word vectors has no word unk")

    @classmethod
    def load(cls, folder: str | Path) -> "WordVectors":
        """Read ``our_vab_data.npy`` and its words.

        The words are in ``our_vab_words.txt``, or in the published ``our_vab_words.pkl`` and ``our_vab_idx.pkl``.
        Raises ``InputError`` if a file is missing, unsafe, or does not match the others.
        """
        data, text, *pickles = (Path(folder, f"our_vab_{name}") for name in WORD_FILES)
        vectors = read_npy(data, MADE_BY)
        if text.exists():
            words = read_text(text, "vocabulary").removesuffix("\n").split("\n")
            rows = {word: row for row, word in enumerate(words)}
            source, fits = f"{text} does", len(rows) == len(vectors)
        else:
            words, rows = (_read_plain(require(path, MADE_BY)) for path in pickles)
            source, fits = f"{pickles[0]} and {pickles[1]} do", _is_vocabulary(words, rows, len(vectors))
        if vectors.ndim != 2 or not fits:
            raise InputError(f"{source} not belong to the vectors {vectors.shape} of {data}")
        return cls(words, vectors[[rows[word] for word in words]])

    def save(self, folder: str | Path, pickles: bool = False) -> None:
        """Write the files that ``load`` reads and, if ``pickles`` is True, the published pickles for other programs."""
        data, text, *paths = (Path(folder, f"our_vab_{name}") for name in WORD_FILES)
        save_npy(data, self._vectors)
        write_text(text, "".join(f"{word}\n" for word in self._row))
        if pickles:
            for path, content in zip(paths, ([*self._row], self._row), strict=True):
                with atomic_path(path) as temporary:
                    temporary.write_bytes(pickle.dumps(content))

    @property
    def dim(self) -> int:
        """Width of the word vectors."""
        return self._vectors.shape[1]

    def __contains__(self, word: str) -> bool:
        return word in self._row

    def __len__(self) -> int:
        return len(self._row)

    def vector(self, word: str) -> np.ndarray:
        """Return the vector (dim,) of a word, or the vector of ``unk`` if the word is unknown."""
        return self._vectors[self._row.get(word, self._row["unk"])]

    def sentence(self, tokens: Sequence[str]) -> Sentence:
        """Encode ``word/POS`` tokens, after truncating or padding them with ``sentence_layout``."""
        tokens, cap_len = sentence_layout(tokens)
        classes = [word_class(token, self) for token in tokens]
        words = np.stack([self.vector(token.rpartition("/")[0]) for token in tokens])
        return Sentence(words, np.eye(len(WORD_CLASSES), dtype=np.float32)[classes], cap_len)


def word_class(token: str, known: Container[str]) -> int:
    """Return the index in ``WORD_CLASSES`` of a ``word/POS`` token. Words not in ``known`` belong to OTHER."""
    word, _, tag = token.rpartition("/")
    name = _VIP_CLASS.get(word, tag) if word in known else "OTHER"
    return WORD_CLASSES.index(name if name in WORD_CLASSES else "OTHER")


def sentence_layout(tokens: Sequence[str]) -> tuple[list[str], int]:
    """Add start and end tokens, and truncate or pad to 22 tokens. Also returns the number of tokens before padding."""
    sentence = [SOS, *tokens[:CAPTION_TOKENS], EOS]
    return sentence + [UNKNOWN] * (SENTENCE - len(sentence)), len(sentence)


def _is_vocabulary(words: Any, rows: Any, count: int) -> bool:
    """Return whether ``words`` is a list and ``rows`` maps all of them to row numbers below ``count``."""
    if not isinstance(words, list) or not isinstance(rows, dict) or len(words) > count:
        return False
    places = [rows.get(word) for word in words if isinstance(word, str)]
    return len(places) == len(words) and all(isinstance(place, int) and 0 <= place < count for place in places)


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it refers to {module}.{name}")


def _read_plain(path: Path) -> Any:
    """Read a pickle of lists, dicts, strings and numbers. Other types, which could run code, raise ``InputError``."""
    with open(path, "rb") as file:
        try:
            return _PlainUnpickler(file).load()
        except (pickle.UnpicklingError, EOFError) as error:
            raise InputError(f"{path} is not a plain pickle: {error}") from error


class MatchingPairs(CroppedPairs):
    """Data set for the evaluator.

    Items have ``motion`` (196, d), normalised and zero-padded, ``m_len``, and the fields of a ``Sentence``.
    """

    def __init__(self, pairs: list[Pair], normalisation: Normalisation, words: WordVectors, training: bool,
                 seed: int = 0) -> None:
        super().__init__(pairs, training, seed)
        self.normalisation, self.words = normalisation, words

    def __getitem__(self, index: int) -> dict[str, object]:
        pair, crop = self.pairs[index], self.crop(index)
        sentence = self.words.sentence(pair.tokens[crop.caption])
        return {"motion": normalised_crop(pair, crop, self.normalisation), "m_len": crop.length,
                "word_emb": torch.from_numpy(sentence.word_emb),
                "pos_onehot": torch.from_numpy(sentence.pos_onehot), "cap_len": sentence.cap_len}
