"""Convolutions over time with one kernel per head: the same at every step (lightweight) or one per step (dynamic).

All tensors are (batch, time, channels). Symbols: B batch, T time, C channels, H heads, K kernel size, R = C // H
channels per head; head h owns the channels h·R … (h+1)·R − 1.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from seqdyconv.functional import blocked, gpu, native, reference
from seqdyconv.functional.appending import append_inputs
from seqdyconv.functional.backends import Backend, choose
from seqdyconv.functional.checks import (
    check_bias,
    check_heads,
    check_input,
    check_like,
    check_positive,
    check_state,
)
from seqdyconv.functional.context import in_autocast
from seqdyconv.functional.packing import check_packed, run_packed, sequence_of
from seqdyconv.functional.softmax import softmax_over_taps

Padding = Literal["causal", "same"] | int
ConvPadding = Literal["causal", "same", "valid"] | int
OpPadding = Padding | Literal["valid"]

_SHARED, _PER_STEP = ("H", "K"), ("B", "T", "H", "K")  # the axes of the kernels

# From the definition to the fastest. ``run`` takes what ``reference.depthwise`` takes.
BACKENDS: dict[str, Backend] = {
    "reference": Backend(reference.depthwise),
    "blocked": Backend(blocked.depthwise, limits=blocked.limits, pays=blocked.pays),
    "native": Backend(
        native.depthwise,
        devices=("cpu",),
        dtypes=(torch.float32, torch.float64, torch.bfloat16),
        transforms=False,
        limits=native.limits,
        pays=native.pays,
    ),
    "triton": Backend(
        gpu.depthwise,
        devices=gpu.DEVICES,
        dtypes=gpu.DTYPES,
        transforms=False,
        limits=gpu.limits,
        pays=gpu.pays,
        fuses=frozenset({"softmax", "sequence"}),
        advance=gpu.advance,
    ),
}

_FEW = 2**16  # numbers in the windows of one output: up to here, calling a kernel costs more than it saves


def lightweight_conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    padding: OpPadding = "same",
    dilation: int = 1,
    softmax: bool = False,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    r"""Convolution over time with one kernel per head (Wu et al. 2019, https://arxiv.org/abs/1901.10430).

    The layout is (batch, time, channels), unlike :class:`torch.nn.Conv1d`. With H = C it is a depthwise
    ``F.conv1d``.

    .. math:: out[b,t,c] = bias[c] + \sum_k weight[c // R, k] \cdot input[b, t + k \cdot dilation - P, c]

    Args:
        input: (B, T, C), zero outside the sequence. Floating point.
        weight: (H, K), one kernel per head; H divides C. Its dtype is the input's.
        bias: (C,) or None.
        padding: ``"causal"``: the last tap is the current step, P = (K−1)·dilation. ``"same"``: centred as in
            ``F.conv1d(padding="same")``, P = (K−1)·dilation // 2. An int: P itself, 0 to (K−1)·dilation. ``"valid"``:
            no zeros, so that the output, here and below of T steps, has (K−1)·dilation fewer than the input.
        dilation: steps between taps, ≥ 1.
        softmax: the kernels are the softmax of ``weight`` over its taps, in float32 at least; else ``weight`` itself.
        cu_seqlens: (N + 1,) int, where N sequences packed into one row (1, T, C) begin and end, each then convolved
            alone: sequence n is the steps from ``cu_seqlens[n]`` to ``cu_seqlens[n + 1]``.
        backend: ``"reference"``, ``"blocked"``, ``"native"`` (CPU), ``"triton"`` (CUDA) or None for the fastest.

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
    return _whole(input, weight, bias, _SHARED, padding, dilation, softmax, cu_seqlens, backend)


def dynamic_conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    padding: OpPadding = "same",
    dilation: int = 1,
    softmax: bool = False,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    r"""Convolution over time with its own kernel at every step and head (Wu et al. 2019, arXiv 1901.10430).

    The layout is (batch, time, channels), unlike :class:`torch.nn.Conv1d`. With kernels that are the same at every
    step it is :func:`lightweight_conv1d`.

    .. math:: out[b,t,c] = bias[c] + \sum_k weight[b, t, c // R, k] \cdot input[b, t + k \cdot dilation - P, c]

    Args:
        input: (B, T, C), zero outside the sequence. Floating point.
        weight: (B, T, H, K), a kernel for each output step and head; H divides C. Its dtype is the input's.
        bias: (C,) or None.
        padding: ``"causal"``, ``"same"``, P itself or ``"valid"``, as in :func:`lightweight_conv1d`.
        dilation: steps between taps, ≥ 1.
        softmax: the kernels are the softmax of ``weight`` over its taps, in float32 at least; else ``weight`` itself.
        cu_seqlens: (N + 1,) int, where N sequences packed into one row (1, T, C) begin and end, each then convolved
            alone: sequence n is the steps from ``cu_seqlens[n]`` to ``cu_seqlens[n + 1]``.
        backend: ``"reference"``, ``"blocked"``, ``"native"`` (CPU), ``"triton"`` (CUDA) or None for the fastest.

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
    return _whole(input, weight, bias, _PER_STEP, padding, dilation, softmax, cu_seqlens, backend)


def lightweight_conv1d_step(
    input: Tensor,
    state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    dilation: int = 1,
    softmax: bool = False,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """A chunk of a causal :func:`lightweight_conv1d`, (batch, time, channels), with the inputs before it as state.

    Args:
        input: (B, T, C), the next chunk, T ≥ 1.
        state: (B, (K−1)·dilation, C), the inputs before it, zero before the first one.
        weight, bias, dilation, softmax, backend: as in :func:`lightweight_conv1d`.

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
    return _step(input, state, weight, bias, _SHARED, dilation, softmax, backend)


def dynamic_conv1d_step(
    input: Tensor,
    state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    dilation: int = 1,
    softmax: bool = False,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """A chunk of a causal :func:`dynamic_conv1d`, (batch, time, channels), with the inputs before it as state.

    Args:
        input: (B, T, C), the next chunk, T ≥ 1.
        state: (B, (K−1)·dilation, C), the inputs before it, zero before the first one.
        weight, bias, dilation, softmax, backend: as in :func:`dynamic_conv1d`.

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
    return _step(input, state, weight, bias, _PER_STEP, dilation, softmax, backend)


def left_padding(
    padding: Padding, kernel_size: int, dilation: int = 1, words: tuple[str, ...] = ("causal", "same")
) -> int:
    """The steps before the sequence that a convolution reads as zeros: P of the definition."""
    reach = (kernel_size - 1) * dilation
    if padding == "causal":
        return reach
    if padding == "same":
        return reach // 2
    if isinstance(padding, int) and not isinstance(padding, bool) and 0 <= padding <= reach:
        return padding
    allowed = ", ".join(f'"{word}"' for word in words)
    raise ValueError(f"padding must be {allowed} or an int from 0 to (K-1)*dilation = {reach}, got {padding!r}")


def op_padding(input: Tensor, padding: OpPadding, kernel_size: int, dilation: int = 1) -> tuple[int, int]:
    """The zeros that an operation reads before and after the input, where it is long enough."""
    reach = (kernel_size - 1) * dilation
    if padding != "valid":
        left = left_padding(padding, kernel_size, dilation, ("causal", "same", "valid"))
        return left, reach - left
    if input.shape[1] <= reach:
        raise ValueError(
            f'input must have more than (K-1)*dilation = {reach} steps where padding="valid", got {input.shape[1]}'
        )
    return 0, 0


def _whole(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    axes: tuple[str, ...],
    padding: OpPadding,
    dilation: int,
    softmax: bool,
    cu_seqlens: Tensor | None,
    backend: str | None,
) -> Tensor:
    input, weight, bias = in_autocast(input, weight, bias)
    _check(input, weight, bias, axes, dilation)
    pads = op_padding(input, padding, weight.shape[-1], dilation)
    _check_steps(weight, axes, input.shape[0], input.shape[1] + sum(pads) - (weight.shape[-1] - 1) * dilation)
    chosen = choose(BACKENDS, backend, input, weight.shape, dilation)
    run, fuses = chosen.run, chosen.fuses
    time = input.shape[1]
    one_output = padding == "valid" and isinstance(time, int) and time == (weight.shape[-1] - 1) * dilation + 1
    if backend is None and one_output and not (chosen is BACKENDS.get("native") and input.numel() > _FEW):
        run, fuses = _one_step, frozenset()
    options: dict[str, object] = {}
    if softmax and "softmax" in fuses:
        options["softmax"] = True
    elif softmax:
        weight = softmax_over_taps(weight).to(weight.dtype)

    def convolve(rows: Tensor, _: Tensor | None, kernels: Tensor = weight) -> Tensor:
        output = run(rows, kernels, pads, dilation, **options)
        return output if bias is None else output + bias

    if cu_seqlens is None:
        return convolve(input, None)
    check_packed(cu_seqlens, input)
    if padding == "valid":
        raise ValueError('cu_seqlens needs as many outputs as inputs: padding must not be "valid"')
    if "sequence" in fuses:
        options["sequence"] = sequence_of(cu_seqlens, time)[1].int()
        return convolve(input, None)
    return run_packed(convolve, input, cu_seqlens, max(pads), *([weight] if axes == _PER_STEP else []))


def _step(
    input: Tensor,
    state: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    axes: tuple[str, ...],
    dilation: int,
    softmax: bool,
    backend: str | None,
) -> tuple[Tensor, Tensor]:
    input, weight, bias = in_autocast(input, weight, bias)
    _check(input, weight, bias, axes, dilation)
    _check_steps(weight, axes, *input.shape[:2])
    check_state(input, state, (weight.shape[-1] - 1) * dilation)
    chosen = choose(BACKENDS, backend, input, weight.shape, dilation)
    weight = softmax_over_taps(weight).to(weight.dtype) if softmax else weight
    if chosen.advance is not None:
        output, following = chosen.advance(input, state.to(input.dtype), weight, dilation)
    else:
        window, following = append_inputs(state, input)
        output = chosen.run(window, weight, (0, 0), dilation)
    return output if bias is None else output + bias, following


def _one_step(input: Tensor, weight: Tensor, padding: tuple[int, int], dilation: int) -> Tensor:
    """What a backend computes, of a window with a single output: one product, one sum, whatever K is."""
    wide = torch.promote_types(input.dtype, torch.float32)
    taps = input if dilation == 1 else input[:, ::dilation]
    taps = taps.unflatten(-1, (weight.shape[-2], -1)).to(wide)  # (B, K, H, R)
    kernels = weight.to(wide).T[..., None] if weight.dim() == 2 else weight.to(wide).permute(0, 3, 2, 1)  # (B, K, H, 1)
    return (taps * kernels).sum(1, keepdim=True).flatten(-2).to(input.dtype)


def backends_with_kernels(make: Callable[..., Tensor]) -> dict[str, Backend]:
    """The backends of an operation that is a dynamic convolution with the kernels that ``make`` gives.

    Their ``run`` takes the input, the padding (left, right), and what ``make`` takes.
    """

    def through(depthwise: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(input: Tensor, padding: tuple[int, int], *given: Tensor) -> Tensor:
            return depthwise(input, make(*given).to(input.dtype), padding, 1)

        return run

    return {
        name: replace(backend, run=through(backend.run), fuses=frozenset(), advance=None)
        for name, backend in BACKENDS.items()
    }


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


def _check(input: Tensor, weight: Tensor, bias: Tensor | None, axes: tuple[str, ...], dilation: int) -> None:
    check_input(input)
    said = f"weight must be ({', '.join(axes)})"
    if weight.dim() != len(axes):
        raise ValueError(f"{said}, got {tuple(weight.shape)}")
    if weight.shape[-1] < 1:
        raise ValueError(f"{said} with K >= 1, got {tuple(weight.shape)}")
    check_heads(input, weight.shape[-2])
    check_bias(bias, input.shape[2])
    check_like(input, weight=weight, bias=bias)
    check_positive(dilation=dilation)


def _check_steps(weight: Tensor, axes: tuple[str, ...], batch: int, time: int) -> None:
    if axes == _PER_STEP and weight.shape[:2] != (batch, time):
        raise ValueError(
            f"weight must be ({', '.join(axes)}) with the output's (B, T) = {(batch, time)}, got {tuple(weight.shape)}"
        )
