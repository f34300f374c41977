"""Remarks on prompts that the models may not understand: unlike what they learned, or longer than they read."""
from collections.abc import Sequence

from data.text import MAX_WORDS, clean_caption
from models.lamp.familiarity import familiarity_of, word_means
from models.lamp.features import LaMPText
from utils.errors import InputError

LONGEST_SHOWN = 80  # letters of a prompt in a remark


def remarks(texts: Sequence[str], encoder: object) -> list[str]:
    """One line for each prompt unlike what a LaMP text encoder has learned, and for each that is cut off.

    Other encoders, and LaMP models without a file of what they learned, have nothing to say about familiarity.
    """
    if not isinstance(encoder, LaMPText):
        return []
    lines, texts = [], list(dict.fromkeys(texts))
    known, cleaned = encoder.familiarity, [clean_caption(text) for text in texts]
    if known is not None:
        scores = familiarity_of(known, encoder.model, encoder.pieces, cleaned, encoder.max_text_len)
        vectors = word_means(encoder.model, encoder.pieces, cleaned, encoder.max_text_len)
        for text, score, vector in zip(texts, scores.tolist(), vectors, strict=True):
            if score < known.threshold:
                nearest = " and ".join(f'"{label}"' for label in known.nearest(vector))
                lines.append(f'"{_short(text)}" is unlike what the models learned; the nearest they know: {nearest}')
    for text in texts:
        if cut := cut_words(text, encoder):
            lines.append(f'"{_short(text)}" is longer than the models read: "{_short(" ".join(cut))}" is ignored; '
                         "give long descriptions as several prompts with --timeline")
    return lines


def cut_words(text: str, encoder: LaMPText) -> list[str]:
    """The words at the end of a prompt that do not reach the model."""
    words = text.split()
    read, room = 0, encoder.max_text_len - 2  # without [CLS] and [SEP]
    for count, word in enumerate(words, 1):
        cleaned = clean_caption(word)
        read += len(cleaned.split())
        room -= len(encoder.pieces.ids(cleaned))
        if read > MAX_WORDS or room < 0:
            return words[count - 1:]
    return []


def report(texts: Sequence[str], encoder: object, strict: bool) -> None:
    """Print the remarks on prompts, or with ``strict`` raise ``InputError`` with the first of them."""
    for line in remarks(texts, encoder):
        if strict:
            raise InputError(line)
        print(line)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN - 1] + "…"
