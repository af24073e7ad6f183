"""The checks that operations share; each raises ValueError saying what was got and what is allowed."""

import torch
from torch import Tensor

from seqdyconv.functional.context import autocasts


def check_input(input: Tensor) -> None:
    """``input`` is a floating-point (B, T, C) with T, C ≥ 1."""
    if input.dim() != 3 or not input.is_floating_point():
        raise ValueError(f"input must be a floating-point (B, T, C) tensor, got {input.dtype} {tuple(input.shape)}")
    if input.shape[1] < 1 or input.shape[2] < 1:
        raise ValueError(f"input must have at least one time step and one channel, got {tuple(input.shape)}")


def check_heads(input: Tensor, heads: int) -> None:
    """``heads`` divide the channels."""
    if heads < 1 or input.shape[2] % heads:
        raise ValueError(
            f"the number of heads must divide the channels, got {heads} heads and {input.shape[2]} channels"
        )


def check_like(input: Tensor, **tensors: Tensor | None) -> None:
    """All have the input's dtype and device."""
    for name, tensor in tensors.items():
        if tensor is not None and (tensor.dtype != input.dtype or tensor.device != input.device):
            raise ValueError(
                f"{name} must have the input's dtype and device, {input.dtype} on {input.device}, got "
                f"{tensor.dtype} on {tensor.device}"
            )


def check_bias(bias: Tensor | None, width: int, axis: str = "C") -> None:
    """``bias`` is (C,), or (O,) where ``axis`` says so, if any."""
    if bias is not None and bias.shape != (width,):
        raise ValueError(f"bias must be ({axis},) = ({width},), got {tuple(bias.shape)}")


def check_mask(input: Tensor, padding_mask: Tensor | None) -> None:
    """The mask, if any, is (B, T) bool."""
    if padding_mask is not None and (padding_mask.dtype != torch.bool or padding_mask.shape != input.shape[:2]):
        raise ValueError(
            f"padding_mask must be bool (B, T) = {tuple(input.shape[:2])}, True where padded, got "
            f"{padding_mask.dtype} {tuple(padding_mask.shape)}"
        )


def check_state_shape(input: Tensor, state: Tensor, steps: int, said: str = "(K-1)*dilation") -> None:
    """``state`` is (B, steps, C), the number of steps being ``said`` in a message."""
    expected = (input.shape[0], steps, input.shape[2])
    if not isinstance(state, Tensor) or state.shape != expected:
        got = tuple(state.shape) if isinstance(state, Tensor) else type(state).__name__
        raise ValueError(f"state must be (B, {said}, C) = {expected}, got {got}")


def check_state(input: Tensor, state: Tensor, steps: int, said: str = "(K-1)*dilation") -> None:
    """``state`` is (B, steps, C) of the input's dtype."""
    check_state_shape(input, state, steps, said)
    if state.dtype != input.dtype and not autocasts(input):
        raise ValueError(f"state must have the input's dtype, {input.dtype}, got {state.dtype}")


def check_positive(**sizes: int) -> None:
    """All are ints ≥ 1."""
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be an int >= 1, got {value!r}")
