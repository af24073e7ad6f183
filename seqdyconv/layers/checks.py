"""The checks that layers share; each raises ValueError saying what was got and what is allowed."""

import torch
from torch import Tensor

from seqdyconv.functional.checks import check_mask, check_positive

__all__ = ["check_dropout", "check_heads", "check_input", "check_positive"]


def check_input(input: Tensor, channels: int, dtype: torch.dtype, padding_mask: Tensor | None) -> None:
    """Raise ValueError unless ``input`` is (B, T, C) of the layer's dtype and the mask, if any, (B, T) bool."""
    if input.dim() != 3 or input.shape[-1] != channels or input.shape[1] < 1:
        raise ValueError(f"input must be (B, T, C) with T >= 1 and C = {channels}, got {tuple(input.shape)}")
    if input.dtype != dtype and not torch.is_autocast_enabled(input.device.type):
        raise ValueError(f"input must have the layer's dtype, {dtype}, got {input.dtype}")
    check_mask(input, padding_mask)


def check_heads(num_heads: int, **widths: int) -> None:
    """Raise ValueError unless ``num_heads`` divides each of ``widths``, and all are ints ≥ 1."""
    check_positive(num_heads=num_heads, **widths)
    for name, width in widths.items():
        if width % num_heads:
            raise ValueError(f"num_heads must divide {name}, got {num_heads} heads and {name}={width}")


def check_dropout(**probabilities: float) -> None:
    """Raise ValueError unless all are in [0, 1)."""
    for name, value in probabilities.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} must be in [0, 1), got {value!r}")
