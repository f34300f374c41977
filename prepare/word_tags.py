"""Words of captions with their parts of speech, ``word/POS``, as the evaluator expects them.

Nouns and verbs become their lemma, but for the word "left"; hyphens go, and so does what is not letters.
"""
import re
from collections.abc import Callable
from functools import cache, partial

from utils.files import ROOT, read_text

TAGS = ROOT / "assets" / "word_tags.txt"
SPACY_MODEL = "en_core_web_sm"
UNKNOWN_TAG = "OTHER"
_INFLECTIONS = (("ies", "y"), ("ied", "y"), ("ing", ""), ("ing", "e"), ("ed", ""), ("ed", "e"), ("es", ""), ("s", ""))

Tagger = Callable[[str], str]  # a caption's tokens, separated by spaces


def make_tagger() -> tuple[Tagger, str]:
    """The best tagger there is, and what it is: spaCy with its small English model, or else the word list."""
    try:
        import spacy  # optional: large, and its model is not on PyPI

        return partial(tag_by_spacy, spacy.load(SPACY_MODEL)), f"spaCy ({SPACY_MODEL})"
    except (ImportError, OSError):
        return tag_by_list, f"the word list {TAGS.relative_to(ROOT)} (spaCy with {SPACY_MODEL} would know more words)"


def tag_by_spacy(pipeline: Callable, text: str) -> str:
    """Tokens by a spaCy pipeline."""
    words = []
    for token in pipeline(text.lower().replace("-", "")):
        if token.text.isalpha():
            content = token.pos_ in ("NOUN", "VERB") and token.text != "left"
            words.append(f"{token.lemma_ if content else token.text}/{token.pos_}")
    return " ".join(words)


def tag_by_list(text: str) -> str:
    """Tokens by the word list: a word's usual tag, an inflected form's that of its stem, ``OTHER`` for the rest."""
    return " ".join("/".join(_tag(word)) for word in re.findall(r"[^\W\d_]+", text.lower().replace("-", "")))


def _tag(word: str) -> tuple[str, str]:
    known = _known()
    if word in known:
        return known[word]
    for ending, instead in _INFLECTIONS:
        stem = word.removesuffix(ending) + instead
        for form in (stem, stem[:-1]) if len(stem) > 3 and stem[-1] == stem[-2] else (stem,):  # "jogging": jog
            if word.endswith(ending) and known.get(form, ("", ""))[1] in ("NOUN", "VERB"):
                return known[form]
    return word, "ADV" if word.endswith("ly") else UNKNOWN_TAG


@cache
def _known() -> dict[str, tuple[str, str]]:
    lines = read_text(TAGS).splitlines()
    return {word: (lemma, tag) for word, lemma, tag in (line.split() for line in lines if not line.startswith("#"))}
