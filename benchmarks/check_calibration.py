"""Calibrate the physical checks: measure how often each one passes on clips of its content and on other clips.

    python benchmarks/check_calibration.py OPENMOTION [OPENMOTION2 ...] [--out FILE.json]
    python benchmarks/check_calibration.py OPENMOTION --joints PREPARED/new_joints

OPENMOTION is a folder in the openmotion format: ``index.json`` contains the contents and captions, and the shards the
joints of all clips. ``--joints`` reads joints from another folder instead, for example after retargeting. Every clip is
used twice, the second time mirrored and with left and right swapped in its texts. ``TRUTHS`` defines for which clips a
check should pass, should fail, or may do either, such as turns in a dance; clips of the third kind are not counted. A
part cut from a longer clip counts only if its captions name the movement.
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
from data.dataset import require
from data.text import mirror_text
from motion.skeleton import T2M, mirror
from options.base import Parser
from utils import InputError, script
from utils.files import read_text, write_text

NOTHING = "(?!)"    # matches no text
NAMED = 0.4         # minimum fraction of a clip's captions that name a movement

# Contents with many kinds of movement, for which most checks have no correct answer.
FREE_FORM = re.compile("(ballet|dance|exercise|gesture-story|karate-kata|laugh|mime|navigate|playground|sword|traffic"
                       "|warm-up).*")


@dataclass(frozen=True)
class LabelledClip:
    """Labels of a clip."""

    label: str                  # content and side, with " overhead" if a hand is raised above the head
    captions: tuple[str, ...]   # lower case
    part: bool = False          # whether it was cut from a longer clip of this content


@dataclass(frozen=True)
class Truth:
    """Regular expressions that decide for which clips a check must pass, must fail, or may do either."""

    contents: str = NOTHING     # uncut clips whose full label matches must pass
    said: str = NOTHING         # must pass if found in at least ``NAMED`` of the captions; either if in fewer
    either: str = NOTHING       # either answer is correct if the full label matches
    mentioned: str = NOTHING    # either answer is correct if found in a caption
    no: str = ".*"              # other clips whose full label matches must fail

    def holds(self, clip: LabelledClip) -> bool | None:
        """Return whether the check must pass for a clip, or None if either answer is correct."""
        named = sum(bool(re.search(self.said, text)) for text in clip.captions)
        if named >= NAMED * len(clip.captions) or (not clip.part and re.fullmatch(self.contents, clip.label)):
            return True
        if named or clip.part or FREE_FORM.fullmatch(clip.label) or re.fullmatch(self.either, clip.label) \
                or any(re.search(self.mentioned, text) for text in clip.captions):
            return None
        return False if re.fullmatch(self.no, clip.label) else None


def _all(*words: str, never: str = NOTHING) -> str:
    """Return a regular expression for texts that contain all ``words`` and do not match ``never``."""
    return "^" + "".join(f"(?=.*{word})" for word in words) + f"(?!.*(?:{never}))"


_WALKS = "walk(-(fast|slow|start|stop|sneak|uneven|uneven-ground|angry|drunk))?|walk-(fast-)?(turn|veer)-(left|right)"
_RUNS = "dash|run|run-(angry|drunk|start|stop|stop-run|jump-run|roll|sidestep|duck)"
_TROTS = "(jog-(aeroplane|karate)|trot-chicken|hurry-in).*"
_ASIDE = "(side|walk-diagonal|run-diagonal|run-duck-side|walk-then).*"
_SOMEWHERE = f"(drib|hop|jump).*|leap|sit|soccer-kick.*|stairs|walk-(left|right|turn.*|stop-t.*)|step-back.*|{_ASIDE}"
_FIGHTS = "(boxing|punch|kick|karate|jog-karate|jog-back-karate|idle-karate|side-run-.*-karate|claw).*|slash|soccer.*"
_TURNING = f"(drib|hop|ladder|reach|wash|sweep|run-|jog|trot|hurry|stagger|walk-).*|sit|stairs|{_FIGHTS}|{_ASIDE}"
_BOTH_HANDS = ("byebye|call|kick.*|punch|reach-up|sequence.*|shoot-ball|slash|wash-self|arm-circles|bend-stretch|"
               "toe-touch|balance.*|.*aeroplane|.*drunk|idle.*|cartwheel|jump.*|direct-traffic|.*t-pose|hold-pose|bow|"
               "gesture-referee|run-.*|leap|hop-.*|walk-uneven.*|high-knees.*|lean.*|.*-in-the-dark|torso-twist|squat")
_ONE_LEG = "stairs|(ladder|walk-uneven|hop|kick|soccer-kick|karate|high-knees).*|sit|run-jump.*|leap|lean.*"
_STAIRS = "(stairs|staircase|(some|few|three|flight of) steps)"
_LOW = "crouch|squat|stoop|duck|kneel|bends? (down|forward|over)|toe|floor|ground|deep|knee|land"


def _this_hand(side: str) -> str:
    return (f"(bye|drink|guide|punch-low|scoop|wash-window)-{side}|respond|boxing|wash-window.*|"
            f"sweep-floor|step-back.*|{_BOTH_HANDS}|{_FIGHTS}|{_ASIDE}")


def _one_hand(side: str, movements: str) -> Truth:
    return Truth(f"({movements})-{side}-hand( overhead)?", either=_this_hand(side))


def _one_hand_overhead(side: str) -> Truth:
    raised = f"(raise-up|wave)-{side}-hand"
    return Truth(f"{raised} overhead", either=f"{_this_hand(side)}|{raised}")


def _aside(side: str) -> Truth:
    other = {"left": "right", "right": "left"}[side]
    return Truth(said=_all("(sideways|side-?step|side step)", rf"\b{side}\b", never=rf"\b{other}\b|turns|swings round"),
                 either=f"{_ASIDE}|walk-(left|right)|dribble.*|soccer.*|{_FIGHTS}|stagger.*|run-drunk")


def _diagonal(side: str) -> Truth:
    return Truth(f"walk-{side}", either=f"{_ASIDE}|dribble-side|soccer-kick.*|run-.*|stagger.*|{_FIGHTS}|sweep-floor")


def _circle(way: str) -> Truth:
    return Truth(said=_all(r"\b(whole|full|three.quarters?) (of a )?circle", rf"\b({way})\b",
                           never=r"\b(then|afterwards|later|side\w*)\b"),
                 either=_ASIDE, mentioned="circle|curv|round|turning")


def _kick(side: str) -> Truth:
    other = {"left": "right", "right": "left"}[side]
    kick = r"(front |side |round ?house |round )?(kick|leg|foot)"
    return Truth(f"(soccer-)?kick-{side}", _all(r"\bkicks?\b", f"{side} {kick}", never=f"{other} {kick}"),
                 either="kick.*|soccer.*|run-jump.*", mentioned=r"\bkick|leap|leg")


def _punch(side: str) -> Truth:
    other = {"left": "right", "right": "left"}[side]
    return Truth(said=_all(r"\b(punch|jab)", rf"\b{side} (fist|hand|punch|arm|jab)", never=rf"\b{other}\b|knee|down"),
                 either=_FIGHTS, mentioned="punch|strike|hit|block")


def _hop(side: str) -> Truth:
    return Truth(said=_all(rf"\b(hop|bounc)\w* .*\bon the {side} (foot|leg)\b", never="changes|then"),
                 mentioned="hop")


def _balance(side: str) -> Truth:
    return Truth(f"balance-{side}-leg", _all(rf"\b(balanc|stand|pose)\w* .*\bon (the |her |his )?{side} (leg|foot)\b",
                                            never="steps"),
                 either=f"{_ONE_LEG}|balance.*")


TRUTHS = {
    "stands_still": Truth("idle-(angry|chicken)", r"stands? (still|motionless)\b(?! and| with)",
                          either="idle-.*|drink.*|hold-pose"),
    "stays_in_place": Truth("bow|jump-up|raise.*|wave.*|idle-(?!drunk).*|jumping-jacks|squat|torso-twist|arm-circles",
                            no=f"{_RUNS}|{_WALKS}|walk-(back.*|left|right)|{_TROTS}"),
    "keeps_direction": Truth("bow|dash|raise.*|run|walk|walk-(fast|slow|back|left|right)|wave.*|jump.*|squat",
                             no="walk-(fast-)?turn-(left|right)"),
    "walks_forward": Truth(_WALKS, either=f"{_SOMEWHERE}|{_RUNS}|{_TROTS}|karate.*|kick.*|cartwheel"),
    "goes_forward": Truth(f"{_WALKS}|{_RUNS}|{_TROTS}", either=f"{_SOMEWHERE}|(karate|kick|boxing).*|cartwheel|slash"),
    "goes_slowly": Truth("walk-slow|walk-sneak", r"\bwalk\w* .*slow|slow\w* .*walk", no=f"{_RUNS}|walk-fast.*"),
    "goes_briskly": Truth("walk-fast.*", r"\bwalk\w* .*(fast|quick|brisk|hurr)|(fast|quick|brisk|hurried) .*walk",
                          no="walk-(slow|sneak)|stand.*|idle.*|raise.*|wave.*|bow"),
    "runs": Truth(_RUNS, either=f"soccer-kick.*|run-.*|{_TROTS}|side-run.*"),
    "walks_backwards": Truth("(walk|run|jog|trot|stagger|hurry)-back(?!-stop).*|dribble-back",
                             said=r"\b(walk|jog|run|step)\w* back(ward|wards)\b(?!.*(forward|then))",
                             either=f"karate.*|{_ASIDE}|step-back.*|walk-back-stop.*|sweep-floor"),
    "walks_left": _diagonal("left"),
    "walks_right": _diagonal("right"),
    "steps_left": _aside("left"),
    "steps_right": _aside("right"),
    "turns_left": Truth("walk-(fast-)?turn-left", either=_TURNING),
    "turns_right": Truth("walk-(fast-)?turn-right", either=_TURNING),
    "turns_around": Truth(said=r"\bturns (around|about)\b|about turn|walks .*turns back",
                          either=f"sit|{_ASIDE}|run-.*|(jog|trot|hurry|stagger|walk-back).*",
                          mentioned=r"\bturn(s|ing|ed)? (?!left|right|to the)|half.*circle|circl"),
    "circles_left": _circle("left|counterclockwise"),
    "circles_right": _circle("right|clockwise"),
    "climbs": Truth(said=_all(_STAIRS, r"\b(up|climbs?)\b", never="down|descend|comes"),
                    either="ladder|stairs|walk-uneven.*|scoop.*"),
    "descends": Truth(said=_all(_STAIRS, r"\b(down|descends?)\b", never=r"\bup\b|climb"),
                      either="ladder|stairs|walk-uneven.*"),
    "raises_left_hand": _one_hand("left", "raise-up|wave"),
    "raises_right_hand": _one_hand("right", "raise-up|wave"),
    "raises_both_hands": Truth("(raise-up|wave)-both-hands.*", either=f"{_BOTH_HANDS}|drink.*|ladder|boxing|{_FIGHTS}"),
    "raises_left_then_right": Truth(said=r"left (hand|arm).*\b(then|followed by|before)\b.*right",
                                    either=f"sequence.*|(raise|wave)-.*|{_this_hand('right')}|bye.*|ladder"),
    "raises_right_then_left": Truth(said=r"right (hand|arm).*\b(then|followed by|before)\b.*left",
                                    either=f"sequence.*|(raise|wave)-.*|{_this_hand('left')}|bye.*|ladder"),
    "left_hand_overhead": _one_hand_overhead("left"),
    "right_hand_overhead": _one_hand_overhead("right"),
    "both_hands_overhead": Truth("reach-up|(raise-up|wave)-both-hands overhead",
                                 either=f"(raise-up|wave)-both-hands|{_BOTH_HANDS}"),
    "waves_left_hand": _one_hand("left", "wave"),
    "waves_right_hand": _one_hand("right", "wave"),
    "waves_both_hands": Truth("wave-both-hands.*", either=f"{_BOTH_HANDS}|wash.*"),
    "spreads_arms": Truth("jog-aeroplane|idle-aeroplane", either=f"{_BOTH_HANDS}|(raise-up|wave)-both.*|.*t-pose.*"),
    "bows": Truth("bow", either="byebye|call|dribble.*|guide.*|jump.*|ladder|punch-low.*|respond|scoop.*|shoot-ball|"
                                f"sit|soccer-kick.*|wash.*|bend-stretch|toe-touch|sweep.*|.*t-pose.*|{_FIGHTS}|run-.*|"
                                "step.*|cartwheel|lean.*|high-knees.*|hop-.*|hold-pose|.*chicken.*|squat|torso.*|leap"),
    "sits": Truth(said=r"\b(sits?|seat|seated)\b", either="sit", mentioned=r"\bsit"),
    "sits_down": Truth(said=r"\b(sits? down|takes? a seat|lowers? (his|her|their) body to sit)\b", either="sit"),
    "gets_up": Truth(said=r"\b(gets|stands|rises|getting) (up )?from\b", either="sit|squat|scoop.*|run-roll|cartwheel",
                     mentioned=_LOW),
    "squats": Truth("squat", _all(r"\b(squats?|knee bends?)\b", never="jump|leap|explode|little"),
                    either="scoop.*", mentioned=_LOW),
    "picks_up": Truth("scoop-.*", "picks? (something )?up|scoops? (up )?something|stoops? down to the ground",
                      either="cartwheel|run-roll", mentioned=_LOW),
    "kicks": Truth("(soccer-)?kick.*", r"\bkicks?\b", either="run-jump.*|cartwheel|leap", mentioned=r"leap|leg"),
    "kicks_left": _kick("left"),
    "kicks_right": _kick("right"),
    "punches": Truth("boxing|punch|punch-low.*|karate-lunge-punch", r"\bpunch(es|ing)?\b|\bjabs?\b", either=_FIGHTS,
                     mentioned="punch|strike|hit|block"),
    "punches_left": _punch("left"),
    "punches_right": _punch("right"),
    "boxes": Truth("boxing", either=_FIGHTS),
    "throws": Truth(said=r"\bthrows a (ball|stone)", either="shoot-ball|slash|cartwheel", mentioned="throws the"),
    "jumps": Truth("(hop|jump)-(forward|up)|run-jump-run|leap", r"\bjump(s|ing)? (forward|up|straight|in place|three)",
                   either="reach-up|shoot-ball|jumping-jacks|hop.*|cartwheel|run-roll", mentioned="jump|leap|hop"),
    "jumps_up": Truth("jump-up", r"\bjump(s|ing)? (up|straight|in place)",
                      either="(hop|jump|run-).*|shoot-ball|reach-up", mentioned="jump|leap|hop"),
    "jumps_forward": Truth("jump-forward", r"\bjumps? (far )?forward", either="(hop|run|leap).*|jump-up",
                           mentioned="jump|leap|hop"),
    "hops_on_left_foot": _hop("left"),
    "hops_on_right_foot": _hop("right"),
    "does_jumping_jacks": Truth("jumping-jacks", r"jumping jacks?|star jumps?"),
    "balances_on_left_leg": _balance("left"),
    "balances_on_right_leg": _balance("right"),
    "turns_upside_down": Truth("cartwheel|run-roll", either="bend-stretch|toe-touch|.*t-pose.*"),
    "sweeps": Truth("sweep-floor", either="slash|dribble.*|mime-rowing"),
    "wipes": Truth("wash-window.*", r"\b(wipes|wiping|scrubs|polishing)\b",
                   either=f"wave.*|bye.*|direct-traffic|guide.*|sweep-floor|wash-self|{_BOTH_HANDS}|{_FIGHTS}|ladder"),
    "drinks": Truth("drink.*", either="call|boxing|punch|idle-karate-chop"),
}


# Contents performed with the right side in the recordings, although their names do not mention it.
RIGHT_SIDED = frozenset(("bye", "drink", "guide", "kick", "punch-low", "scoop", "soccer-kick", "wash-window"))
# For raised and waving hands, captions are written from measurements and mention hands above the head.
OVERHEAD = re.compile("overhead|(above|over) the head|in the air")

PART = "-part"
OWN, OTHER = 0.9, 0.05  # minimum pass rate on clips of a check's content, maximum pass rate on others


@dataclass(frozen=True)
class Rates:
    """Pass rates of one check, as (count, clips)."""

    own: tuple[int, int]                     # passes on clips of its content
    other: tuple[int, int]                   # passes on clips of other contents
    missed: dict[str, tuple[int, int]]       # failures on clips of its content by label, most frequent first
    mistaken: dict[str, tuple[int, int]]     # passes on other clips by label, most frequent first

    @property
    def trusted(self) -> bool:
        """Whether both rates are within the limits ``OWN`` and ``OTHER``."""
        return self.own[0] >= OWN * self.own[1] > 0 and self.other[0] <= OTHER * self.other[1]


def labelled_clips(root: Path, joints_dir: Path | None = None) -> Iterator[tuple[LabelledClip, np.ndarray]]:
    """Yield labels and joints (T, 22, 3) of every clip and its mirror image. ``joints_dir`` overrides the shards."""
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
        yield LabelledClip(label, captions, part), joints
        yield LabelledClip(mirror_text(label), tuple(map(mirror_text, captions)), part), mirror(joints, T2M)


def count_answers(clips: Iterator[tuple[LabelledClip, np.ndarray]]) -> dict[str, Rates]:
    """Compute the pass rates of every check."""
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
    parser.add_argument("openmotion", type=Path, nargs="+", help="folders with index.json and shards of joints")
    parser.add_argument("--joints", type=Path, help="read joints from ID.npy in this folder instead of the shards")
    parser.add_argument("--out", type=Path, help="also write the counts as JSON")
    args = parser.parse_args()
    rates = count_answers(item for root in args.openmotion for item in labelled_clips(root, args.joints))
    print(f"{'check':23s} {'passes own':>15s}  {'passes others':>15s}  fails own; passes others")
    for name, found in rates.items():
        print(f"{name:23s} {_share(found.own)}  {_share(found.other)}{' ' if found.trusted else '!'} "
              f"{_worst(found.missed)}; {_worst(found.mistaken)}")
    print(f"{sum(found.trusted for found in rates.values())} of {len(rates)} checks pass on {OWN:.0%} or more of their "
          f"own clips and at most {OTHER:.0%} of the others; ! marks the rest")
    if args.out:
        write_text(args.out, json.dumps({name: vars(found) for name, found in rates.items()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
