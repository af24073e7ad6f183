"""Padding, in one place: its removal, the real steps alone, and the last real steps of a padded chunk."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from seqdyconv.functional.appending import append_inputs
from seqdyconv.functional.context import in_transform

_ENOUGH_PADDING = 0.2  # of all steps; measured: below, taking the real steps out costs what it saves


def zero_padding(input: Tensor, padding_mask: Tensor | None) -> Tensor:
    """``input`` (B, T, C) with zeros where ``padding_mask`` (B, T) is True; whatever stood there is gone, NaN too."""
    if padding_mask is None:
        return input
    if input.device.type != "cpu" or torch.compiler.is_compiling() or in_transform():
        return input.masked_fill(padding_mask[..., None], 0)
    # With a mask that is broadcast a CPU fills element by element, which takes five times as long.
    return input.flatten(0, 1).index_fill(0, padding_mask.flatten().nonzero()[:, 0], 0).view(input.shape)


@dataclass(frozen=True)
class RealSteps:
    """The real steps of a padded batch: what treats each step by itself need not treat the others."""

    index: Tensor
    """(N,), of the B·T steps."""
    batch: int
    time: int

    @classmethod
    def where_faster(cls, padding_mask: Tensor | None) -> RealSteps | None:
        """Those of a mask (B, T); None where it is faster to treat all steps, or where a graph may not depend on it."""
        if padding_mask is None or torch.compiler.is_compiling() or in_transform():
            return None
        if padding_mask.device.type != "cpu" or padding_mask.float().mean() < _ENOUGH_PADDING:
            return None
        return cls((~padding_mask).flatten().nonzero()[:, 0], *padding_mask.shape)

    def take(self, steps: Tensor) -> Tensor:
        """(N, C) of (B, T, C)."""
        return steps.flatten(0, 1).index_select(0, self.index)

    def put(self, rows: Tensor) -> Tensor:
        """(B, T, C) of (N, C), zeros where padded."""
        steps = rows.new_zeros(self.batch * self.time, rows.shape[1]).index_copy(0, self.index, rows)
        return steps.view(self.batch, self.time, rows.shape[1])


def last_inputs(window: Tensor, padding_mask: Tensor | None, size: int) -> Tensor:
    """The last ``size`` steps of each row of ``window`` (B, size+T, C) before the padding at the row's end.

    ``padding_mask`` (B, T) belongs to the last T steps. Padding before or between real steps stays: it took its time.
    """
    if padding_mask is None:
        return window[:, window.shape[1] - size :].clone()  # a view would keep the whole chunk in memory
    steps = until_padding(padding_mask)[:, None] + torch.arange(size, device=window.device)
    return window.gather(1, steps[..., None].expand(-1, -1, window.shape[2]))


def append_real_inputs(state: Tensor, input: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """:func:`seqdyconv.functional.appending.append_inputs`, but padding at a row's end does not enter its state."""
    window, following = append_inputs(state, input)
    return window, following if padding_mask is None else last_inputs(window, padding_mask, state.shape[1])


def until_padding(padding_mask: Tensor) -> Tensor:
    """(B,) the steps of each row of ``padding_mask`` (B, T) up to its last real one: all but the padding at its end."""
    numbers = torch.arange(1, padding_mask.shape[1] + 1, device=padding_mask.device)
    return (numbers * ~padding_mask).amax(1)
