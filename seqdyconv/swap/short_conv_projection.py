"""A projection of a decoder's attention with a short convolution behind it, and what it must know of a call."""

import threading
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from seqdyconv.layers import ShortConv1d
from seqdyconv.swap.hooks import remove_hooks
from seqdyconv.swap.initialization import keep_start
from seqdyconv.swap.padding import padding_from_attention_mask
from seqdyconv.swap.short_conv_states import ShortConvStates, states_in

# How these families call their attention; all but the first are keywords today.
_ARGUMENTS = ("hidden_states", "position_embeddings", "attention_mask", "cache")


class ShortConvProjection(nn.Module):
    """A linear projection and a short convolution over its outputs, (batch, time, channels).

    What the convolution must know of a call, its padding and its state, it reads from ``current_call``.

    Its state has one number that nothing reads, under the name that the weight of the projection had: whatever loads
    the weights into a model without the convolution stops at the wrong shape, instead of leaving it out.

    Args:
        linear: the projection.
        conv: over its outputs, with a ``query_dim`` where its kernels are predicted.
        key: that of the state in a cache: number of the layer, and name of the projection.
        options: what the convolution was built from, as :func:`add_short_conv` has them.
    """

    weight: Tensor

    def __init__(self, linear: nn.Linear, conv: ShortConv1d, key: tuple[int, str], options: Mapping[str, Any]) -> None:
        super().__init__()
        self.linear = linear
        self.short_conv = keep_start(conv)
        self.key = key
        self.options = dict(options)
        self.register_buffer("weight", linear.weight.new_zeros(1))
        self.train(linear.training)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)  # the one number that nothing reads

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, T, D) → (B, T, C)."""
        conv, padding_mask = self.short_conv, current_call.padding_mask
        projected = self.linear(hidden_states)
        query = None if conv.query_dim is None else hidden_states
        if current_call.states is None:
            return conv(projected, padding_mask=padding_mask, query=query)
        return current_call.states.stream(self.key, conv, projected, padding_mask, query)


def short_convs_of(module: nn.Module) -> list[ShortConvProjection]:
    """The projections with short convolutions in an attention, or in a whole model."""
    return [part for part in module.modules() if isinstance(part, ShortConvProjection)]


class CurrentCall(threading.local):
    """What the projections of an attention must know of its call that runs now, in each thread its own.

    Threads may run one model at once, so nothing of a call can be kept on its modules. A ``ContextVar`` would do as
    well, but ``torch.compile`` can't trace one.
    """

    padding_mask: Tensor | None = None
    states: ShortConvStates | None = None


current_call = CurrentCall()


def watch_calls(attention: nn.Module) -> None:
    """Let the projections of an attention know of its calls."""
    attention.register_forward_pre_hook(_remember_call, with_kwargs=True)
    attention.register_forward_hook(_forget_call, always_call=True)


def stop_watching_calls(attention: nn.Module) -> None:
    """Undo :func:`watch_calls`."""
    remove_hooks(attention, _remember_call, _forget_call)


def _remember_call(attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """A forward pre-hook of the attention: tell its projections of the call."""
    given = {**dict(zip(_ARGUMENTS, args)), **kwargs}
    if given.get("cu_seq_lens_q") is not None:
        raise ValueError("short convolutions can't tell packed sequences apart: pad them, without cu_seq_lens_q")
    cache = given.get("cache")
    batch, time, _ = given["hidden_states"].shape
    first: Any = 0  # the column of the mask that is the first step of this call
    states = None
    if cache is not None:
        states = states_in(cache, attention)
        first = cache.get_query_offset(attention.layer_idx) - cache.get_mask_sizes(time, attention.layer_idx)[1]
    mask = given.get("attention_mask")
    if isinstance(mask, Tensor):
        mask = mask.index_select(-1, first + torch.arange(time, device=mask.device))
    padding_mask = padding_from_attention_mask(mask)
    if padding_mask is not None:
        padding_mask = padding_mask.expand(batch, -1)
    current_call.padding_mask, current_call.states = padding_mask, states


def _forget_call(attention: Any, args: tuple[Any, ...], output: Any) -> None:
    """A forward hook of the attention, also where that raised: forget the call."""
    current_call.padding_mask = current_call.states = None
