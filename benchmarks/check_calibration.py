"""Calibrate the physical checks: how often each one passes on real clips of its content, and on other clips.

    python benchmarks/check_calibration.py OPENMOTION [OPENMOTION2 ...] [--out FILE.json]
    python benchmarks/check_calibration.py OPENMOTION --joints PREPARED/new_joints

OPENMOTION is a folder of the openmotion format: ``index.json`` with content and captions of every clip, and the
shards with their joints. With ``--joints`` the motions are read from those files instead, for example retargeted to
the models' skeleton. Every clip counts twice, as it is and mirrored, with the side words of content and captions
swapped. ``TRUTHS`` decides by content and captions for which clips a check should pass, for which it should fail, and
for which either answer is correct (a dance has turns, a drink is lifted with one hand); the last are not counted.
A part cut from a longer clip overlaps it, so it counts only if its captions name the movement.
"""
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.check_truths import TRUTHS, Clip
from benchmarks.physical_checks import CHECKS
from data.specs import require
from motion.skeleton import T2M, mirror
from options.base import Parser
from utils.errors import InputError, script
from utils.files import read_text, write_text

# Contents performed with one side, whose names do not say which: the right one, as captured.
RIGHT_SIDED = frozenset(("bye", "drink", "guide", "kick", "punch-low", "scoop", "soccer-kick", "wash-window"))
# Raised and waving hands reach different heights. These captions were written from measurements and name overhead ones.
OVERHEAD = re.compile("overhead|(above|over) the head|in the air")
SWAP = {"left": "right", "right": "left", "clockwise": "counterclockwise", "counterclockwise": "clockwise"}
PART = "-part"
OWN, OTHER = 0.9, 0.05  # minimum pass rate on a check's own clips, maximum pass rate on others


@dataclass(frozen=True)
class Rates:
    """Pass rates of one check."""

    own: tuple[int, int]                     # (passes, clips) of its content
    other: tuple[int, int]                   # (passes, clips) of other contents
    missed: dict[str, tuple[int, int]]       # clips of its content that fail, by content, most frequent first
    mistaken: dict[str, tuple[int, int]]     # clips of other contents that pass, by content, most frequent first

    @property
    def trusted(self) -> bool:
        """Whether both rates are within ``OWN`` and ``OTHER``."""
        return self.own[0] >= OWN * self.own[1] > 0 and self.other[0] <= OTHER * self.other[1]


def mirrored_words(text: str) -> str:
    """The text with "left" and "right" swapped."""
    return re.sub(rf"\b({'|'.join(SWAP)})\b", lambda side: SWAP[side.group()], text)


def labelled_clips(root: Path, joints_dir: Path | None = None) -> Iterator[tuple[Clip, np.ndarray]]:
    """Description and joints (T, 22, 3) of every clip and its mirror image, from ``joints_dir``/ID.npy if given."""
    try:
        entries = json.loads(read_text(root / "index.json", "index"))["clips"]
    except (json.JSONDecodeError, KeyError) as error:
        raise InputError(f"{root / 'index.json'} is not an openmotion index: {error}") from error
    shard, frames = None, None
    for entry in entries:
        if joints_dir:
            joints = np.load(require(joints_dir / f"{entry['id']}.npy", "prepare/motion_features.py"))
        else:
            if entry["shard"] != shard:
                shard, frames = entry["shard"], np.load(root / entry["shard"])["joints"]
            joints = frames[entry["offset"]:entry["offset"] + entry["length"]]
        captions = tuple(caption["text"].lower() for caption in entry["captions"])
        label = entry["content"].removesuffix(PART)
        label += "-right" if label in RIGHT_SIDED else ""
        if label.startswith(("raise", "wave")) and any(map(OVERHEAD.search, captions)):
            label += " overhead"
        part = entry["content"].endswith(PART)
        yield Clip(label, captions, part), joints
        yield Clip(mirrored_words(label), tuple(map(mirrored_words, captions)), part), mirror(joints, T2M)


def count_answers(clips: Iterator[tuple[Clip, np.ndarray]]) -> dict[str, Rates]:
    """Pass rates of every check over described motions."""
    answers: dict[str, dict[bool, dict[str, list[bool]]]] = {
        name: {True: defaultdict(list), False: defaultdict(list)} for name in CHECKS}
    for clip, joints in clips:
        for name, check in CHECKS.items():
            if (true := TRUTHS[name].holds(clip)) is not None:
                answers[name][true][clip.label].append(bool(check(joints)))
    return {name: _rates(found[True], found[False]) for name, found in answers.items()}


def _rates(own: dict[str, list[bool]], other: dict[str, list[bool]]) -> Rates:
    def total(by_label: dict[str, list[bool]]) -> tuple[int, int]:
        return sum(map(sum, by_label.values())), sum(map(len, by_label.values()))

    def wrong(by_label: dict[str, list[bool]], answer: bool) -> dict[str, tuple[int, int]]:
        counts = {label: (answers.count(answer), len(answers)) for label, answers in by_label.items()}
        return dict(sorted(((label, count) for label, count in counts.items() if count[0]),
                           key=lambda item: -item[1][0]))

    return Rates(total(own), total(other), wrong(own, False), wrong(other, True))


def _share(counts: tuple[int, int]) -> str:
    return f"{100 * counts[0] / counts[1]:5.1f} % of {counts[1]:4d}" if counts[1] else f"{'-':>15}"


def _worst(counts: dict[str, tuple[int, int]]) -> str:
    return ", ".join(f"{label} {wrong}/{clips}" for label, (wrong, clips) in list(counts.items())[:3])


@script
def main() -> None:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("openmotion", type=Path, nargs="+", help="folders with index.json and the joints' shards")
    parser.add_argument("--joints", type=Path, help="read joints from ID.npy files in this folder, not from the shards")
    parser.add_argument("--out", type=Path, help="also write the counts as JSON")
    args = parser.parse_args()
    rates = count_answers(item for root in args.openmotion for item in labelled_clips(root, args.joints))
    print(f"{'check':23s} {'passes own':>15s}  {'passes others':>15s}  fails own; passes others")
    for name, found in rates.items():
        print(f"{name:23s} {_share(found.own)}  {_share(found.other)}{' ' if found.trusted else '!'} "
              f"{_worst(found.missed)}; {_worst(found.mistaken)}")
    print(f"{sum(found.trusted for found in rates.values())} of {len(rates)} checks pass on {OWN:.0%} of their own "
          f"clips or more and on {OTHER:.0%} of the others or fewer; ! marks the rest")
    if args.out:
        write_text(args.out, json.dumps({name: vars(found) for name, found in rates.items()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
