"""Layers as torch modules: convolutions over time, and the blocks made of them, by name."""

from seqdyconv.layers.attention import SelfAttention
from seqdyconv.layers.conv import DynamicConv1d, LightweightConv1d
from seqdyconv.layers.mixers import MIXERS, ConvMixer, build_mixer

__all__ = ["MIXERS", "ConvMixer", "DynamicConv1d", "LightweightConv1d", "SelfAttention", "build_mixer"]
