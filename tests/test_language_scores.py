"""LaMP's scores on a split, with known features."""
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from data.dataset import dataset_spec
from data.text_motion import Pair
from evaluation.report import Estimate
from evaluation.retrieval import LanguageScores, score_language
from models.config import SIMILARITIES
from models.lamp.features import text_inputs
from storage.generation import load_lamp
from utils import InputError

LEFT, RIGHT, WALK = "raises the left hand", "raises the right hand", "walks forward"
DIRECTIONS = {LEFT: (1.0, 0.0, 0.0), RIGHT: (0.0, 1.0, 0.0), WALK: (0.0, 0.0, 1.0)}


def pair(caption: str, rows: int) -> Pair:
    """Return a clip with the direction of its caption as features in every row."""
    return Pair(caption, np.tile(np.float32(DIRECTIONS[caption]), (rows, 1)), (caption,))


def score(pairs: list[Pair], text: Callable[[list[str]], Tensor]) -> LanguageScores:
    return score_language(pairs, lambda features: features, text,
                          lambda motion, m_lens: motion.sum(1) / m_lens[:, None])


def true_text(captions: list[str]) -> Tensor:
    return torch.tensor([DIRECTIONS[caption] for caption in captions])


def test_features_that_fit_find_every_motion_and_every_side() -> None:
    scores = score([pair(LEFT, 40), pair(RIGHT, 43), pair(WALK, 60)], true_text)
    assert scores.retrieval["all"]["t2m_R1"] == scores.retrieval["all"]["m2t_R1"] == Estimate(100, 0, 20)
    assert (scores.sides, scores.sided) == (100, 2)


def test_a_similarity_that_is_no_number_is_named() -> None:
    def text(captions: list[str]) -> Tensor:
        return torch.tensor([[torch.nan] * 3 if caption == WALK else DIRECTIONS[caption] for caption in captions])

    with pytest.raises(InputError, match="'walks forward' and the motion of raises the left hand is not finite"):
        score([pair(LEFT, 40), pair(WALK, 60)], text)


def test_motions_are_compared_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [pair(caption, 40 + row) for row, caption in enumerate((LEFT, RIGHT, WALK, LEFT, WALK))]
    shapes = []

    def compare(texts: Tensor, motions: Tensor) -> Tensor:
        shapes.append((len(texts), len(motions)))
        return texts @ motions.T

    def run() -> LanguageScores:
        return score_language(pairs, lambda features: features, true_text,
                              lambda motion, m_lens: motion.sum(1) / m_lens[:, None], compare=compare)

    whole = run()
    monkeypatch.setattr("evaluation.retrieval.PASS", 2)
    monkeypatch.setattr("evaluation.retrieval.CHUNK", 3)
    shapes.clear()
    assert run() == whole
    assert max(rows for rows, _ in shapes) == 3
    assert max(columns for _, columns in shapes) == 2


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
