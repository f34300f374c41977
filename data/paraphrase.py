"""Paraphrases of training captions, for words that their few authors did not use."""
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from data.text_motion import Pair
from utils.errors import InputError
from utils.files import ROOT, read_text
from utils.seeding import stream_seed

PARAPHRASES = ROOT / "assets" / "paraphrases.txt"
SPECIAL = ("doer", "doing", "scene")
REPLACED = 0.5    # chance of each wording that has others
DESCRIBED = 0.3   # of a new doer to be described
PLACED = 0.25     # of a sentence to get a scene
# Who captions tell of where neither age nor sex is meant.
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
        self.others: dict[str, list[str]] = {}  # wording -> those that may stand for it
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
            raise InputError(f"{where}: a group has two wordings or more, parted by ' / '")
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
