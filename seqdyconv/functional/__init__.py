"""Tensors in, tensors out: the convolutions as functions, with their backends."""

from seqdyconv.functional.causal_conv1d import causal_conv1d_fn, causal_conv1d_update
from seqdyconv.functional.conv import (
    dynamic_conv1d,
    dynamic_conv1d_step,
    lightweight_conv1d,
    lightweight_conv1d_step,
)
from seqdyconv.functional.deformable import deformable_conv1d, deformable_depthwise_conv1d
from seqdyconv.functional.short import low_rank_conv1d, low_rank_conv1d_step
from seqdyconv.functional.talk import talk_conv1d, talk_conv1d_step

__all__ = [
    "causal_conv1d_fn",
    "causal_conv1d_update",
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
