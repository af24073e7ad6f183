"""Intervals and paired differences, against sacreBLEU's own and by counting."""

import random
import tracemalloc

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.significance import PairedTest

from seqdyconv.scores import speech_recognition
from seqdyconv.scores.bootstrap import bounds, interval, paired_difference, percentage
from seqdyconv.scores.speech_recognition import error_counts
from seqdyconv.scores.text_classification import accuracy_counts
from seqdyconv.scores.translation import bleu_counts

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "looked", "at", "dogs", "in", "rain"]


def corpus(seed: int, noise: float, lines: int = 150) -> tuple[list[str], list[str]]:
    generator = random.Random(0)
    references = [" ".join(generator.choices(WORDS, k=generator.randint(5, 15))) for _ in range(lines)]
    generator = random.Random(seed)
    changed = [[generator.choice(WORDS) if generator.random() < noise else w for w in r.split()] for r in references]
    return [" ".join(words) for words in changed], references


def test_bleu_is_sacrebleu_s():
    (ours, references), (other, _) = corpus(1, 0.2), corpus(2, 0.22)
    counts, score = bleu_counts(ours, references)
    others, _ = bleu_counts(other, references)
    assert score(counts.sum(0)) == pytest.approx(BLEU().corpus_score(ours, [references]).score)
    systems = [("other", other), ("ours", ours)]
    _, found = PairedTest(systems, {"BLEU": BLEU()}, [references], test_type="bs", n_samples=1000)()
    expected = found["BLEU"][1]
    mean = interval([counts], score)
    assert (mean.high - mean.low) / 2 == pytest.approx(expected.ci, rel=0.1)
    difference = paired_difference([counts], [others], score)
    assert difference.value == pytest.approx(expected.score - found["BLEU"][0].score)
    assert expected.p_value < difference.p < 0.1  # of one direction, and of both
    assert difference.low < difference.value < difference.high


@pytest.mark.parametrize("unit", ["word", "character"])
def test_error_rates_are_the_corpus_s(unit):
    predictions, references = corpus(1, 0.3)
    references[3], predictions[4] = "", ""
    counts, score = error_counts(predictions, references, unit)
    expected = speech_recognition.score(predictions, references)["wer" if unit == "word" else "cer"]
    assert score(counts.sum(0)) == pytest.approx(expected)


def test_accuracy_is_a_percentage():
    counts, score = accuracy_counts(["a", "b", "a", "a"], ["a", "b", "b", "a"])
    assert score(counts.sum(0)) == 75


def test_the_interval_of_an_accuracy_is_that_of_a_binomial():
    right = np.array([[1.0, 1]] * 800 + [[0.0, 1]] * 200)
    found = interval([right], percentage)
    half = 1.96 * 100 * (0.8 * 0.2 / 1000) ** 0.5
    assert found.value == 80
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)


def test_more_seeds_make_no_larger_test_set():
    right = np.array([[1.0, 1]] * 80 + [[0.0, 1]] * 20)
    one, three = interval([right], percentage), interval([right] * 3, percentage)
    assert one == three


def test_large_test_sets_are_drawn_in_little_memory():
    counts = np.ones((5000, 2))
    tracemalloc.start()
    try:
        interval([counts], percentage)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2e6  # all draws of this test set have 40 MB


def test_bounds_are_those_of_the_interval():
    counts, score = accuracy_counts(["a"] * 9 + ["b"], ["a"] * 10)
    assert bounds("accuracy", counts, score) == {"accuracy_low": 70, "accuracy_high": 100}


def test_equal_systems_do_not_differ():
    counts, score = accuracy_counts(["a"] * 9 + ["b"], ["a"] * 10)
    assert paired_difference([counts, counts], [counts], score) == (0, 0, 0, 1)


def test_other_test_sets_are_refused():
    with pytest.raises(ValueError, match="on the same examples"):
        paired_difference([np.ones((3, 2))], [np.ones((4, 2))], percentage)
