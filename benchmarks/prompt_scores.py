"""Prompts with physical checks: read them, judge motions made for them, sum the verdicts up."""
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.physical_checks import CHECKS, SIDES
from benchmarks.physical_measures import measures
from utils.errors import InputError
from utils.files import read_text


@dataclass(frozen=True)
class Prompt:
    """What somebody types, and what must be seen in the motion."""

    text: str
    group: str
    checks: tuple[str, ...]             # names in ``CHECKS``, all of which must say yes
    unseen_words: tuple[str, ...] = ()  # that the training captions do not have
    pair: str | None = None             # two prompts share it that differ in nothing but left and right
    measure: str | None = None          # name in ``SIDES`` that tells the two of a pair apart
    side: str | None = None             # "left" or "right", of a pair


@dataclass(frozen=True)
class Verdict:
    """What was found in one motion."""

    seed: int
    checks: dict[str, bool]
    shown: str | None           # "left", "right" or "neither", of a pair's prompt
    measures: dict[str, float]

    @property
    def passed(self) -> bool:
        """Whether every check said yes."""
        return all(self.checks.values())


def read_prompts(path: str | Path) -> list[Prompt]:
    """Read a JSON list of prompts. Raises ``InputError`` where one has an unknown check, or a pair is not a pair."""
    try:
        entries = json.loads(read_text(path, "prompts"))
        prompts = [_prompt(**entry) for entry in entries]
    except (json.JSONDecodeError, TypeError) as error:
        raise InputError(f"{path} is not a list of prompts: {error}") from error
    pairs = defaultdict(list)
    for prompt in prompts:
        unknown = [name for name in prompt.checks if name not in CHECKS]
        if unknown or not prompt.checks:
            raise InputError(f"{path}: {prompt.text!r} has {f'no check {unknown[0]}' if unknown else 'no checks'}; "
                             f"there are {', '.join(CHECKS)}")
        if prompt.pair:
            pairs[prompt.pair].append(prompt)
    for name, members in pairs.items():
        measured = {prompt.measure for prompt in members}
        if sorted(str(prompt.side) for prompt in members) != ["left", "right"] or len(measured) > 1:
            raise InputError(f"{path}: pair {name} must be one prompt for left and one for right with the same measure")
        if not measured <= set(SIDES):
            raise InputError(f"{path}: pair {name} has the measure {members[0].measure}; there are {', '.join(SIDES)}")
    return prompts


def _prompt(text: str, group: str, checks: list[str], unseen: bool = False, unseen_words: Iterable[str] = (),
            **pair: str) -> Prompt:
    words = tuple(unseen_words)
    if unseen != bool(words):
        raise TypeError(f"{text!r} is marked unseen: {unseen}, with the unseen words {list(words)}")
    return Prompt(text, group, tuple(checks), words, **pair)


def judge(prompt: Prompt, joints: np.ndarray, seed: int = 0) -> Verdict:
    """Check one motion (T, 22, 3), metres, made for ``prompt`` with ``seed``."""
    return Verdict(seed, {name: bool(CHECKS[name](joints)) for name in prompt.checks},
                   SIDES[prompt.measure].shown(joints) if prompt.measure else None, measures(joints))


def told_apart(left: list[Verdict], right: list[Verdict]) -> bool:
    """Whether more than half of the motions of each of a pair's two prompts show that prompt's side."""
    return all(sum(verdict.shown == side for verdict in verdicts) > len(verdicts) / 2
               for side, verdicts in (("left", left), ("right", right)))


def _passed(verdicts: Iterable[Verdict]) -> dict[str, float]:
    found = [verdict.passed for verdict in verdicts]
    return {"passed": sum(found), "motions": len(found), "share": sum(found) / len(found) if found else 0.0}


def summarise(prompts: list[Prompt], verdicts: list[list[Verdict]]) -> dict:
    """Everything that was found, ready for JSON: overall, by words seen or not, by group, by pair, by prompt.

    ``verdicts[i]`` are those of ``prompts[i]``, one a seed.
    """
    judged = list(zip(prompts, verdicts, strict=True))

    def passed_where(condition: str, value: object) -> dict[str, float]:
        return _passed(verdict for prompt, found in judged if getattr(prompt, condition) == value for verdict in found)

    unseen = [verdict for prompt, found in judged if prompt.unseen_words for verdict in found]
    pairs = defaultdict(dict)
    for prompt, found in judged:
        if prompt.pair:
            pairs[prompt.pair][prompt.side] = found
    return {
        "overall": _passed(verdict for found in verdicts for verdict in found),
        "unseen_words": _passed(unseen),
        "seen_words": passed_where("unseen_words", ()),
        "groups": {group: passed_where("group", group) for group in dict.fromkeys(prompt.group for prompt in prompts)},
        "pairs": {name: {
            "told_apart": told_apart(found["left"], found["right"]),
            "left_shown": [verdict.shown for verdict in found["left"]],
            "right_shown": [verdict.shown for verdict in found["right"]],
        } for name, found in pairs.items()},
        "prompts": [{
            "text": prompt.text, "group": prompt.group, "unseen_words": list(prompt.unseen_words), **_passed(found),
            "verdicts": [{"seed": verdict.seed, "passed": verdict.passed, "checks": verdict.checks,
                         "shown": verdict.shown, "measures": verdict.measures} for verdict in found],
        } for prompt, found in judged],
    }
