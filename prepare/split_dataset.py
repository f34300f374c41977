"""Split a data set: ROOT/{train,val,test,train_val,all}.txt, whole recordings at a time.

    python prepare/split_dataset.py ROOT [--val 0.05 --test 0.15] [--group REGEX] [--stratify REGEX]
"""
import os
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from options.base import Parser, bounded
from prepare.captioning import clips_of
from prepare.importing.import_motion import ClipSource
from prepare.splits import Member, split_by_group, write_splits
from utils.errors import InputError, script


def build_parser() -> Parser:
    """The flags of this script."""
    parser = Parser(
        "Write ROOT/train.txt, val.txt, test.txt, train_val.txt and all.txt. Clips of one recording stay together, "
        "as do mirrored twins; every kind of motion has about the same share of each part.")
    parser.add_argument("root", type=Path, metavar="ROOT", help="data set folder, with joints/, texts/, sources.jsonl")
    parser.add_argument("--val", type=bounded(float, 0.0, 0.9), default=0.05, help="share of clips to validate on")
    parser.add_argument("--test", type=bounded(float, 0.0, 0.9), default=0.15, help="share of clips to test on")
    parser.add_argument("--group", metavar="REGEX", help="files with the same match stay together (an actor, a day); "
                                                         "by default each file is a group")
    parser.add_argument("--stratify", metavar="REGEX", help="files with the same match are a kind, spread evenly; by "
                                                            "default each folder is a kind")
    parser.add_argument("--uncaptioned", action="store_true", help="also split clips that have no captions")
    parser.add_argument("--seed", type=bounded(int, 0, 2**63 - 1), default=3407, help="of the random order")
    parser.add_argument("--quiet", action="store_true", help="taken by every script; this one is quick")
    return parser


def members(clips: list[ClipSource], group: str | None, stratify: str | None, twins: set[str]) -> list[Member]:
    """Clips, and those of their mirrored twins that are there, with their groups and kinds."""
    made = []
    for clip in clips:
        key = matched(group, clip.file) if group else clip.file
        kind = matched(stratify, clip.file) if stratify else os.path.dirname(clip.file)
        made += [Member(name, key, kind) for name in (clip.id, f"M{clip.id}") if name == clip.id or name in twins]
    return made


def matched(expression: str, name: str) -> str:
    """What of ``name`` fits: the groups of the expression, or all of it where it has none."""
    try:
        match = re.search(expression, name)
    except re.error as error:
        raise InputError(f"{expression} is not a regular expression: {error}") from error
    if match is None:
        raise InputError(f"{expression} is not in the file name {name}")
    return "/".join(part or "" for part in match.groups()) or match[0]


@script
def main() -> None:
    """Parse, choose, split, write."""
    opt = build_parser().parse_args()
    if opt.val + opt.test >= 1:
        raise InputError(f"--val {opt.val:g} and --test {opt.test:g} leave nothing to train on")
    clips = clips_of(opt.root)
    captioned = [clip for clip in clips if opt.uncaptioned or (opt.root / "texts" / f"{clip.id}.txt").exists()]
    if not captioned:
        raise InputError(f"no clip of {opt.root} has captions; prepare/add_captions.py writes them")
    if len(captioned) < len(clips):
        print(f"{len(clips) - len(captioned)} clips without captions left out (--uncaptioned takes them too)")
    twins = {path.stem for path in (opt.root / "joints").glob("M*.npy")}
    shares = {"train": 1 - opt.val - opt.test, "val": opt.val, "test": opt.test}
    parts = split_by_group(members(captioned, opt.group, opt.stratify, twins), shares, opt.seed)
    write_splits(opt.root, parts)
    print(", ".join(f"{len(ids)} {part}" for part, ids in parts.items()) + f" clips, written to {opt.root}")


if __name__ == "__main__":
    main()
