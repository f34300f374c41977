"""Properties of metrics and retrieval scores."""
import numpy as np
import pytest
from scipy import linalg
from scipy.spatial.distance import cdist

from evaluation import metrics, retrieval


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_fid_of_a_shifted_set_is_the_squared_shift(rng):
    embeddings, shift = rng.normal(size=(200, 16)), rng.normal(size=16)
    assert metrics.fid(embeddings, embeddings + shift) == pytest.approx(np.square(shift).sum())


def test_frechet_distance_is_that_of_the_matrix_root(rng):
    sets = (rng.normal(size=(90, 12)) @ rng.normal(size=(12, 12)) for _ in range(2))
    (mean_a, cov_a), (mean_b, cov_b) = (metrics.mean_and_covariance(embeddings) for embeddings in sets)
    root = linalg.sqrtm(cov_a @ cov_b).real
    expected = np.square(mean_a - mean_b).sum() + np.trace(cov_a + cov_b - 2 * root)
    assert metrics.frechet_distance(mean_a, cov_a, mean_b, cov_b) == pytest.approx(expected)


def test_r_precision_compares_within_a_batch_only_and_leaves_the_rest_out(rng):
    embeddings = np.tile(rng.normal(size=(32, 8)), (2, 1))  # every motion occurs twice, but in different batches
    unfinished = np.concatenate([embeddings, rng.normal(size=(5, 8))])
    motion = unfinished + np.r_[np.zeros((64, 8)), np.full((5, 8), 100.0)]
    np.testing.assert_array_equal(metrics.r_precision(unfinished, motion), [1, 1, 1])
    with pytest.raises(ValueError, match="31 pairs"):
        metrics.r_precision(embeddings[:31], embeddings[:31])


@pytest.mark.parametrize(("rows", "pairs"), [(301, 300), (300, 100), (150, 100)])
def test_diversity_draws_more_pairs_from_more_samples(rows, pairs):
    embeddings = np.random.default_rng(1).normal(size=(rows, 4))
    first = np.random.RandomState(3)
    expected = cdist(embeddings[first.choice(rows, pairs, replace=False)],
                     embeddings[first.choice(rows, pairs, replace=False)]).diagonal().mean()
    assert metrics.diversity(embeddings, np.random.RandomState(3)) == pytest.approx(expected)


def test_the_two_ways_differ_by_the_transpose():
    similarity = np.array([[2.0, 3, 0], [1, 4, 0], [0, 5, 1]])
    scores, flipped = retrieval.retrieval_scores(similarity), retrieval.retrieval_scores(similarity.T)
    assert retrieval.best_ranks(similarity, np.eye(3, dtype=bool)).tolist() == [2, 1, 2]
    assert scores["t2m_R1"] == pytest.approx(100 / 3) and scores["t2m_R2"] == 100 and scores["t2m_MedR"] == 2
    assert [flipped[f"m2t_{name}"] for name in ("R1", "R2", "MedR")] == \
        [scores[f"t2m_{name}"] for name in ("R1", "R2", "MedR")]


def test_any_sample_with_the_same_caption_is_a_hit():
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


def test_captions_count_as_one_from_a_cosine_of_nine_tenths():
    similarity, rng = np.array([[0.0, 1.0], [1.0, 0.0]]), np.random.default_rng(0)
    for cosine, recall in ((0.91, 100), (0.89, 0)):
        sentences = np.array([[1, 0], [cosine, (1 - cosine**2) ** 0.5]])
        assert retrieval.retrieval_protocols(similarity, sentences, rng)["threshold"]["t2m_R1"] == recall


def test_the_dissimilar_subset_has_one_of_every_kind(rng):
    kinds = np.arange(240) % 100
    scores = retrieval.retrieval_protocols(np.eye(100)[kinds] @ np.eye(100)[kinds].T, np.eye(100)[kinds], rng)
    assert scores["dissimilar"]["t2m_R1"] == 100  # otherwise two or three share the first place
    assert scores["all"]["t2m_R1"] < 100
    alike = np.eye(100)[kinds] @ np.eye(100)[kinds].T
    assert sorted(kinds[retrieval.least_alike(alike, 100)]) == list(range(100))
