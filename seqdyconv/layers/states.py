"""The states of streams: what a layer or mixer remembers between chunks, tensors by name, one row for each sequence.

A convolution's state is one tensor, the inputs before the chunk (B, (K−1)·dilation, C). Others are named tuples of
tensors or of such tuples, so whoever keeps, moves or reorders a state needs no more than :func:`map_state`.
"""

from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from seqdyconv.layers.checks import check_state_kind, layer_dtype

S = TypeVar("S")


class AttentionState(NamedTuple):
    """The S steps so far, of self-attention."""

    key: Tensor
    """(B, S, D)."""
    value: Tensor
    """(B, S, D)."""
    is_real: Tensor
    """(B, S) bool, False at padded steps."""


class RealInputs(NamedTuple):
    """The last inputs of a convolution that must tell those of its sequence from the zeros before it."""

    inputs: Tensor
    """(B, (K−1)·dilation, C)."""
    is_real: Tensor
    """(B, (K−1)·dilation) bool."""


class SpanState(NamedTuple):
    """Of a span-based convolution: the states of the convolution that makes its kernels, and of that with them."""

    source: Any
    """(B, (K−1)·dilation, S)."""
    input: Any
    """(B, (K−1)·dilation, C), or :class:`RealInputs` of these."""


class ParallelState(NamedTuple):
    """Of a convolution and self-attention, side by side or one behind the other."""

    conv: Any
    attention: AttentionState


def map_state(function: Callable[[Tensor], Any], state: S) -> S:
    """``function`` of each tensor of a state, in the state's form.

    Example:
        >>> import torch
        >>> from seqdyconv import build_mixer
        >>> from seqdyconv.layers.states import map_state
        >>> mixer = build_mixer("parallel", 8, 2, kernel_size=3, causal=True)
        >>> state = mixer.stream(torch.randn(2, 5, 8), mixer.initial_state(2))[1]
        >>> swapped = map_state(lambda rows: rows.flip(0), state)
        >>> swapped.conv.shape, swapped.attention.key.shape
        (torch.Size([2, 2, 8]), torch.Size([2, 5, 8]))
    """
    if isinstance(state, Tensor):
        return function(state)
    parts: Any = state
    return type(state)(*[map_state(function, part) for part in parts])


def tensors_of(state: Any) -> list[Tensor]:
    """The tensors of a state, in the order in which :func:`map_state` takes them."""
    return [state] if isinstance(state, Tensor) else [tensor for part in state for tensor in tensors_of(part)]


def initial_zeros(layer: nn.Module, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """Zeros on a layer's device, in its dtype or another one: a plain tensor, whatever the layer's parameters are."""
    tensor = next(chain(layer.parameters(), layer.buffers()), None)
    return torch.zeros(shape, dtype=dtype or layer_dtype(layer), device=None if tensor is None else tensor.device)


def initial_attention_state(layer: nn.Module, batch_size: int, dim: int) -> AttentionState:
    """That of no steps, of a layer's device and dtype."""
    key, value = (initial_zeros(layer, batch_size, 0, dim) for _ in range(2))
    return AttentionState(key, value, key.new_empty(batch_size, 0, dtype=torch.bool))


def extend_attention_state(
    state: AttentionState, key: Tensor, value: Tensor, padding_mask: Tensor | None
) -> AttentionState:
    """``state`` with the keys and values of T more steps (B, T, D).

    Raises:
        ValueError: it is no such state, or of another batch size or width.
    """
    check_state_kind(state, AttentionState)
    batch, _, dim = key.shape
    for name, part, width in zip(state._fields, state, ((dim,), (dim,), ())):
        if part.shape != (batch, *state.key.shape[1:2], *width):
            expected = ", ".join(map(str, (batch, "S", *width)))
            raise ValueError(f"{name} of state must be ({expected}), got {tuple(part.shape)}")
    is_real = torch.ones_like(key[..., 0], dtype=torch.bool) if padding_mask is None else ~padding_mask
    return AttentionState(
        torch.cat([state.key.to(key.dtype), key], dim=1),
        torch.cat([state.value.to(value.dtype), value], dim=1),
        torch.cat([state.is_real, is_real], dim=1),
    )
