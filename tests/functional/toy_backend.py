"""A backend that can do little: float32, on the CPU, first derivatives. ``pytest -p tests.functional.toy_backend``.

It is a registered operation, as a kernel of its own would be, and a row in the table.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from seqdyconv.functional import blocked, conv
from seqdyconv.functional.backends import Backend


@torch.library.custom_op("seqdyconv_tests::toy", mutates_args=())
def toy(input: Tensor, weight: Tensor, left: int, right: int, dilation: int) -> Tensor:
    return blocked.depthwise(input, weight, (left, right), dilation).clone()


@toy.register_fake
def _(input, weight, left, right, dilation):
    time = input.shape[1] + left + right - (weight.shape[-1] - 1) * dilation
    return input.new_empty(input.shape[0], time, input.shape[2])


@torch.library.custom_op("seqdyconv_tests::toy_backward", mutates_args=())
def toy_backward(
    gradient: Tensor, input: Tensor, weight: Tensor, left: int, right: int, dilation: int
) -> tuple[Tensor, Tensor]:
    heads, kernel_size = weight.shape[-2:]
    padded = F.pad(input, (0, 0, left, right)).unflatten(-1, (heads, -1))
    gradient = gradient.unflatten(-1, (heads, -1))
    of_padded, of_weight = torch.zeros_like(padded), torch.zeros_like(weight)
    for k in range(kernel_size):
        steps = slice(k * dilation, k * dilation + gradient.shape[1])
        of_padded[:, steps] += weight[..., k, None] * gradient
        product = (gradient * padded[:, steps]).sum(-1)
        of_weight[..., k] = product if weight.dim() == 4 else product.sum((0, 1))
    return of_padded.flatten(-2)[:, left : left + input.shape[1]].clone(), of_weight


@toy_backward.register_fake
def _(gradient, input, weight, left, right, dilation):
    return torch.empty_like(input), torch.empty_like(weight)


def _keep(ctx, inputs, output):
    input, weight, *ctx.numbers = inputs
    ctx.save_for_backward(input, weight)


def _backward(ctx, gradient):
    return *toy_backward(gradient, *ctx.saved_tensors, *ctx.numbers), None, None, None


toy.register_autograd(_backward, setup_context=_keep)

TOY = Backend(
    lambda input, weight, padding, dilation: toy(input, weight, *padding, dilation),
    devices=("cpu",),
    dtypes=(torch.float32,),
    second_derivatives=False,
    transforms=False,
)


def pytest_configure() -> None:
    """Not where this file is imported: whoever looks for doctests does that."""
    conv.BACKENDS["toy"] = TOY
