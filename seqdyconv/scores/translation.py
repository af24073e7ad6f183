"""BLEU and chrF of translations, with the signatures that make the numbers comparable."""

import re
from collections.abc import Sequence

import numpy as np
from sacrebleu.metrics.bleu import BLEU, MAX_NGRAM_ORDER
from sacrebleu.metrics.chrf import CHRF

from seqdyconv.errors import InputError, first_line
from seqdyconv.scores.bootstrap import Counts, Score, bounds

# BLEU counts words: these have no spaces between them, by the codes of ISO 639, and names that are used for them.
_TOKENIZERS = {
    "zh": "zh zho chi cmn yue wuu lzh nan hak gan hsn cn chinese",
    "ja-mecab": "ja jpn jp japanese",
    "ko-mecab": "ko kor korean",
    "char": "th tha thai lo lao km khm khmer my mya bur burmese bo bod tib tibetan dz dzo dzongkha",
}
_EXTRAS = {"ja-mecab": "ja", "ko-mecab": "ko"}


class ScoreError(InputError):
    """Translations can't be scored as was asked; the message is one line for the user."""


def bleu_tokenizer_of(language: str | None) -> str:
    """The tokenizer of sacreBLEU for a language: ``zh``, ``zh_TW``, ``zho_Hans`` ... all have that of Chinese.

    Chinese, Japanese and Korean have those that sacreBLEU chooses for them. Thai, Lao, Khmer, Burmese, Tibetan and
    Dzongkha, for which it has none, are scored by characters, all other languages by ``13a``.

    Example:
        >>> from seqdyconv.scores.translation import bleu_tokenizer_of
        >>> bleu_tokenizer_of("ja-JP"), bleu_tokenizer_of("pt-BR")
        ('ja-mecab', '13a')
    """
    code = re.split(r"[^a-z]", (language or "").strip(" _").lower())[0]
    return next((name for name, codes in _TOKENIZERS.items() if code in codes.split()), "13a")


def bleu_metric(target_lang: str | None = None, bleu_tokenizer: str | None = None) -> BLEU:
    """sacreBLEU's BLEU, with the tokenizer of that name, else with that of the language.

    Raises:
        ScoreError: there is no tokenizer of that name, or what it needs is not there.
    """
    name = bleu_tokenizer or bleu_tokenizer_of(target_lang)
    if name not in BLEU.TOKENIZERS:
        raise ScoreError(f"bleu_tokenizer is {name!r}, allowed are {', '.join(BLEU.TOKENIZERS)}")
    try:
        return BLEU(tokenize=name)
    except (ImportError, RuntimeError, OSError, AssertionError) as error:  # packages, or files that it downloads
        remedy = (
            f"pip install 'sacrebleu[{_EXTRAS[name]}]'" if name in _EXTRAS else f"it needs files ({first_line(error)})"
        )
        whose = "" if bleu_tokenizer else f", that of {target_lang},"
        raise ScoreError(
            f"BLEU can't use the tokenizer {name}{whose} here: {remedy}, or set bleu_tokenizer to another, such as char"
        ) from None


def tokenizer_of_signature(signature: str) -> str:
    """The name of the tokenizer with which a BLEU of this signature counted words.

    Example:
        >>> tokenizer_of_signature("nrefs:1|case:mixed|eff:no|tok:ja-mecab-0.996-IPA|smooth:exp|version:2.6.0")
        'ja-mecab'
    """
    written = dict(part.split(":", 1) for part in signature.split("|"))["tok"]  # some add the version of what they use
    return max((name for name in BLEU.TOKENIZERS if written.startswith(name)), key=len)


def score(
    translations: Sequence[str],
    references: Sequence[str],
    target_lang: str | None = None,
    bleu_tokenizer: str | None = None,
    with_bounds: bool = False,
) -> dict[str, float | str]:
    """Corpus scores of sacreBLEU (Post 2018) on detokenised text.

    Args:
        translations: One for each reference.
        references: One for each translation, which may be empty.
        target_lang: Their language, which chooses the words that BLEU counts: see :func:`bleu_tokenizer_of`.
        bleu_tokenizer: The name of another tokenizer of sacreBLEU.
        with_bounds: Also where BLEU is in 95% of draws of the test set, bleu_low and bleu_high.

    Returns:
        bleu and chrf, both from 0 to 100, and bleu_signature and chrf_signature.

    Raises:
        ScoreError: as :func:`bleu_metric`.
    """
    scores: dict[str, float | str] = {}
    for name, metric in (("bleu", bleu_metric(target_lang, bleu_tokenizer)), ("chrf", CHRF())):
        scores[name] = metric.corpus_score(list(translations), [list(references)]).score
        scores[f"{name}_signature"] = str(metric.get_signature())
    if with_bounds:
        scores |= bounds("bleu", *bleu_counts(translations, references, target_lang, bleu_tokenizer))
    return scores


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
