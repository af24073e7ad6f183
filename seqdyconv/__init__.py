"""Lightweight and dynamic 1-D convolutions for sequence models.

Layers and functions need torch alone; ``import seqdyconv.models`` brings the Hugging Face models.
"""

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
