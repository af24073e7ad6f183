"""Dynamic convolutions of few taps whose kernels, one for each channel, are of low rank.

All tensors are (batch, time, channels). Symbols: B batch, T time, C channels, K kernel size.
"""

from functools import reduce
from operator import add

import torch
import torch.nn.functional as F
from torch import Tensor

from seqdyconv.functional.conv import Padding, left_padding


def low_rank_conv1d(input: Tensor, coefficients: Tensor, basis: Tensor, *, padding: Padding = "same") -> Tensor:
    r"""Convolution over time with its own low-rank kernel at every step and channel (arXiv 2606.03825).

    The layout is (batch, time, channels), unlike :class:`torch.nn.Conv1d`. It is :func:`seqdyconv.dynamic_conv1d` with
    the kernels ``einsum("btr,rck->btck", coefficients, basis)``, which are made tap by tap and never all at once.

    .. math:: out[b,t,c] = \sum_k \sum_r coefficients[b,t,r] \cdot basis[r,c,k] \cdot input[b, t + k - P, c]

    Args:
        input: (B, T, C), zero outside the sequence. Floating point.
        coefficients: (B, T, rank), of each output step. Its dtype is the input's.
        basis: (rank, C, K), the kernels that are mixed. Its dtype is the input's.
        padding: ``"causal"``, ``"same"`` or P itself, as in :func:`seqdyconv.lightweight_conv1d`.

    Returns:
        (B, T, C), of the input's dtype, or autocast's where that is on.

    Raises:
        ValueError: shapes, dtypes or options that do not fit; the message says what was got and what is allowed.

    Example:
        >>> import torch
        >>> from seqdyconv import low_rank_conv1d
        >>> input = torch.tensor([[[2.0], [4.0], [6.0]]])
        >>> last_and_now = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])  # rank 2, one channel, two taps
        >>> mix = torch.tensor([[[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]]])
        >>> low_rank_conv1d(input, mix, last_and_now, padding="causal").flatten().tolist()
        [2.0, 2.0, 5.0]
    """
    _check(input, coefficients, basis)
    kernel_size = basis.shape[-1]
    left = left_padding(padding, kernel_size)
    return _convolve(F.pad(input, (0, 0, left, kernel_size - 1 - left)), coefficients, basis)


def low_rank_conv1d_step(input: Tensor, state: Tensor, coefficients: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """A chunk of a causal :func:`low_rank_conv1d`, (batch, time, channels), with the inputs before it as state.

    Args:
        input: (B, T, C), the next chunk, T ≥ 1.
        state: (B, K−1, C), the inputs before it, zero before the first one.
        coefficients, basis: as in :func:`low_rank_conv1d`.

    Returns:
        The output (B, T, C), and the state for the next chunk, of the shape of ``state``.

    Raises:
        ValueError: shapes or dtypes that do not fit.

    Example:
        >>> import torch
        >>> from seqdyconv import low_rank_conv1d_step
        >>> ones = torch.ones(1, 1, 1)
        >>> output, state = low_rank_conv1d_step(ones, torch.zeros(1, 2, 1), ones, torch.ones(1, 1, 3))
        >>> output.item(), state.flatten().tolist()
        (1.0, [0.0, 1.0])
    """
    _check(input, coefficients, basis)
    expected = (input.shape[0], basis.shape[-1] - 1, input.shape[2])
    if state.shape != expected:
        raise ValueError(f"state must be (B, K-1, C) = {expected}, got {tuple(state.shape)}")
    window = torch.cat([state.to(input.dtype), input], dim=1)
    # A view of the window would keep the whole chunk in memory.
    return _convolve(window, coefficients, basis), window[:, input.shape[1] :].clone()


def _convolve(window: Tensor, coefficients: Tensor, basis: Tensor) -> Tensor:
    """(B, T, C) of a window (B, T+K−1, C). All kernels at once would be K times the input, and take twice the time."""
    time = coefficients.shape[1]
    kernels = (coefficients @ tap for tap in basis.unbind(-1))  # each (B, T, C)
    dtype = window.dtype
    if torch.is_autocast_enabled(window.device.type) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(window.device.type)
    wide = torch.promote_types(dtype, torch.float32)
    taps = (kernel.to(wide) * window[:, k : k + time].to(wide) for k, kernel in enumerate(kernels))
    return reduce(add, taps).to(dtype)


def _check(input: Tensor, coefficients: Tensor, basis: Tensor) -> None:
    if input.dim() != 3 or not input.is_floating_point() or input.shape[1] < 1 or input.shape[2] < 1:
        raise ValueError(
            "input must be a floating-point (B, T, C) tensor with at least one time step and one channel, got "
            f"{input.dtype} {tuple(input.shape)}"
        )
    if basis.dim() != 3 or basis.shape[1] != input.shape[2] or basis.shape[0] < 1 or basis.shape[2] < 1:
        raise ValueError(
            f"basis must be (rank, C, K) with C = {input.shape[2]}, rank >= 1 and K >= 1, got {tuple(basis.shape)}"
        )
    expected = (*input.shape[:2], basis.shape[0])
    if coefficients.shape != expected:
        raise ValueError(f"coefficients must be (B, T, rank) = {expected}, got {tuple(coefficients.shape)}")
    for name, tensor in (("coefficients", coefficients), ("basis", basis)):
        differs = tensor.dtype != input.dtype and not torch.is_autocast_enabled(input.device.type)
        if differs or tensor.device != input.device:
            raise ValueError(
                f"{name} must have the input's dtype and device, {input.dtype} on {input.device}, got "
                f"{tensor.dtype} on {tensor.device}"
            )
