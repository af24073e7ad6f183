"""Convolutions over time with one kernel per head: the same at every step (lightweight) or one per step (dynamic).

All tensors are (batch, time, channels). Symbols: B batch, T time, C channels, H heads, K kernel size, R = C // H
channels per head; head h owns the channels h·R … (h+1)·R − 1.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from seqdyconv.functional import blocked, reference
from seqdyconv.functional.context import exports_any_length, in_autocast
from seqdyconv.functional.packing import check_packed, run_packed

Padding = Literal["causal", "same"] | int
ConvPadding = Literal["causal", "same", "valid"] | int

BACKENDS: dict[str, Callable[[Tensor, Tensor, tuple[int, int], int], Tensor]] = {
    "reference": reference.depthwise,
    "blocked": blocked.depthwise,
}


def lightweight_conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    padding: Padding = "same",
    dilation: int = 1,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    r"""Convolution over time with one kernel per head (Wu et al. 2019, https://arxiv.org/abs/1901.10430).

    The layout is (batch, time, channels), unlike :class:`torch.nn.Conv1d`. With H = C it is a depthwise
    ``F.conv1d``. The kernels are used as they are: a softmax over them is the caller's.

    .. math:: out[b,t,c] = bias[c] + \sum_k weight[c // R, k] \cdot input[b, t + k \cdot dilation - P, c]

    Args:
        input: (B, T, C), zero outside the sequence. Floating point.
        weight: (H, K), one kernel per head; H divides C. Its dtype is the input's.
        bias: (C,) or None.
        padding: ``"causal"``: the last tap is the current step, P = (K−1)·dilation. ``"same"``: centred as in
            ``F.conv1d(padding="same")``, P = (K−1)·dilation // 2. An int: P itself, 0 to (K−1)·dilation.
        dilation: steps between taps, ≥ 1.
        cu_seqlens: (N + 1,) int, where N sequences packed into one row (1, T, C) begin and end, each then convolved
            alone: sequence n is the steps from ``cu_seqlens[n]`` to ``cu_seqlens[n + 1]``.
        backend: ``"reference"``, ``"blocked"`` or None for the fastest.

    Returns:
        (B, T, C), of the input's dtype, or autocast's where that is on.

    Raises:
        ValueError: shapes, dtypes or options that do not fit; the message says what was got and what is allowed.

    Example:
        >>> import torch
        >>> from seqdyconv import lightweight_conv1d
        >>> average = torch.full((1, 3), 1 / 3)  # one head, three taps
        >>> lightweight_conv1d(torch.tensor([[[3.0], [6.0], [9.0]]]), average).flatten().tolist()
        [3.0, 6.0, 5.0]
    """
    input, weight, bias = in_autocast(input, weight, bias)
    _check(input, weight, bias, dilation, weight_shape="(H, K)")
    left = left_padding(padding, weight.shape[-1], dilation)
    right = (weight.shape[-1] - 1) * dilation - left
    if cu_seqlens is None:
        return _convolve(input, weight, bias, (left, right), dilation, backend)
    check_packed(cu_seqlens, input)
    gap = max(left, right)
    return run_packed(
        lambda row, _: _convolve(row, weight, bias, (left, right), dilation, backend), input, cu_seqlens, gap
    )


def dynamic_conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    padding: Padding = "same",
    dilation: int = 1,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    r"""Convolution over time with its own kernel at every step and head (Wu et al. 2019, arXiv 1901.10430).

    The layout is (batch, time, channels), unlike :class:`torch.nn.Conv1d`. With kernels that are the same at every
    step it is :func:`lightweight_conv1d`. The kernels are used as they are: a softmax over them is the caller's.

    .. math:: out[b,t,c] = bias[c] + \sum_k weight[b, t, c // R, k] \cdot input[b, t + k \cdot dilation - P, c]

    Args:
        input: (B, T, C), zero outside the sequence. Floating point.
        weight: (B, T, H, K), a kernel for each output step and head; H divides C. Its dtype is the input's.
        bias: (C,) or None.
        padding: ``"causal"``, ``"same"`` or P itself, as in :func:`lightweight_conv1d`.
        dilation: steps between taps, ≥ 1.
        cu_seqlens: (N + 1,) int, where N sequences packed into one row (1, T, C) begin and end, each then convolved
            alone: sequence n is the steps from ``cu_seqlens[n]`` to ``cu_seqlens[n + 1]``.
        backend: ``"reference"``, ``"blocked"`` or None for the fastest.

    Returns:
        (B, T, C), of the input's dtype, or autocast's where that is on.

    Raises:
        ValueError: shapes, dtypes or options that do not fit; the message says what was got and what is allowed.

    Example:
        >>> import torch
        >>> from seqdyconv import dynamic_conv1d
        >>> kernels = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]])[None, :, None]  # keep, take the last, mix
        >>> dynamic_conv1d(torch.tensor([[[2.0], [4.0], [6.0]]]), kernels, padding="causal").flatten().tolist()
        [2.0, 2.0, 5.0]
    """
    input, weight, bias = in_autocast(input, weight, bias)
    _check(input, weight, bias, dilation, weight_shape="(B, T, H, K)")
    left = left_padding(padding, weight.shape[-1], dilation)
    right = (weight.shape[-1] - 1) * dilation - left
    if cu_seqlens is None:
        return _convolve(input, weight, bias, (left, right), dilation, backend)
    check_packed(cu_seqlens, input)
    gap = max(left, right)
    return run_packed(
        lambda row, _, kernels: _convolve(row, kernels, bias, (left, right), dilation, backend),
        input,
        cu_seqlens,
        gap,
        weight,
    )


def lightweight_conv1d_step(
    input: Tensor,
    state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    dilation: int = 1,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """A chunk of a causal :func:`lightweight_conv1d`, (batch, time, channels), with the inputs before it as state.

    Args:
        input: (B, T, C), the next chunk, T ≥ 1.
        state: (B, (K−1)·dilation, C), the inputs before it, zero before the first one.
        weight, bias, dilation, backend: as in :func:`lightweight_conv1d`.

    Returns:
        The output (B, T, C), and the state for the next chunk, of the shape of ``state``.

    Raises:
        ValueError: shapes, dtypes or options that do not fit.

    Example:
        >>> import torch
        >>> from seqdyconv import lightweight_conv1d_step
        >>> output, state = lightweight_conv1d_step(torch.ones(1, 1, 1), torch.zeros(1, 2, 1), torch.ones(1, 3))
        >>> output.item(), state.flatten().tolist()
        (1.0, [0.0, 1.0])
    """
    return _step(input, state, weight, bias, dilation, backend, weight_shape="(H, K)")


def dynamic_conv1d_step(
    input: Tensor,
    state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    dilation: int = 1,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """A chunk of a causal :func:`dynamic_conv1d`, (batch, time, channels), with the inputs before it as state.

    Args:
        input: (B, T, C), the next chunk, T ≥ 1.
        state: (B, (K−1)·dilation, C), the inputs before it, zero before the first one.
        weight, bias, dilation, backend: as in :func:`dynamic_conv1d`.

    Returns:
        The output (B, T, C), and the state for the next chunk, of the shape of ``state``.

    Raises:
        ValueError: shapes, dtypes or options that do not fit.

    Example:
        >>> import torch
        >>> from seqdyconv import dynamic_conv1d_step
        >>> output, state = dynamic_conv1d_step(torch.ones(1, 1, 1), torch.zeros(1, 2, 1), torch.ones(1, 1, 1, 3))
        >>> output.item(), state.flatten().tolist()
        (1.0, [0.0, 1.0])
    """
    return _step(input, state, weight, bias, dilation, backend, weight_shape="(B, T, H, K)")


def left_padding(padding: Padding, kernel_size: int, dilation: int = 1) -> int:
    """The steps before the sequence that a convolution reads as zeros: P of the definition."""
    reach = (kernel_size - 1) * dilation
    if padding == "causal":
        return reach
    if padding == "same":
        return reach // 2
    if isinstance(padding, int) and not isinstance(padding, bool) and 0 <= padding <= reach:
        return padding
    raise ValueError(f'padding must be "causal", "same" or an int from 0 to (K-1)*dilation = {reach}, got {padding!r}')


def _step(
    input: Tensor,
    state: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    dilation: int,
    backend: str | None,
    weight_shape: str,
) -> tuple[Tensor, Tensor]:
    input, weight, bias = in_autocast(input, weight, bias)
    _check(input, weight, bias, dilation, weight_shape)
    batch, time, channels = input.shape
    expected = (batch, (weight.shape[-1] - 1) * dilation, channels)
    if state.shape != expected:
        raise ValueError(f"state must be (B, (K-1)*dilation, C) = {expected}, got {tuple(state.shape)}")
    if state.dtype != input.dtype and not torch.is_autocast_enabled(input.device.type):
        raise ValueError(f"state must have the input's dtype, {input.dtype}, got {state.dtype}")
    window = torch.cat([state.to(input.dtype), input], dim=1)
    # A view of the window would keep the whole chunk in memory.
    return _convolve(window, weight, bias, (0, 0), dilation, backend), window[:, time:].clone()


def _convolve(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: tuple[int, int],
    dilation: int,
    backend: str | None,
) -> Tensor:
    if backend is None:
        backend = _fastest(input, weight)
    elif backend not in BACKENDS:
        raise ValueError(f"backend must be None or one of {', '.join(BACKENDS)}, got {backend!r}")
    output = BACKENDS[backend](input, weight, padding, dilation)
    return output if bias is None else output + bias


def _fastest(input: Tensor, weight: Tensor) -> str:
    # Measured (benchmarks/ops.py): for few taps the loop is the faster one. With one kernel at all steps and channels
    # to share it, a block is a good matrix product already for three.
    shared = weight.dim() == 2 and weight.shape[0] < input.shape[-1]
    if weight.shape[-1] <= (2 if shared else 7):
        return "reference"
    if exports_any_length(input):
        return "reference"  # blocks would tie the exported graph to some lengths
    return "blocked"


def conv_padding(padding: ConvPadding, reach: int, stride: int) -> tuple[int, int]:
    """The padded steps before and after the input of a convolution whose taps span ``reach`` + 1 steps."""
    if padding == "causal":
        return reach, 0
    if padding == "same" and stride == 1:
        return reach // 2, reach - reach // 2
    if padding == "valid":
        return 0, 0
    if isinstance(padding, int) and not isinstance(padding, bool) and padding >= 0:
        return padding, padding
    raise ValueError(
        'padding must be an int >= 0, "valid", "causal" or, where the stride is 1, "same", got '
        f"{padding!r} with stride {stride}"
    )


def _check(input: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, weight_shape: str) -> None:
    if input.dim() != 3 or not input.is_floating_point():
        raise ValueError(f"input must be a floating-point (B, T, C) tensor, got {input.dtype} {tuple(input.shape)}")
    batch, time, channels = input.shape
    if time < 1 or channels < 1:
        raise ValueError(f"input must have at least one time step and one channel, got {tuple(input.shape)}")
    if weight.dim() != weight_shape.count(",") + 1:
        raise ValueError(f"weight must be {weight_shape}, got {tuple(weight.shape)}")
    heads, kernel_size = weight.shape[-2:]
    if kernel_size < 1:
        raise ValueError(f"weight must be {weight_shape} with K >= 1, got {tuple(weight.shape)}")
    if heads < 1 or channels % heads:
        raise ValueError(f"the number of heads must divide the channels, got {heads} heads and {channels} channels")
    if weight.dim() == 4 and weight.shape[:2] != input.shape[:2]:
        raise ValueError(
            f"weight must be (B, T, H, K) with the input's (B, T) = {(batch, time)}, got {tuple(weight.shape)}"
        )
    if bias is not None and bias.shape != (channels,):
        raise ValueError(f"bias must be (C,) = ({channels},), got {tuple(bias.shape)}")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and (tensor.dtype != input.dtype or tensor.device != input.device):
            raise ValueError(
                f"{name} must have the input's dtype and device, {input.dtype} on {input.device}, got "
                f"{tensor.dtype} on {tensor.device}"
            )
    if not isinstance(dilation, int) or isinstance(dilation, bool) or dilation < 1:
        raise ValueError(f"dilation must be an int >= 1, got {dilation!r}")
