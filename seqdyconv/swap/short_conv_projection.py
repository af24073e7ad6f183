"""A projection of a decoder's attention with a short convolution behind it, and what it must know of a call."""

import threading
from collections.abc import Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

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

    To whoever asks for it by name it is a linear layer, ``linear``; so PEFT can wrap it. A wrapper adds to what the
    projection gives, so it is then the wrapper's output that is convolved. In a list of a model's modules it is none:
    there ``linear`` is.

    Args:
        linear: the projection.
        conv: over its outputs, with a ``query_dim`` where its kernels are predicted.
        key: that of the state in a cache: number of the layer, and name of the projection.
        options: what the convolution was built from, as :func:`add_short_conv` has them.
    """

    guarded_weight = "weight"

    def __init__(self, linear: nn.Linear, conv: ShortConv1d, key: tuple[int, str], options: Mapping[str, Any]) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.linear = linear
        self.short_conv = keep_start(conv)
        self.key = key
        self.options = dict(options)
        self.is_wrapped = False
        self._is_hf_initialized = True
        self.train(linear.training)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, T, D) → (B, T, C)."""
        projected = self.linear(hidden_states)
        return projected if self.is_wrapped else self.convolve(hidden_states, projected)

    def convolve(self, hidden_states: Tensor, projected: Tensor) -> Tensor:
        """What comes after the projection."""
        conv, padding_mask = self.short_conv, current_call.padding_mask
        query = None if conv.query_dim is None else hidden_states
        if current_call.states is None:
            return conv(projected, padding_mask=padding_mask, query=query)
        return current_call.states.stream(self.key, conv, projected, padding_mask, query)


# Of each projection the one module that stands for it in lists.
_listed: WeakKeyDictionary[nn.Module, ShortConvProjection] = WeakKeyDictionary()


class LinearWithShortConv(ShortConvProjection, nn.Linear):
    """What stands in the model: a :class:`ShortConvProjection`, as which it is listed, and a linear layer."""

    weight = property(lambda self: self.linear.weight, lambda self, weight: setattr(self.linear, "weight", weight))
    bias = property(lambda self: self.linear.bias, lambda self, bias: setattr(self.linear, "bias", bias))

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        self.linear.register_parameter(name, param)

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        if (listed := _listed.get(self)) is None:
            listed = _listed[self] = object.__new__(ShortConvProjection)
            listed.__dict__ = self.__dict__
        yield from listed.named_modules(memo, prefix, remove_duplicate)

    def extra_repr(self) -> str:
        return ""


def short_convs_of(module: nn.Module) -> list[ShortConvProjection]:
    """The projections with short convolutions in an attention, or in a whole model."""
    return [part for part in module.modules() if isinstance(part, ShortConvProjection)]


def convolve_after_wrappers(attention: nn.Module) -> None:
    """Let what wraps a projection, such as an adapter, give its output to the convolution."""
    for child in attention.children():
        if isinstance(child, ShortConvProjection):
            child.is_wrapped = False
        elif _convolve not in child._forward_hooks.values() and (wrapped := short_convs_of(child)):
            wrapped[0].is_wrapped = True
            child.register_forward_hook(_convolve)


def _convolve(wrapper: nn.Module, args: tuple[Tensor, ...], projected: Tensor) -> Tensor:
    """A forward hook of what wraps a projection."""
    return short_convs_of(wrapper)[0].convolve(args[0], projected)


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
    convolve_after_wrappers(attention)
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
