"""How sure a difference between two systems is: paired bootstrap over the examples of a test set."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.float64]
"""(M, D): what a score is made of, a row for each of M examples, or the sums over them, (D,)."""

Score = Callable[[Counts], float]
"""What the sums of counts over a test set give."""

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


def percentage(sums: Counts) -> float:
    """Of counts that are two: a hundred times the first of them over the second."""
    return float(100 * sums[0] / max(sums[1], 1))


def bounds(name: str, counts: Counts, score: Score) -> dict[str, float]:
    """The ends of the interval of one run's score, as metrics: ``bleu_low`` and ``bleu_high``."""
    found = interval([counts], score)
    return {f"{name}_low": found.low, f"{name}_high": found.high}


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
        >>> paired_difference([right], [wrong], percentage).value
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
    generator = np.random.default_rng(seed)
    rows = (generator.integers(number, size=number) for _ in range(samples))
    return np.array([np.mean([score(counts[chosen].sum(0)) for counts in runs]) for chosen in rows])
