"""Layers as torch modules: convolutions over time, and the blocks made of them, by name."""

from seqdyconv.layers.attention import SelfAttention
from seqdyconv.layers.conv import DynamicConv1d, LightweightConv1d
from seqdyconv.layers.conv_mixer import ConvMixer
from seqdyconv.layers.deformable import DeformableConv1d, DeformableDepthwiseConv1d
from seqdyconv.layers.gated_short import GatedShortConv
from seqdyconv.layers.kernel_attention import KernelAttentionConv1d, KernelAttentionConv2d
from seqdyconv.layers.mixed_conv import set_temperature
from seqdyconv.layers.mixers import MIXERS, build_mixer, mixer_options, share_options
from seqdyconv.layers.odconv import ODConv1d, ODConv2d
from seqdyconv.layers.parallel import ParallelMixer
from seqdyconv.layers.short import ShortConv1d
from seqdyconv.layers.span import MixedAttention, SpanDynamicConv1d, SpanDynamicConvMixer
from seqdyconv.layers.subsampling import ConvSubsampling
from seqdyconv.layers.talk import TaLKConv1d
from seqdyconv.layers.time_feature import TimeFeatureDynamicConv, TimeFeatureLightweightConv

__all__ = [
    "MIXERS",
    "ConvMixer",
    "ConvSubsampling",
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
    "mixer_options",
    "set_temperature",
    "share_options",
]
