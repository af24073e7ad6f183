"""How sure a difference between two systems is: paired bootstrap over the examples of a test set."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jiwer
import numpy as np
import numpy.typing as npt
from sacrebleu.metrics.bleu import BLEU, MAX_NGRAM_ORDER

from seqdyconv.scores.translation import bleu_metric

Counts = npt.NDArray[np.float64]
Score = Callable[[Counts], float]

SAMPLES = 1000


class Interval(NamedTuple):
    """A score or a difference, with the interval that holds it in 95% of the samples."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """How far a system is above a baseline, and how likely chance alone would make it as far."""

    value: float
    low: float
    high: float
    p: float


# What a score is made of: a row of counts for each example, whose sums over a corpus give the score.


def bleu_counts(
    predictions: Sequence[str], references: Sequence[str], language: str | None = None, tokenizer: str | None = None
) -> tuple[Counts, Score]:
    """Of BLEU: lengths of prediction and reference, n-grams that match, and n-grams."""
    metric = bleu_metric(language, tokenizer)
    rows = []
    for prediction, reference in zip(predictions, references, strict=True):
        found = metric.corpus_score([prediction], [[reference]])
        rows.append([found.sys_len, found.ref_len, *found.counts, *found.totals])

    def score(sums: Counts) -> float:
        numbers = [int(number) for number in sums]
        correct, total = numbers[2 : 2 + MAX_NGRAM_ORDER], numbers[2 + MAX_NGRAM_ORDER :]
        return BLEU.compute_bleu(
            correct, total, numbers[0], numbers[1], metric.smooth_method, metric.smooth_value
        ).score

    return np.array(rows, dtype=np.float64), score


def accuracy_counts(predictions: Sequence[str], references: Sequence[str]) -> tuple[Counts, Score]:
    """Of accuracy, in percent: right ones and all."""
    rows = [[prediction == reference, 1] for prediction, reference in zip(predictions, references, strict=True)]
    return np.array(rows, dtype=np.float64), _percentage


def error_counts(predictions: Sequence[str], references: Sequence[str], unit: str) -> tuple[Counts, Score]:
    """Of an error rate, in percent: errors and units of the reference. ``unit`` is word or character."""
    process: Any = {"word": jiwer.process_words, "character": jiwer.process_characters}[unit]
    rows = []
    for prediction, reference in zip(predictions, references, strict=True):
        found = process([reference], [prediction])
        rows.append([found.substitutions + found.deletions + found.insertions, sum(map(len, found.references))])
    return np.array(rows, dtype=np.float64), _percentage


def _percentage(sums: Counts) -> float:
    return float(100 * sums[0] / max(sums[1], 1))


# Samples


def interval(runs: Sequence[Counts], score: Score, samples: int = SAMPLES, seed: int = 0) -> Interval:
    """The mean score of some runs on one test set, and where it is if the test set is drawn anew.

    Args:
        runs: (M, D) counts of M examples for each run, such as those of several seeds.
        score: what the sums of counts give.
        samples: how often the test set is drawn from itself.
        seed: of these draws.

    Returns:
        The mean over runs and the 2.5th and 97.5th percentiles. What runs themselves differ by is not in it.
    """
    drawn = _drawn(runs, score, samples, seed)
    return Interval(_mean_score(runs, score), *_ends(drawn))


def paired_difference(
    runs: Sequence[Counts], baseline: Sequence[Counts], score: Score, samples: int = SAMPLES, seed: int = 0
) -> Difference:
    """How far the mean of some runs is above that of a baseline on the same examples (Koehn 2004).

    Both are scored on the same draws of the test set. The p-value (Riezler and Maxwell 2005) says how often a
    difference, less the mean one, is at least as large as the one that was measured, in either direction; sacreBLEU
    counts one. An example is drawn with all runs, so more seeds do not make a small test set larger.

    Args:
        runs: (M, D) counts for each run.
        baseline: likewise, perhaps of another number of runs.
        score: what the sums of counts give.
        samples: how often the test set is drawn from itself.
        seed: of these draws.

    Raises:
        ValueError: the test sets differ in size.

    Example:
        >>> right, wrong = np.array([[1.0, 1]] * 60), np.array([[0.0, 1]] * 60)
        >>> _, score = accuracy_counts([], [])
        >>> paired_difference([right], [wrong], score).value
        100.0
    """
    if len({len(counts) for counts in (*runs, *baseline)}) != 1:
        raise ValueError("the runs must have been scored on the same examples, got different numbers of them")
    drawn = _drawn(runs, score, samples, seed) - _drawn(baseline, score, samples, seed)
    value = _mean_score(runs, score) - _mean_score(baseline, score)
    p = (1 + np.sum(np.abs(drawn - drawn.mean()) >= abs(value))) / (1 + samples)
    low, high = _ends(drawn)
    return Difference(value, low, high, float(p))


def _ends(drawn: npt.NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(drawn, (2.5, 97.5))
    return float(low), float(high)


def _mean_score(runs: Sequence[Counts], score: Score) -> float:
    return float(np.mean([score(counts.sum(0)) for counts in runs]))


def _drawn(runs: Sequence[Counts], score: Score, samples: int, seed: int) -> npt.NDArray[np.float64]:
    """The mean score of the runs on each draw; equal numbers of examples and seeds give the same draws."""
    number = len(runs[0])
    rows = np.random.default_rng(seed).integers(number, size=(samples, number))
    return np.array([np.mean([score(counts[chosen].sum(0)) for counts in runs]) for chosen in rows])
