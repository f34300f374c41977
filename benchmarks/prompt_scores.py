"""Prompts with physical checks: read them, check their motions, summarise the verdicts."""
import json
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.physical_checks import CHECKS, SIDES
from benchmarks.physical_measures import measures
from benchmarks.prompt_words import words
from evaluation.report import Estimate
from utils.errors import InputError
from utils.files import read_text


@dataclass(frozen=True)
class Prompt:
    """A prompt and the checks that its motion must pass."""

    text: str
    group: str                  # kind of motion
    checks: tuple[str, ...]     # names in ``CHECKS``, all of which must pass
    pair: str | None = None     # name shared by two prompts that differ only in left and right
    measure: str | None = None  # name in ``SIDES`` that distinguishes the two prompts of a pair
    side: str | None = None     # "left" or "right" if in a pair


@dataclass(frozen=True)
class Verdict:
    """Results of the checks on one motion."""

    seed: int
    checks: dict[str, bool]
    shown: str | None           # "left", "right" or "neither" if the prompt is in a pair
    measures: dict[str, float]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(self.checks.values())


def read_prompts(path: str | Path) -> list[Prompt]:
    """Read a JSON list of prompts. Raises ``InputError`` for an unknown check or an incomplete pair."""
    try:
        prompts = [Prompt(**entry | {"checks": tuple(entry["checks"])})
                   for entry in json.loads(read_text(path, "prompts"))]
    except (json.JSONDecodeError, TypeError, KeyError) as error:
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


def judge(prompt: Prompt, joints: np.ndarray, seed: int = 0) -> Verdict:
    """Check one motion (T, 22, 3), metres, made for ``prompt`` with ``seed``."""
    return Verdict(seed, {name: bool(CHECKS[name](joints)) for name in prompt.checks},
                   SIDES[prompt.measure].shown(joints) if prompt.measure else None, measures(joints))


def distinguished(left: list[Verdict], right: list[Verdict]) -> bool:
    """Whether more than half of the motions of each prompt of a pair show the side of that prompt."""
    return all(sum(verdict.shown == side for verdict in verdicts) > len(verdicts) / 2
               for side, verdicts in (("left", left), ("right", right)))


def _passed(verdicts: list[list[Verdict]]) -> dict[str, float | int | None]:
    """Number and share of the motions that pass, with an interval over the seeds."""
    passed = np.array([[verdict.passed for verdict in found] for found in verdicts], bool)  # (prompts, seeds)
    interval = Estimate.of(passed.mean(0)).interval if passed.size else None
    return {"passed": int(passed.sum()), "motions": passed.size, "share": float(passed.mean()) if passed.size else 0.0,
            "interval": interval}


def summarise(prompts: list[Prompt], verdicts: list[list[Verdict]], known: Collection[str] | None = None) -> dict:
    """Summarise verdicts for JSON: overall, by group, by pair, by prompt.

    ``verdicts[i]`` belong to ``prompts[i]``, one per seed. With the ``known`` words of a training set, prompts with and
    without unknown words are also summarised separately.
    """
    judged = list(zip(prompts, verdicts, strict=True))

    def passed_where(condition: Callable[[Prompt], bool]) -> dict[str, float | int | None]:
        return _passed([found for prompt, found in judged if condition(prompt)])

    pairs = defaultdict(dict)
    for prompt, found in judged:
        if prompt.pair:
            pairs[prompt.pair][prompt.side] = found
    summary = {"overall": _passed(verdicts)}
    if known is not None:
        summary |= {"seen_words": passed_where(lambda prompt: words(prompt.text) <= set(known)),
                    "unseen_words": passed_where(lambda prompt: not words(prompt.text) <= set(known))}
    return summary | {
        "groups": {group: passed_where(lambda prompt, group=group: prompt.group == group)
                   for group in dict.fromkeys(prompt.group for prompt in prompts)},
        "pairs": {name: {
            "distinguished": distinguished(found["left"], found["right"]),
            "left_shown": [verdict.shown for verdict in found["left"]],
            "right_shown": [verdict.shown for verdict in found["right"]],
        } for name, found in pairs.items()},
        "prompts": [{"text": prompt.text, "group": prompt.group, **_passed([found]),
                     "verdicts": [asdict(verdict) | {"passed": verdict.passed} for verdict in found]}
                    for prompt, found in judged],
    }
