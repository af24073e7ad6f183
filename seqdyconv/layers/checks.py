"""The checks that layers share; each raises ValueError saying what was got and what is allowed."""

import torch
from torch import Tensor


def check_input(input: Tensor, channels: int, dtype: torch.dtype, padding_mask: Tensor | None) -> None:
    """Raise ValueError unless ``input`` is (B, T, C) of the layer's dtype and the mask, if any, (B, T) bool."""
    if input.dim() != 3 or input.shape[-1] != channels or input.shape[1] < 1:
        raise ValueError(f"input must be (B, T, C) with T >= 1 and C = {channels}, got {tuple(input.shape)}")
    if input.dtype != dtype and not torch.is_autocast_enabled(input.device.type):
        raise ValueError(f"input must have the layer's dtype, {dtype}, got {input.dtype}")
    if padding_mask is not None and (padding_mask.dtype != torch.bool or padding_mask.shape != input.shape[:2]):
        raise ValueError(
            f"padding_mask must be bool (B, T) = {tuple(input.shape[:2])}, True where padded, got "
            f"{padding_mask.dtype} {tuple(padding_mask.shape)}"
        )


def check_positive(**sizes: int) -> None:
    """Raise ValueError unless all are ints ≥ 1."""
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be an int >= 1, got {value!r}")


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
