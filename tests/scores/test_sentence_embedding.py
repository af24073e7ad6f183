"""Scores of embeddings, by hand and beside other libraries."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from seqdyconv.scores.sentence_embedding import agreement, bm25, clusters, cosines, neighbours, retrieval


def test_agreement_is_spearman_s_correlation_with_ties():
    generator = np.random.default_rng(0)
    one = generator.integers(0, 20, 200).astype(float)
    other = one + generator.normal(0, 5, 200)
    found = agreement(one, other)
    assert found["spearman"] == pytest.approx(100 * spearmanr(one, other).statistic)
    assert found["spearman_low"] < found["spearman"] < found["spearman_high"]


def test_ndcg_and_recall_by_hand():
    found = retrieval(np.stack([np.arange(12.0)] * 3), [11, 9, 1])  # in places 1, 3 and 11
    assert found["recall_at_10"] == pytest.approx(100 * 2 / 3)
    assert found["ndcg_at_10"] == pytest.approx(100 * (1 + 1 / 2) / 3)
    assert retrieval(np.zeros((2, 12)), [0, 5])["recall_at_10"] == 0  # what tells nothing finds nothing
    found = retrieval(np.full((2, 12), np.nan), [0, 5])
    assert (found["recall_at_10"], found["ndcg_at_10"]) == (0, 0)  # nor does what is no number


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
