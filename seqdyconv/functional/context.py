"""What surrounds a call: autocast, torch.func, and an export whose sequences may have any length."""

from typing import Any

import torch
from torch import Tensor
from torch.amp.autocast_mode import is_autocast_available
from torch.autograd import forward_ad


def autocasts(tensor: Tensor) -> bool:
    """Whether autocast is on for the tensor's device; it is on for none that it doesn't know, such as meta."""
    device = tensor.device.type
    return is_autocast_available(device) and torch.is_autocast_enabled(device)


def in_autocast(input: Tensor, *others: Tensor | None) -> tuple[Any, ...]:
    """The tensors in autocast's dtype where it is on, as ``F.conv1d`` takes them, whatever arrives (float64 stays)."""
    if not autocasts(input) or not input.is_floating_point() or input.dtype == torch.float64:
        return input, *others
    dtype = torch.get_autocast_dtype(input.device.type)
    return tuple(x if x is None else x.to(dtype) for x in (input, *others))


def in_transform() -> bool:
    """Whether the call is under ``torch.func``, whose tensors stand for others."""
    return not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None


def in_forward_mode() -> bool:
    """Whether derivatives are carried along with the results: an operation without a rule for them would drop them."""
    return not torch.compiler.is_compiling() and forward_ad._current_level >= 0


def exports_any_length(input: Tensor) -> bool:
    """Whether a graph is being exported in which batch or time may have any size, so that nothing may depend on it."""
    return torch.compiler.is_exporting() and any(isinstance(size, torch.SymInt) for size in input.shape[:2])
