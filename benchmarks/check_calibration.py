"""How far the physical checks can be trusted: how often each says yes on real clips of its content, and on others.

    python benchmarks/check_calibration.py OPENMOTION [--joints PREPARED/new_joints] [--out FILE.json]

OPENMOTION is the folder of the openmotion set (``index.json`` with a content label a clip, and the joints' shards).
With ``--joints`` the motions are those files, for instance moved to the bones that the models make.
Every clip counts twice, as it is and mirrored, the label's side words swapped. Contents that may or may not hold
the movement (a dance has turns, a drink is lifted with one hand) are left out of both counts.
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

from benchmarks.physical_checks import CHECKS
from data.specs import require
from motion.skeleton import T2M, mirror
from options.base import Parser
from utils.errors import InputError, script
from utils.files import read_text, write_text

# Contents of many movements, about which no check has a right answer.
FREE_FORM = frozenset(("ballet", "boxing", "dance", "exercise", "laugh", "navigate", "playground", "sword", "traffic"))
# Contents of one side only that do not say so: the right one, as captured.
RIGHT_SIDED = frozenset(("bye", "drink", "guide", "kick", "punch-low", "scoop", "soccer-kick", "wash-window"))
# Raised and waved hands go to any height; these captions, written from measurements, say that they go this high.
OVERHEAD = re.compile("overhead|(above|over) the head|in the air")
SWAP = {"left": "right", "right": "left"}


@dataclass(frozen=True)
class Expected:
    """Contents that a check must say yes to, and patterns of those where either answer is right."""

    yes: str                # regular expressions that match the whole label
    either: str = ""
    no: str = ".*"          # of the rest


_OTHER_WAYS_FORWARD = "(drib|hop|jump).*|sit|soccer-kick.*|stairs|walk-(left|right|uneven)"
_OTHER_TURNS = "(drib|hop|ladder|reach|wash).*|kick.*|sit|soccer-kick.*|stairs"
_TURNS = "walk-turn-(left|right)"


def _maybe_this_hand(side: str) -> str:
    return f"(bye|drink|guide|punch-low|scoop|wash-window)-{side}|byebye|call|respond|sequence.*|wash-self"


def _one_hand(side: str, movements: str) -> Expected:
    return Expected(f"({movements})-{side}-hand( overhead)?", _maybe_this_hand(side))


def _one_hand_overhead(side: str) -> Expected:
    raised = f"(raise-up|wave)-{side}-hand"
    return Expected(f"{raised} overhead", f"{_maybe_this_hand(side)}|{raised}")


_BOTH_HANDS_EITHER = "byebye|call|kick.*|punch|reach-up|sequence.*|shoot-ball|slash|wash-self"

EXPECTED = {
    "walks_forward": Expected(f"walk|{_TURNS}", _OTHER_WAYS_FORWARD),
    "goes_forward": Expected(f"dash|run|walk|walk-(left|right)|{_TURNS}", _OTHER_WAYS_FORWARD),
    "runs": Expected("dash|run", "soccer-kick.*"),
    "walks_backwards": Expected("walk-back", "dribble-back"),
    "walks_left": Expected("walk-left", "dribble-side|soccer-kick.*|slash"),
    "walks_right": Expected("walk-right", "dribble-side|soccer-kick.*|slash"),
    "turns_left": Expected("walk-turn-left", _OTHER_TURNS),
    "turns_right": Expected("walk-turn-right", _OTHER_TURNS),
    "keeps_direction": Expected("bow|dash|raise.*|run|walk|walk-(back|left|right)|wave.*", no=_TURNS),
    "stays_in_place": Expected("bow|jump-up|raise.*|wave.*", no=f"dash|run|walk|walk-(back|left|right)|{_TURNS}"),
    "raises_left_hand": _one_hand("left", "raise-up|wave"),
    "raises_right_hand": _one_hand("right", "raise-up|wave"),
    "raises_both_hands": Expected("(raise-up|wave)-both-hands.*", f"{_BOTH_HANDS_EITHER}|drink.*|ladder"),
    "left_hand_overhead": _one_hand_overhead("left"),
    "right_hand_overhead": _one_hand_overhead("right"),
    "both_hands_overhead": Expected("reach-up|(raise-up|wave)-both-hands overhead",
                                    f"(raise-up|wave)-both-hands|{_BOTH_HANDS_EITHER}"),
    "waves_left_hand": _one_hand("left", "wave"),
    "waves_right_hand": _one_hand("right", "wave"),
    "waves_both_hands": Expected("wave-both-hands.*", _BOTH_HANDS_EITHER),
    "bows": Expected("bow", "byebye|call|dribble.*|guide.*|jump.*|ladder|punch-low.*|respond|scoop.*|shoot-ball|sit|"
                            "soccer-kick.*|wash.*"),
    "sits": Expected("sit"),
    "kicks": Expected("(soccer-)?kick-(left|right)"),
    "kicks_left": Expected("(soccer-)?kick-left"),
    "kicks_right": Expected("(soccer-)?kick-right"),
    "jumps": Expected("(hop|jump)-(forward|up)", "reach-up|shoot-ball"),
}


@dataclass(frozen=True)
class Rates:
    """Answers of one check."""

    own: tuple[int, int]                     # (yes, clips) of its content
    other: tuple[int, int]                   # (yes, clips) of other contents
    mistaken: dict[str, tuple[int, int]]     # of these other contents, those with a yes, the most frequent first


def labelled_clips(root: Path, joints_dir: Path | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """Content label and joints (T, 22, 3) of every clip and of its mirror image; of ``joints_dir``/ID.npy if given."""
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
        label = entry["content"] + ("-right" if entry["content"] in RIGHT_SIDED else "")
        if label.startswith(("raise", "wave")) and any(OVERHEAD.search(text["text"]) for text in entry["captions"]):
            label += " overhead"
        yield label, joints
        yield re.sub("left|right", lambda side: SWAP[side.group()], label), mirror(joints, T2M)


def count_answers(clips: Iterator[tuple[str, np.ndarray]]) -> dict[str, Rates]:
    """Rates of every check over labelled motions."""
    answers: dict[str, dict[str, list[bool]]] = {name: defaultdict(list) for name in CHECKS}
    for label, joints in clips:
        for name, check in CHECKS.items():
            answers[name][label].append(bool(check(joints)))
    return {name: _rates(EXPECTED[name], by_label) for name, by_label in answers.items()}


def _rates(expected: Expected, by_label: dict[str, list[bool]]) -> Rates:
    own, other, mistaken = [], [], {}
    for label, answers in by_label.items():
        if re.fullmatch(expected.yes, label):
            own += answers
        elif label not in FREE_FORM and not re.fullmatch(expected.either, label) and re.fullmatch(expected.no, label):
            other += answers
            if any(answers):
                mistaken[label] = (sum(answers), len(answers))
    ordered = dict(sorted(mistaken.items(), key=lambda item: -item[1][0]))
    return Rates((sum(own), len(own)), (sum(other), len(other)), ordered)


def _share(counts: tuple[int, int]) -> str:
    return f"{100 * counts[0] / counts[1]:5.1f} % of {counts[1]:4d}" if counts[1] else f"{'-':>14}"


@script
def main() -> None:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("openmotion", type=Path, help="folder with index.json and the joints' shards")
    parser.add_argument("--joints", type=Path, help="folder of ID.npy to read instead of the shards")
    parser.add_argument("--out", type=Path, help="also write the counts as JSON")
    args = parser.parse_args()
    rates = count_answers(labelled_clips(args.openmotion, args.joints))
    print(f"{'check':20s} {'yes on its own':15s}  {'yes on others':15s}  most mistaken")
    for name, found in rates.items():
        worst = ", ".join(f"{label} {yes}/{clips}" for label, (yes, clips) in list(found.mistaken.items())[:3])
        print(f"{name:20s} {_share(found.own)}  {_share(found.other)}  {worst}")
    if args.out:
        write_text(args.out, json.dumps({name: vars(found) for name, found in rates.items()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
