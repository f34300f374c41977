"""The language bank, typical user sentences for each content of a motion (``assets/language``), and paraphrases.

A data set with ``contents.json`` in its folder gets the sentences that describe its clips. The file maps clip ids to
``{"family": str, "contents": [[content, side], ...], "stretches": [[content, side, first row, end row], ...]}``; sides
are "left", "right" or "". ``prepare/build_openmotion.py`` writes it for openmotion.
"""
import argparse
import json
import lzma
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from data.dataset import DatasetSpec, Normalisation
from data.text import clean_caption
from data.text_motion import Pair, TextMotion, load_pairs
from utils import InputError
from utils.files import ROOT, read_text
from utils.seeding import stream_seed

BANK = ROOT / "assets" / "language" / "bank.jsonl.xz"
CONTENTS = "contents.json"
HELD_OUT = 5  # every fifth sentence of a content is held out of training as an unseen wording
OTHER_SIDE = {"left": "right", "right": "left", "": ""}


@lru_cache
def read_bank(path: Path = BANK) -> dict[str, tuple[str, ...]]:
    """Sentence templates by content; ``{side}`` and ``{other}`` stand for left and right."""
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        entries = [json.loads(line) for line in lines]
    return {entry["content"]: tuple(entry["sentences"]) for entry in entries}


def sentences(content: str, side: str = "", held_out: bool = False) -> list[str]:
    """Cleaned sentences of a content, for training or held out.

    With ``side`` "", sentences that name a side are left out; sentences that name none are kept for both sides.
    """
    chosen = [text for number, text in enumerate(read_bank().get(content, ()))
              if (number % HELD_OUT == HELD_OUT - 1) == held_out]
    return [clean_caption(text.replace("{side}", side).replace("{other}", OTHER_SIDE[side]))
            for text in chosen if side or "{" not in text]


@lru_cache
def classes() -> dict[tuple[str, str], int]:
    """Class number of each (content, side)."""
    return {(content, side): 3 * number + place for number, content in enumerate(read_bank())
            for place, side in enumerate(OTHER_SIDE)}


def training_pairs(spec: DatasetSpec, opt: argparse.Namespace) -> list[Pair]:
    """Training pairs, with the texts added by ``--paraphrases`` and ``--bank``."""
    pairs = with_paraphrases(load_pairs(spec, "train", quiet=opt.quiet), opt.paraphrases, opt.seed)
    return with_bank(pairs, spec) if opt.bank else pairs


def load_text_motion(spec: DatasetSpec, normalisation: Normalisation,
                     opt: argparse.Namespace) -> tuple[TextMotion, TextMotion]:
    """Training and validation sets of texts and motions, with the texts added by ``--paraphrases`` and ``--bank``."""
    train_set = TextMotion(training_pairs(spec, opt), normalisation, training=True, seed=opt.seed,
                           labelled=len(classes()) if opt.bank else 0, paired=getattr(opt, "text_pairs", 0) > 0)
    val_set = TextMotion(load_pairs(spec, "val", quiet=opt.quiet), normalisation, training=False)
    print(f"{len(train_set)} training pairs, {len(val_set)} validation pairs")
    return train_set, val_set


def with_bank(pairs: Sequence[Pair], spec: DatasetSpec) -> list[Pair]:
    """Pairs with the sentences of the bank that describe them, and an additional pair for each listed stretch.

    Raises ``InputError`` if the data set has no ``contents.json`` or the file names an unknown content.
    """
    path = spec.root / CONTENTS
    if not path.exists():
        raise InputError(f"{path} is missing: --bank needs to know what each clip shows (see data/language.py)")
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


def _described(pair: Pair, contents: Sequence[Sequence[str]], family: str) -> Pair:
    found = [(text, classes()[content, side]) for content, side in contents for text in sentences(content, side)]
    return replace(pair, family=family, contents=frozenset(classes()[content, side] for content, side in contents),
                   sentences=tuple(text for text, _ in found), sentence_classes=tuple(one for _, one in found))


PARAPHRASES = ROOT / "assets" / "paraphrases.txt"
SPECIAL = ("doer", "doing", "scene")
REPLACED = 0.5    # probability of replacing each wording that has alternatives
DESCRIBED = 0.3   # probability of an adjective for a new subject
PLACED = 0.25     # probability of adding a scene
# Subjects of captions that imply neither age nor sex.
_DOER = re.compile(r"(?<!like )\b(?:(?:a|the|this) (?:person|figure|man|guy)|(?:a|the) human|(?:an|the) individual"
                   r"|someone|somebody)\b(?!'s)")
_ARTICLE = re.compile(r"\ban? (?=(\w))")
_SIDES = ("left", "right")


class Paraphraser:
    """Replaces wordings at random.

    Args:
        path: groups of wordings, in the format of ``assets/paraphrases.txt``.

    Raises ``InputError`` if a group has fewer than two wordings or a required group is missing.
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
        """A paraphrase of a cleaned caption with the same sides, counts and style."""
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
    """Pairs with ``count`` paraphrases added to every caption, determined by the seed."""
    if not count:
        return list(pairs)
    paraphraser = Paraphraser()
    extended = []
    for number, pair in enumerate(pairs):
        generator = np.random.default_rng(stream_seed(seed, number))
        made = [paraphraser(caption, generator) for _ in range(count) for caption in pair.captions]
        extended.append(replace(pair, captions=pair.captions + tuple(made)))
    return extended
