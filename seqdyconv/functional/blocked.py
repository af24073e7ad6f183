"""The portable fast path: blocks of time steps, each one product of a banded matrix and its window of the input.

Step i of a block reads the window at i … i+K−1, so the kernels of S steps, each shifted by one, are the rows of an
S×(S+K−1) band, and a block is one matrix product for all channels of a head. A block is at least K−1 steps long, so
its window is the block and the first K−1 steps of the next one: the input is copied about twice, never K times.

Plain torch operations only: any device, any dtype, differentiable as often as wanted, compiled as it is.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from seqdyconv.functional.context import exports_any_length


def depthwise(input: Tensor, weight: Tensor, padding: tuple[int, int], dilation: int) -> Tensor:
    """The same as :func:`seqdyconv.functional.reference.depthwise`, by blocks."""
    if dilation > 1:
        return _by_phase(input, weight, padding, dilation)
    heads, kernel_size = weight.shape[-2:]
    left, right = padding
    time = input.shape[1] + left + right - (kernel_size - 1)
    size = max(16, 1 << (kernel_size - 1).bit_length())  # a power of two, at least K
    if isinstance(time, int) and time <= 3 * size:
        # One block saves copies: measured to be the faster way up to here. A single step needs no band at all.
        blocks, size = 1, time
        windows = F.pad(input, (0, 0, left, right)).unflatten(-1, (heads, -1))[:, None]
    else:
        blocks = (time + size - 1) // size
        filled = (blocks + 1) * size - input.shape[1] - left
        windows = F.pad(input, (0, 0, left, filled)).unflatten(-1, (heads, -1)).unflatten(1, (-1, size))
    # windows: (B, blocks, size+K−1, H, R), or one block more of `size` steps, of which each is the end of the last.
    if weight.dim() == 2:  # one band for all blocks: their windows become columns of one product per head
        columns = windows.permute(3, 2, 0, 1, 4)
        if columns.shape[3] > blocks:
            columns = torch.cat([columns[:, :, :, :-1], columns[:, : kernel_size - 1, :, 1:]], dim=1)
        band = _band(weight[:, None].expand(-1, size, -1))
        output = (band @ columns.flatten(2)).unflatten(2, columns.shape[2:]).permute(2, 3, 1, 0, 4)
    else:
        columns = windows.transpose(2, 3)
        if columns.shape[1] > blocks:
            columns = torch.cat([columns[:, :-1], columns[:, 1:, :, : kernel_size - 1]], dim=3)
        if blocks * size != time:  # padding by nothing would copy
            weight = F.pad(weight, (0, 0, 0, 0, 0, blocks * size - time))
        output = (_band(weight.unflatten(1, (-1, size)).transpose(2, 3)) @ columns).transpose(2, 3)
    return output.flatten(3).flatten(1, 2)[:, :time]


def limits(input: Tensor, kernels: Sequence[int], dilation: int) -> str | None:
    """Why :func:`depthwise` cannot run for a call, see :class:`seqdyconv.functional.backends.Backend`."""
    if exports_any_length(input) and not torch.onnx.is_in_onnx_export():  # graphs in ONNX keep no guards
        return "its blocks would tie the exported graph to some lengths"
    return None


def pays(input: Tensor, kernels: Sequence[int], dilation: int) -> bool:
    """Whether :func:`depthwise` is faster than the loop over taps of the reference."""
    # Measured (benchmarks/ops.py): for few taps the loop is the faster one. With one kernel at all steps and channels
    # to share it, a block is a good matrix product already for three.
    shared = len(kernels) == 2 and kernels[0] < input.shape[-1]
    return kernels[-1] > (2 if shared else 7)


def _band(weight: Tensor) -> Tensor:
    """(..., S, K) → (..., S, S+K−1): row i holds kernel i at columns i … i+K−1 and zeros elsewhere."""
    size, kernel_size = weight.shape[-2:]
    # Rows of length S+K, read again as rows of length S+K−1: each row starts one place further right.
    rows = F.pad(weight, (0, size)).flatten(-2)
    return rows[..., : size * (size + kernel_size - 1)].unflatten(-1, (size, size + kernel_size - 1))


def _by_phase(input: Tensor, weight: Tensor, padding: tuple[int, int], dilation: int) -> Tensor:
    """Dilated taps stay within steps of equal ``t mod dilation``: run these phases as batch rows, without dilation."""
    kernel_size = weight.shape[-1]
    left, right = padding
    batch, length = input.shape[:2]
    time = length + left + right - (kernel_size - 1) * dilation
    steps = (time + dilation - 1) // dilation
    padded = F.pad(input, (0, 0, left, right + steps * dilation - time))
    phases = padded.unflatten(1, (steps + kernel_size - 1, dilation)).transpose(1, 2).flatten(0, 1)
    if weight.dim() == 4:
        weight = F.pad(weight, (0, 0, 0, 0, 0, steps * dilation - time))
        weight = weight.unflatten(1, (steps, dilation)).transpose(1, 2).flatten(0, 1)
    output = depthwise(phases, weight, (0, 0), 1).unflatten(0, (batch, dilation))
    return output.transpose(1, 2).flatten(1, 2)[:, :time]
