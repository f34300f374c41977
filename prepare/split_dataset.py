"""Split a data set into ROOT/{train,val,test,train_val,all}.txt, keeping the clips of a recording together.

    python prepare/split_dataset.py ROOT [--val 0.05 --test 0.15] [--group REGEX] [--stratify REGEX]
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data.dataset import PARTS
from options.base import Parser, bounded
from prepare.add_captions import clips_of
from prepare.importing import ClipSource, write_names
from utils import InputError, script


@dataclass(frozen=True)
class Member:
    """A clip with its group, which must not be split, and its stratum, which is its kind of motion."""

    id: str
    group: str    # recording, actor, ...; a group is never divided
    stratum: str  # kind of motion; distributed evenly over the parts


def split_by_group(members: Sequence[Member], shares: Mapping[str, float], seed: int) -> dict[str, list[str]]:
    """Return the clip ids of each part of ``PARTS``. The result depends only on ``members``, ``shares`` and ``seed``.

    ``shares`` must sum to 1. Within a stratum, groups are assigned in random order to the part that lacks the most
    clips. Deficits carry over to the next stratum. Empty parts are filled from the part with the most groups.

    Raises ``InputError`` if there are fewer groups than parts with a share.
    """
    groups: dict[str, list[Member]] = defaultdict(list)
    for member in sorted(members, key=lambda member: member.id):
        groups[member.group].append(member)
    wanted = [part for part in PARTS if shares[part] > 0]
    if len(groups) < len(wanted):
        raise InputError(f"{len(groups)} groups of clips cannot be split into {' and '.join(wanted)}")
    strata = defaultdict(list)
    for name, clips in sorted(groups.items()):
        strata[Counter(clip.stratum for clip in clips).most_common(1)[0][0]].append(name)
    generator = np.random.default_rng(seed)
    lack, chosen = dict.fromkeys(wanted, 0.0), {part: [] for part in wanted}
    for _, names in sorted(strata.items()):
        size = sum(len(groups[name]) for name in names)
        lack = {part: lack[part] + shares[part] * size for part in wanted}
        for name in generator.permutation(names).tolist():
            part = max(wanted, key=lack.__getitem__)
            chosen[part].append(name)
            lack[part] -= len(groups[name])
    for part in wanted:
        if not chosen[part]:
            donor = max(wanted, key=lambda other: len(chosen[other]))
            name = min(chosen[donor], key=lambda name: (len(groups[name]), name))
            chosen[donor].remove(name)
            chosen[part].append(name)
    return {part: sorted(clip.id for name in chosen.get(part, ()) for clip in groups[name]) for part in PARTS}


def write_splits(root: Path, parts: Mapping[str, Sequence[str]]) -> None:
    """Write ``train.txt``, ``val.txt``, ``test.txt``, ``train_val.txt`` and ``all.txt``."""
    train_val = [*parts["train"], *parts["val"]]
    for name, ids in {**parts, "train_val": train_val, "all": sorted([*train_val, *parts["test"]])}.items():
        write_names(root, name, ids)


def build_parser() -> Parser:
    parser = Parser(
        "Write ROOT/train.txt, val.txt, test.txt, train_val.txt and all.txt. Clips of one recording stay together, "
        "as do mirrored twins; kinds of motion are distributed evenly over the parts.")
    parser.add_argument("root", type=Path, metavar="ROOT", help="data set folder, with joints/, texts/, sources.jsonl")
    parser.add_argument("--val", type=bounded(float, 0.0, 0.9), default=0.05, help="fraction of clips for validation")
    parser.add_argument("--test", type=bounded(float, 0.0, 0.9), default=0.15, help="fraction of clips for testing")
    parser.add_argument("--group", metavar="REGEX", help="files with the same match (actor, day) stay together; "
                                                         "default: each file is a group")
    parser.add_argument("--stratify", metavar="REGEX", help="files with the same match are one kind, spread evenly; "
                                                            "default: each folder is a kind")
    parser.add_argument("--uncaptioned", action="store_true", help="also split clips that have no captions")
    parser.add_argument("--seed", type=bounded(int, 0, 2**63 - 1), default=3407, help="seed of the random order")
    parser.add_argument("--quiet", action="store_true", help="no effect; accepted by every script")
    return parser


def members(clips: list[ClipSource], group: str | None, stratify: str | None, twins: set[str]) -> list[Member]:
    """Return clips, and those of their mirrored twins that are in ``twins``, with their groups and strata."""
    made = []
    for clip in clips:
        key = matched("--group", group, clip.file) if group else clip.file
        kind = matched("--stratify", stratify, clip.file) if stratify else os.path.dirname(clip.file)
        made += [Member(name, key, kind) for name in (clip.id, f"M{clip.id}") if name == clip.id or name in twins]
    return made


def matched(flag: str, expression: str, name: str) -> str:
    """Return the part of ``name`` that ``expression`` matches: its groups or, without groups, the whole match."""
    try:
        match = re.search(expression, name)
    except re.error as error:
        raise InputError(f"{flag} {expression} is not a regular expression: {error}") from error
    if match is None:
        raise InputError(f"{flag} {expression} does not match the file name {name}")
    return "/".join(part or "" for part in match.groups()) or match[0]


@script
def main() -> None:
    opt = build_parser().parse_args()
    if opt.val + opt.test >= 1:
        raise InputError(f"--val {opt.val:g} and --test {opt.test:g} leave nothing to train on")
    clips = clips_of(opt.root)
    captioned = [clip for clip in clips if opt.uncaptioned or (opt.root / "texts" / f"{clip.id}.txt").exists()]
    if not captioned:
        raise InputError(f"no clip in {opt.root} has captions; prepare/add_captions.py writes them")
    if len(captioned) < len(clips):
        print(f"{len(clips) - len(captioned)} clips without captions omitted (--uncaptioned includes them)")
    twins = {path.stem for path in (opt.root / "joints").glob("M*.npy")}
    shares = {"train": 1 - opt.val - opt.test, "val": opt.val, "test": opt.test}
    parts = split_by_group(members(captioned, opt.group, opt.stratify, twins), shares, opt.seed)
    write_splits(opt.root, parts)
    print(", ".join(f"{len(ids)} {part}" for part, ids in parts.items()) + f" clips, written to {opt.root}")


if __name__ == "__main__":
    main()
