"""Dynamic convolutions of few taps whose kernels, one for each channel, are of low rank.

All tensors are (batch, time, channels). Symbols: B batch, T time, C channels, K kernel size.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from operator import add

import torch
import torch.nn.functional as F
from torch import Tensor

from seqdyconv.functional import gpu
from seqdyconv.functional.appending import append_inputs
from seqdyconv.functional.backends import Backend, choose
from seqdyconv.functional.checks import check_input, check_like, check_state
from seqdyconv.functional.context import in_autocast
from seqdyconv.functional.conv import OpPadding, backends_with_kernels, op_padding
from seqdyconv.functional.packing import check_packed, run_packed, sequence_of


def low_rank_conv1d(
    input: Tensor,
    coefficients: Tensor,
    basis: Tensor,
    *,
    padding: OpPadding = "same",
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    r"""Convolution over time with its own low-rank kernel at every step and channel (arXiv 2606.03825).

    The layout is (batch, time, channels), unlike :class:`torch.nn.Conv1d`. It is :func:`seqdyconv.dynamic_conv1d` with
    the kernels ``einsum("btr,rck->btck", coefficients, basis)``, which ``"tap_by_tap"`` never makes all at once.

    .. math:: out[b,t,c] = \sum_k \sum_r coefficients[b,t,r] \cdot basis[r,c,k] \cdot input[b, t + k - P, c]

    Args:
        input: (B, T, C), zero outside the sequence. Floating point.
        coefficients: (B, T, rank), of each output step. Its dtype is the input's.
        basis: (rank, C, K), the kernels that are mixed. Its dtype is the input's.
        padding: ``"causal"``, ``"same"``, P itself or ``"valid"``, as in :func:`seqdyconv.lightweight_conv1d`.
        cu_seqlens: (N + 1,) int, where N sequences packed into one row (1, T, C) begin and end, each then convolved
            alone: sequence n is the steps from ``cu_seqlens[n]`` to ``cu_seqlens[n + 1]``.
        backend: one of :func:`seqdyconv.dynamic_conv1d`, which is given all kernels at once, but for ``"triton"``,
            which stores none; ``"tap_by_tap"``, which makes those of one tap at a time; or None for the fastest that
            can run.

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
    input, coefficients, basis = in_autocast(input, coefficients, basis)
    _check(input, basis)
    pads = op_padding(input, padding, basis.shape[-1])
    _check_coefficients(input, coefficients, basis, input.shape[1] + sum(pads) - (basis.shape[-1] - 1))
    chosen = _choose(input, coefficients, basis, backend)
    run = chosen.run
    if cu_seqlens is None:
        return run(input, pads, coefficients, basis)
    check_packed(cu_seqlens, input)
    if padding == "valid":
        raise ValueError('cu_seqlens needs as many outputs as inputs: padding must not be "valid"')
    if "sequence" in chosen.fuses:
        return run(input, pads, coefficients, basis, sequence=sequence_of(cu_seqlens, input.shape[1])[1].int())
    return run_packed(
        lambda rows, _, coefficients: run(rows, pads, coefficients, basis), input, cu_seqlens, max(pads), coefficients
    )


def low_rank_conv1d_step(
    input: Tensor, state: Tensor, coefficients: Tensor, basis: Tensor, *, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """A chunk of a causal :func:`low_rank_conv1d`, (batch, time, channels), with the inputs before it as state.

    Args:
        input: (B, T, C), the next chunk, T ≥ 1.
        state: (B, K−1, C), the inputs before it, zero before the first one.
        coefficients, basis, backend: as in :func:`low_rank_conv1d`.

    Returns:
        The output (B, T, C), and the state for the next chunk, of the shape of ``state``.

    Raises:
        ValueError: shapes, dtypes or options that do not fit.

    Example:
        >>> import torch
        >>> from seqdyconv import low_rank_conv1d_step
        >>> ones = torch.ones(1, 1, 1)
        >>> output, state = low_rank_conv1d_step(ones, torch.zeros(1, 2, 1), ones, torch.ones(1, 1, 3))
        >>> output.item(), state.flatten().tolist()
        (1.0, [0.0, 1.0])
    """
    input, coefficients, basis = in_autocast(input, coefficients, basis)
    _check(input, basis)
    _check_coefficients(input, coefficients, basis, input.shape[1])
    check_state(input, state, basis.shape[-1] - 1, "K-1")
    run = _choose(input, coefficients, basis, backend).run
    window, following = append_inputs(state, input)
    return run(window, (0, 0), coefficients, basis), following


def _kernels(coefficients: Tensor, basis: Tensor) -> Tensor:
    """The definition: (B, T, C, K) from (B, T, rank) and (rank, C, K)."""
    return torch.einsum("btr,rck->btck", coefficients, basis)


def _tap_by_tap(input: Tensor, padding: tuple[int, int], coefficients: Tensor, basis: Tensor) -> Tensor:
    """All kernels at once would be K times the input, and take twice the time."""
    window, time = F.pad(input, (0, 0, *padding)), coefficients.shape[1]
    wide = torch.promote_types(input.dtype, torch.float32)
    kernels = (coefficients @ tap for tap in basis.unbind(-1))  # each (B, T, C)
    taps = (kernel.to(wide) * window[:, k : k + time].to(wide) for k, kernel in enumerate(kernels))
    return reduce(add, taps).to(input.dtype)


def _tap_by_tap_pays(input: Tensor, kernels: Sequence[int], dilation: int) -> bool:
    """Measured: the kernels of CPUs take half the time for few taps, though all K are made at once for them."""
    native = BACKENDS["native"]
    usable = native.pays(input, kernels, dilation) and native.refuses(input, kernels, dilation) is None
    return kernels[-1] > _FEW_TAPS or not usable


_FEW_TAPS = 4

# From the definition to the fastest. ``run`` takes (input, padding, coefficients, basis).
BACKENDS: dict[str, Backend] = {
    **backends_with_kernels(_kernels),
    "tap_by_tap": Backend(_tap_by_tap, pays=_tap_by_tap_pays),
}
BACKENDS["triton"] = replace(BACKENDS["triton"], run=gpu.low_rank, fuses=frozenset({"sequence"}))


def _choose(input: Tensor, coefficients: Tensor, basis: Tensor, backend: str | None) -> Backend:
    return choose(BACKENDS, backend, input, (*coefficients.shape[:2], *basis.shape[1:]))


def _check(input: Tensor, basis: Tensor) -> None:
    check_input(input)
    if basis.dim() != 3 or basis.shape[1] != input.shape[2] or basis.shape[0] < 1 or basis.shape[2] < 1:
        raise ValueError(
            f"basis must be (rank, C, K) with C = {input.shape[2]}, rank >= 1 and K >= 1, got {tuple(basis.shape)}"
        )
    check_like(input, basis=basis)


def _check_coefficients(input: Tensor, coefficients: Tensor, basis: Tensor, time: int) -> None:
    expected = (input.shape[0], time, basis.shape[0])
    if coefficients.shape != expected:
        raise ValueError(f"coefficients must be (B, T, rank) = {expected}, got {tuple(coefficients.shape)}")
    check_like(input, coefficients=coefficients)
