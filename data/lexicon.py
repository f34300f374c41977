"""Lemmas and word classes of captions that a model wrote, learned from the captions of a data set."""
from collections import Counter, defaultdict
from collections.abc import Iterable

from data.text_motion import Pair

UNKNOWN_CLASS = "OTHER"


class Lexicon:
    """For each word the ``lemma/POS`` it has most often in the captions of ``pairs``.

    Text files give lemmas and classes beside each caption, one a word; captions in which the two do not correspond,
    for punctuation or abbreviations, are passed over.
    """

    def __init__(self, pairs: Iterable[Pair]) -> None:
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for pair in pairs:
            for caption, tokens in zip(pair.captions, pair.tokens, strict=True):
                words = caption.split()
                if len(words) == len(tokens):
                    for word, token in zip(words, tokens, strict=True):
                        counts[word][token] += 1
        self._tokens = {word: found.most_common(1)[0][0] for word, found in counts.items()}

    def __contains__(self, word: str) -> bool:
        return word in self._tokens

    def tokens(self, caption: str) -> list[str]:
        """``lemma/POS`` of each word of a cleaned caption; a word that is not known is its own lemma."""
        return [self._tokens.get(word, f"{word}/{UNKNOWN_CLASS}") for word in caption.split()]

    def lemmas(self, caption: str) -> str:
        """A cleaned caption in lemmas."""
        return lemmas_of(self.tokens(caption))


def lemmas_of(tokens: Iterable[str]) -> str:
    """The lemmas of ``lemma/POS`` tokens, as a text."""
    return " ".join(token.rpartition("/")[0] or token for token in tokens)
