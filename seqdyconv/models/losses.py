"""The losses of the models: in nats per label that counts, in float32 at least."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED_LABEL = -100
"""A label that does not count, as torch's and transformers' losses have it."""


def precise(logits: Tensor) -> Tensor:
    """``logits`` in float32 at least, as a loss needs them."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def label_smoothed_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with label smoothing (Szegedy et al. 2016, arXiv 1512.00567), summed over tokens.

    Args:
        logits: (B, T, V) in any floating dtype.
        labels: (B, T) token ids, −100 where there is none.
        label_smoothing: probability given to the uniform distribution over the V tokens.

    Returns:
        A scalar, in float32 at least: divide it by the number of tokens.
    """
    return F.cross_entropy(
        precise(logits).flatten(0, 1),
        labels.flatten(),
        ignore_index=IGNORED_LABEL,
        reduction="sum",
        label_smoothing=label_smoothing,
    )


def token_loss(
    logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy in nats of logits (B, T, V) with labels (B, T), −100 where they do not count.

    The mean over the labels that count, 0 where there are none; or their sum divided by ``num_items_in_batch``.
    """
    count = number_of_items(labels != IGNORED_LABEL, num_items_in_batch)
    return label_smoothed_loss(logits, labels, label_smoothing) / count


def number_of_items(real: Tensor, num_items_in_batch: Tensor | int | None) -> Tensor:
    """What a sum over labels is divided by: ``num_items_in_batch``, or how many count, ``real`` bool; 1 at least."""
    count = real.sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch, device=real.device)
    return count.clamp(min=1)


def ctc_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    blank: int,
    lengths: Tensor | None = None,
    num_items_in_batch: Tensor | int | None = None,
) -> Tensor:
    """CTC loss (Graves et al. 2006, https://doi.org/10.1145/1143844.1143891) in nats per label, in float32 at least.

    The negative log-likelihood of all utterances, divided by the number of labels that count, so that a batch of
    any composition weighs each label alike, as token cross-entropy does.

    - An utterance without labels is taught to be blanks: its loss, −log of the probability of no token, is in the sum.
    - An utterance that has more labels (plus one for each repetition, which needs a blank between) than steps can't be
      aligned: its loss would be infinite. It is 0, without a gradient, while its labels are counted.

    Args:
        logits: (B, T, V).
        labels: (B, L) tokens other than the blank, −100 where they do not count, anywhere.
        blank: the token of the blank.
        lengths: (B,) real steps; None: all.
        num_items_in_batch: divide by this instead of the number of labels.

    Raises:
        ValueError: labels of another shape, out of the vocabulary, or the blank.
    """
    batch, steps, vocab_size = logits.shape
    if labels.dim() != 2 or labels.shape[0] != batch:
        raise ValueError(f"labels must be (B, L) with B = {batch}, got {tuple(labels.shape)}")
    real = labels != IGNORED_LABEL
    targets = labels[real]
    if ((targets < 0) | (targets >= vocab_size) | (targets == blank)).any():
        raise ValueError(
            f"labels must be in [0, {vocab_size}) but not the blank {blank}, -100 where they do not count, got "
            f"{sorted(set(targets.tolist()))}"
        )
    if lengths is None:
        lengths = torch.full((batch,), steps, device=logits.device)
    log_probs = precise(logits).log_softmax(-1).transpose(0, 1)
    total = F.ctc_loss(log_probs, targets, lengths, real.sum(1), blank, reduction="sum", zero_infinity=True)
    return total / number_of_items(real, num_items_in_batch)


def ctc_smoothing_loss(logits: Tensor, lengths: Tensor) -> Tensor:
    """Label smoothing for CTC: KL(prediction ‖ uniform distribution) of each step (Kim et al. 2018, arXiv 1711.02212).

    CTC has no label at a step that could be smoothed; instead predictions that are very sure cost something. With a
    smoothing of ε the loss is 1 − ε times the CTC loss plus ε times this.

    Args:
        logits: (B, T, V).
        lengths: (B,) real steps.

    Returns:
        A scalar, in float32 at least: the sum over the real steps of the batch, log V minus the entropy of each.
    """
    log_probs = precise(logits[real_steps(logits, lengths)]).log_softmax(-1)
    return (log_probs.exp() * (log_probs + math.log(logits.shape[-1]))).sum()


def real_steps(logits: Tensor, lengths: Tensor) -> Tensor:
    """Whether each step of ``logits`` (B, T, V) is one of the first ``lengths`` (B,): (B, T) bool."""
    return torch.arange(logits.shape[1], device=logits.device) < lengths.to(logits.device)[:, None]
