"""Lightweight and dynamic 1-D convolutions for sequence models.

Layers and functions need torch alone; ``import seqdyconv.models`` brings the Hugging Face models.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from seqdyconv.threads import let_waiting_threads_sleep

if TYPE_CHECKING:
    from seqdyconv.functional import (
        deformable_conv1d,
        deformable_depthwise_conv1d,
        dynamic_conv1d,
        dynamic_conv1d_step,
        lightweight_conv1d,
        lightweight_conv1d_step,
        low_rank_conv1d,
        low_rank_conv1d_step,
        talk_conv1d,
        talk_conv1d_step,
    )
    from seqdyconv.layers import (
        ConvMixer,
        DeformableConv1d,
        DeformableDepthwiseConv1d,
        DynamicConv1d,
        GatedShortConv,
        KernelAttentionConv1d,
        KernelAttentionConv2d,
        LightweightConv1d,
        MixedAttention,
        ODConv1d,
        ODConv2d,
        ParallelMixer,
        SelfAttention,
        ShortConv1d,
        SpanDynamicConv1d,
        SpanDynamicConvMixer,
        TaLKConv1d,
        TimeFeatureDynamicConv,
        TimeFeatureLightweightConv,
        build_mixer,
    )

__version__ = "0.1.0.dev0"

__all__ = [
    "ConvMixer",
    "DeformableConv1d",
    "DeformableDepthwiseConv1d",
    "DynamicConv1d",
    "GatedShortConv",
    "KernelAttentionConv1d",
    "KernelAttentionConv2d",
    "LightweightConv1d",
    "MixedAttention",
    "ODConv1d",
    "ODConv2d",
    "ParallelMixer",
    "SelfAttention",
    "ShortConv1d",
    "SpanDynamicConv1d",
    "SpanDynamicConvMixer",
    "TaLKConv1d",
    "TimeFeatureDynamicConv",
    "TimeFeatureLightweightConv",
    "build_mixer",
    "deformable_conv1d",
    "deformable_depthwise_conv1d",
    "dynamic_conv1d",
    "dynamic_conv1d_step",
    "lightweight_conv1d",
    "lightweight_conv1d_step",
    "low_rank_conv1d",
    "low_rank_conv1d_step",
    "talk_conv1d",
    "talk_conv1d_step",
]

let_waiting_threads_sleep()

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Layers and functions come with their first use: torch takes seconds, for which no ``--help`` should wait."""
        if name in ("functional", "layers"):
            return import_module(f"seqdyconv.{name}")
        if name in __all__:
            rooms = (import_module("seqdyconv.functional"), import_module("seqdyconv.layers"))
            return next(getattr(room, name) for room in rooms if hasattr(room, name))
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
