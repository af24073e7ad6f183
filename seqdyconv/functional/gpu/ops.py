"""The kernels as operations of torch: they compile into one graph, and have derivatives.

``triton_convolve`` and ``triton_correlate`` are linear in each of their tensors, and each other's derivatives: so every
derivative, of any order, is one of the two again. See :mod:`seqdyconv.functional.gpu.kernels` for what they compute.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from seqdyconv.functional.gpu import launch

Gradients = tuple[Tensor | None, ...]

OPERATIONS = torch.ops.seqdyconv


def _define(signature: str, run: Callable[..., Any], shape: Callable[..., Any]) -> None:
    """Register an operation, with what makes empty results of the right shape."""
    name, _, arguments = signature.partition("(")
    torch.library.define(f"seqdyconv::{name}", "(" + arguments)
    torch.library.impl(f"seqdyconv::{name}", "default")(run)
    torch.library.register_fake(f"seqdyconv::{name}", shape)


def _keep(ctx: Any, inputs: Sequence[Any], output: Any) -> None:
    """The first three arguments are tensors."""
    ctx.save_for_backward(*inputs[:3])
    ctx.numbers = inputs[3:]


def _twice(function: Callable[..., Tensor], gradient: Tensor, *inputs: Tensor) -> Gradients:
    """The gradients of a function of differentiable operations, so that they can be differentiated again."""
    needed = [input for input in inputs if input.requires_grad]
    gradients = iter(torch.autograd.grad(function(*inputs), needed, gradient, create_graph=True))
    return tuple(next(gradients) if input.requires_grad else None for input in inputs)


# The two operations of a convolution.


def _convolve_shape(source: Tensor, weight: Tensor, sequence: Tensor | None, time: int, *_: Any) -> Tensor:
    return source.new_empty(source.shape[0], time, source.shape[2])


def _correlate_shape(
    near: Tensor, far: Tensor, sequence: Tensor | None, heads: int, kernel_size: int, o: int, d: int, shared: bool
) -> Tensor:
    return near.new_empty(*() if shared else near.shape[:2], heads, kernel_size)


def _convolve_backward(ctx: Any, gradient: Tensor) -> Gradients:
    source, weight, sequence = ctx.saved_tensors
    _, offset, dilation, adjoint = ctx.numbers
    of_source = of_weight = None
    if ctx.needs_input_grad[0]:
        time = source.shape[1]
        of_source = OPERATIONS.triton_convolve(gradient, weight, sequence, time, -offset, dilation, not adjoint)
    if ctx.needs_input_grad[1]:
        near, far, offset = (source, gradient, -offset) if adjoint else (gradient, source, offset)
        shared = weight.dim() == 2
        of_weight = OPERATIONS.triton_correlate(near, far, sequence, *weight.shape[-2:], offset, dilation, shared)
    return of_source, of_weight, *[None] * 5


def _correlate_backward(ctx: Any, gradient: Tensor) -> Gradients:
    near, far, sequence = ctx.saved_tensors
    _, _, offset, dilation, _ = ctx.numbers
    of_near = of_far = None
    if ctx.needs_input_grad[0]:
        of_near = OPERATIONS.triton_convolve(far, gradient, sequence, near.shape[1], offset, dilation, False)
    if ctx.needs_input_grad[1]:
        of_far = OPERATIONS.triton_convolve(near, gradient, sequence, far.shape[1], -offset, dilation, True)
    return of_near, of_far, *[None] * 6


_define(
    "triton_convolve(Tensor source, Tensor weight, Tensor? sequence, SymInt time, SymInt offset, SymInt dilation, "
    "bool adjoint) -> Tensor",
    launch.convolve,
    _convolve_shape,
)
_define(
    "triton_correlate(Tensor near, Tensor far, Tensor? sequence, SymInt heads, SymInt kernel_size, SymInt offset, "
    "SymInt dilation, bool shared) -> Tensor",
    launch.correlate,
    _correlate_shape,
)
torch.library.register_autograd("seqdyconv::triton_convolve", _convolve_backward, setup_context=_keep)
torch.library.register_autograd("seqdyconv::triton_correlate", _correlate_backward, setup_context=_keep)


# A softmax over the taps on the way. Its first derivatives are kernels too; for the second it is taken apart.


def _empty_totals(logits: Tensor) -> Tensor:
    return logits.new_empty(logits.shape[:3], dtype=torch.promote_types(logits.dtype, torch.float32))


def _softmax_convolve(
    source: Tensor, logits: Tensor, sequence: Tensor | None, offset: int, dilation: int
) -> tuple[Tensor, Tensor]:
    totals = _empty_totals(logits)
    return launch.convolve(source, logits, sequence, logits.shape[1], offset, dilation, False, totals), totals


def _softmax_shape(source: Tensor, logits: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return source.new_empty(*logits.shape[:2], source.shape[2]), _empty_totals(logits)


def _softmax_gradients(
    gradient: Tensor,
    source: Tensor,
    logits: Tensor,
    totals: Tensor,
    output: Tensor,
    sequence: Tensor | None,
    offset: int,
    dilation: int,
) -> tuple[Tensor, Tensor]:
    time, (heads, kernel_size) = source.shape[1], logits.shape[2:]
    return (
        launch.convolve(gradient, logits, sequence, time, -offset, dilation, True, totals),
        launch.correlate(
            gradient, source, sequence, heads, kernel_size, offset, dilation, False, logits, totals, output
        ),
    )


def _softmax_keep(ctx: Any, inputs: Sequence[Any], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:3], *output)
    ctx.numbers = inputs[3:]


def _softmax_backward(ctx: Any, gradient: Tensor, _: Tensor) -> Gradients:
    source, logits, sequence, output, totals = ctx.saved_tensors
    offset, dilation = ctx.numbers

    def apart(source: Tensor, logits: Tensor) -> Tensor:
        kernels = logits.softmax(-1, dtype=totals.dtype).to(source.dtype)
        return OPERATIONS.triton_convolve(source, kernels, sequence, logits.shape[1], offset, dilation, False)

    if torch.is_grad_enabled():
        return *_twice(apart, gradient, source, logits), None, None, None
    gradients = OPERATIONS.triton_softmax_gradients(
        gradient, source, logits, totals, output, sequence, offset, dilation
    )
    return *gradients, None, None, None


_define(
    "triton_softmax_convolve(Tensor source, Tensor logits, Tensor? sequence, SymInt offset, SymInt dilation) -> "
    "(Tensor, Tensor)",
    _softmax_convolve,
    _softmax_shape,
)
_define(
    "triton_softmax_gradients(Tensor gradient, Tensor source, Tensor logits, Tensor totals, Tensor output, "
    "Tensor? sequence, SymInt offset, SymInt dilation) -> (Tensor, Tensor)",
    _softmax_gradients,
    lambda gradient, source, logits, *_: (source.new_empty(source.shape), logits.new_empty(logits.shape)),
)
torch.library.register_autograd("seqdyconv::triton_softmax_convolve", _softmax_backward, setup_context=_softmax_keep)


# Kernels of low rank, made in registers: likewise.


def _low_rank_gradients(
    gradient: Tensor, source: Tensor, coefficients: Tensor, basis: Tensor, sequence: Tensor | None, offset: int
) -> tuple[Tensor, Tensor, Tensor]:
    time = source.shape[1]
    return (
        launch.low_rank(gradient, coefficients, basis, sequence, time, -offset, True),
        *launch.low_rank_backward(gradient, source, coefficients, basis, sequence, offset),
    )


def _low_rank_keep(ctx: Any, inputs: Sequence[Any], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.offset = inputs[4]


def _low_rank_backward(ctx: Any, gradient: Tensor) -> Gradients:
    source, coefficients, basis, sequence = ctx.saved_tensors

    def apart(source: Tensor, coefficients: Tensor, basis: Tensor) -> Tensor:
        kernels = torch.einsum("btr,rck->btck", coefficients, basis)
        return OPERATIONS.triton_convolve(source, kernels, sequence, kernels.shape[1], ctx.offset, 1, False)

    if torch.is_grad_enabled():
        return *_twice(apart, gradient, source, coefficients, basis), None, None
    return (
        *OPERATIONS.triton_low_rank_gradients(gradient, source, coefficients, basis, sequence, ctx.offset),
        None,
        None,
    )


_define(
    "triton_low_rank(Tensor source, Tensor coefficients, Tensor basis, Tensor? sequence, SymInt offset) -> Tensor",
    lambda source, coefficients, basis, sequence, offset: launch.low_rank(
        source, coefficients, basis, sequence, coefficients.shape[1], offset, False
    ),
    lambda source, coefficients, *_: source.new_empty(*coefficients.shape[:2], source.shape[2]),
)
_define(
    "triton_low_rank_gradients(Tensor gradient, Tensor source, Tensor coefficients, Tensor basis, Tensor? sequence, "
    "SymInt offset) -> (Tensor, Tensor, Tensor)",
    _low_rank_gradients,
    lambda gradient, *inputs: tuple(input.new_empty(input.shape) for input in inputs[:3]),
)
torch.library.register_autograd("seqdyconv::triton_low_rank", _low_rank_backward, setup_context=_low_rank_keep)


# A step with state.


def _advance_backward(ctx: Any, of_output: Tensor, of_following: Tensor) -> Gradients:
    input, state, weight = ctx.saved_tensors
    (dilation,), length, time = ctx.numbers, state.shape[1], input.shape[1]
    of_window = OPERATIONS.triton_convolve(of_output, weight, None, length + time, 0, dilation, True)
    of_window = of_window + torch.nn.functional.pad(of_following, (0, 0, time, 0))
    window = torch.cat([state, input], dim=1)
    shared = weight.dim() == 2
    of_weight = OPERATIONS.triton_correlate(of_output, window, None, *weight.shape[-2:], 0, dilation, shared)
    return of_window[:, length:], of_window[:, :length], of_weight, None


_define(
    "triton_advance(Tensor input, Tensor state, Tensor weight, SymInt dilation) -> (Tensor, Tensor)",
    launch.advance,
    lambda input, state, *_: (input.new_empty(input.shape), state.new_empty(state.shape)),
)
torch.library.register_autograd("seqdyconv::triton_advance", _advance_backward, setup_context=_keep)
