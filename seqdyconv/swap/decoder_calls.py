"""A call of a decoder's layer, as convolutions in it must know it: padding, cache, and where packed sequences begin."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqdyconv.errors import InputError
from seqdyconv.functional.context import in_transform
from seqdyconv.functional.packing import check_packed
from seqdyconv.layers.masking import zero_padding
from seqdyconv.swap.conv_states import ConvStates, states_in
from seqdyconv.swap.hooks import remove_hooks
from seqdyconv.swap.padding import hides_neighbours, padding_from_attention_mask

_SEQUENCES = "packed_sequences"
"""The keyword by which a model hands on to its attention where packed sequences begin and end."""
_CACHES = ("cache", "layer_past", "past_key_values")


@dataclass(frozen=True)
class DecoderCall:
    """What convolutions of a layer must know of one call."""

    padding_mask: Tensor | None = None
    """(B, T) bool."""
    states: ConvStates | None = None
    """Where there is a cache."""
    cu_seqlens: Tensor | None = None
    """Where packed sequences begin and end, (N + 1,), in the rows of the batch one after the other."""

    def convolve(self, key: tuple[int, str], conv: Any, input: Tensor, query: Tensor | None = None) -> Tensor:
        """The output (B, T, C) of a convolution, whose state is kept under ``key``."""
        if self.states is not None:
            return self.states.stream(key, conv, input, self.padding_mask, query)
        if self.cu_seqlens is None:
            return conv(input, padding_mask=self.padding_mask, query=query)
        row, queries = (None if x is None else zero_padding(x, self.padding_mask).reshape(1, -1, x.shape[-1])
                        for x in (input, query))  # fmt: skip
        return conv(row, query=queries, cu_seqlens=self.cu_seqlens).view(input.shape)


def read_call(attention: Any, hidden_states: Tensor, given: Mapping[str, Any]) -> DecoderCall:
    """What a self-attention of a decoder is told by its arguments.

    Args:
        attention: the module, or what it replaced: it knows the number of its layer.
        hidden_states: (B, T, D).
        given: the other arguments, by name.

    Raises:
        InputError: packed sequences with a cache, or a cache of another model.
    """
    cache, sequences = cache_of(given), given.get(_SEQUENCES)
    batch, time, _ = hidden_states.shape
    first: Any = 0  # the column of the mask that is the first step of this call
    states = None
    if cache is not None:
        if sequences is not None:
            raise InputError("packed sequences have no cache: call the model with use_cache=False")
        states = states_in(cache, attention)
        first = cache.get_query_offset(attention.layer_idx) - cache.get_mask_sizes(time, attention.layer_idx)[1]
    mask = given.get("attention_mask")
    if isinstance(mask, Tensor):
        mask = mask.index_select(-1, first + torch.arange(time, device=mask.device))
    padding_mask = padding_from_attention_mask(mask)
    if padding_mask is not None:
        padding_mask = padding_mask.expand(batch, -1)
    return DecoderCall(padding_mask, states, sequences)


def cache_of(given: Mapping[str, Any]) -> Any:
    """The cache among the arguments of a decoder's module, or None."""
    return next((given[name] for name in _CACHES if given.get(name) is not None), None)


def without_sequences(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keywords that the module itself knows."""
    return {name: value for name, value in kwargs.items() if name != _SEQUENCES}


def arguments_of(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """What a module was given, by name."""
    if not args:
        return kwargs
    names = [*inspect.signature(type(module).forward).parameters][1:] if len(args) > 1 else ["hidden_states"]
    return {**dict(zip(names, args)), **kwargs}


def watch_model(body: nn.Module, packs: bool) -> None:
    """Let the module that holds a decoder's layers tell them where packed sequences begin; or refuse such rows."""
    hook = _find_sequences if packs else _refuse_sequences
    if hook not in body._forward_pre_hooks.values():
        body.register_forward_pre_hook(hook, with_kwargs=True)


def stop_watching_model(body: nn.Module) -> None:
    """Undo :func:`watch_model`."""
    remove_hooks(body, _find_sequences, _refuse_sequences)


def _find_sequences(body: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
    """A forward pre-hook of the module that holds the layers: find packed sequences, and tell the layers of them."""
    given = arguments_of(body, args, kwargs)
    tokens = given.get("input_ids")
    tokens = given.get("inputs_embeds", args[0] if args else None) if tokens is None else tokens
    positions, ends = given.get("position_ids"), given.get("cu_seq_lens_q")
    _refuse_packing_by_mask(given)
    if tokens is None or tokens.shape[1] == 1 or (positions is None and ends is None):
        return None
    mask = given.get("attention_mask")
    is_flat = isinstance(mask, Tensor) and mask.dim() == 2
    if cache_of(given) is not None and (torch.compiler.is_compiling() or not (mask is None or is_flat)):
        return None  # as the attention, which tells no sequences apart where there is a cache
    mask = mask if is_flat else None
    begins = None
    if isinstance(positions, Tensor) and positions.dim() == 2:
        begins = _begins(positions.expand(tokens.shape[0], -1), mask)
    sequences = _sequences(tokens, begins, ends, is_flash=str(body.config._attn_implementation).startswith("flash"))
    if sequences is None:
        return None
    if mask is not None:
        raise InputError(
            "packed sequences have no padding: leave out the attention_mask, by which attention mixes them"
        )
    return args, {**kwargs, _SEQUENCES: sequences}


def _refuse_packing_by_mask(given: dict[str, Any]) -> None:
    """Raise InputError where a mask of four dimensions keeps sequences in one row apart: convolutions can't."""
    mask = given.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.dim() != 4 or mask.shape[2] != mask.shape[3]:
        return
    if not (torch.compiler.is_compiling() or in_transform()) and hides_neighbours(
        mask, padding_from_attention_mask(mask), -1
    ):
        raise InputError(
            "the attention mask hides the step before from a step, as that of packed sequences: tell those by "
            "position_ids that begin anew with each, without a mask"
        )


def _refuse_sequences(body: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """A forward pre-hook of the module that holds the layers, if these can't tell packed sequences apart."""
    if _find_sequences(body, args, kwargs) is not None:
        raise InputError(f"the attention of {body.config.model_type} mixes packed sequences: pad them instead")


def _begins(positions: Tensor, mask: Tensor | None) -> Tensor:
    """Where positions (B, T) do not go on by one between two steps that are no padding: (B, T) bool."""
    begins = positions.diff() != 1
    if mask is not None:
        real = mask[:, mask.shape[1] - positions.shape[1] :] != 0
        begins = begins & real[:, 1:].to(begins.device) & real[:, :-1].to(begins.device)
    return F.pad(begins, (1, 0))


def _sequences(tokens: Tensor, begins: Tensor | None, ends: Tensor | None, is_flash: bool) -> Tensor | None:
    """``cu_seqlens`` (N + 1,) of the steps of all rows one after the other; None where each row is one sequence."""
    batch, time = tokens.shape[:2]
    if ends is not None:
        ends = ends.to(tokens.device)
        check_packed(ends, tokens)
        told = torch.zeros(batch, time + 1, dtype=torch.bool, device=tokens.device).index_fill(
            1, ends[1:-1].long(), True
        )
        if not is_flash and (begins is None or not torch.equal(begins, told[:, :-1])):
            raise InputError(
                "flash attention alone reads cu_seq_lens_q: give position_ids that begin anew with each packed "
                "sequence, too"
            )
        return ends
    if begins is None or not begins.any():
        return None
    begins = begins.index_fill(1, begins.new_zeros(1, dtype=torch.long), True)
    return F.pad(begins.flatten().nonzero()[:, 0], (0, 1), value=batch * time)
