"""The definition: a loop over kernel taps. Short and slow on purpose; every other backend is tested against it."""

from functools import reduce
from operator import add

import torch.nn.functional as F
from torch import Tensor, arange, einsum, float32


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


def deformable(
    padded: Tensor,
    offset: Tensor,
    weight: Tensor,
    modulation: Tensor | None,
    stride: int,
    dilation: int,
    groups: int,
    clamp: bool,
) -> Tensor:
    """``out[b,t] = Σ_k W_k · padded(t·stride + k·dilation + offset[b,t,:,k]) · modulation[b,t,:,k]``.

    Between steps ``padded(p) = Σ_j max(0, 1 − |p − j|) · padded[j]``. A position stays in the window of its output, or
    within ``padded`` where ``clamp`` is False.

    padded: (B, L, C). offset, modulation: (B, T, G, K), group g being the channels g·C/G … (g+1)·C/G − 1. weight:
    (O, C // groups, K). Result: (B, T, O).
    """
    (length, kernel_size), offset_groups = (padded.shape[1], weight.shape[-1]), offset.shape[2]
    steps = arange(length, device=padded.device)
    starts = arange(offset.shape[1], device=padded.device)[:, None] * stride
    low, high = (starts, starts + (kernel_size - 1) * dilation) if clamp else (starts * 0, starts * 0 + length - 1)
    taps = []
    for k in range(kernel_size):
        position = (starts + k * dilation + offset[..., k]).clamp(low, high)
        share = (1 - (position[..., None] - steps).abs()).clamp(min=0)  # (B, T, G, L)
        if modulation is not None:
            share = share * modulation[..., k, None]
        read = einsum("btgl,blgr->btgr", share, padded.unflatten(-1, (offset_groups, -1))).flatten(2)
        kernel = weight[..., k].unflatten(0, (groups, -1))
        taps.append(einsum("btgc,goc->btgo", read.unflatten(-1, (groups, -1)), kernel).flatten(2))
    return reduce(add, taps)
