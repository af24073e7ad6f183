"""Mixers: the blocks that let time steps see each other, chosen by name.

A mixer maps (B, T, D) to (B, T, D) with ``forward(input, *, padding_mask=None, cu_seqlens=None)``. Where it is causal,
or looks a number of steps ahead, its ``lookahead``, it has ``initial_state(batch_size)`` and ``stream(input, state,
padding_mask=None) -> (output, state)`` too; the output then comes ``lookahead`` steps late. Its projections are
``in_proj``, whose equal parts ``in_proj_roles`` names, and ``out_proj``. What convolves over time is its ``conv``; a
layer that puts more around a convolution of another class names that ``conv`` too.

The state of a convolution is one tensor of fixed shape, its last inputs (B, (K−1)·dilation, C). That of attention,
or of several parts, is a named tuple of tensors, each with a row for each sequence; ``map_state`` of
``seqdyconv.layers.states`` reorders or moves any of them. Nothing is marked in the numbers themselves.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import nn

from seqdyconv.layers.attention import SelfAttention
from seqdyconv.layers.conv import DynamicConv1d, LightweightConv1d
from seqdyconv.layers.conv_mixer import conv_mixer
from seqdyconv.layers.deformable import DeformableDepthwiseConv1d
from seqdyconv.layers.gated_short import GatedShortConv
from seqdyconv.layers.options import Option, check_names, options_of
from seqdyconv.layers.parallel import ParallelMixer
from seqdyconv.layers.short import ShortConv1d
from seqdyconv.layers.span import MixedAttention, SpanDynamicConv1d, SpanDynamicConvMixer
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


# Whose docstrings those of the mixers refer to.
_DOCUMENTED = {
    layer.__name__: layer for layer in (LightweightConv1d, DynamicConv1d, SpanDynamicConv1d, ShortConv1d, SelfAttention)
}


def mixer_options(name: str) -> dict[str, Option]:
    """The options of a mixer, as its layer declares them: default, kind and help text, by name.

    ``kernel_size``, ``causal`` and ``lookahead`` are among them, where the mixer has them; what all have in common,
    width, heads, device and dtype, is not.

    Raises:
        ValueError: a name that is no mixer.

    Example:
        >>> from seqdyconv.layers import mixer_options
        >>> option = mixer_options("self_attention")["attention_dropout"]
        >>> option.default, option.help
        (0.0, 'dropout of the attention weights in training.')
    """
    if name not in MIXERS:
        raise ValueError(f"mixer must be one of {', '.join(MIXERS)}, got {name!r}")
    return dict(_options(MIXERS[name]))


@cache  # who shares options asks for those of all mixers
def _options(build: Callable[..., nn.Module]) -> dict[str, Option]:
    options = options_of(build, _DOCUMENTED)
    return {option: declared for option, declared in options.items() if option not in ("device", "dtype")}


def mixers_with(option: str) -> list[str]:
    """The mixers that have an option."""
    return [name for name in MIXERS if option in mixer_options(name)]


def share_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Of options that are meant for mixers of different kinds, those that one of them has.

    This is the one place where an option is left out: everything else refuses what a mixer lacks.

    Raises:
        ValueError: an option that no mixer has, or a name that is no mixer.

    Example:
        >>> from seqdyconv.layers import share_options
        >>> share_options("self_attention", {"kernel_size": 3, "attention_dropout": 0.1})
        {'attention_dropout': 0.1}
    """
    everywhere = dict.fromkeys(option for mixer in MIXERS for option in mixer_options(mixer))
    check_names("any mixer", options, everywhere)
    own = mixer_options(name)
    return {option: value for option, value in options.items() if option in own}


def build_mixer(
    name: str,
    dim: int,
    num_heads: int,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> nn.Module:
    """A mixer by its name in ``MIXERS``, (batch, time, channels).

    Args:
        name: in ``seqdyconv.layers.MIXERS``: ``"dynamic_conv"``, ``"lightweight_conv"``, ``"self_attention"``, ...
        dim: D, the width of input and output.
        num_heads: H, divides D, and ``conv_dim`` where that is given.
        device, dtype: of the parameters.
        options: keywords of the mixer, which :func:`seqdyconv.layers.mixer_options` lists: ``kernel_size``,
            ``causal``, ``lookahead`` (the steps after the current one that a convolution sees, at most (K−1)·dilation,
            instead of ``causal``), ``conv_dim``, ``glu``, ``weight_dropout``, ... For options that are meant for mixers
            of different kinds there is :func:`seqdyconv.layers.share_options`.

    Raises:
        ValueError: a name that is no mixer, an option that it lacks, or a value that does not fit.

    Example:
        >>> from seqdyconv import build_mixer
        >>> build_mixer("dynamic_conv", 512, 8, kernel_size=31, causal=True).conv
        DynamicConv1d(
          512, kernel_size=31, num_heads=8, padding='causal'
          (generator): Linear(in_features=512, out_features=248, bias=False)
        )
    """
    own = mixer_options(name)
    check_names(name, options, own)
    for option, value in options.items():
        own[option].check(option, value)
    factory = {key: value for key, value in (("device", device), ("dtype", dtype)) if value is not None}
    return MIXERS[name](dim, num_heads, **options, **factory)
