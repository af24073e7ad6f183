"""Hooks that tell the short convolutions of a decoder of its calls.

The hooks are on the attention and the feed-forward block, not on their layer: where activations are checkpointed, the
backward pass runs the layer's ``forward`` again, but not its hooks.
"""

from typing import Any

from torch import nn

from seqdyconv.swap.decoder_calls import arguments_of, read_call, without_sequences
from seqdyconv.swap.hooks import remove_hooks
from seqdyconv.swap.short_conv_projection import INPUT_CONV, Joint, convolve_after_wrappers, current_call


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
    """Undo :func:`watch_layer` of these."""
    for module in modules:
        remove_hooks(module, _begin_call, _go_on, _forget_call)


def _begin_call(attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """A forward pre-hook of the attention: tell the convolutions of the call."""
    convolve_after_wrappers(attention)
    given = arguments_of(attention, args, kwargs)
    call = read_call(attention, given["hidden_states"], given)
    joint: Joint | None = getattr(attention, "short_conv_joint", None)
    if joint is None or not (together := joint.modules(attention)):
        current_call.begin(call)
    else:
        current_call.begin(call, together, joint.conv)
    return _convolve_input(attention, args, without_sequences(kwargs))


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
