"""Whether more or less of a metric is better: for the choice of checkpoints and settings, and what is bold."""

_LOWER = ("loss", "perplexity", "bits_per_byte", "wer", "cer", "error_rate", "seconds", "real_time_factor")
_HIGHER = (
    "bleu",
    "chrf",
    "accuracy",
    "macro_f1",
    "cosine",
    "spearman",
    "ndcg_at_10",
    "recall_at_10",
    "v_measure",
    "per_second",
)


def is_lower_better(metric: str) -> bool | None:
    """Whether a metric counts errors or costs; None where it is not known, or neither way is better.

    Args:
        metric: Its name, whatever stands before the last words of it.

    Example:
        >>> [is_lower_better(name) for name in ("validation_bits_per_byte", "eval_bleu", "parameters")]
        [True, False, None]
    """
    if metric.endswith(_LOWER):
        return True
    return False if metric.endswith(_HIGHER) else None
