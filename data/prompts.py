"""Prompts of a generation: from the command line or from a file."""
from dataclasses import dataclass, replace
from pathlib import Path

from data.specs import MAX_MOTION_LENGTH, UNIT_LENGTH
from data.text import clean_caption
from utils.errors import InputError
from utils.files import read_text

CHOSEN_LENGTH = "NA"  # leaves the length to the length estimator


@dataclass(frozen=True)
class Prompt:
    """A text and how many frames its motion should have; None leaves it to the length estimator."""

    text: str
    m_len: int | None


def make_prompt(text: str, m_len: int | None, where: str) -> Prompt:
    """Check a prompt. ``InputError`` names ``where`` for a text without words or a length out of bounds."""
    if not clean_caption(text):
        raise InputError(f"{where}: the prompt has no words")
    if m_len is not None and not UNIT_LENGTH <= m_len <= MAX_MOTION_LENGTH:
        raise InputError(f"{where}: a motion has {UNIT_LENGTH} to {MAX_MOTION_LENGTH} frames, not {m_len}")
    return Prompt(text.strip(), m_len)


def read_prompts(path: str | Path) -> list[Prompt]:
    """Prompts of a file with one ``text#length`` a line; blank lines and lines that start with ``#`` are skipped.

    The length is in frames, or NA; one NA makes all of them NA. Raises ``InputError`` naming the line that is neither,
    and where the file has no prompt at all.
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
        raise InputError(f"{where}: a line is text#length, with the length in frames or NA; this one has no #")
    length = length.strip()
    if length.upper() == CHOSEN_LENGTH:
        return make_prompt(text, None, where)
    try:
        return make_prompt(text, int(length), where)
    except ValueError as error:
        raise InputError(f"{where}: the length must be a number of frames or NA, not {length!r}") from error
