"""BLEU and chrF of translations, with the signatures that make the numbers comparable."""

from collections.abc import Sequence

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF


def score(translations: Sequence[str], references: Sequence[str]) -> dict[str, float | str]:
    """Corpus scores of sacreBLEU (Post 2018) on detokenised text.

    Returns:
        bleu and chrf, both from 0 to 100, and bleu_signature and chrf_signature.
    """
    scores: dict[str, float | str] = {}
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
        scores[name] = metric.corpus_score(list(translations), [list(references)]).score
        scores[f"{name}_signature"] = str(metric.get_signature())
    return scores
