"""The softmax over the taps of kernels."""

import torch
from torch import Tensor

_VECTOR = 16  # float32 numbers that a CPU computes with at once


def softmax_over_taps(logits: Tensor) -> Tensor:
    """The softmax of logits (..., K) over the taps, in float32 at least."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    if logits.device.type == "cpu" and logits.shape[-1] < _VECTOR and not torch.compiler.is_compiling():
        # torch takes shorter rows number by number, 4 to 8 times as long as many rows at once, over another dimension.
        return logits.movedim(-1, 0).softmax(0, dtype=dtype).movedim(0, -1).contiguous()
    return logits.softmax(-1, dtype=dtype)
