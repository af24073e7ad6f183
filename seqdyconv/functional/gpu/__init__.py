"""Kernels in Triton for GPUs: the backend ``"triton"`` of the convolutions.

They have been compiled for NVIDIA's and AMD's GPUs, and checked number by number in Triton's interpreter, but not yet
run on a GPU: until they have been, the backend is chosen by its name only. Triton comes with torch on Linux. With
``TRITON_INTERPRET=1`` in the environment the backend runs on the CPU, slowly, as the tests do.
"""

import importlib.util
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from seqdyconv.functional.softmax import softmax_over_taps

_INSTALLED = importlib.util.find_spec("triton") is not None
DEVICES = ("cuda", "cpu") if os.environ.get("TRITON_INTERPRET") == "1" else ("cuda",)
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def _ops() -> Any:
    """The operations, which the first call registers: importing the package takes no time for them."""
    from seqdyconv.functional.gpu.ops import OPERATIONS

    return OPERATIONS


def depthwise(
    input: Tensor,
    weight: Tensor,
    padding: tuple[int, int],
    dilation: int,
    *,
    sequence: Tensor | None = None,
    softmax: bool = False,
) -> Tensor:
    """The same as :func:`seqdyconv.functional.reference.depthwise`, also of packed sequences and of logits.

    ``sequence`` (T,) int32 tells which sequence a step is of; taps in another one read zero. With ``softmax`` the
    kernels are the softmax of ``weight`` over its taps.
    """
    if softmax and weight.dim() == 4:
        output: Tensor = _ops().triton_softmax_convolve(input, weight, sequence, -padding[0], dilation)[0]
        return output
    if softmax:  # kernels that all steps share are few
        weight = softmax_over_taps(weight).to(weight.dtype)
    time = input.shape[1] + sum(padding) - (weight.shape[-1] - 1) * dilation
    output = _ops().triton_convolve(input, weight, sequence, time, -padding[0], dilation, False)
    return output


def advance(input: Tensor, state: Tensor, weight: Tensor, dilation: int) -> tuple[Tensor, Tensor]:
    """The next steps of a causal convolution, and the state that follows, as in ``dynamic_conv1d_step``."""
    output, following = _ops().triton_advance(input, state, weight, dilation)
    return output, following


def low_rank(
    input: Tensor, padding: tuple[int, int], coefficients: Tensor, basis: Tensor, *, sequence: Tensor | None = None
) -> Tensor:
    """:func:`depthwise` with the kernels that ``coefficients`` (B, T, rank) mix of ``basis`` (rank, C, K)."""
    output: Tensor = _ops().triton_low_rank(input, coefficients, basis, sequence, -padding[0])
    return output


def limits(input: Tensor, kernels: Sequence[int], dilation: int) -> str | None:
    """Why it cannot run for a call, see :class:`seqdyconv.functional.backends.Backend`."""
    if not _INSTALLED:
        return "Triton is not installed"
    if torch.compiler.is_exporting():
        return "an exported graph holds no kernels"
    return None


def pays(input: Tensor, kernels: Sequence[int], dilation: int) -> bool:
    """Whether it is the faster choice: not before it has been measured on a GPU."""
    return False
