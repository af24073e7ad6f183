"""Short convolutions in a decoder's layer, behind a projection or before a part, and what they must know of a call."""

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from seqdyconv.layers import ShortConv1d
from seqdyconv.layers.short import JointShortConv1d
from seqdyconv.swap.decoder_calls import DecoderCall
from seqdyconv.swap.initialization import keep_start
from seqdyconv.swap.short_conv_places import Place

INPUT_CONV = "input_short_conv"
"""What an attention or a feed-forward block calls the convolution of its input."""


class PlacedShortConv(nn.Module):
    """A short convolution at a place of a decoder's layer, (batch, time, channels).

    What it must know of a call, its padding, its state and where packed sequences begin, it reads from
    ``current_call``.

    Args:
        conv: with a ``query_dim`` where its kernels are predicted from another sequence than its input.
        layer: its number.
        place: in the layer.
        options: what the convolution was built from, as :func:`add_short_conv` has them.
    """

    def __init__(self, conv: ShortConv1d, layer: int, place: Place, options: Mapping[str, Any]) -> None:
        nn.Module.__init__(self)
        self.short_conv = keep_start(conv)
        self.layer = layer
        self.place = place
        self.options = dict(options)
        self._is_hf_initialized = True

    @property
    def key(self) -> tuple[int, str]:
        """That of its state in a cache."""
        return self.layer, "".join(self.place.names)


class ShortConvInput(PlacedShortConv):
    """A short convolution of what an attention or a feed-forward block reads."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, T, D) → (B, T, D)."""
        return current_call.call.convolve(self.key, self.short_conv, hidden_states)


class ShortConvProjection(PlacedShortConv):
    """A linear projection and a short convolution over its outputs, (batch, time, channels).

    To whoever asks for it by name it is a linear layer, ``linear``; so PEFT can wrap it. A wrapper adds to what the
    projection gives, so it is then the wrapper's output that is convolved. In a list of a model's modules it is none:
    there ``linear`` is.

    Args:
        linear: the projection.
        conv, layer, place, options: as of :class:`PlacedShortConv`.
    """

    guarded_weight = "weight"

    def __init__(
        self, linear: nn.Linear, conv: ShortConv1d, layer: int, place: Place, options: Mapping[str, Any]
    ) -> None:
        PlacedShortConv.__init__(self, conv, layer, place, options)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.linear = linear
        self.is_wrapped = False
        self.train(linear.training)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, T, D) → (B, T, C)."""
        if self.is_wrapped:
            return self.linear(hidden_states)
        if self in current_call.joint:
            return current_call.convolve_jointly(self, hidden_states)
        return self.convolve(hidden_states, self.linear(hidden_states))

    def convolve(self, hidden_states: Tensor, projected: Tensor) -> Tensor:
        """What comes after the projection."""
        query = None if self.short_conv.query_dim is None else hidden_states
        return current_call.call.convolve(self.key, self.short_conv, projected, query)


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


def short_convs_of(module: nn.Module) -> list[PlacedShortConv]:
    """The places with short convolutions in a part of a model, or in a whole model."""
    return [part for part in module.modules() if isinstance(part, PlacedShortConv)]


# Held while wrappers get their hooks: threads may run a new adapter for the first time at once.
_wrapping = threading.Lock()


def convolve_after_wrappers(part: nn.Module) -> None:
    """Let what wraps a projection of an attention or of a feed-forward block, such as an adapter, give its output to
    the convolution."""
    for child in part.children():
        if isinstance(child, ShortConvProjection):
            child.is_wrapped = False
        elif _lacks_hook(child):
            with _wrapping:
                if _lacks_hook(child):
                    _projections_in(child)[0].is_wrapped = True
                    child.register_forward_hook(_convolve)


def _lacks_hook(child: nn.Module) -> bool:
    """Whether a part wraps a projection whose convolution does not get its output yet."""
    if isinstance(child, PlacedShortConv) or _convolve in child._forward_hooks.values():
        return False
    return bool(_projections_in(child))


def _projections_in(wrapper: nn.Module) -> list[ShortConvProjection]:
    return [part for part in wrapper.modules() if isinstance(part, ShortConvProjection)]


def _convolve(wrapper: nn.Module, args: tuple[Tensor, ...], projected: Tensor) -> Tensor:
    """A forward hook of what wraps a projection."""
    return _projections_in(wrapper)[0].convolve(args[0], projected)


@dataclass(frozen=True)
class Joint:
    """Projections of an attention that read one input, and whose short convolutions are computed as one.

    Args:
        projections: their names.
        conv: the convolution of them all.
    """

    projections: tuple[str, ...]
    conv: JointShortConv1d

    def modules(self, attention: nn.Module) -> tuple[ShortConvProjection, ...]:
        """The projections; none where one was replaced, or where others watch what one of them gives."""
        found = tuple(attention._modules.get(name) for name in self.projections)
        for module, conv in zip(found, self.conv.parts):
            if not isinstance(module, LinearWithShortConv) or module.short_conv is not conv:
                return ()
            if _is_watched(module) or _is_watched(conv):
                return ()
        return found  # type: ignore[return-value]


def _is_watched(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks) or hasattr(module, "_hf_hook")


class CurrentCall(threading.local):
    """What the short convolutions of a layer must know of its call that runs now, in each thread its own.

    Threads may run one model at once, so nothing of a call can be kept on its modules. A ``ContextVar`` would do as
    well, but ``torch.compile`` can't trace one.
    """

    call: DecoderCall = DecoderCall()
    joint: tuple[ShortConvProjection, ...] = ()
    """Projections that are convolved as one."""
    joint_conv: JointShortConv1d | None = None
    joint_outputs: list[Tensor] | None = None
    """Of each of them, once the first was asked."""

    def begin(
        self,
        call: DecoderCall,
        joint: tuple[ShortConvProjection, ...] = (),
        joint_conv: JointShortConv1d | None = None,
    ) -> None:
        """Begin a call, with what it is told by."""
        self.call, self.joint, self.joint_conv, self.joint_outputs = call, joint, joint_conv, None

    def forget(self) -> None:
        """End the call."""
        self.begin(DecoderCall())

    def convolve_jointly(self, asking: ShortConvProjection, hidden_states: Tensor) -> Tensor:
        """The output of one of the joint projections; the first one that asks computes them all."""
        if self.joint_outputs is None:
            projected = [projection.linear(hidden_states) for projection in self.joint]
            conv: Any = self.joint_conv
            query = None if conv.query_dim is None else hidden_states
            output = self.call.convolve((asking.layer, "qkv"), conv, torch.cat(projected, dim=-1), query)
            # No split: where that is a view of several, nobody may change it in place.
            ends = [*accumulate(part.shape[-1] for part in projected)]
            self.joint_outputs = [output[..., end - part.shape[-1] : end] for end, part in zip(ends, projected)]
        return self.joint_outputs[self.joint.index(asking)]


current_call = CurrentCall()
