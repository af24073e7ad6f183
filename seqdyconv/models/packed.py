"""Sequences packed into one row of tokens: where they begin and end, by our names and by those of transformers.

``DataCollatorWithFlattening`` of transformers gives rows (1, T) with ``position_ids`` that restart at each sequence
and, if asked, ``cu_seq_lens_q`` and ``cu_seq_lens_k``, ``max_length_q`` and ``max_length_k``, and ``seq_idx``.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from seqdyconv.functional.packing import check_packed

OTHER_NAMES = ("cu_seq_lens_q", "cu_seq_lens_k", "position_ids", "seq_idx")


def packed_sequences(
    tokens: Tensor | None, attention_mask: Tensor | None, cu_seqlens: Tensor | None, others: dict[str, Any]
) -> Tensor | None:
    """``cu_seqlens`` (N + 1,) of a row of tokens, or None where ``tokens`` are sequences in rows of their own.

    Args:
        tokens: (B, T) or (B, T, D).
        attention_mask: (B, T) or None.
        cu_seqlens: (N + 1,) or None.
        others: arguments of the model, of which those of ``DataCollatorWithFlattening`` are taken out.

    Raises:
        ValueError: they do not fit the tokens or each other, or there is a mask too.
    """
    named = {name: others.pop(name) for name in OTHER_NAMES if others.get(name) is not None}
    if tokens is None or (cu_seqlens is None and not named):
        return None
    if cu_seqlens is None:
        cu_seqlens = named.get("cu_seq_lens_q", named.get("cu_seq_lens_k"))
    if cu_seqlens is None:
        name, numbers = next(iter(named.items()))
        if numbers.shape != (1, tokens.shape[1]) or tokens.shape[0] != 1:
            raise ValueError(
                f"{name} tell where the sequences of one row (1, T) begin, got {tuple(numbers.shape)} for tokens "
                f"{tuple(tokens.shape)}; the model counts positions itself"
            )
        # Positions go on by one within a sequence, sequence numbers stay.
        begins = (numbers[0].diff() != (1 if name == "position_ids" else 0)).nonzero()[:, 0] + 1
        if len(begins) == 0:
            return None  # one sequence, perhaps with a mask
        cu_seqlens = F.pad(F.pad(begins, (1, 0)), (0, 1), value=tokens.shape[1])
    elif "cu_seq_lens_k" in named and not torch.equal(cu_seqlens, named["cu_seq_lens_k"].to(cu_seqlens)):
        raise ValueError("cu_seq_lens_k must be those of the queries: the encoder attends to its own tokens")
    cu_seqlens = cu_seqlens.to(tokens.device)
    if attention_mask is not None:
        raise ValueError("attention_mask and cu_seqlens exclude each other: packed sequences have no padding")
    check_packed(cu_seqlens, tokens)
    return cu_seqlens


def check_packed_sides(
    target: tuple[Tensor, Tensor | None, Tensor | None],
    source: tuple[Tensor, Tensor | None, Tensor | None] | None,
    cached: bool,
) -> tuple[Tensor, ...] | None:
    """``cu_seqlens`` of targets and, if any, sources, given with their tokens and masks, if they are packed.

    Raises:
        ValueError: only one side is packed, the sides have different numbers of sequences, they do not fit the tokens,
            or there is a mask or a cache too.
    """
    sides = [target] if source is None else [target, source]
    given = [cu_seqlens for _, _, cu_seqlens in sides if cu_seqlens is not None]
    if not given:
        return None
    if cached:
        raise ValueError("packed sequences are for training: a cache, and generate(), take rows with an attention_mask")
    if len(given) < len(sides):
        raise ValueError("a decoder needs cu_seqlens of its own sequences and of the encoder's, got one of them")
    for tokens, mask, cu_seqlens in sides:
        packed_sequences(tokens, mask, cu_seqlens, {})
    if given[0].shape != given[-1].shape:
        raise ValueError(f"sources and targets must be as many, got {len(given[-1]) - 1} and {len(given[0]) - 1}")
    return tuple(cu_seqlens.to(tokens.device) for (tokens, _, _), cu_seqlens in zip(sides, given))


def refuse_other_packing(arguments: dict[str, Any], ours: str) -> None:
    """Raise ValueError where ``arguments`` have transformers' names, which do not tell sources from targets."""
    if given := [name for name in OTHER_NAMES if arguments.get(name) is not None]:
        raise ValueError(f"packed sequences are told by {ours}, got {', '.join(given)}")


def refuse_packing(arguments: dict[str, Any], why: str) -> None:
    """Raise ValueError where ``arguments`` tell of packed sequences, by our name or those of transformers."""
    if given := [name for name in ("cu_seqlens", *OTHER_NAMES) if arguments.get(name) is not None]:
        raise ValueError(f"{why}: got {', '.join(given)}")
