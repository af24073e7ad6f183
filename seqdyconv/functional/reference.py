"""The definition: a loop over kernel taps. Short and slow on purpose; every other backend is tested against it."""

from functools import reduce
from operator import add

import torch.nn.functional as F
from torch import Tensor, float32


def depthwise(input: Tensor, weight: Tensor, padding: tuple[int, int], dilation: int) -> Tensor:
    """``out[b,t,c] = Σ_k weight[...,c//R,k] · padded[b,t+k·dilation,c]``, summed in float32 at least.

    input: (B, L, C), to be padded in time by ``padding`` zeros on the left and on the right. weight: (H, K), the same
    kernels at every step, or (B, T, H, K), kernels of each step. Result: (B, T, C), T = padded steps − (K−1)·dilation.
    """
    heads, kernel_size = weight.shape[-2:]
    padded = F.pad(input, (0, 0, *padding))
    time = padded.shape[1] - (kernel_size - 1) * dilation
    if input.dtype.itemsize < float32.itemsize:
        padded, weight = padded.to(float32), weight.to(float32)
    padded = padded.unflatten(-1, (heads, -1))
    taps = (weight[..., k, None] * padded[:, k * dilation : k * dilation + time] for k in range(kernel_size))
    return reduce(add, taps).flatten(-2).to(input.dtype)
