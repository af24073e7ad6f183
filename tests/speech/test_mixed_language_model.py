"""Mixtures of n-gram models: the mean of probabilities, which sum to one, with the best weights for other texts."""

import itertools
import math

import pytest

from seqdyconv.speech.language_model import NGramModel, train_ngram_model
from seqdyconv.speech.mixed_language_model import fit_mixture_weights, mix_ngram_models

ONE = ["the fish sees the crab", "the crab sleeps", "a crab sees a crab"]
OTHER = ["the whale sees a fish", "a whale sleeps", "who sees the whale", "the fish"]


def models(order=3, other_order=3):
    return [train_ngram_model(ONE, order), train_ngram_model(OTHER, other_order)]


@pytest.mark.parametrize("orders", [(2, 2), (3, 3), (2, 4), (5, 3)])
def test_probabilities_sum_to_one_after_any_context(orders):
    mixed = mix_ngram_models(models(*orders), [0.3, 0.7])
    assert mixed.order == max(orders)
    assert mixed.vocabulary == ["</s>", "<unk>", "a", "crab", "fish", "sees", "sleeps", "the", "whale", "who"]
    for context in itertools.product(["<s>", "the", "sees", "whale", "who", "zebra"], repeat=2):
        for length in range(3):
            given = context[2 - length :]
            total = math.fsum(10 ** mixed.log_probability((*given, word)) for word in mixed.vocabulary)
            assert total == pytest.approx(1), given


def test_what_one_of_them_has_gets_the_mean():
    one, other = models()
    mixed = mix_ngram_models([one, other], [0.3, 0.7])
    for ngram in (
        ("the", "fish"),
        ("sees", "the", "crab"),
        ("a", "whale"),
        ("<s>", "a", "crab"),
        ("a", "fish", "</s>"),
    ):
        expected = 0.0
        for weight, model in ((0.3, one), (0.7, other)):
            if ngram[-1:] in model.log_probabilities:  # "whale" can't follow where it is not known
                expected += weight * 10 ** model.log_probability(ngram)
        assert mixed.log_probability(ngram) == pytest.approx(math.log10(expected)), ngram


def test_one_model_and_equal_models_stay_what_they_are():
    one = train_ngram_model(ONE, 3)
    for mixed in (mix_ngram_models([one], [1.0]), mix_ngram_models([one, one], [0.25, 0.75])):
        assert mixed.log_probabilities == pytest.approx(one.log_probabilities)
        texts = ["the crab sees a fish", "zebra the", ""]
        assert mixed.perplexity(texts) == pytest.approx(one.perplexity(texts))


def test_the_weights_are_the_best_on_the_texts():
    both, texts = models(), ["the whale sees the crab", "a crab sleeps", "who sleeps"]

    def perplexity(weight):
        """Of the means themselves, from the definition."""
        total, number = 0.0, 0
        for words in (["<s>", *text.split(), "</s>"] for text in texts):
            for end in range(2, len(words) + 1):
                ngram = tuple(words[max(0, end - 3) : end])
                known = [ngram[-1:] in model.log_probabilities for model in both]
                shares = [10 ** model.log_probability(ngram) if k else 0.0 for model, k in zip(both, known)]
                total, number = total + math.log(weight * shares[0] + (1 - weight) * shares[1]), number + 1
        return math.exp(-total / number)

    weights = fit_mixture_weights(both, texts)
    assert sum(weights) == pytest.approx(1)
    best = min((number / 1000 for number in range(1, 1000)), key=perplexity)
    assert weights[0] == pytest.approx(best, abs=2e-3)


def test_a_mixture_is_written_and_read(tmp_path):
    mixed = mix_ngram_models(models(), [0.5, 0.5])
    mixed.write(tmp_path / "mixed.arpa")
    read = NGramModel.read(tmp_path / "mixed.arpa")
    assert read.perplexity(ONE + OTHER) == pytest.approx(mixed.perplexity(ONE + OTHER), rel=1e-5)


@pytest.mark.parametrize("weights", [[1.0], [0.5, 0.6], [0.0, 1.0], [1.5, -0.5], [0.2, 0.3, 0.5]])
def test_weights_that_are_none(weights):
    with pytest.raises(ValueError, match="weights must be 2 numbers above 0 with the sum 1, got"):
        mix_ngram_models(models(), weights)


def test_what_no_model_can_say_does_not_count():
    ngrams = {("<s>",): -99.0, ("a",): -0.3, ("</s>",): -0.3}  # no <unk>, as of a closed vocabulary
    one, other = NGramModel(2, ngrams, {}), NGramModel(2, {**ngrams, ("a",): -0.6}, {})
    weights = fit_mixture_weights([one, other], ["a a", "zebra a"])
    assert sum(weights) == pytest.approx(1) and weights[0] > weights[1]
    with pytest.raises(ValueError, match="need texts to be fitted to, got none that one of them can say"):
        fit_mixture_weights([NGramModel(2, {("<s>",): -99.0, ("a",): 0.0}, {})], ["zebra"])
    never = NGramModel(2, {**ngrams, ("<unk>",): -math.inf}, {})
    assert mix_ngram_models([never, never], [0.5, 0.5]).log_probabilities["<unk>",] == -99


def test_no_texts_to_fit_to():
    with pytest.raises(ValueError, match="need texts to be fitted to, got none"):
        fit_mixture_weights(models(), [])
