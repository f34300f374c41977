"""Check a data set before training. Prints a table of faults and exits with status 1 if there are any.

    python prepare/check_data.py ROOT [--fix]
"""
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data.dataset import DATASETS, PARTS, DatasetSpec, dataset_spec
from data.text import parse_caption
from options.base import Parser, add_workers, positive_int
from prepare.add_captions import Tagger, make_tagger
from prepare.checking import UNUSABLE, Checked, Fault, check_data
from prepare.importing import write_names
from prepare.motion_features import save_statistics
from utils import InputError, script
from utils.files import read_text, write_text

_TAKEN_OUT = {*UNUSABLE, "split without file", "no captions", "twin without original", "twin in another split",
              "copy in another split"}

# Advice by kind of fault, in reporting order.
KINDS = {
    "unreadable features": "recompute them with prepare/motion_features.py",
    "wrong dimension": "recompute features for this skeleton with prepare/motion_features.py",
    "not finite": "the joints are damaged; import the clip again",
    "too short": "training skips it",
    "too long": "training skips it; split it when importing",
    "under the floor": "move the lowest joint to y = 0, as prepare/import_motion.py does",
    "bones change length": "import it from rotations, or remove it",
    "sides swapped": "left and right are swapped, or the axes left-handed; import it with other axes",
    "lies throughout": "if the body is not lying, y is not up; import it with other axes",
    "bones do not turn": "joints coincide with their parents; recompute features with prepare/motion_features.py",
    "does not move": "remove it, unless intended",
    "joints do not fit": "recompute features and joints with prepare/motion_features.py",
    "wrong frame rate": "resample to the data set's frame rate before computing features",
    "no captions": "prepare/add_captions.py writes them",
    "caption with #": "# is the separator of the four fields and cannot be part of a caption",
    "caption unreadable": "expected text#word/POS ...#start#end",
    "caption empty": "remove the line",
    "caption without tokens": "the evaluator needs them; prepare/add_captions.py writes them",
    "caption times": "times must be within the clip, with start before end",
    "split missing": "prepare/split_dataset.py writes it",
    "split without file": "features are missing; compute them or remove the id",
    "in no split": "add it to a split, or remove it",
    "in two splits": "training and test data must not overlap",
    "twin without original": "its original was replaced by a later import; remove it",
    "twin in another split": "move the mirrored clip to the split of its original",
    "copy in another split": "training and test data must not overlap",
    "twice in a split": "it would count twice",
    "statistics": "recompute Mean.npy and Std.npy with prepare/motion_features.py",
}


def fault_table(faults: Sequence[Fault], shown: int = 3) -> str:
    """Format one line per kind of fault, with count, examples and advice. Returns "" if there are no faults."""
    lines = []
    for kind, advice in KINDS.items():
        if found := [fault for fault in faults if fault.kind == kind]:
            examples = "; ".join(f"{fault.item}: {fault.detail}" if fault.detail else fault.item
                                 for fault in found[:shown])
            lines.append(f"{kind:<24}{len(found):>6}  {examples}{'; ...' * (len(found) > shown)}  ({advice})\n")
    return "".join(lines)


def fix_data(spec: DatasetSpec, checked: Checked, tagger: Tagger) -> list[str]:
    """Repair faults found by ``check_data``. Returns one line per change."""
    return [*_fix_captions(spec, checked, tagger), *_fix_splits(spec, checked), *_fix_statistics(spec, checked)]


def _fix_splits(spec: DatasetSpec, checked: Checked) -> list[str]:
    """Remove ids from splits where they cannot or must not be used. Test has priority over val, and val over train."""
    gone = {fault.item for fault in checked.faults if fault.kind in _TAKEN_OUT}
    home = {name: part for part in PARTS for name in checked.splits.get(part, ())}  # the last part wins
    gone |= {name for name, part in home.items() if name.startswith("M") and home.get(name[1:], part) != part}
    done = []
    for split, ids in checked.splits.items():
        kept = [name for name in dict.fromkeys(ids)
                if name not in gone and (split not in PARTS or home[name] == split)]
        if split == "train_val":
            kept = [name for name in kept if home.get(name) != "test"]
        if kept != ids:
            write_names(spec.root, split, kept)
            done.append(f"{split}.txt: {len(ids) - len(kept)} ids removed")
    return done


def _fix_captions(spec: DatasetSpec, checked: Checked, tagger: Tagger) -> list[str]:
    kinds = ("caption with #", "caption without tokens", "caption empty", "caption times")
    done = []
    for name in dict.fromkeys(fault.item for fault in checked.faults if fault.kind in kinds):
        path = spec.root / "texts" / f"{name}.txt"
        statistics = checked.clips[name].statistics
        seconds = None if statistics is None else statistics.count / spec.caption_fps
        lines = read_text(path, "captions").splitlines()
        mended = [line for line in (_mended(line, tagger, seconds) for line in lines) if line]
        if mended != lines:
            write_text(path, "".join(f"{line}\n" for line in mended))
            done.append(f"texts/{name}.txt: lines repaired")
    return done


def _mended(line: str, tagger: Tagger, seconds: float | None) -> str | None:
    """Return the repaired line, the same line if it cannot be repaired, or None if it has no text."""
    *texts, tokens, start, end = line.strip().split("#") if line.count("#") >= 3 else (line, "", "", "")
    try:
        caption = parse_caption(f"{' '.join(texts)}#{tokens}#{start}#{end}", "")
    except InputError:
        return line
    text = " ".join(caption.text.split())
    if not text:
        return None
    sound = caption.tokens and all("/" in token for token in caption.tokens)
    end = caption.end if seconds is None else min(caption.end, seconds)
    if caption.start >= end and not caption.whole_clip:
        return line
    return f"{text}#{' '.join(caption.tokens) if sound else tagger(text)}#{caption.start}#{end}"


def _fix_statistics(spec: DatasetSpec, checked: Checked) -> list[str]:
    if checked.statistics is None or not any(fault.kind == "statistics" for fault in checked.faults):
        return []
    save_statistics(spec.root, checked.statistics)
    return ["Mean.npy and Std.npy recomputed from all features"]


def build_parser() -> Parser:
    parser = Parser(
        "Find faults that training does not report but that spoil its result: features that are not finite or have the "
        "wrong width, wrong frame rates, feet below the floor, swapped sides, invalid captions, leaks between splits, "
        "outdated statistics.")
    parser.add_argument("root", type=Path, metavar="ROOT", help="data set folder")
    parser.add_argument("--dataset_name", default="t2m", choices=tuple(DATASETS), help="HumanML3D or KIT-ML layout")
    parser.add_argument("--fix", action="store_true",
                        help="repair split files, caption lines and statistics; clip files are not changed")
    parser.add_argument("--shown", type=positive_int, default=3, help="examples listed per fault")
    add_workers(parser)
    return parser


@script
def main() -> None:
    opt = build_parser().parse_args()
    spec = dataset_spec(opt.dataset_name, opt.root)
    checked = check_data(spec, opt.workers, opt.quiet)
    if opt.fix and checked.faults:
        tagger, kind = make_tagger()
        fixed = fix_data(spec, checked, tagger)
        print("".join(f"fixed: {line}\n" for line in fixed), end="")
        if any(line.startswith("texts/") for line in fixed):
            print(f"parts of speech from {kind}")
        checked = check_data(spec, opt.workers, opt.quiet)
    print("".join(f"note: {line}\n" for line in checked.notes), end="")
    if checked.faults:
        print(fault_table(checked.faults, opt.shown), end="")
        print(f"{len(checked.faults)} faults in {len(checked.clips)} clips of {opt.root}")
        sys.exit(1)
    splits = ", ".join(f"{len(ids)} {split}" for split, ids in checked.splits.items())
    print(f"{len(checked.clips)} clips of {opt.root} are valid ({splits})")


if __name__ == "__main__":
    main()
