"""Scores of captions, motions, retrieval and prompt checks, with known features, captions and motions."""
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from scipy import linalg
from scipy.spatial.distance import cdist
from torch import Tensor

from benchmarks import prompt_checks
from data.dataset import dataset_spec
from data.text import spacy_pipeline
from data.text_motion import Pair
from evaluation import caption_scores, metrics, retrieval
from evaluation.generation import KEY, LampBertScore
from evaluation.protocol import Row
from evaluation.report import Estimate
from evaluation.retrieval import LanguageScores, score_language
from models.config import SIMILARITIES
from models.lamp.features import text_inputs
from models.text_to_motion import Sample
from storage.generation import load_lamp
from tests import figures
from tests.toy import WITHOUT_TORCH, make_bert, run_here, run_script
from utils import InputError


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_r_precision_compares_within_a_batch_only_and_leaves_the_rest_out(rng):
    embeddings = np.tile(rng.normal(size=(32, 8)), (2, 1))  # every motion occurs twice, but in different batches
    unfinished = np.concatenate([embeddings, rng.normal(size=(5, 8))])
    motion = unfinished + np.r_[np.zeros((64, 8)), np.full((5, 8), 100.0)]
    np.testing.assert_array_equal(metrics.r_precision(unfinished, motion), [1, 1, 1])
    with pytest.raises(ValueError, match="31 pairs"):
        metrics.r_precision(embeddings[:31], embeddings[:31])


def test_fid_is_that_of_the_matrix_root_and_distances_are_those_of_pairs(rng):
    one, other, shift = rng.normal(size=(90, 8)) @ rng.normal(size=(8, 8)), rng.normal(size=(80, 8)), rng.normal(size=8)
    means, covs = ([f(a) for a in (one, other)] for f in (lambda a: a.mean(0), lambda a: np.cov(a.T)))
    root = linalg.sqrtm(covs[0] @ covs[1]).real
    expected = np.square(means[0] - means[1]).sum() + np.trace(covs[0] + covs[1] - 2 * root)
    assert metrics.fid(one, other) == pytest.approx(expected)
    assert metrics.matching_score(one, one + shift) == pytest.approx(np.linalg.norm(shift))
    repeats = np.arange(3)[:, None, None] * 9.0 + np.arange(2)[:, None] * np.ones(4)  # at distances of 0 or 2
    assert {metrics.multimodality(repeats, np.random.RandomState(seed), 2) for seed in range(20)} == {0, 2}


@pytest.mark.parametrize(("rows", "pairs"), [(301, 300), (300, 100), (150, 100)])
def test_diversity_draws_more_pairs_from_more_samples(rows, pairs):
    embeddings = np.random.default_rng(1).normal(size=(rows, 4))
    first = np.random.RandomState(3)
    expected = cdist(embeddings[first.choice(rows, pairs, replace=False)],
                     embeddings[first.choice(rows, pairs, replace=False)]).diagonal().mean()
    assert metrics.diversity(embeddings, np.random.RandomState(3)) == pytest.approx(expected)


def test_the_two_ways_differ_by_the_transpose_and_equal_captions_are_hits():
    similarity = np.array([[2.0, 3, 0], [1, 4, 0], [0, 5, 1]])
    scores, flipped = retrieval.retrieval_scores(similarity), retrieval.retrieval_scores(similarity.T)
    assert retrieval.best_ranks(similarity, np.eye(3, dtype=bool)).tolist() == [2, 1, 2]
    assert scores["t2m_R1"] == pytest.approx(100 / 3) and scores["t2m_R2"] == 100 and scores["t2m_MedR"] == 2
    assert [flipped[f"m2t_{name}"] for name in ("R1", "R2", "MedR")] == \
        [scores[f"t2m_{name}"] for name in ("R1", "R2", "MedR")]

    similarity = np.array([[1.0, 2, 0], [2, 1, 0], [0, 0, 1]])
    same = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=bool)
    assert retrieval.retrieval_scores(similarity)["t2m_R1"] == pytest.approx(100 / 3)
    assert retrieval.retrieval_scores(similarity, same)["t2m_R1"] == 100


def test_steady_scores_are_means_over_the_same_shufflings_every_time(rng):
    similarity = rng.normal(size=(70, 70)) + np.eye(70)
    scores = [retrieval.batched_retrieval(similarity, rng=np.random.default_rng(seed)) for seed in range(10)]
    steady = retrieval.steady_retrieval(similarity)
    assert steady == retrieval.steady_retrieval(similarity)
    assert steady["t2m_R3"] == pytest.approx(np.mean([one["t2m_R3"] for one in scores]))
    assert retrieval.steady_retrieval(similarity[:31, :31]) == retrieval.retrieval_scores(similarity[:31, :31])


def test_protocols_come_out_of_one_call(rng):
    text = rng.normal(size=(40, 8))
    similarity = -cdist(text, text)
    sentences = np.eye(40)[np.arange(40) // 2]  # pairs of equal captions
    scores = retrieval.retrieval_protocols(similarity, sentences, rng)
    assert scores.keys() == {"all", "threshold", "batches"}
    assert all(protocol["m2t_R1"] == 100 for protocol in scores.values())
    assert "batches" not in retrieval.retrieval_protocols(similarity[:8, :8], sentences[:8], rng)
    exchanged = np.arange(40) ^ 1  # every text finds the motion of its equal caption
    scores = retrieval.retrieval_protocols(similarity[exchanged], sentences, rng)
    assert scores["all"]["t2m_R1"] == 0
    assert scores["threshold"]["t2m_R1"] == scores["threshold"]["m2t_R1"] == 100

    similarity, rng = np.array([[0.0, 1.0], [1.0, 0.0]]), np.random.default_rng(0)
    for cosine, recall in ((0.91, 100), (0.89, 0)):
        sentences = np.array([[1, 0], [cosine, (1 - cosine**2) ** 0.5]])
        assert retrieval.retrieval_protocols(similarity, sentences, rng)["threshold"]["t2m_R1"] == recall

    kinds = np.arange(240) % 100
    scores = retrieval.retrieval_protocols(np.eye(100)[kinds] @ np.eye(100)[kinds].T, np.eye(100)[kinds], rng)
    assert scores["dissimilar"]["t2m_R1"] == 100  # otherwise two or three share the first place
    assert scores["all"]["t2m_R1"] < 100
    alike = np.eye(100)[kinds] @ np.eye(100)[kinds].T
    assert sorted(kinds[retrieval.least_alike(alike, 100)]) == list(range(100))


LEFT, RIGHT, AHEAD = "raises the left hand", "raises the right hand", "walks forward"
DIRECTIONS = {LEFT: (1.0, 0.0, 0.0), RIGHT: (0.0, 1.0, 0.0), AHEAD: (0.0, 0.0, 1.0)}


def directed(caption: str, rows: int) -> Pair:
    return Pair(caption, np.tile(np.float32(DIRECTIONS[caption]), (rows, 1)), (caption,))


def score(pairs: list[Pair], text: Callable[[list[str]], Tensor], **more: object) -> LanguageScores:
    return score_language(pairs, lambda features: features, text,
                          lambda motion, m_lens: motion.sum(1) / m_lens[:, None], **more)


def true_text(captions: list[str]) -> Tensor:
    return torch.tensor([DIRECTIONS[caption] for caption in captions])


def test_features_that_fit_find_every_side_and_a_similarity_that_is_no_number_is_named() -> None:
    scores = score([directed(LEFT, 40), directed(RIGHT, 43), directed(AHEAD, 60)], true_text)
    assert scores.retrieval["all"]["t2m_R1"] == scores.retrieval["all"]["m2t_R1"] == Estimate(100, 0, 20)
    assert (scores.sides, scores.sided) == (100, 2)

    def text(captions: list[str]) -> Tensor:
        return torch.tensor([[torch.nan] * 3 if caption == AHEAD else DIRECTIONS[caption] for caption in captions])

    with pytest.raises(InputError, match="'walks forward' and the motion of raises the left hand is not finite"):
        score([directed(LEFT, 40), directed(AHEAD, 60)], text)


def test_motions_are_compared_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [directed(caption, 40 + row) for row, caption in enumerate((LEFT, RIGHT, AHEAD, LEFT, AHEAD))]
    whole, shapes = score(pairs, true_text), set()
    monkeypatch.setattr("evaluation.retrieval.PASS", 2)
    monkeypatch.setattr("evaluation.retrieval.CHUNK", 3)
    assert score(pairs, true_text, compare=lambda texts, motions: shapes.add((len(texts), len(motions)))
                 or texts @ motions.T) == whole
    assert max(shapes) == (3, 2)


@pytest.mark.parametrize("kind", SIMILARITIES)
def test_each_similarity_is_its_formula(kind: str, toy_models: Path) -> None:
    lamp = load_lamp("lamp", dataset_spec("t2m"), toy_models)
    by, captions = lamp.comparison(kind), ["a person walks", "someone waves with the left hand"]
    motion, m_lens = torch.randn(3, 196, 263, generator=torch.Generator().manual_seed(0)), torch.tensor([196, 80, 120])
    queries, text = lamp.model.motion_query_features(motion, m_lens), lamp.text_features(captions)
    if kind == "released":
        inputs = text_inputs(lamp.model, lamp.pieces, captions, lamp.max_text_len)
        texts, motions = lamp.model.text_embedding(*inputs), lamp.model.motion_embedding(motion, m_lens)
        expected = -(texts[:, None] - motions[None]).norm(dim=-1)
    elif kind == "paper":
        expected = torch.einsum("te,mqe->tmq", text, queries).amax(-1)
    else:
        expected = text @ torch.nn.functional.normalize(queries.mean(1), dim=-1).T
    torch.testing.assert_close(by.similarity(by.texts(captions), by.motions(motion, m_lens)), expected)


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
def test_named_sides_are_judged(caption: str, references: list[str], expected: tuple[float | None, int]) -> None:
    scores = caption_scores.side_scores([caption], [references])
    assert (scores.get("sides_right"), scores["sided"]) == expected


def test_matching_needs_full_batches_for_its_precision() -> None:
    motions = 10 * np.eye(32, dtype=np.float32)
    found = {"r_precision1": 100, "r_precision2": 100, "r_precision3": 100, "mm_dist": 0}
    assert caption_scores.matching_scores(motions, motions) == found
    assert caption_scores.matching_scores(motions[:5], motions[:5]) == {"mm_dist": 0}
    assert caption_scores.matching_scores(np.roll(motions, 1, 0), motions)["r_precision1"] == 0


def test_baselines_are_captions_of_training() -> None:
    assert caption_scores.most_common_caption([*PAIRS, pair("3", WAVE)]) == WAVE
    known, asked = np.eye(3, dtype=np.float32), np.float32([[0, 0.1, 0.9], [1, 0, 0]])
    assert caption_scores.nearest_captions(asked, known, PAIRS) == [TURN, WALK]


def test_lemmatised_references_forgive_endings_and_raw_ones_do_not() -> None:
    told = ["a persons walk forward slowly", "he wave with the left hands", "someone turn clockwise twice"]
    lexicon = caption_scores.Lexicon([*PAIRS, pair("5", "persons hands")])
    raw, lemmas = (caption_scores.CaptionScorer(PAIRS, lexicon, style) for style in ("raw", "lemmatised"))
    assert lemmas(told)["bleu4"] == pytest.approx(100, abs=1e-3)
    assert raw(told)["bleu4"] < 60
    assert raw.settings["reference_style"] != lemmas.settings["reference_style"]


def test_verbatim_texts_are_compared_as_they_are_and_raw_ones_cleaned() -> None:
    written = replace(pair("0", "a person walks"), verbatim=("A person walks!",))
    scorers = {style: caption_scores.CaptionScorer([written], caption_scores.Lexicon([written]), style)
               for style in ("verbatim", "raw")}
    for caption, verbatim, raw in (("A person walks!", 100, 100), ("a person walks", 100 / 3, 100)):
        assert scorers["verbatim"]([caption])["bleu1"] == pytest.approx(verbatim)
        assert scorers["raw"]([caption])["bleu1"] == pytest.approx(raw)


def test_spacy_lemmatises_words_that_no_training_caption_has() -> None:
    pipeline = spacy_pipeline()
    if pipeline is None:
        pytest.skip("spaCy's model is not installed")
    words = "a person juggles torches"
    assert caption_scores.Lexicon(PAIRS, pipeline).lemmas(words) == "a person juggle torch"
    assert caption_scores.Lexicon(PAIRS).lemmas(words) == words


SCORED = [{"references": ["a man walks forward.", "The person walks  ahead"], "caption": "a man walks ahead"},
          {"references": ["he waves, with his left hand"], "caption": "He waves with the left hand."},
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
        caption_scores.read_scored(file)


def test_bert_score_prefers_the_true_caption_and_reports_its_settings(tmp_path) -> None:
    score = caption_scores.BertScore(str(make_bert(tmp_path / "bert")), layer=2)
    captions = ["a person walks forward", "a person bows"]
    true = score(captions, [[captions[0], "a man walks backwards"], [captions[1]]])
    assert true == pytest.approx(100, abs=0.01)
    assert score(captions[::-1], [[text] for text in captions]) < true - 0.01
    assert "layer 2, not rescaled" in score.settings
    assert score(["", "a person walks"], [["a person walks"]] * 2) == pytest.approx(50, abs=0.1)
    assert score([""], [["a person walks"]]) == 0


CAPTIONS = ("a person walks", "somebody strolls", "one goes ahead")


def same_words(captions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    return 100 * float(np.mean([caption in texts for caption, texts in zip(captions, references, strict=True)]))


def test_the_best_caption_of_a_motion_meets_its_own_prompt_and_motions_that_are_not_finite_are_named() -> None:
    clips = [np.zeros((40, 3), np.float32)] * 6
    pairs = [Pair(str(number), clip, CAPTIONS, frozenset(), ((),) * 3) for number, clip in enumerate(clips)]
    one = LampBertScore(pairs, clips, lambda motions: [[CAPTIONS[int(motion[0, 0])], "second best"]
                                                       for motion in motions], same_words, 0)
    rows = {name: Row({}, ["before"]) for name in ("right", "wrong", "some", "none", "other")}

    def generate(samples: Sequence[Sample]) -> dict[str, list[np.ndarray]]:
        assert samples == one.samples
        right = [np.full((40, 3), CAPTIONS.index(sample.text), np.float32) for sample in samples]
        return {"right": right, "wrong": [(motion + 1) % 3 for motion in right],
                "some": [np.full((40, 3), math.nan), *right[1:]], "none": [np.full((40, 3), math.inf)] * 6}

    one.add_generated(rows, generate)
    assert [rows[name].numbers[KEY].mean for name in ("right", "wrong", "some")] == [100, 0, 100]
    assert math.isnan(rows["none"].numbers[KEY].mean)
    assert rows["some"].faults == ["before", f"0, {one.samples[0].text!r}, {KEY}"]
    assert len(rows["none"].faults) == 7
    assert rows["other"] == Row({}, ["before"])


PROMPTS = [{"text": f"raise the {side} hand", "group": "raise", "checks": [f"raises_{side}_hand"], "pair": "raise",
         "measure": "hand", "side": side} for side in ("left", "right")]


def test_the_script_judges_motions_made_elsewhere(tmp_path: Path, capsys) -> None:
    (tmp_path / "prompts.json").write_text(json.dumps(PROMPTS))
    for index, side in enumerate(("left", "right")):
        np.save(prompt_checks.joints_path(tmp_path, index, 0), figures.raising(side))
    run_here(prompt_checks.main, "--prompts", "prompts.json", "--joints", tmp_path, "--seeds", 1, "--out", "out.json",
             "--strips", "strips", cwd=tmp_path)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "overall: 2 of    2  100.0 % passed, 1 of 1 left/right pairs distinguished"
    assert json.loads((tmp_path / "out.json").read_text())["overall"]["passed"] == 2
    assert sorted(path.name for path in (tmp_path / "strips").iterdir()) == ["00.png", "01.png"]
