"""Pairs of captions and motions by HumanML3D's loading rules, padded batches, and training data sets."""
import json
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from data.dataset import (
    MAX_MOTION_LENGTH,
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

SENTENCE_SHARE = 0.5  # share of sentences among the sampled texts of a clip that also has captions
_SHORTER_UNIT_SHARE = 1 / 3  # share of samples that are one unit shorter, to vary lengths
_OTHER = 1  # random stream of the second text of an item
_PAIRS = "pairs.json"
_FORMAT = 2  # version of that file; other versions are rebuilt
_NAMES = string.ascii_uppercase[:23]  # A..W, as in published loaders


@dataclass(frozen=True)
class Pair:
    """A clip, or the part of a clip described by timed captions."""

    name: str
    features: np.ndarray         # (rows, d) unnormalised
    captions: tuple[str, ...]    # cleaned
    words: frozenset[str] = frozenset()  # lemmas of verbs and nouns that most captions share
    tokens: tuple[tuple[str, ...], ...] = ()  # word/POS of each caption
    start: int = 0               # first row of the pair in the clip
    family: str = ""             # label for balanced sampling; "" if the data set has none
    sentences: tuple[str, ...] = ()         # further texts that describe the clip (data.language)
    sentence_classes: tuple[int, ...] = ()  # content of each sentence
    contents: frozenset[int] = frozenset()  # contents of the clip
    verbatim: tuple[str, ...] = ()          # captions as in the text file, before cleaning

    @property
    def texts(self) -> tuple[str, ...]:
        """Captions, then sentences, in the order of ``Crop.caption``."""
        return self.captions + self.sentences


@dataclass(frozen=True)
class Crop:
    """The caption and rows of a clip in a sample."""

    caption: int
    start: int
    length: int  # a multiple of the unit


def load_pairs(spec: DatasetSpec, split: str, whole_clips_only: bool = False, quiet: bool = True) -> list[Pair]:
    """Pairs of a split.

    Clips outside [min_length, max_length) are dropped. Captions without times belong to the clip; a caption with
    times makes a separate pair of its rows (with the same bounds), unless ``whole_clips_only``. Parsed texts are cached
    with the data. Raises ``InputError`` if the split or all of its texts are missing.
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
        condition = " with a caption of the whole clip (#0.0#0.0)" if whole_clips_only else ", captioned"
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
    """A pair for the cache: its clip, rows and parsed captions."""
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
    """All distinct captions, in the order of the cached features."""
    return sorted({text for pair in pairs for text in pair.texts})


def rarity_weights(pairs: list[Pair], power: float) -> np.ndarray:
    """Sampling weight of each pair, with mean 1: ``count^-power``, where ``count`` is the number of pairs with its
    family or, without families, with its rarest word.

    Power 0 is uniform over pairs, 1 over words. Without it, rare actions would hardly be sampled.
    """
    having = Counter(word for pair in pairs for word in pair.words)
    families = Counter(pair.family for pair in pairs)
    rarest = np.array([families[pair.family] if pair.family else
                       min((having[word] for word in pair.words), default=len(pairs)) for pair in pairs], dtype=float)
    weights = rarest**-power
    return weights / weights.mean()


def draw_crop(rows: int, captions: int, generator: np.random.Generator, sentences: int = 0) -> Crop:
    """A random caption, or with probability 0.5 a sentence, and a random crop: the longest multiple of the unit, or one
    unit less with probability 1/3."""
    length = rows // UNIT_LENGTH * UNIT_LENGTH
    if generator.random() < _SHORTER_UNIT_SHARE and length > UNIT_LENGTH:
        length -= UNIT_LENGTH
    length = min(length, MAX_MOTION_LENGTH)
    caption, start = int(generator.integers(max(captions, 1))), int(generator.integers(rows - length + 1))
    if sentences and (not captions or generator.random() < SENTENCE_SHARE):
        caption = captions + int(generator.integers(sentences))
    return Crop(caption, start, length)


def whole_crop(rows: int) -> Crop:
    """The first caption and the clip from row 0, for evaluation."""
    return Crop(0, 0, min(rows // UNIT_LENGTH * UNIT_LENGTH, MAX_MOTION_LENGTH))


@dataclass(frozen=True)
class Resident:
    """A data set whose motions are in device memory."""

    items: Dataset                           # light items for worker processes
    complete: Callable[[Any], Any]           # makes batches of the data set from batches of ``items`` on the device


class CroppedPairs(Dataset):
    """Samples a caption and a crop for each item, determined by (seed, epoch, index)."""

    def __init__(self, pairs: list[Pair], training: bool, seed: int) -> None:
        self.pairs, self.training, self.seed, self.epoch = pairs, training, seed, 0

    def __len__(self) -> int:
        return len(self.pairs)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the random crops."""
        self.epoch = epoch

    def weights(self, balance: float) -> np.ndarray:
        """Sampling weights (pairs,), see ``rarity_weights``."""
        return rarity_weights(self.pairs, balance)

    def lengths(self) -> np.ndarray:
        """Rows of the clips (pairs,); crops are at most a few rows shorter."""
        return np.array([min(len(pair.features), MAX_MOTION_LENGTH) for pair in self.pairs])

    def crop(self, index: int) -> Crop:
        """The crop of item ``index`` in this epoch."""
        pair = self.pairs[index]
        if not self.training:
            return whole_crop(len(pair.features))
        generator = np.random.default_rng(stream_seed(self.seed, self.epoch, index))
        return draw_crop(len(pair.features), len(pair.captions), generator, len(pair.sentences))


def normalised_crop(pair: Pair, crop: Crop, normalisation: Normalisation) -> torch.Tensor:
    """The rows of a crop (196, d), normalised and zero padded."""
    motion = np.zeros((MAX_MOTION_LENGTH, pair.features.shape[1]), dtype=np.float32)
    motion[:crop.length] = normalisation.apply(pair.features[crop.start:crop.start + crop.length])
    return torch.from_numpy(motion)


class TextMotion(CroppedPairs):
    """Items ``caption`` (text), ``motion`` (196, d) normalised and zero padded, ``m_len`` (frames).

    With ``labelled`` classes also ``contents`` (labelled,) bool, the contents of the clip, and ``text_class``, the
    class of a sentence of the bank or -1 for a caption. A sentence describes every clip with its class. With ``paired``
    also ``other``, another text that is true of what ``caption`` describes, and its ``other_class`` if labelled.
    """

    def __init__(self, pairs: list[Pair], normalisation: Normalisation, training: bool, seed: int = 0,
                 labelled: int = 0, paired: bool = False) -> None:
        super().__init__(pairs, training, seed)
        self.labelled, self.paired = labelled, paired
        self.normalisation = normalisation

    def __getitem__(self, index: int) -> dict[str, object]:
        pair, crop = self.pairs[index], self.crop(index)
        item = {**self._texts(index, crop), "motion": normalised_crop(pair, crop, self.normalisation)}
        return item | {"contents": self._contents([pair])[0]} if self.labelled else item

    def _texts(self, index: int, crop: Crop) -> dict[str, object]:
        """An item without ``motion`` and ``contents``."""
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
        """Move all motions to ``device``."""
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
        """The number of another text of a pair: for a sentence of the bank one of its class, for a caption any; the
        same text if there is no other."""
        pair = self.pairs[index]
        generator = np.random.default_rng(stream_seed(self.seed, self.epoch, index, _OTHER))
        first, count, own = 0, len(pair.captions), _text_class(pair, crop.caption)
        if own >= 0:  # the sentences of a class follow each other
            first, count = count + pair.sentence_classes.index(own), pair.sentence_classes.count(own)
        elif pair.sentences and (count < 2 or generator.random() < SENTENCE_SHARE):
            return count + int(generator.integers(len(pair.sentences)))
        if count < 2:
            return crop.caption
        other = first + int(generator.integers(count - 1))
        return other + (other >= crop.caption)

    def _contents(self, pairs: Sequence[Pair]) -> torch.Tensor:
        """The contents of pairs, (b, labelled) bool."""
        contents = torch.zeros(len(pairs), self.labelled, dtype=torch.bool)
        for row, pair in zip(contents, pairs, strict=True):
            row[list(pair.contents)] = True
        return contents


class TextsAlone(Dataset):
    """Items of a ``TextMotion`` without motions: ``caption``, ``m_len``, and the ``index`` and first row (``start``) of
    the crop."""

    def __init__(self, dataset: TextMotion) -> None:
        self.dataset, self.set_epoch = dataset, dataset.set_epoch

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, object]:
        crop = self.dataset.crop(index)
        return {**self.dataset._texts(index, crop), "index": index, "start": crop.start}


def _text_class(pair: Pair, text: int) -> int:
    """The class of a text of a pair by number, -1 for a caption."""
    number = text - len(pair.captions)
    return pair.sentence_classes[number] if number >= 0 else -1


class TextTokens(CroppedPairs):
    """Items ``caption`` (its number in ``texts``), ``tokens`` (49, q) padded with -1, ``token_len``.

    Args:
        codes: for each pair the codes of the clip from rows 0, 1, 2 and 3 on, for crops at any row. Unlike tokens of a
            crop encoded alone, those at its edges depend on the neighbouring frames.
    """

    def __init__(self, pairs: list[Pair], codes: list[list[torch.Tensor]], training: bool, seed: int = 0) -> None:
        super().__init__(pairs, training, seed)
        self.codes = codes
        self.texts = caption_texts(pairs)
        self.text_ids = {text: number for number, text in enumerate(self.texts)}

    def __getitem__(self, index: int) -> dict[str, object]:
        pair, crop = self.pairs[index], self.crop(index)
        codes = self.codes[index][crop.start % UNIT_LENGTH]
        first = crop.start // UNIT_LENGTH
        codes = codes[first:first + crop.length // UNIT_LENGTH]
        tokens = torch.full((MAX_MOTION_LENGTH // UNIT_LENGTH, codes.shape[1]), -1, dtype=torch.int64)
        tokens[:len(codes)] = codes
        return {"caption": self.text_ids[pair.texts[crop.caption]], "tokens": tokens, "token_len": len(codes)}


class TextCrops(CroppedPairs):
    """``TextTokens`` with the crop itself, to be encoded alone: items ``caption``, ``motion`` (196, d) normalised and
    zero padded, ``token_len``."""

    def __init__(self, pairs: list[Pair], normalisation: Normalisation, training: bool, seed: int = 0) -> None:
        super().__init__(pairs, training, seed)
        self.normalisation = normalisation
        self.texts = caption_texts(pairs)
        self.text_ids = {text: number for number, text in enumerate(self.texts)}

    def __getitem__(self, index: int) -> dict[str, object]:
        pair, crop = self.pairs[index], self.crop(index)
        return {"caption": self.text_ids[pair.texts[crop.caption]],
                "motion": normalised_crop(pair, crop, self.normalisation), "token_len": crop.length // UNIT_LENGTH}


class MotionWindows(Dataset):
    """All normalised windows of ``window`` rows except the last of each clip.

    Item i is a float32 tensor (window, d). Clips shorter than the window are skipped.
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
        """Move all clips to ``device``."""
        rows = torch.cat([torch.from_numpy(self.normalisation.apply(clip)).to(device) for clip in self.clips])
        ends, within = torch.from_numpy(self.ends).to(device), torch.arange(self.window, device=device)

        def complete(items: Tensor) -> Tensor:
            # A clip has ``window`` more rows than windows.
            first = items + self.window * torch.searchsorted(ends, items, right=True)
            return rows[first[:, None] + within]

        return Resident(range(len(self)), complete)


def padded(motions: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Clips (T, d) as one batch (b, 196, d), cut to whole tokens and zero-padded, and their lengths (b,)."""
    lengths = [min(len(motion) // UNIT_LENGTH * UNIT_LENGTH, MAX_MOTION_LENGTH) for motion in motions]
    batch = np.zeros((len(motions), MAX_MOTION_LENGTH, motions[0].shape[1]), dtype=np.float32)
    for row, motion, length in zip(batch, motions, lengths, strict=True):
        row[:length] = motion[:length]
    return torch.from_numpy(batch), torch.tensor(lengths)
