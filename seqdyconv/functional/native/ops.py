"""The operations as torch knows them: forward, and the gradients by input and kernels, each the others' derivative.

With S(g, w, x) = Σ g[b,t,c] · w[b,t,c//R,k] · x[b,t+k·dilation−left,c], the output is the derivative of S by g, and the
gradients are those by x and by w. So each of the three is differentiated by the two others, as often as wanted.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from seqdyconv.functional.native import library, plan

_WORTH_THREADS = 250_000  # multiply-adds

_ops = torch.library.Library("seqdyconv", "FRAGMENT")
_ops.define("native_forward(Tensor input, Tensor weight, SymInt left, SymInt right, SymInt dilation) -> Tensor")
_ops.define(
    "native_input_gradient(Tensor gradient, Tensor weight, SymInt length, SymInt left, SymInt dilation) -> Tensor"
)
_ops.define(
    "native_weight_gradient("
    "Tensor gradient, Tensor input, SymInt heads, SymInt kernel_size, SymInt left, SymInt dilation, bool shared"
    ") -> Tensor"
)


def _constant_in_graphs(function: Any) -> Any:
    """What ``torch.compiler.assume_constant_result`` does, without the compiler, which takes seconds to import."""
    function._dynamo_marked_constant = True
    return function


def depthwise(input: Tensor, weight: Tensor, padding: tuple[int, int], dilation: int) -> Tensor:
    """The same as :func:`seqdyconv.functional.reference.depthwise`, by kernels made for this machine."""
    return torch.ops.seqdyconv.native_forward.default(input, weight, *padding, dilation)


def limits(input: Tensor, kernels: Sequence[int], dilation: int) -> str | None:
    """Why :func:`depthwise` cannot run for a call, see :class:`seqdyconv.functional.backends.Backend`."""
    if torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export() or torch.jit._trace.is_tracing():
        return "its kernels stay on this machine, and an exported graph may not"
    return _why_not()


@_constant_in_graphs
def _why_not() -> str | None:
    return library.why_not()


def pays(input: Tensor, kernels: Sequence[int], dilation: int) -> bool:
    """Whether :func:`depthwise` is the fastest for a call."""
    return _one_thread_or_team()


@_constant_in_graphs
def _one_thread_or_team() -> bool:
    """Whether kernels run on as many threads as the rest of torch."""
    return torch.get_num_threads() == 1 or library.team() is not None


# What runs


def _forward(input: Tensor, weight: Tensor, left: int, right: int, dilation: int) -> Tensor:
    batch, length, channels = input.shape
    time = length + left + right - (weight.shape[-1] - 1) * dilation
    output = library.in_large_pages(input.new_empty(batch, time, channels))
    return _convolve("forward", input, weight, output, left, dilation)


def _input_gradient(gradient: Tensor, weight: Tensor, length: int, left: int, dilation: int) -> Tensor:
    batch, _, channels = gradient.shape
    output = library.in_large_pages(gradient.new_empty(batch, length, channels))
    # A convolution with the gradient as input and flipped kernels.
    return _convolve("input_gradient", gradient, weight, output, (weight.shape[-1] - 1) * dilation - left, dilation)


def _convolve(job: plan.Job, source: Tensor, weight: Tensor, output: Tensor, left: int, dilation: int) -> Tensor:
    (_, time, channels), (heads, kernel_size) = output.shape, weight.shape[-2:]
    per_step, host = weight.dim() == 4, library.host()
    kernel = plan.convolution(host, job, per_step, _name(source), channels, heads, kernel_size, time)
    if not per_step:
        weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
        if kernel.weights == "per channel":
            weight, heads = _per_channel(weight, channels, kernel.channels), channels // kernel.channels
        weight = weight.contiguous()[None]
    elif not _is_flat(weight):
        weight = weight.contiguous()
    sizes = {"heads": heads, "kernel_size": kernel_size, "left": left, "dilation": dilation}
    tensors = {"source": _rows(source), "weight": weight, "output": output}
    _run(kernel, tensors, time, sizes | _items(time, dilation, kernel.steps), output.numel() * kernel_size)
    return output


def _weight_gradient(
    gradient: Tensor, input: Tensor, heads: int, kernel_size: int, left: int, dilation: int, shared: bool
) -> Tensor:
    batch, time, channels = gradient.shape
    kernel = plan.weight_gradient(library.host(), not shared, _name(input), channels, heads, kernel_size)
    if shared:
        rows = max(512, 4 * kernel_size)  # fewer would take more memory, more would be work for fewer threads
        items = {"rows": rows, "blocks": -(-time // rows)}
        wide = torch.promote_types(gradient.dtype, torch.float32)
        output = gradient.new_zeros(batch * items["blocks"], kernel_size, channels, dtype=wide)
    else:
        items = _items(time, dilation, kernel.steps)
        output = library.in_large_pages(gradient.new_empty(batch, time, heads, kernel_size))
    sizes = {"channels": channels, "heads": heads, "kernel_size": kernel_size, "left": left, "dilation": dilation}
    tensors = {"source": _rows(input), "gradient": _rows(gradient), "output": output}
    _run(kernel, tensors, time, sizes | items, gradient.numel() * kernel_size)
    if shared:
        return output.sum(0).unflatten(-1, (heads, -1)).sum(-1).T.to(gradient.dtype, copy=True).contiguous()
    return output


def _run(kernel: plan.Kernel, tensors: dict[str, Tensor], time: int, sizes: dict[str, int], multiply_adds: int) -> None:
    if multiply_adds == 0:
        return
    threads = torch.get_num_threads() if multiply_adds > _WORTH_THREADS else 1
    batch, length, _ = tensors["source"].shape
    known = {"batch": batch, "length": length, "time": time, "threads": threads}
    numbers = dict.fromkeys(plan.FIELDS, 0) | known | sizes
    for name, tensor in tensors.items():
        numbers[name] = tensor.data_ptr()
        numbers[f"{name}_batch"], numbers[f"{name}_time"] = tensor.stride(0), tensor.stride(1)
    arguments = (ctypes.c_int64 * len(numbers))(*numbers.values())
    library.run(library.function(kernel), arguments, threads)


def _rows(tensor: Tensor) -> Tensor:
    """The tensor, with neighbouring channels: all that kernels ask of the layout."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def _is_flat(weight: Tensor) -> bool:
    """Whether the kernels of a step, (H, K), are neighbours."""
    heads, kernel_size = weight.shape[-2:]
    return (weight.stride(-1) == 1 or kernel_size == 1) and (weight.stride(-2) == kernel_size or heads == 1)


def _per_channel(weight: Tensor, channels: int, size: int) -> Tensor:
    """(H, K) → (⌈C / size⌉, K, size): the kernel of each channel, for so many at a time."""
    weight = weight.repeat_interleave(channels // weight.shape[0], 0) if channels > weight.shape[0] else weight
    weight = F.pad(weight, (0, 0, 0, -channels % size)) if channels % size else weight
    return weight.unflatten(0, (-1, size)).transpose(1, 2)


def _items(time: int, dilation: int, steps: int) -> dict[str, int]:
    """Outputs of a phase that are done at a time, whole tiles, and how often that is in the longest phase."""
    rows = steps * max(1, 24 // steps)
    return {"rows": rows, "blocks": -(-time // (dilation * rows))}


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


for _op, _implementation in (
    ("native_forward", _forward),
    ("native_input_gradient", _input_gradient),
    ("native_weight_gradient", _weight_gradient),
):
    _ops.impl(_op, _implementation, "CPU")


# What torch needs to know beside: shapes for graphs, and derivatives


@torch.library.register_fake("seqdyconv::native_forward")
def _(input: Tensor, weight: Tensor, left: int, right: int, dilation: int) -> Tensor:
    time = input.shape[1] + left + right - (weight.shape[-1] - 1) * dilation
    return input.new_empty(input.shape[0], time, input.shape[2])


@torch.library.register_fake("seqdyconv::native_input_gradient")
def _(gradient: Tensor, weight: Tensor, length: int, left: int, dilation: int) -> Tensor:
    return gradient.new_empty(gradient.shape[0], length, gradient.shape[2])


@torch.library.register_fake("seqdyconv::native_weight_gradient")
def _(gradient: Tensor, input: Tensor, heads: int, kernel_size: int, left: int, dilation: int, shared: bool) -> Tensor:
    return gradient.new_empty(*([] if shared else gradient.shape[:2]), heads, kernel_size)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    first, second, *ctx.numbers = inputs
    ctx.save_for_backward(first, second)


def _differentiate_forward(ctx: Any, gradient: Tensor) -> tuple[Tensor | int | None, ...]:
    (input, weight), (left, _, dilation) = ctx.saved_tensors, ctx.numbers
    by_input, by_weight = ctx.needs_input_grad[:2]
    return (
        _by_input_of(gradient, weight, input.shape[1], left, dilation) if by_input else None,
        _by_weight_of(gradient, input, weight, left, dilation) if by_weight else None,
        *[None] * 3,
    )


def _differentiate_input_gradient(ctx: Any, cotangent: Tensor) -> tuple[Tensor | int | None, ...]:
    (gradient, weight), (_, left, dilation) = ctx.saved_tensors, ctx.numbers
    by_gradient, by_weight = ctx.needs_input_grad[:2]
    return (
        _output_of(cotangent, weight, left, gradient.shape[1], dilation) if by_gradient else None,
        _by_weight_of(gradient, cotangent, weight, left, dilation) if by_weight else None,
        *[None] * 3,
    )


def _differentiate_weight_gradient(ctx: Any, cotangent: Tensor) -> tuple[Tensor | int | None, ...]:
    (gradient, input), (_, _, left, dilation, _) = ctx.saved_tensors, ctx.numbers
    by_gradient, by_input = ctx.needs_input_grad[:2]
    return (
        _output_of(input, cotangent, left, gradient.shape[1], dilation) if by_gradient else None,
        _by_input_of(gradient, cotangent, input.shape[1], left, dilation) if by_input else None,
        *[None] * 5,
    )


def _output_of(input: Tensor, weight: Tensor, left: int, time: int, dilation: int) -> Tensor:
    right = time - input.shape[1] - left + (weight.shape[-1] - 1) * dilation
    return torch.ops.seqdyconv.native_forward.default(input, weight, left, right, dilation)


def _by_input_of(gradient: Tensor, weight: Tensor, length: int, left: int, dilation: int) -> Tensor:
    return torch.ops.seqdyconv.native_input_gradient.default(gradient, weight, length, left, dilation)


def _by_weight_of(gradient: Tensor, input: Tensor, weight: Tensor, left: int, dilation: int) -> Tensor:
    heads, kernel_size = weight.shape[-2:]
    shared = weight.dim() == 2
    return torch.ops.seqdyconv.native_weight_gradient.default(
        gradient, input, heads, kernel_size, left, dilation, shared
    )


for _op, _derivative in (
    ("native_forward", _differentiate_forward),
    ("native_input_gradient", _differentiate_input_gradient),
    ("native_weight_gradient", _differentiate_weight_gradient),
):
    torch.library.register_autograd(f"seqdyconv::{_op}", _derivative, setup_context=_keep)
