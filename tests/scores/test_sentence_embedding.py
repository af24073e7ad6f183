"""Scores of embeddings, by hand and beside other libraries."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import ndcg_score

from seqdyconv.scores.sentence_embedding import agreement, bm25, clusters, cosines, neighbours, retrieval


def test_agreement_is_spearman_s_correlation_with_ties():
    generator = np.random.default_rng(0)
    one = generator.integers(0, 20, 200).astype(float)
    other = one + generator.normal(0, 5, 200)
    found = agreement(one, other)
    assert found["spearman"] == pytest.approx(100 * spearmanr(one, other).statistic)
    assert found["spearman_low"] < found["spearman"] < found["spearman_high"]


def test_ndcg_and_recall_by_hand():
    found = retrieval(np.stack([np.arange(12.0)] * 3), [[11], [9], [1]])  # in places 1, 3 and 11
    assert found["recall_at_10"] == pytest.approx(100 * 2 / 3)
    assert found["ndcg_at_10"] == pytest.approx(100 * (1 + 1 / 2) / 3)
    assert retrieval(np.zeros((2, 12)), [[0], [5]])["recall_at_10"] == 0  # what tells nothing finds nothing
    found = retrieval(np.full((2, 12), np.nan), [[0], [5]])
    assert (found["recall_at_10"], found["ndcg_at_10"]) == (0, 0)  # nor does what is no number


@pytest.mark.parametrize("seed", range(3))
def test_several_right_texts_count_as_elsewhere(seed):
    generator = np.random.default_rng(seed)
    scores = generator.normal(size=(5, 40))
    right = [generator.choice(40, number, replace=False).tolist() for number in (1, 2, 5, 12, 40)]
    truth = np.zeros((5, 40))
    for row, numbers in zip(truth, right):
        row[numbers] = 1
    found = retrieval(scores, right)
    assert found["ndcg_at_10"] == pytest.approx(100 * ndcg_score(truth, scores, k=10))
    first = np.take_along_axis(truth, (-scores).argsort(1)[:, :10], 1).sum(1)
    assert found["recall_at_10"] == pytest.approx(100 * (first / truth.sum(1)).mean())


def test_right_texts_of_equal_score_come_after_the_others_and_not_after_each_other():
    scores = np.array([[1.0, 1.0, 1.0, *[0.0] * 9]])
    assert retrieval(scores, [[0, 1]])["ndcg_at_10"] == pytest.approx(
        100 * (1 / np.log2(3) + 1 / 2) / (1 + 1 / np.log2(3))
    )


def test_bm25_of_texts_without_words_tells_nothing():
    assert bm25(["fish", "!"], ["?", "..."]).tolist() == [[0, 0], [0, 0]]


def test_bm25_by_hand():
    texts = ["fish fish bird", "fish", "a dog"]
    weights = np.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    length = np.array([3, 1, 2])
    times = np.array([2, 1, 0])
    expected = weights * times * 2.2 / (times + 1.2 * (0.25 + 0.75 * length / 2))
    np.testing.assert_allclose(bm25(["Fish!", "nothing"], texts), [expected, np.zeros(3)])


def test_labels_of_neighbours_and_clusters():
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 30)
    vectors = np.eye(3)[labels] + generator.normal(0, 0.1, (90, 3))
    assert clusters(5 * vectors, labels) == {"v_measure": 100}
    found = neighbours(vectors[::2], labels[::2], 3 * vectors[1::2], np.where(labels[1::2] == 2, 0, labels[1::2]))
    assert found["neighbour_accuracy"] == pytest.approx(100 * 2 / 3)
    np.testing.assert_allclose(cosines(vectors, -2 * vectors), -1)
