"""What embeddings of texts are worth: agreement with a teacher's, retrieval, clusters, nearest neighbours; and BM25."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from scipy.stats import rankdata
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import v_measure_score

from seqdyconv.scores.bootstrap import Counts, bounds, percentage

Array = npt.NDArray[Any]
DEPTH = 10
"""How far down a list of results is looked."""


def cosines(one: Array, other: Array) -> Array:
    """(N,) of N pairs of embeddings (N, D).

    Example:
        >>> cosines(np.array([[1.0, 0], [1, 1]]), np.array([[3.0, 0], [1, 0]])).round(4).tolist()
        [1.0, 0.7071]
    """
    return np.asarray((unit(one) * unit(other)).sum(1))


def unit(vectors: Array) -> Array:
    """Vectors of length one, in float64; one of zeros stays so."""
    wide = np.asarray(vectors, dtype=np.float64)
    return np.asarray(wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12))


def agreement(found: Array, expected: Array) -> dict[str, float]:
    """A hundred times Spearman's correlation of two encoders' cosines of the same pairs of texts, with its interval.

    In draws of the pairs, the ranks are those of all pairs.

    Args:
        found, expected: (N,) cosines of N pairs.

    Returns:
        spearman, spearman_low and spearman_high.

    Example:
        >>> agreement(np.array([0.1, 0.2, 0.3]), np.array([0.0, 0.5, 0.9]))["spearman"]
        100.0
    """
    x, y = (rankdata(values) - (len(found) + 1) / 2 for values in (found, expected))
    counts = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)
    return {"spearman": round(_correlation(counts.sum(0)), 9), **bounds("spearman", counts, _correlation)}


def retrieval(scores: Array, right: Sequence[Sequence[int]]) -> dict[str, float]:
    """nDCG and recall among the first ten results, in percent, with their intervals.

    Args:
        scores: (N, M) of N queries and M texts, the best text's the highest. Of equal ones the right texts come last.
        right: of each of the N queries the numbers of the texts that answer it, at least one.

    Returns:
        ndcg_at_10 and recall_at_10, each with _low and _high.

    Example:
        >>> retrieval(np.array([[0.9, 0.1], [0.8, 0.2]]), [[0], [0, 1]])["recall_at_10"]
        100.0
    """
    ndcg, recall = np.zeros(len(right)), np.zeros(len(right))
    for query, (row, numbers) in enumerate(zip(scores, right)):
        own = -np.sort(-row[list(numbers)])
        before = (~(np.delete(row, list(numbers)) < own[:, None])).sum(1)  # a NaN is nowhere below
        places = before + np.arange(1, len(own) + 1)
        places = places[places <= DEPTH]
        best = np.arange(1, min(len(own), DEPTH) + 1)
        ndcg[query] = (1 / np.log2(1 + places)).sum() / (1 / np.log2(1 + best)).sum()
        recall[query] = len(places) / len(own)
    return _mean(f"ndcg_at_{DEPTH}", ndcg) | _mean(f"recall_at_{DEPTH}", recall)


def neighbours(train: Array, train_labels: Sequence[int], test: Array, test_labels: Sequence[int]) -> dict[str, float]:
    """How many texts have the label of the training text whose embedding is nearest by cosine, in percent.

    Returns:
        neighbour_accuracy, with _low and _high.

    Example:
        >>> neighbours(np.eye(2), [0, 1], np.array([[2.0, 1], [1, 2]]), [0, 0])["neighbour_accuracy"]
        50.0
    """
    known = unit(train).T
    rows = np.array_split(unit(test), max(1, len(test) // 1000))
    nearest = np.concatenate([(part @ known).argmax(1) for part in rows])
    return _mean("neighbour_accuracy", np.asarray(train_labels)[nearest] == np.asarray(test_labels))


def clusters(embeddings: Array, labels: Sequence[int], seeds: Sequence[int] = (0, 1, 2)) -> dict[str, float]:
    """The v-measure, in percent, of k-means of the embeddings, as many clusters as labels: the mean over some seeds.

    Returns:
        v_measure.

    Example:
        >>> clusters(np.array([[0.0, 1], [0, 1.1], [1, 0], [1.1, 0]]), [0, 0, 1, 1])
        {'v_measure': 100.0}
    """
    vectors, number = unit(embeddings), len(set(labels))
    found = [KMeans(number, n_init=1, random_state=seed).fit(vectors).labels_ for seed in seeds]
    return {"v_measure": 100 * float(np.mean([v_measure_score(labels, each) for each in found]))}


def bm25(queries: Sequence[str], texts: Sequence[str], k1: float = 1.2, b: float = 0.75) -> Array:
    """Scores (N, M) of N queries and M texts by their words in common (Robertson and Zaragoza 2009, Lucene's idf).

    Args:
        queries, texts: words are letters and digits, lower-cased.
        k1: how much more a word counts that stands more often.
        b: how much a long text is discounted.

    Example:
        >>> bm25(["red fish"], ["a red fish", "one fish", "no bird"]).argsort()[0].tolist()
        [2, 1, 0]
    """
    vectorizer = CountVectorizer(token_pattern=r"(?u)\b\w+\b")
    if not any(map(vectorizer.build_analyzer(), texts)):  # of which scikit-learn makes nothing
        return np.zeros((len(queries), len(texts)))
    counts: Any = vectorizer.fit_transform(texts).astype(np.float64)
    lengths = np.asarray(counts.sum(1)).ravel()
    holding = np.bincount(counts.indices, minlength=counts.shape[1])
    rarity = np.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
    rows = np.repeat(np.arange(len(texts)), np.diff(counts.indptr))
    discount = k1 * (1 - b + b * lengths[rows] / max(lengths.mean(), 1e-12))
    values = rarity[counts.indices] * counts.data * (1 + k1) / (counts.data + discount)
    weights = csr_matrix((values, counts.indices, counts.indptr), counts.shape)
    asked: Any = vectorizer.transform(queries).astype(np.float64)
    return np.asarray((asked @ weights.T).toarray())


def _mean(name: str, values: Array) -> dict[str, float]:
    """The mean in percent, with its interval."""
    counts = np.stack([values.astype(np.float64), np.ones(len(values))], axis=1)
    return {name: percentage(counts.sum(0)), **bounds(name, counts, percentage)}


def _correlation(sums: Counts) -> float:
    number, x, y, xx, yy, xy = sums
    spread = (xx - x * x / number) * (yy - y * y / number)
    return float(100 * (xy - x * y / number) / max(spread, 1e-12) ** 0.5)
