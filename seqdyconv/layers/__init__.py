"""Layers as torch modules: convolutions over time, and the blocks made of them, by name."""

from seqdyconv.layers.attention import SelfAttention
from seqdyconv.layers.conv import DynamicConv1d, LightweightConv1d
from seqdyconv.layers.mixers import MIXERS, ConvMixer, build_mixer
from seqdyconv.layers.parallel import ParallelMixer

__all__ = ["MIXERS", "ConvMixer", "DynamicConv1d", "LightweightConv1d", "ParallelMixer", "SelfAttention", "build_mixer"]
