"""Splits keep groups together, distribute kinds evenly and depend only on the seed."""
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.dataset import PARTS
from prepare.importing import ClipSource
from prepare.split_dataset import Member, main, split_by_group
from tests.toy import refusal, run_here

SHARES = {"train": 0.8, "val": 0.05, "test": 0.15}


def made(counts: dict[str, int], clips: int = 2) -> list[Member]:
    return [Member(f"{kind}{group:03d}_{clip}", f"{kind}{group}", kind)
            for kind, groups in counts.items() for group in range(groups) for clip in range(clips)]


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 30), min_size=3), st.integers(0, 5))
def test_every_clip_is_in_one_part_with_its_group(counts: dict[str, int], seed: int) -> None:
    members = made(counts)
    parts = split_by_group(members, SHARES, seed)
    assert sorted(clip for ids in parts.values() for clip in ids) == sorted(member.id for member in members)
    where = {clip: part for part, ids in parts.items() for clip in ids}
    assert all(len({where[m.id] for m in members if m.group == group}) == 1 for group in {m.group for m in members})
    assert all(parts.values())


def test_every_kind_has_about_the_same_shares() -> None:
    members = made({"a": 100, "b": 40, "c": 60})
    parts = split_by_group(members, SHARES, 0)
    for kind, total in (("a", 200), ("b", 80), ("c", 120)):
        counts = {part: Counter(clip[0] for clip in ids)[kind] for part, ids in parts.items()}
        assert counts == {part: pytest.approx(SHARES[part] * total, abs=4) for part in PARTS}


def test_the_seed_decides() -> None:
    members = made({"a": 50})
    assert split_by_group(members, SHARES, 1) == split_by_group(members[::-1], SHARES, 1)
    assert split_by_group(members, SHARES, 1) != split_by_group(members, SHARES, 2)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Forty clips of ten actors with mirrored twins, one of them without captions."""
    (tmp_path / "joints").mkdir()
    (tmp_path / "texts").mkdir()
    lines = []
    for number in range(40):
        name = f"c{number:02d}"
        lines.append(json.dumps(asdict(ClipSource(name, f"actor{number % 10}_{number}.bvh", 0, 3, "", "m", "y"))))
        np.save(tmp_path / "joints" / f"{name}.npy", np.zeros((60, 22, 3)))
        np.save(tmp_path / "joints" / f"M{name}.npy", np.zeros((60, 22, 3)))
        if number:
            (tmp_path / "texts" / f"{name}.txt").write_text("x#x/NOUN#0.0#0.0\n")
    (tmp_path / "sources.jsonl").write_text("\n".join(lines))
    return tmp_path


def test_the_script_keeps_actors_and_twins_together(root: Path, capsys) -> None:
    run_here(main, root, "--group", r"actor\d+", "--test", 0.2, "--val", 0.1, cwd=root)
    assert "1 clips without captions omitted" in capsys.readouterr().out
    parts = {part: (root / f"{part}.txt").read_text().split() for part in (*PARTS, "all", "train_val")}
    actors = {part: {int(clip[-2:]) % 10 for clip in parts[part]} for part in PARTS}
    assert sum(len(found) for found in actors.values()) == len(set.union(*actors.values())) == 10
    assert all(f"M{clip}" in ids for ids in parts.values() for clip in ids if clip.startswith("c"))
    assert sorted(parts["all"]) == sorted(parts["train"] + parts["val"] + parts["test"])
    assert len(parts["all"]) == 78
    assert parts["train_val"] == parts["train"] + parts["val"]


@pytest.mark.parametrize("flags", [("--val", 0.6, "--test", 0.5), ("--group", "("), ("--group", "x\\d+")])
def test_bad_flags_are_refused(root: Path, flags) -> None:
    assert flags[0] in refusal(main, root, *flags, cwd=root)
