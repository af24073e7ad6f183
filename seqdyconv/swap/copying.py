"""Modules without their weights, and with those of others: how a replaced attention is remembered, and comes back."""

from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def without_weights(module: Module) -> Module:
    """A copy on the meta device, whose settings are those of ``module`` itself; without its hooks."""
    copied = type(module).__new__(type(module))
    nn.Module.__init__(copied)
    own = vars(copied)
    for name, value in vars(module).items():
        # Methods of one object, as hooks of accelerate are, would run the module that is copied.
        if name not in own and name not in ("forward", "_old_forward", "_hf_hook", "reset_parameters"):
            own[name] = value
    copied.training = module.training
    for name, parameter in module._parameters.items():
        empty = None if parameter is None else nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
        copied.register_parameter(name, empty)
    for name, buffer in module._buffers.items():
        persistent = name not in module._non_persistent_buffers_set
        copied.register_buffer(name, None if buffer is None else buffer.to("meta"), persistent)
    for name, child in module._modules.items():
        copied.add_module(name, None if child is None else without_weights(child))
    return copied


@torch.no_grad()
def with_weights(module: Module, source: object, what: str, *, like: Tensor) -> Module:
    """A copy of ``module`` with the weights and buffers of another of its kind.

    Args:
        module: on the meta device, of :func:`without_weights`.
        source: whose weights are copied.
        what: how ``source`` is called in messages.
        like: has the dtype and device of the copy.

    Raises:
        ValueError: ``source`` is of another class, has weights of other names or shapes, or none at all.
    """
    if type(source) is not type(module):
        raise ValueError(f"{what} must be a {type(module).__name__}, got a {type(source).__name__}")
    wanted, given = _tensors(module), _tensors(source)
    if wanted.keys() != given.keys():
        raise ValueError(f"{what} must have the weights {', '.join(wanted)}, got {', '.join(given)}")
    for name, tensor in wanted.items():
        if given[name].shape != tensor.shape:
            raise ValueError(f"{name} of {what} must be {tuple(tensor.shape)}, got {tuple(given[name].shape)}")
        if given[name].is_meta:
            raise ValueError(f"{what} has no weights: it is on the meta device")
    copied = without_weights(module).to(like.dtype).to_empty(device=like.device)
    for name, tensor in _tensors(copied).items():
        tensor.copy_(given[name])
    return copied


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}
