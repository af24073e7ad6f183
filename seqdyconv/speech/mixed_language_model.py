"""Several n-gram models as one, such as that of few transcripts and that of many other texts."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from seqdyconv.speech.language_model import BOS, EOS, NEVER, UNKNOWN, Ngram, NGramModel, split_units

_ROUNDS = 30
_LEAST = 1e-12  # of a probability that is left for what was not seen, against rounding


def fit_mixture_weights(
    models: Sequence[NGramModel], texts: Iterable[str], unit: str = "word", tokenizer: Any = None
) -> list[float]:
    """The weights with which the mean of the models' probabilities suits texts best.

    They are the maximum of the likelihood, found by expectation maximisation (Jelinek and Mercer 1980).

    Args:
        models: of the same units.
        texts: what none of the models was counted on, at least one.
        unit, tokenizer: as in :func:`seqdyconv.speech.language_model.train_ngram_model`.

    Returns:
        A weight for each model; they sum to 1.

    Raises:
        ValueError: no texts with a unit that one of the models knows.

    Example:
        >>> from seqdyconv.speech.language_model import train_ngram_model
        >>> models = [train_ngram_model([text], order=2) for text in ("the fish sleeps", "where is the crab")]
        >>> weights = fit_mixture_weights(models, ["where is the fish"])
        >>> weights[1] > weights[0]
        True
    """
    vocabulary = {word for model in models for word in model.vocabulary}
    rows = []
    for units in split_units(texts, unit, tokenizer):
        sequence = (BOS, *(one if one in vocabulary else UNKNOWN for one in units), EOS)
        rows += [[_probability(model, sequence[:end]) for model in models] for end in range(2, len(sequence) + 1)]
    probabilities = np.array(rows).reshape(-1, len(models))
    probabilities = probabilities[probabilities.any(axis=1)]  # what no model can say tells nothing of them
    if not len(probabilities):
        raise ValueError("the weights of language models need texts to be fitted to, got none that one of them can say")
    weights = np.full(len(models), 1 / len(models))
    for _ in range(_ROUNDS):
        shares = probabilities * weights
        weights = (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0)
    return [float(weight) for weight in weights]


def mix_ngram_models(models: Sequence[NGramModel], weights: Sequence[float]) -> NGramModel:
    """One model with back-off whose n-grams have the weighted mean of the models' probabilities.

    As SRILM's ``ngram -mix-lm`` does it (Stolcke 2002): each n-gram that one of the models has gets the mean of what
    all models say of it, by back-off where they lack it; new back-off weights then make probabilities sum to 1. What
    none of them has is therefore not exactly the mean. A model gives nothing to a unit that it doesn't know.

    Args:
        models: of the same units; their orders may differ.
        weights: of each, above 0, with the sum 1.

    Raises:
        ValueError: as many weights as models, above 0, with the sum 1, are not given.

    Example:
        >>> from seqdyconv.speech.language_model import train_ngram_model
        >>> one, other = (train_ngram_model([text], order=2) for text in ("the fish sleeps", "where is the crab"))
        >>> mixed = mix_ngram_models([one, other], [0.5, 0.5])
        >>> mixed.perplexity(["where is the fish"]) < one.perplexity(["where is the fish"])
        True
    """
    good = len(weights) == len(models) > 0 and min(weights) > 0 and math.isclose(sum(weights), 1)
    if not good:
        raise ValueError(f"weights must be {len(models)} numbers above 0 with the sum 1, got {list(weights)}")
    ngrams: dict[int, set[Ngram]] = defaultdict(set)
    for model in models:
        for ngram in model.log_probabilities:
            ngrams[len(ngram)].add(ngram)
    ngrams[1].discard((BOS,))

    mixed = NGramModel(max(model.order for model in models), {(BOS,): NEVER}, {})
    for length in range(1, mixed.order + 1):
        listed: dict[Ngram, float] = defaultdict(float)
        shorter: dict[Ngram, float] = defaultdict(float)
        found = {}
        for ngram in ngrams[length]:
            probability = sum(weight * _probability(model, ngram) for model, weight in zip(models, weights))
            found[ngram] = math.log10(probability) if probability else NEVER
            listed[ngram[:-1]] += probability
            if length > 1:
                shorter[ngram[:-1]] += 10 ** mixed.log_probability(ngram[1:])
        mixed.log_probabilities |= found
        for context, sum_of_shorter in shorter.items():
            left, left_of_shorter = 1 - listed[context], 1 - sum_of_shorter
            # Where all units are listed none is looked up by back-off, and both are zero but for rounding.
            mixed.log_backoffs[context] = math.log10(max(left, _LEAST) / max(left_of_shorter, _LEAST))
    return mixed


def _probability(model: NGramModel, ngram: Ngram) -> float:
    return 10 ** model.log_probability(ngram) if ngram[-1:] in model.log_probabilities else 0.0
