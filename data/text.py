"""Captions: the lines of ``texts/ID.txt`` and the cleaning before the text encoder."""
import math
import re
from dataclasses import dataclass
from pathlib import Path

from utils.errors import InputError
from utils.files import read_text

MAX_WORDS = 32
REFERENCES = ("raw", "lemmatised")  # how the captions are written that others are compared with
_REMOVED = re.compile(r'[.!"()*#:;~]')
# Not what is meant in "no strength left" and "a right angle", in captions nor in their word/POS.
_REMAINS = "".join(f"(?<!{word}{end} )" for word in ("energy", "strength") for end in ("", "/NOUN"))
_ANGLE = r"(?!(?:/\w+)? angles?\b)"
_SIDES = re.compile(rf"\b{_REMAINS}(?:left|right|(?:counter-?|anti-?)?clockwise)\b{_ANGLE}", re.IGNORECASE)
_OTHER_SIDE = {"left": "right", "right": "left", "clockwise": "counterclockwise"}


@dataclass(frozen=True)
class Caption:
    """One line of a text file."""

    text: str
    tokens: tuple[str, ...]  # word/POS
    start: float             # seconds; 0 and 0 mean the whole clip
    end: float

    @property
    def whole_clip(self) -> bool:
        """Whether the caption speaks of the whole clip."""
        return self.start == 0.0 and self.end == 0.0


def clean_caption(text: str) -> str:
    """Lower case, ``. ! " ( ) * # : ; ~`` as spaces, single spaces, at most 32 words."""
    words = _REMOVED.sub(" ", text.lower()).split()
    return " ".join(words[:MAX_WORDS])


def read_captions(path: Path) -> list[Caption]:
    """Captions of one clip. Raises ``InputError`` naming the line that has not the four fields, or no times in them."""
    captions = []
    for number, line in enumerate(read_text(path, "captions").splitlines(), 1):
        if line.strip():
            captions.append(parse_caption(line, f"{path}:{number}"))
    return captions


def parse_caption(line: str, where: str) -> Caption:
    """One line of a text file; ``where`` it is, for the ``InputError`` that ``read_captions`` raises."""
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
    if math.isnan(seconds):  # some published files have it where they mean the whole clip
        return 0.0
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{seconds} seconds")
    return seconds


def read_texts(path: str | Path) -> list[str]:
    """Different cleaned texts of a file with one a line, in its order. ``InputError`` where it has none."""
    texts = list(dict.fromkeys(filter(None, map(clean_caption, read_text(path, "captions").splitlines()))))
    if not texts:
        raise InputError(f"{path} holds no caption")
    return texts


def mirror_text(text: str) -> str:
    """A caption, or a line of a text file, with left and right, clockwise and counterclockwise exchanged."""
    return _SIDES.sub(lambda match: _other_side(match.group()), text)


def side_words(text: str) -> frozenset[str]:
    """Which of left, right, clockwise and counterclockwise a text names."""
    words = {match.group().lower() for match in _SIDES.finditer(text)}
    return frozenset(word if word in ("left", "right", "clockwise") else "counterclockwise" for word in words)


def _other_side(word: str) -> str:
    other = _OTHER_SIDE.get(word.lower(), "clockwise")
    if word.isupper():
        return other.upper()
    return other.capitalize() if word[0].isupper() else other
