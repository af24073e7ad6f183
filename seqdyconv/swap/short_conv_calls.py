"""Hooks that tell the short convolutions of a decoder of its calls: padding, cache, and where packed sequences begin.

The hooks are on the attention and the feed-forward block, not on their layer: where activations are checkpointed, the
backward pass runs the layer's ``forward`` again, but not its hooks.
"""

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqdyconv.errors import InputError
from seqdyconv.functional.packing import check_packed
from seqdyconv.swap.hooks import remove_hooks
from seqdyconv.swap.padding import padding_from_attention_mask
from seqdyconv.swap.short_conv_projection import INPUT_CONV, Joint, convolve_after_wrappers, current_call
from seqdyconv.swap.short_conv_states import states_in

_SEQUENCES = "short_conv_sequences"
"""The keyword by which a model hands on to its attention where packed sequences begin and end."""
_CACHES = ("cache", "layer_past", "past_key_values")


def watch_model(body: nn.Module, packs: bool) -> None:
    """Let the module that holds a decoder's layers tell them where packed sequences begin; or refuse such rows."""
    hook = _find_sequences if packs else _refuse_sequences
    if hook not in body._forward_pre_hooks.values():
        body.register_forward_pre_hook(hook, with_kwargs=True)


def watch_layer(layer: nn.Module, attention: nn.Module, mlp: nn.Module | None) -> None:
    """Let the convolutions of a layer know of its calls.

    Args:
        layer: the layer.
        attention: its self-attention, which is called first.
        mlp: its feed-forward block, if that has convolutions too.
    """
    attention.register_forward_pre_hook(_begin_call, with_kwargs=True)
    if mlp is None:
        attention.register_forward_hook(_forget_call, always_call=True)
        return
    mlp.register_forward_pre_hook(_go_on, with_kwargs=True)
    for module in (mlp, layer):
        module.register_forward_hook(_forget_call, always_call=True)


def stop_watching(*modules: nn.Module) -> None:
    """Undo :func:`watch_model` and :func:`watch_layer` of these."""
    for module in modules:
        remove_hooks(module, _find_sequences, _refuse_sequences, _begin_call, _go_on, _forget_call)


def _arguments(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """What a module was given, by name."""
    if not args:
        return kwargs
    names = [*inspect.signature(type(module).forward).parameters][1:] if len(args) > 1 else ["hidden_states"]
    return {**dict(zip(names, args)), **kwargs}


def _begin_call(attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """A forward pre-hook of the attention: tell the convolutions of the call."""
    convolve_after_wrappers(attention)
    kwargs = dict(kwargs)
    sequences = kwargs.pop(_SEQUENCES, None)
    given = _arguments(attention, args, kwargs)
    cache = next((given[name] for name in _CACHES if given.get(name) is not None), None)
    hidden_states = args[0] if args else given["hidden_states"]
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
    joint: Joint | None = getattr(attention, "short_conv_joint", None)
    if joint is None or not (together := joint.modules(attention)):
        current_call.begin(padding_mask, states, sequences)
    else:
        current_call.begin(padding_mask, states, sequences, together, joint.conv)
    return _convolve_input(attention, args, kwargs)


def _go_on(mlp: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """A forward pre-hook of the feed-forward block, which the layer calls after its attention."""
    convolve_after_wrappers(mlp)
    return _convolve_input(mlp, args, kwargs)


def _convolve_input(part: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    conv = part._modules.get(INPUT_CONV)
    if conv is None:
        return args, kwargs
    if args:
        return (conv(args[0]), *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": conv(kwargs["hidden_states"])}


def _forget_call(module: Any, args: tuple[Any, ...], output: Any) -> None:
    """A forward hook of what ends a call, also where that raised."""
    current_call.forget()


def _find_sequences(body: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
    """A forward pre-hook of the module that holds the layers: find packed sequences, and tell the layers of them."""
    given = _arguments(body, args, kwargs)
    tokens = given.get("input_ids")
    tokens = given.get("inputs_embeds", args[0] if args else None) if tokens is None else tokens
    positions, ends = given.get("position_ids"), given.get("cu_seq_lens_q")
    if tokens is None or tokens.shape[1] == 1 or (positions is None and ends is None):
        return None
    mask = given.get("attention_mask")
    is_flat = isinstance(mask, Tensor) and mask.dim() == 2
    if any(given.get(name) is not None for name in _CACHES) and (
        torch.compiler.is_compiling() or not (mask is None or is_flat)
    ):
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
