"""How layers start: each module that has parameters of its own redraws them in ``reset_parameters()``.

That is the one place where a start is decided. A layer starts the same alone, in a model, put into somebody else's
model, and where it was made on the meta device and each of its modules then got memory and ``reset_parameters()``, as
FSDP does. So a linear layer that starts otherwise than torch's is a class of its own, not one that its owner mends.
"""

from typing import Any

from torch import nn


class XavierLinear(nn.Linear):
    """A linear layer with weights by Xavier, uniform (Glorot and Bengio 2010), and zero biases.

    Every projection and every generator of kernels starts so.
    """

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class ZeroLinear(nn.Linear):
    """A linear layer that starts at zero: what it predicts acts on nothing until it has learnt to."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class ZeroConv1d(nn.Conv1d):
    """A convolution that starts at zero, (batch, channels, time), as torch has it."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class FirstPartLinear(nn.Linear):
    """A linear layer that starts as the identity of the first part of its input and does not see the rest."""

    def reset_parameters(self) -> None:
        nn.init.eye_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


def reset_children(module: nn.Module) -> None:
    """Let all parts of a module start anew."""
    for child in module.children():
        reset: Any = getattr(child, "reset_parameters", None)
        if reset is None:  # a mere container
            reset_children(child)
        else:
            reset()
