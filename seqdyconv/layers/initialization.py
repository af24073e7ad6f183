"""How layers start: each module that has parameters of its own redraws them in ``reset_parameters()``.

That is the one place where a start is decided. A layer starts the same alone, in a model, put into somebody else's
model, and where it was made on the meta device and each of its modules then got memory and ``reset_parameters()``, as
FSDP does. So a linear layer that starts otherwise than torch's has a ``reset_parameters`` of its own, and is not mended
by its owner. Its type is torch's: what quantizes or adapts linear layers finds them by it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.utils import skip_init

M = TypeVar("M", bound=nn.Module)


def starting(
    start: Callable[[Any], None],
    kind: type[M],
    *sizes: int,
    device: torch.device | str | None = None,
    **options: Any,
) -> M:
    """A layer of one of torch's types whose ``reset_parameters()`` is ``start`` of it, a function of a module."""
    layer = skip_init(kind, *sizes, device=torch.get_default_device() if device is None else device, **options)
    layer.reset_parameters = partial(start, layer)
    layer.reset_parameters()
    return layer


def xavier_linear(*sizes: int, **options: Any) -> nn.Linear:
    """A linear layer with weights by Xavier, uniform (Glorot and Bengio 2010), and zero biases.

    Every projection and every generator of kernels starts so.
    """
    return starting(xavier_weight, nn.Linear, *sizes, **options)


def zero_linear(*sizes: int, **options: Any) -> nn.Linear:
    """A linear layer that starts at zero: what it predicts acts on nothing until it has learnt to."""
    return starting(zero_weight, nn.Linear, *sizes, **options)


def zero_conv1d(*sizes: int, **options: Any) -> nn.Conv1d:
    """A convolution that starts at zero, (batch, channels, time), as torch has it."""
    return starting(zero_weight, nn.Conv1d, *sizes, **options)


def first_part_linear(*sizes: int, **options: Any) -> nn.Linear:
    """A linear layer that starts as the identity of the first part of its input and does not see the rest."""
    return starting(identity_weight, nn.Linear, *sizes, **options)


def xavier_weight(layer: nn.Linear) -> None:
    nn.init.xavier_uniform_(layer.weight)
    zero_bias(layer)


def zero_weight(layer: nn.Linear | nn.Conv1d) -> None:
    nn.init.zeros_(layer.weight)
    zero_bias(layer)


def identity_weight(layer: nn.Linear) -> None:
    nn.init.eye_(layer.weight)
    zero_bias(layer)


def zero_bias(layer: nn.Linear | nn.Conv1d) -> None:
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def reset_children(module: nn.Module) -> None:
    """Let all parts of a module start anew."""
    for child in module.children():
        reset: Any = getattr(child, "reset_parameters", None)
        if reset is None:  # a mere container, or a quantized layer
            reset_children(child)
        else:
            reset()
