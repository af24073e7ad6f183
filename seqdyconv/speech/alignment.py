"""When was what said: the frames of known text in the output of a CTC model, as times and subtitles."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchaudio.functional import forced_align, merge_tokens

from seqdyconv.runtime.words import WORD_BOUNDARY, AlignedToken, Word, words_of
from seqdyconv.speech.tokenization import clean_text, mark_words


def align(log_probs: Tensor, targets: Sequence[int] | Tensor, blank: int = 0) -> list[AlignedToken]:
    """The most probable frames of known tokens (Kürzinger et al. 2020), by ``torchaudio.functional.forced_align``.

    Args:
        log_probs: (T, V) logarithms of probabilities, of one utterance without padding.
        targets: (U,) ids of the tokens, without blanks.
        blank: the label of no token.

    Returns:
        One entry for each token. Between tokens there may be frames of the blank.

    Raises:
        ValueError: shapes or ids that do not fit, NaN, or more tokens than the frames have room for: each token needs a
            frame, and each that equals the one before it a blank between them.

    Example:
        >>> import torch
        >>> from seqdyconv.speech.alignment import align
        >>> log_probs = torch.tensor([[0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8]]).log()
        >>> [(one.token, one.start, one.end) for one in align(log_probs, [1, 2])]
        [(1, 0, 2), (2, 3, 4)]
    """
    if log_probs.ndim != 2:
        raise ValueError(f"log_probs must be (T, V), got the shape {tuple(log_probs.shape)}")
    time, size = log_probs.shape
    ids = [int(token) for token in targets]
    if not 0 <= blank < size or any(token == blank or not 0 <= token < size for token in ids):
        raise ValueError(f"targets must be of the {size} labels other than the blank {blank}, got {ids}")
    needed = len(ids) + sum(token == last for token, last in zip(ids[1:], ids))
    if needed > time:
        raise ValueError(f"{len(ids)} tokens need at least {needed} frames, got {time}")
    if log_probs.isnan().any():
        raise ValueError("log_probs must be numbers, got NaN")
    if not ids:
        return []
    # Impossible labels (-inf) make the paths through them equal: very improbable ones keep an order.
    log_probs = log_probs.detach().float().clamp(min=-1e4)
    labels, scores = forced_align(log_probs[None], torch.tensor([ids], device=log_probs.device), blank=blank)
    spans = merge_tokens(labels[0], scores[0], blank=blank)
    return [AlignedToken(span.token, span.start, span.end, span.score) for span in spans]


def align_words(
    tokenizer: Any, log_probs: Tensor, text: str, seconds_per_frame: float = 0.04, offset: float = 0.0
) -> list[Word]:
    """The words of a known text with their times.

    Args:
        tokenizer: of the model; its padding token is the blank.
        log_probs: (T, V) of one utterance without padding.
        text: what was said.
        seconds_per_frame: between two rows of ``log_probs``: 0.04 for frames of 10 ms that are subsampled four times.
        offset: seconds before the first frame.

    Raises:
        ValueError: as :func:`align`, or a tokenizer without a padding token.
    """
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    words = join_words(tokenizer, align(log_probs, tokens, blank_of(tokenizer)), seconds_per_frame, offset)
    spelled = clean_text(text).split()  # with the characters that the tokenizer doesn't know
    return [word._replace(text=name) for word, name in zip(words, spelled)] if len(spelled) == len(words) else words


def join_words(
    tokenizer: Any, tokens: Sequence[AlignedToken], seconds_per_frame: float = 0.04, offset: float = 0.0
) -> list[Word]:
    """The words that aligned tokens make, with their times.

    Args:
        tokenizer: of the model; ``▁`` (or its ``word_delimiter_token``) begins a word or stands between two.
        tokens: what :func:`align` returned.
        seconds_per_frame: of the alignment.
        offset: seconds before the first frame.
    """
    return words_of(token_strings(tokenizer), tokens, seconds_per_frame, offset)


def token_strings(tokenizer: Any) -> list[str]:
    """What each token stands for, by id, with ``▁`` between words; nothing for special tokens but the unknown one."""
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    tokens = mark_words(tokenizer, tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))))
    return [token if index not in special or token == WORD_BOUNDARY else "" for index, token in enumerate(tokens)]


def blank_of(tokenizer: Any) -> int:
    """The id of the blank, which is that of the padding token."""
    if tokenizer.pad_token_id is None:
        raise ValueError("the tokenizer must have a padding token, which is the blank of CTC, got none")
    return int(tokenizer.pad_token_id)
