"""The definition: a loop over kernel taps. Short and slow on purpose; every other backend is tested against it."""

from functools import reduce
from operator import add

from torch import Tensor, float32


def depthwise(window: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """``out[b,t,c] = Σ_k weight[...,c//R,k] · window[b,t+k·dilation,c]``, summed in float32 at least.

    window: (B, T + (K−1)·dilation, C), the padded input. weight: (H, K), the same kernels at every step, or
    (B, T, H, K), kernels of each step. Result: (B, T, C).
    """
    heads, kernel_size = weight.shape[-2:]
    time = window.shape[1] - (kernel_size - 1) * dilation
    dtype = window.dtype
    if dtype.itemsize < float32.itemsize:
        window, weight = window.to(float32), weight.to(float32)
    window = window.unflatten(-1, (heads, -1))
    taps = (weight[..., k, None] * window[:, k * dilation : k * dilation + time] for k in range(kernel_size))
    return reduce(add, taps).flatten(-2).to(dtype)
