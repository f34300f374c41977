"""Text-motion pairs, loaded by the rules of HumanML3D, and data sets for training."""
import json
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from data.dataset import (
    MAX_MOTION_LENGTH,
    MAX_TOKENS,
    UNIT_LENGTH,
    DatasetSpec,
    Normalisation,
    load_cached,
    read_features,
    require,
    state_of,
)
from data.text import Caption, clean_caption, read_captions
from utils import InputError
from utils.files import write_text
from utils.runtime import stream_seed

SENTENCE_SHARE = 0.5  # probability of sampling a sentence of the language bank instead of a caption
_SHORTER_UNIT_SHARE = 1 / 3  # probability of a crop that is one token shorter, to vary lengths
_OTHER = 1  # random stream for the second text of an item
_PAIRS = "pairs.json"
_FORMAT = 2  # version of the cache format; other versions are rebuilt
_NAMES = string.ascii_uppercase[:23]  # A to W, as in published loaders


@dataclass(frozen=True)
class Pair:
    """Clip, or part of a clip, with the texts that describe it."""

    name: str
    features: np.ndarray         # (T, d) unnormalised
    captions: tuple[str, ...]    # cleaned captions
    words: frozenset[str] = frozenset()  # verbs and nouns (lemmas) in at least half of the captions
    tokens: tuple[tuple[str, ...], ...] = ()  # word/POS tokens of each caption
    start: int = 0               # first frame of the part
    family: str = ""             # label for balanced sampling; "" if there is none
    sentences: tuple[str, ...] = ()         # sentences of the language bank (data.language)
    sentence_classes: tuple[int, ...] = ()  # class of each sentence
    contents: frozenset[int] = frozenset()  # classes that describe the clip
    verbatim: tuple[str, ...] = ()          # captions before cleaning

    @property
    def texts(self) -> tuple[str, ...]:
        """All captions, followed by all sentences."""
        return self.captions + self.sentences


@dataclass(frozen=True)
class Crop:
    """Text and frames of a pair that make up a training sample."""

    caption: int  # index in ``Pair.texts``
    start: int    # first frame
    length: int   # number of frames, a multiple of ``UNIT_LENGTH``


def load_pairs(spec: DatasetSpec, split: str, whole_clips_only: bool = False, quiet: bool = True) -> list[Pair]:
    """Load the pairs of a split.

    Clips with fewer than ``spec.min_length`` or at least ``spec.max_length`` frames are dropped. Captions with times
    become separate pairs, unless ``whole_clips_only``. Raises ``InputError`` if there are no pairs.
    """
    texts = require(spec.root / "texts", "the preparation of the data set")
    clips = {name: clip for name, clip in read_features(spec, split, quiet).items()
             if spec.min_length <= len(clip) < spec.max_length}
    lengths = {name: len(clip) for name, clip in clips.items()}
    state = state_of(texts, (f"{name}.txt" for name in clips), _FORMAT, lengths, spec.min_length, spec.max_length,
                     spec.caption_fps)
    entries = load_cached(spec, f"pairs-{split}", state, lambda made: _pack(made / _PAIRS, spec, lengths, texts, quiet),
                          lambda packed: json.loads((packed / _PAIRS).read_text(encoding="utf-8")))
    pairs = [_unpack(entry, clips) for entry in entries if entry["whole"] or not whole_clips_only]
    if not pairs:
        condition = " with a caption of the whole clip (#0.0#0.0)" if whole_clips_only else " with a caption"
        raise InputError(f"{spec.root}: split {split} has no clip of {spec.min_length} to {spec.max_length - 1} rows"
                         f"{condition}")
    return pairs


def _pack(path: Path, spec: DatasetSpec, lengths: dict[str, int], texts: Path, quiet: bool) -> None:
    entries = []
    for name in tqdm(lengths, desc=f"captions of {spec.root.name}", disable=quiet or None, leave=False):
        if (text := texts / f"{name}.txt").exists():
            entries += _pairs_of_clip(spec, name, lengths[name], text)
    write_text(path, json.dumps(entries))


def _unpack(entry: dict[str, Any], clips: dict[str, np.ndarray]) -> Pair:
    start, end = entry["rows"]
    return Pair(entry["name"], clips[entry["clip"]][start:end], tuple(entry["captions"]), frozenset(entry["words"]),
                tuple(tuple(tokens.split()) for tokens in entry["tokens"]), start, verbatim=tuple(entry["verbatim"]))


def _pairs_of_clip(spec: DatasetSpec, name: str, length: int, text_file: Path) -> list[dict[str, Any]]:
    captions = [caption for caption in read_captions(text_file) if clean_caption(caption.text)]
    whole = [caption for caption in captions if caption.whole_clip]
    pairs = [_pair(name, name, (0, length), whole)] if whole else []
    for number, caption in enumerate(c for c in captions if not c.whole_clip):
        start, end = (min(int(spec.caption_fps * seconds), length) for seconds in (caption.start, caption.end))
        if spec.min_length <= end - start < spec.max_length:
            pairs.append(_pair(f"{_NAMES[number % len(_NAMES)]}_{name}", name, (start, end), [caption]))
    return pairs


def _pair(name: str, clip: str, rows: tuple[int, int], captions: list[Caption]) -> dict[str, Any]:
    """Create the cache entry of a pair from its captions."""
    counts = Counter(word for caption in captions for word in {*_content_words(caption)})
    return {"name": name, "clip": clip, "rows": rows, "whole": name == clip,
            "captions": [clean_caption(caption.text) for caption in captions],
            "verbatim": [caption.text for caption in captions],
            "words": sorted(word for word, count in counts.items() if 2 * count >= len(captions)),
            "tokens": [" ".join(caption.tokens) for caption in captions]}


def _content_words(caption: Caption) -> list[str]:
    tagged = [token.partition("/")[::2] for token in caption.tokens]
    return [word for word, tag in tagged if tag in ("VERB", "NOUN")]


def caption_texts(pairs: list[Pair]) -> list[str]:
    """Return all distinct texts, sorted. Their features are cached in this order."""
    return sorted({text for pair in pairs for text in pair.texts})


def rarity_weights(pairs: list[Pair], power: float) -> np.ndarray:
    """Compute sampling weights (pairs,) that favour rare actions. Their mean is 1.

    The weight is proportional to ``count ** -power``, where ``count`` is the number of pairs of the same family. For a
    pair without a family, it is the number of pairs that contain the rarest of its ``words``.
    """
    having = Counter(word for pair in pairs for word in pair.words)
    families = Counter(pair.family for pair in pairs)
    rarest = np.array([families[pair.family] if pair.family else
                       min((having[word] for word in pair.words), default=len(pairs)) for pair in pairs], dtype=float)
    weights = rarest**-power
    return weights / weights.mean()


def draw_crop(rows: int, captions: int, generator: np.random.Generator, sentences: int = 0) -> Crop:
    """Sample a text and a crop of a clip with ``rows`` frames, ``captions`` captions and ``sentences`` sentences.

    The crop has as many whole tokens as possible or, with probability 1/3, one token fewer, and at most 196 frames.
    """
    length = rows // UNIT_LENGTH * UNIT_LENGTH
    if generator.random() < _SHORTER_UNIT_SHARE and length > UNIT_LENGTH:
        length -= UNIT_LENGTH
    length = min(length, MAX_MOTION_LENGTH)
    caption, start = int(generator.integers(max(captions, 1))), int(generator.integers(rows - length + 1))
    if sentences and (not captions or generator.random() < SENTENCE_SHARE):
        caption = captions + int(generator.integers(sentences))
    return Crop(caption, start, length)


def whole_crop(rows: int) -> Crop:
    """Return the crop for evaluation: the first caption and all whole tokens of the clip, at most 196 frames."""
    return Crop(0, 0, min(rows // UNIT_LENGTH * UNIT_LENGTH, MAX_MOTION_LENGTH))


@dataclass(frozen=True)
class Resident:
    """Data set whose motions may be in device memory, so that worker processes load only the rest."""

    items: Dataset                           # items without motions, for worker processes
    complete: Callable[[Any], Any]           # adds the motions to a batch of ``items``


class CroppedPairs(Dataset):
    """Base class of data sets that crop pairs.

    In training, each item has a random text and crop, which depend on seed, epoch and index. Otherwise it has the first
    text and the whole clip.
    """

    def __init__(self, pairs: list[Pair], training: bool, seed: int) -> None:
        self.pairs, self.training, self.seed, self.epoch = pairs, training, seed, 0

    def __len__(self) -> int:
        return len(self.pairs)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which changes the random texts and crops."""
        self.epoch = epoch

    def weights(self, balance: float) -> np.ndarray:
        """Return the sampling weights (pairs,) computed by ``rarity_weights`` with ``balance`` as the power."""
        return rarity_weights(self.pairs, balance)

    def lengths(self) -> np.ndarray:
        """Return the lengths (pairs,) of the motions in frames, at most 196, before random cropping."""
        return np.array([min(len(pair.features), MAX_MOTION_LENGTH) for pair in self.pairs])

    def crop(self, index: int) -> Crop:
        """Return the crop of an item in the current epoch."""
        pair = self.pairs[index]
        if not self.training:
            return whole_crop(len(pair.features))
        generator = np.random.default_rng(stream_seed(self.seed, self.epoch, index))
        return draw_crop(len(pair.features), len(pair.captions), generator, len(pair.sentences))

    @cached_property
    def text_ids(self) -> dict[str, int]:
        """Index of each distinct text, which is also its row in the cached features."""
        return {text: number for number, text in enumerate(caption_texts(self.pairs))}


def normalised_crop(pair: Pair, crop: Crop, normalisation: Normalisation) -> torch.Tensor:
    """Return the features (196, d) of a crop, normalised and zero-padded."""
    motion = np.zeros((MAX_MOTION_LENGTH, pair.features.shape[1]), dtype=np.float32)
    motion[:crop.length] = normalisation.apply(pair.features[crop.start:crop.start + crop.length])
    return torch.from_numpy(motion)


class TextMotion(CroppedPairs):
    """Data set of texts and motions. Items have the following keys:

    - ``caption``: text;
    - ``motion`` (196, d): normalised and zero-padded features;
    - ``m_len``: length in frames;
    - ``contents`` (labelled,): mask of the classes that describe the clip;
    - ``text_class``: class of a sentence of the language bank, or -1 for a caption;
    - ``other``, ``other_class``: another text that describes the same motion, and its class.

    ``labelled`` is the number of classes; if it is 0, items have no ``contents`` and no classes. Only items of
    ``paired`` data sets have ``other``.
    """

    def __init__(self, pairs: list[Pair], normalisation: Normalisation, training: bool, seed: int = 0,
                 labelled: int = 0, paired: bool = False) -> None:
        super().__init__(pairs, training, seed)
        self.labelled, self.paired = labelled, paired
        self.normalisation = normalisation

    def __getitem__(self, index: int) -> dict[str, object]:
        pair, crop = self.pairs[index], self.crop(index)
        item = {**self.texts_of(index, crop), "motion": normalised_crop(pair, crop, self.normalisation)}
        return item | {"contents": self._contents([pair])[0]} if self.labelled else item

    def texts_of(self, index: int, crop: Crop) -> dict[str, object]:
        """Return the texts, their classes and the length of an item."""
        pair = self.pairs[index]
        item = {"caption": pair.texts[crop.caption], "m_len": crop.length}
        numbers = {"text_class": crop.caption}
        if self.paired:
            numbers["other_class"] = self._other(index, crop)
            item["other"] = pair.texts[numbers["other_class"]]
        return item | {key: _text_class(pair, text) for key, text in numbers.items()} if self.labelled else item

    @property
    def nbytes(self) -> int:
        """Size of all motions in bytes."""
        return sum(pair.features.nbytes for pair in self.pairs)

    def on_device(self, device: torch.device) -> Resident:
        """Copy all motions, normalised, to ``device``."""
        motions = [torch.from_numpy(self.normalisation.apply(pair.features)).to(device) for pair in self.pairs]
        rows = torch.cat([torch.zeros_like(motions[0][:1]), *motions])  # row 0 is padding
        first = torch.tensor(1 + np.cumsum([0, *map(len, motions[:-1])])).to(device)
        contents = self._contents(self.pairs).to(device) if self.labelled else None
        within = torch.arange(MAX_MOTION_LENGTH, device=device)
        del motions

        def complete(batch: dict[str, Any]) -> dict[str, Any]:
            index, start = batch.pop("index"), batch.pop("start")
            start = (first[index] + start)[:, None]
            batch["motion"] = rows[torch.where(within < batch["m_len"][:, None], start + within, 0)]
            return batch if contents is None else batch | {"contents": contents[index]}

        return Resident(TextsAlone(self), complete)

    def _other(self, index: int, crop: Crop) -> int:
        """Sample another text of the same pair and return its index.

        If the current text is a sentence, the other one has the same class. Returns the current index if there is no
        other text.
        """
        pair = self.pairs[index]
        generator = np.random.default_rng(stream_seed(self.seed, self.epoch, index, _OTHER))
        first, count, own = 0, len(pair.captions), _text_class(pair, crop.caption)
        if own >= 0:  # the sentences of a class are consecutive
            first, count = count + pair.sentence_classes.index(own), pair.sentence_classes.count(own)
        elif pair.sentences and (count < 2 or generator.random() < SENTENCE_SHARE):
            return count + int(generator.integers(len(pair.sentences)))
        if count < 2:
            return crop.caption
        other = first + int(generator.integers(count - 1))
        return other + (other >= crop.caption)

    def _contents(self, pairs: Sequence[Pair]) -> torch.Tensor:
        """Return a mask (b, labelled) of the classes that describe each pair."""
        contents = torch.zeros(len(pairs), self.labelled, dtype=torch.bool)
        for row, pair in zip(contents, pairs, strict=True):
            row[list(pair.contents)] = True
        return contents


class TextsAlone(Dataset):
    """Data set like ``TextMotion``, but items have the ``index`` of the pair and the first frame ``start`` of the crop.

    They replace ``motion`` and ``contents``.
    """

    def __init__(self, dataset: TextMotion) -> None:
        self.dataset, self.set_epoch = dataset, dataset.set_epoch

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, object]:
        crop = self.dataset.crop(index)
        return {**self.dataset.texts_of(index, crop), "index": index, "start": crop.start}


def _text_class(pair: Pair, text: int) -> int:
    """Return the class of the text with index ``text``, or -1 for a caption."""
    number = text - len(pair.captions)
    return pair.sentence_classes[number] if number >= 0 else -1


class TextTokens(CroppedPairs):
    """Data set of texts and motion tokens.

    Items have ``caption`` (a number in ``text_ids``), ``tokens`` (49, q), padded with -1, and ``token_len``. ``codes``
    has four token sequences per clip, whose encoding starts at frames 0, 1, 2 and 3, so that crops can start anywhere.
    """

    def __init__(self, pairs: list[Pair], codes: list[list[torch.Tensor]], training: bool, seed: int = 0) -> None:
        super().__init__(pairs, training, seed)
        self.codes = codes

    def __getitem__(self, index: int) -> dict[str, object]:
        pair, crop = self.pairs[index], self.crop(index)
        first = crop.start // UNIT_LENGTH
        codes = self.codes[index][crop.start % UNIT_LENGTH][first:first + crop.length // UNIT_LENGTH]
        tokens = torch.full((MAX_TOKENS, codes.shape[1]), -1, dtype=torch.int64)
        tokens[:len(codes)] = codes
        return {"caption": self.text_ids[pair.texts[crop.caption]], "tokens": tokens, "token_len": len(codes)}


class TextCrops(CroppedPairs):
    """Data set like ``TextTokens``, but with the normalised ``motion`` (196, d) of a crop instead of its tokens."""

    def __init__(self, pairs: list[Pair], normalisation: Normalisation, training: bool, seed: int = 0) -> None:
        super().__init__(pairs, training, seed)
        self.normalisation = normalisation

    def __getitem__(self, index: int) -> dict[str, object]:
        pair, crop = self.pairs[index], self.crop(index)
        return {"caption": self.text_ids[pair.texts[crop.caption]],
                "motion": normalised_crop(pair, crop, self.normalisation), "token_len": crop.length // UNIT_LENGTH}


class MotionWindows(Dataset):
    """Data set of all normalised motion windows (window, d), except the last window of each clip.

    Clips that are not longer than the window are skipped. Raises ``InputError`` if no clip is longer.
    """

    def __init__(self, clips: dict[str, np.ndarray], normalisation: Normalisation, window: int) -> None:
        self.window = window
        kept = [clip for clip in clips.values() if len(clip) > window]
        if not kept:
            raise InputError(f"no clip is longer than the window of {window} frames")
        self.clips, self.normalisation = kept, normalisation
        self.ends = np.cumsum([len(clip) - window for clip in kept])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Tensor:
        clip = int(np.searchsorted(self.ends, index, side="right"))
        start = index - (int(self.ends[clip - 1]) if clip else 0)
        return torch.from_numpy(self.normalisation.apply(self.clips[clip][start:start + self.window]))

    @property
    def nbytes(self) -> int:
        """Size of all clips in bytes."""
        return sum(clip.nbytes for clip in self.clips)

    def on_device(self, device: torch.device) -> Resident:
        """Copy all clips, normalised, to ``device``."""
        rows = torch.cat([torch.from_numpy(self.normalisation.apply(clip)).to(device) for clip in self.clips])
        ends, within = torch.from_numpy(self.ends).to(device), torch.arange(self.window, device=device)

        def complete(items: Tensor) -> Tensor:
            # A clip has ``window`` more rows than windows.
            first = items + self.window * torch.searchsorted(ends, items, right=True)
            return rows[first[:, None] + within]

        return Resident(range(len(self)), complete)


def padded(motions: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Cut motions (T, d) to whole tokens and zero-pad them to a batch (b, 196, d). Also returns their lengths (b,)."""
    lengths = [whole_crop(len(motion)).length for motion in motions]
    batch = np.zeros((len(motions), MAX_MOTION_LENGTH, motions[0].shape[1]), dtype=np.float32)
    for row, motion, length in zip(batch, motions, lengths, strict=True):
        row[:length] = motion[:length]
    return torch.from_numpy(batch), torch.tensor(lengths)
