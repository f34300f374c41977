"""Which clips train, validate and test: whole groups at a time, every kind in the same shares."""
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.errors import InputError
from utils.files import write_text

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Member:
    """A clip that goes where its group goes."""

    id: str
    group: str    # clips of a recording, of an actor ...: never apart
    stratum: str  # what is to be spread evenly


def split_by_group(members: Sequence[Member], shares: Mapping[str, float], seed: int) -> dict[str, list[str]]:
    """Ids of each part of ``PARTS``. ``shares`` sum to 1; the same members and seed give the same split.

    Within a stratum groups go in random order to the part that lacks most clips; what a small stratum leaves open the
    next one makes good. Raises ``InputError`` where there are fewer groups than parts.
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
        write_text(root / f"{name}.txt", "".join(f"{clip}\n" for clip in ids))
