"""Mixers: the blocks that let time steps see each other, chosen by name.

A mixer maps (B, T, D) to (B, T, D) with ``forward(input, *, padding_mask=None, cu_seqlens=None)``. Where it is causal,
or looks a number of steps ahead, its ``lookahead``, it has ``initial_state(batch_size)`` and ``stream(input, state,
padding_mask=None) -> (output, state)`` too; the output then comes ``lookahead`` steps late. Its projections are
``in_proj``, whose equal parts ``in_proj_roles`` names, and ``out_proj``.
"""

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from seqdyconv.layers.attention import SelfAttention
from seqdyconv.layers.conv import DynamicConv1d, LightweightConv1d
from seqdyconv.layers.conv_mixer import conv_mixer
from seqdyconv.layers.deformable import DeformableDepthwiseConv1d
from seqdyconv.layers.gated_short import GatedShortConv
from seqdyconv.layers.parallel import ParallelMixer
from seqdyconv.layers.short import ShortConv1d
from seqdyconv.layers.span import MixedAttention, SpanDynamicConvMixer
from seqdyconv.layers.talk import TaLKConv1d
from seqdyconv.layers.time_feature import TimeFeatureDynamicConv, TimeFeatureLightweightConv

MIXERS: dict[str, Callable[..., nn.Module]] = {
    "lightweight_conv": conv_mixer(LightweightConv1d),
    "dynamic_conv": conv_mixer(DynamicConv1d),
    "deformable_conv": conv_mixer(DeformableDepthwiseConv1d),
    "talk_conv": conv_mixer(TaLKConv1d),
    "self_attention": SelfAttention,
    "parallel": ParallelMixer,
    "span_dynamic_conv": SpanDynamicConvMixer,
    "mixed_attention": MixedAttention,
    "lightweight_conv_2d": conv_mixer(TimeFeatureLightweightConv),
    "dynamic_conv_2d": conv_mixer(TimeFeatureDynamicConv),
    "short_conv": conv_mixer(ShortConv1d),
    "gated_short_conv": GatedShortConv,
}


def mixers_with(option: str) -> list[str]:
    """The mixers that have an option."""
    return [name for name, build in MIXERS.items() if option in inspect.signature(build).parameters]


def build_mixer(name: str, dim: int, num_heads: int, **options: Any) -> nn.Module:
    """A mixer by its name in ``MIXERS``, (batch, time, channels).

    Args:
        name: in ``seqdyconv.layers.MIXERS``: ``"dynamic_conv"``, ``"lightweight_conv"``, ``"self_attention"``, ...
        dim: D, the width of input and output.
        num_heads: H, divides D, and ``conv_dim`` where that is given.
        options: keywords of the mixers: ``kernel_size``, ``causal``, ``lookahead`` (the steps after
            the current one that a convolution sees, at most (K−1)·dilation, instead of ``causal``), ``conv_dim``,
            ``glu``, ``input_dropout``, ``dilation``, ``weight_softmax``, ``weight_dropout``, ``renormalize``,
            ``generator_bias``, ``dynamic_kernel``, ``static_kernel``, ``rank``, ``offset_dropout``,
            ``attention_dropout``, ``conv``, ``device``, ``dtype``. Those that only other mixers have are left out, so
            that one set of options serves all; but not a ``lookahead``.

    Raises:
        ValueError: a name that is no mixer, an option that no mixer has, or a ``lookahead`` of a mixer with attention.

    Example:
        >>> from seqdyconv import build_mixer
        >>> build_mixer("dynamic_conv", 512, 8, kernel_size=31, causal=True).conv
        DynamicConv1d(
          512, kernel_size=31, num_heads=8, padding='causal'
          (generator): XavierLinear(in_features=512, out_features=248, bias=False)
        )
    """
    if name not in MIXERS:
        raise ValueError(f"mixer must be one of {', '.join(MIXERS)}, got {name!r}")
    parameters = {mixer: inspect.signature(build).parameters for mixer, build in MIXERS.items()}
    known = set().union(*parameters.values())
    if unknown := sorted(set(options) - known):
        raise ValueError(f"no mixer has the option {', '.join(unknown)}; options are {', '.join(sorted(known))}")
    if options.get("lookahead") is not None and name not in (able := mixers_with("lookahead")):
        raise ValueError(f"lookahead needs a mixer of {', '.join(able)}, got {name!r}")
    return MIXERS[name](dim, num_heads, **{key: options[key] for key in options if key in parameters[name]})
