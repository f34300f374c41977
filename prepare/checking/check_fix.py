"""Repair split files, caption lines and statistics of a data set. Clip files are not changed."""
from collections.abc import Mapping

import numpy as np

from data.specs import DatasetSpec
from data.text import parse_caption
from prepare.captioning import Tagger
from prepare.checking.check import PARTS, UNUSABLE, Checked
from utils.errors import InputError
from utils.files import read_text, save_npy, write_text

_TAKEN_OUT = {*UNUSABLE, "split without file", "no captions", "twin without original", "twin in another split",
              "copy in another split"}


def fix_data(spec: DatasetSpec, checked: Checked, tagger: Tagger) -> list[str]:
    """Repair the faults that ``check_data`` found. Returns one line per change."""
    return [*_fix_captions(spec, checked, tagger), *_fix_splits(spec, checked), *_fix_statistics(spec, checked)]


def _fix_splits(spec: DatasetSpec, checked: Checked) -> list[str]:
    """Remove ids from splits where they cannot or must not be used. A clip in two parts stays in the test part."""
    gone = {fault.item for fault in checked.faults if fault.kind in _TAKEN_OUT}
    home = {name: part for part in PARTS for name in checked.splits.get(part, ())}  # the last one, test, wins
    gone |= {name for name, part in home.items() if name.startswith("M") and home.get(name[1:], part) != part}
    done = []
    for split, ids in checked.splits.items():
        kept = [name for name in dict.fromkeys(ids)
                if name not in gone and (split not in PARTS or home[name] == split)]
        if split == "train_val":
            kept = [name for name in kept if home.get(name) != "test"]
        if kept != ids:
            write_text(spec.root / f"{split}.txt", "".join(f"{name}\n" for name in kept))
            done.append(f"{split}.txt: {len(ids) - len(kept)} ids removed")
    return done


def _fix_captions(spec: DatasetSpec, checked: Checked, tagger: Tagger) -> list[str]:
    kinds: Mapping[str, int] = {"caption with #": 0, "caption without tokens": 0, "caption empty": 0,
                                "caption times": 0}
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
    """The repaired line, the line itself if it cannot be repaired, None if it is empty."""
    *texts, tokens, start, end = line.strip().split("#") if line.count("#") >= 3 else (line, "", "", "")
    try:
        caption = parse_caption(f"{' '.join(texts)}#{tokens}#{start}#{end}", "")
    except InputError:
        return line
    text = " ".join(caption.text.split())
    if not text:
        return None
    sound = caption.tokens and all("/" in token for token in caption.tokens)
    begin, finish = caption.start, caption.end
    if seconds is not None:
        finish = min(finish, seconds)
    if begin >= finish and not caption.whole_clip:
        return line
    return f"{text}#{' '.join(caption.tokens) if sound else tagger(text)}#{begin}#{finish}"


def _fix_statistics(spec: DatasetSpec, checked: Checked) -> list[str]:
    if checked.statistics is None or not any(fault.kind == "statistics" for fault in checked.faults):
        return []
    mean, std = checked.statistics.mean_std()
    save_npy(spec.root / "Mean.npy", mean.astype(np.float32))
    save_npy(spec.root / "Std.npy", np.where(std > 0, std, 1.0).astype(np.float32))
    return ["Mean.npy and Std.npy recomputed from all features"]
