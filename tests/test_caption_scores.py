"""Caption scores of captions with known scores."""
import json
import re
from pathlib import Path

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from data.text import spacy_pipeline
from data.text_motion import Pair
from evaluation.caption_scores import (
    BertScore,
    CaptionScorer,
    Lexicon,
    matching_scores,
    most_common_caption,
    nearest_captions,
    read_scored,
    side_scores,
)
from tests.toy import WITHOUT_TORCH, make_bert, run_script
from utils import InputError

WALK, WAVE, TURN = "a person walks forward slowly", "he waves with the left hand", "someone turns clockwise twice"


def pair(name: str, *captions: str) -> Pair:
    """Return a clip whose tokens are the words of its captions without a final s."""
    tokens = tuple(tuple(f"{word.rstrip('s')}/NOUN" for word in caption.split()) for caption in captions)
    return Pair(name, np.zeros((40, 3), np.float32), captions, frozenset(), tokens)


PAIRS = [pair("0", WALK, "a man walks ahead with small steps"), pair("1", WAVE), pair("2", TURN)]


@pytest.mark.parametrize(("caption", "references", "expected"), [
    ("raises the left hand", ["the left arm goes up", "a hand goes up"], (100, 1)),
    ("raises the right hand", ["the left arm goes up"], (0, 1)),
    ("raises both the left and the right hand", ["the left arm goes up"], (0, 1)),
    ("raises a hand", ["the left arm goes up"], (None, 0)),
    ("raises a hand with no energy left", ["the left arm goes up"], (None, 0)),
    ("raises the left hand", ["left, then right"], (None, 0)),
    ("raises the left hand", ["raises a hand"], (None, 0)),
    ("turns anticlockwise", ["a counter-clockwise turn"], (100, 1)),
    ("turns clockwise with the left arm up", ["counterclockwise, the left arm up"], (50, 2)),
])
def test_sides_are_judged_where_the_references_name_one(caption: str, references: list[str],
                                                        expected: tuple[float | None, int]) -> None:
    scores = side_scores([caption], [references])
    assert (scores.get("sides_right"), scores["sided"]) == expected


def test_matching_needs_full_batches_for_its_precision() -> None:
    motions = 10 * np.eye(32, dtype=np.float32)
    assert matching_scores(motions, motions) == {"r_precision1": 100, "r_precision2": 100, "r_precision3": 100,
                                                 "mm_dist": 0}
    assert matching_scores(motions[:5], motions[:5]) == {"mm_dist": 0}
    assert matching_scores(np.roll(motions, 1, 0), motions)["r_precision1"] == 0


def test_baselines_are_captions_of_training() -> None:
    assert most_common_caption([*PAIRS, pair("3", WAVE)]) == WAVE
    known, asked = np.eye(3, dtype=np.float32), np.float32([[0, 0.1, 0.9], [1, 0, 0]])
    assert nearest_captions(asked, known, PAIRS) == [TURN, WALK]


def test_lemmatised_references_forgive_endings_and_raw_ones_do_not() -> None:
    told = ["a persons walk forward slowly", "he wave with the left hands", "someone turn clockwise twice"]
    lexicon = Lexicon([*PAIRS, pair("5", "persons hands")])
    raw, lemmas = (CaptionScorer(PAIRS, lexicon, style) for style in ("raw", "lemmatised"))
    assert lemmas(told)["bleu4"] == pytest.approx(100, abs=1e-3)
    assert raw(told)["bleu4"] < 60
    assert raw.settings["reference_style"] != lemmas.settings["reference_style"]


def test_spacy_lemmatises_words_that_no_training_caption_has() -> None:
    pipeline = spacy_pipeline()
    if pipeline is None:
        pytest.skip("spaCy's model is not installed")
    words = "a person juggles torches"
    assert Lexicon(PAIRS, pipeline).lemmas(words) == "a person juggle torch"
    assert Lexicon(PAIRS).lemmas(words) == words


SCORED = [{"references": ["a man walks forward.", "The person walks  ahead"], "caption": "a man walks ahead"},
          {"references": ["he waves, with his left hand"], "caption": "A person waves with the left hand."},
          {"references": ["someone turns around twice"], "caption": "someone turns around"}]


def test_captions_of_a_file_get_the_scores_of_coco_without_torch(tmp_path: Path) -> None:
    (tmp_path / "captions.json").write_text(json.dumps(SCORED))
    done = run_script("M2T_eval.py", "--score_captions", "captions.json", "--out", "scores.json", cwd=tmp_path,
                      options=WITHOUT_TORCH)
    scores = json.loads((tmp_path / "scores.json").read_text())
    made, true = ({row: entry["references"] if key else [entry["caption"]] for row, entry in enumerate(SCORED)}
                  for key in (0, 1))
    bleu = Bleu(4).compute_score(true, made, verbose=0)[0]
    expected = {f"bleu{n}": value for n, value in enumerate(bleu, 1)}
    expected |= {"rougeL": Rouge().compute_score(true, made)[0], "cider": Cider().compute_score(true, made)[0]}
    assert scores == pytest.approx(expected, abs=1e-9)
    assert scores["bleu1"] < 1  # a fraction; words are compared with case and punctuation
    for key, name in (("bleu4", "BLEU@4"), ("rougeL", "ROUGE-L"), ("cider", "CIDEr")):
        assert re.search(rf"{name} +{scores[key]:.4f}", done.stdout)


@pytest.mark.parametrize(("content", "named"), [
    ("[", "is not JSON"), ({}, "must be a non-empty"), ([], "must be a non-empty"), ([1], "entry 1"),
    ([SCORED[0], {"caption": "a", "references": "b"}], "entry 2: references"),
    ([{"caption": "a", "references": []}], "entry 1: references"), ([{"references": ["a"]}], "entry 1: caption must"),
])
def test_a_file_without_captions_and_references_is_named(tmp_path: Path, content: object, named: str) -> None:
    file = tmp_path / "captions.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError, match=f"captions.json.*{named}"):
        read_scored(file)


def test_bert_score_prefers_the_true_caption_and_reports_its_settings(tmp_path) -> None:
    score = BertScore(str(make_bert(tmp_path / "bert")), layer=2)
    captions = ["a person walks forward", "a person bows"]
    true = score(captions, [[captions[0], "a man walks backwards"], [captions[1]]])
    assert true == pytest.approx(100, abs=0.01)
    assert score(captions[::-1], [[text] for text in captions]) < true - 0.01
    assert "layer 2, not rescaled" in score.settings
    assert score(["", "a person walks"], [["a person walks"]] * 2) == pytest.approx(50, abs=0.1)
    assert score([""], [["a person walks"]]) == 0
