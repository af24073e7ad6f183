"""Tensors in, tensors out: the convolutions as functions, with their backends."""

from seqdyconv.functional.conv import (
    dynamic_conv1d,
    dynamic_conv1d_step,
    lightweight_conv1d,
    lightweight_conv1d_step,
)

__all__ = ["dynamic_conv1d", "dynamic_conv1d_step", "lightweight_conv1d", "lightweight_conv1d_step"]
