"""Sequences of several lengths packed into one row, (1, time, channels), instead of padded to one length.

``cu_seqlens`` (N + 1,) int32 or int64 tells where they are, as in FlashAttention: sequence n is the steps from
``cu_seqlens[n]`` to ``cu_seqlens[n + 1]``; it begins with 0 and ends with T. A sequence may be empty.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor


def check_packed(cu_seqlens: Tensor | None, input: Tensor, padding_mask: Tensor | None = None) -> None:
    """Raise ValueError where ``cu_seqlens`` does not fit ``input`` (B, T, ...), or a mask is given too."""
    if cu_seqlens is None:
        return
    if padding_mask is not None:
        raise ValueError("padding_mask and cu_seqlens exclude each other: packed sequences have no padding")
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 2 or cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"cu_seqlens must be int32 or int64 (N + 1,), got {cu_seqlens.dtype} {tuple(cu_seqlens.shape)}"
        )
    if cu_seqlens.device != input.device:
        raise ValueError(f"cu_seqlens must be on the input's device, {input.device}, got {cu_seqlens.device}")
    if input.shape[0] != 1:
        raise ValueError(f"packed sequences are one row, (1, T, C), got {tuple(input.shape)}")
    if not torch.compiler.is_compiling():
        ends = cu_seqlens.tolist()
        if ends[0] != 0 or ends[-1] != input.shape[1] or any(b < a for a, b in pairwise(ends)):
            raise ValueError(f"cu_seqlens must rise from 0 to T = {input.shape[1]}, got {ends}")


def sequence_of(cu_seqlens: Tensor, time: int) -> tuple[Tensor, Tensor]:
    """The T packed steps, (T,), and the sequence that each is of, (T,)."""
    step = torch.arange(time, device=cu_seqlens.device)
    return step, torch.searchsorted(cu_seqlens[1:], step, right=True)


def apart(cu_seqlens: Tensor, time: int, gap: int) -> Tensor:
    """Where the T packed steps are, (T,), once there are ``gap`` steps after each sequence."""
    step, sequence = sequence_of(cu_seqlens, time)
    return step + gap * sequence


def positions(cu_seqlens: Tensor, time: int) -> Tensor:
    """The number of each of the T packed steps in its sequence, (T,), that of the first being 0."""
    step, sequence = sequence_of(cu_seqlens, time)
    return step - cu_seqlens[sequence]


def unpack(packed: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Tensor]:
    """The sequences of a row (1, T, ...) as rows (N, longest, ...), zeros behind their ends, and the padding mask."""
    lengths = cu_seqlens.diff()
    step = torch.arange(int(lengths.max()), device=packed.device)
    padding_mask = step >= lengths[:, None]
    rows = torch.cat([packed[0], packed.new_zeros(1, *packed.shape[2:])])  # a step past the end for the padding
    index = (cu_seqlens[:-1, None] + step).masked_fill(padding_mask, packed.shape[1])
    return rows[index], padding_mask


def repack(rows: Tensor, cu_seqlens: Tensor, time: int) -> Tensor:
    """Rows (N, longest, ...) as one row (1, T, ...): undoes :func:`unpack`."""
    step, sequence = sequence_of(cu_seqlens, time)
    return rows[sequence, step - cu_seqlens[sequence]][None]


def _rows_are_shorter(cu_seqlens: Tensor, time: int, gap: int) -> bool:
    """Whether N rows of the longest sequence have fewer steps than one row with gaps: both cost by the step."""
    if torch.compiler.is_compiling():  # no graph knows the longest length
        return False
    count = cu_seqlens.shape[0] - 1
    return count * int(cu_seqlens.diff().max()) <= time + gap * count


def run_packed(
    forward: Callable[..., Tensor], input: Tensor, cu_seqlens: Tensor, gap: int | None, *others: Tensor
) -> Tensor:
    """What ``forward`` gives for each packed sequence alone.

    Args:
        forward: of a row or rows (B, T', C), their padding mask (B, T'), bool, True where padded, and the ``others``
            (B, T', ...); its outputs at real steps depend neither on padding nor on other rows.
        input: (1, T, C), checked by :func:`check_packed`.
        cu_seqlens: (N + 1,).
        gap: the steps to either side of one that its output depends on at most. The sequences may then stay in one
            row, with as many padded steps between them, and do where that takes fewer steps than a row for each. None:
            any step may matter, and each gets a row.
        others: (1, T, ...), whatever else is given step by step.

    Returns:
        (1, T, ...).
    """
    time, count = input.shape[1], cu_seqlens.shape[0] - 1
    if gap is None or _rows_are_shorter(cu_seqlens, time, gap):
        rows, padding_mask = unpack(input, cu_seqlens)
        output = forward(rows, padding_mask, *(unpack(other, cu_seqlens)[0] for other in others))
        return repack(output, cu_seqlens, time)
    total = time + gap * count
    index = apart(cu_seqlens, time, gap)
    row, *others_row = (x.new_zeros(1, total, *x.shape[2:]).index_copy(1, index, x) for x in (input, *others))
    padding_mask = torch.ones(1, total, dtype=torch.bool, device=input.device).index_fill(1, index, False)
    return forward(row, padding_mask, *others_row)[:, index]
