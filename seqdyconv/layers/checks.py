"""The checks that layers share; each raises ValueError saying what was got and what is allowed."""

from typing import Any

import torch
from torch import Tensor, nn

from seqdyconv.functional.checks import check_mask, check_positive
from seqdyconv.functional.context import autocasts

__all__ = [
    "check_dropout",
    "check_dtype",
    "check_heads",
    "check_input",
    "check_positive",
    "check_state_kind",
    "layer_dtype",
]


def layer_dtype(layer: nn.Module) -> torch.dtype | None:
    """The dtype that a layer computes in, that of its weight or first parameter.

    None where a tool keeps these otherwise, in 8 or 4 bits: what is in the layer's place then says what it takes.
    """
    weight = getattr(layer, "weight", None)  # a method in torch's quantized layers
    weight = next(layer.parameters(), None) if weight is None else weight
    if not isinstance(weight, Tensor) or not weight.is_floating_point() or weight.itemsize == 1:
        return None
    return weight.dtype


def check_input(input: Tensor, channels: int, dtype: torch.dtype | None, padding_mask: Tensor | None) -> None:
    """Raise ValueError unless ``input`` is (B, T, C), of a ``dtype`` if not None, and the mask, if any, (B, T) bool."""
    if input.dim() != 3 or input.shape[-1] != channels or input.shape[1] < 1:
        raise ValueError(f"input must be (B, T, C) with T >= 1 and C = {channels}, got {tuple(input.shape)}")
    check_dtype(dtype, input=input)
    check_mask(input, padding_mask)


def check_dtype(dtype: torch.dtype | None, **tensors: Tensor) -> None:
    """Raise ValueError unless all have the ``dtype`` of the layer, if that is not None, or autocast is on."""
    for name, tensor in tensors.items():
        if dtype not in (None, tensor.dtype) and not autocasts(tensor):
            raise ValueError(f"{name} must have the layer's dtype, {dtype}, got {tensor.dtype}")


def check_state_kind(state: Any, kind: type) -> None:
    """Raise ValueError unless a stream's state is of the ``kind`` that its layer has."""
    if not isinstance(state, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise ValueError(f"state must be {article} {kind.__name__}, got {type(state).__name__}")


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
