"""Backends: the ways in which one operation is computed, what each declares, and the one choice among them."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seqdyconv.functional.context import in_forward_mode, in_transform

logger = logging.getLogger(__name__)

Limits = Callable[[Tensor, Sequence[int], int], str | None]
Pays = Callable[[Tensor, Sequence[int], int], bool]


def _none(input: Tensor, kernels: Sequence[int], dilation: int) -> None:
    """No further limits."""


def _always(input: Tensor, kernels: Sequence[int], dilation: int) -> bool:
    return True


@dataclass(frozen=True)
class Backend:
    """One way to compute an operation. The choice and the tests go by what it declares.

    ``limits`` and ``pays`` are told of a call: the input (B, T, C), the shape of its kernels, (H, K) or (B, T, H, K),
    and the dilation.
    """

    run: Callable[..., Tensor]
    """The computation, of the signature that all backends of the operation have."""
    devices: tuple[str, ...] | None = None
    """The types of device it runs on, such as ``"cpu"``; None: any."""
    dtypes: tuple[torch.dtype, ...] | None = None
    """The dtypes of the input that it takes; None: any floating point."""
    second_derivatives: bool = True
    """Whether its gradients can be differentiated again; where not, trying to must raise."""
    transforms: bool = True
    """Whether it runs under ``torch.func`` (vmap, grad, jvp) and in forward-mode differentiation."""
    limits: Limits = _none
    """Why else it cannot run for a call, in words that follow "because"; None where it can."""
    pays: Pays = _always
    """Whether it is the faster choice for a call than the backends before it."""
    fuses: frozenset[str] = frozenset()
    """The keywords that ``run`` takes too, for what is otherwise done around it: ``"softmax"``, whether the kernels are
    logits, and ``"sequence"``, (T,) int32, which of several packed sequences each step is of."""
    advance: Callable[..., tuple[Tensor, Tensor]] | None = None
    """(input, state, kernels, dilation) to the output of the next steps and the state that follows; None: by ``run``
    of the state and the input put together."""

    def refuses(self, input: Tensor, kernels: Sequence[int], dilation: int) -> str | None:
        """Why it cannot run for this call; None where it can."""
        if self.devices is not None and input.device.type not in self.devices:
            return f"it runs on {', '.join(self.devices)}, got {input.device.type}"
        if self.dtypes is not None and input.dtype not in self.dtypes:
            return f"it takes {', '.join(map(str, self.dtypes))}, got {input.dtype}"
        if not self.transforms and in_transform():
            return "it does not run under torch.func"
        if not self.transforms and in_forward_mode():
            return "it does not run in forward-mode differentiation"
        return self.limits(input, kernels, dilation)


def choose(
    backends: dict[str, Backend], name: str | None, input: Tensor, kernels: Sequence[int], dilation: int = 1
) -> Backend:
    """The backend for a call.

    Args:
        backends: of the operation, from its definition to the fastest.
        name: in ``backends``, or None for the last one that pays and does not refuse.
        input, kernels, dilation: the call, see :class:`Backend`.

    Raises:
        ValueError: a name that is none, or of a backend that refuses; the message has its reason.
    """
    if name is not None:
        if name not in backends:
            raise ValueError(f"backend must be None or one of {', '.join(backends)}, got {name!r}")
        if reason := backends[name].refuses(input, kernels, dilation):
            raise ValueError(f"backend={name!r} cannot run here, because {reason}")
        return backends[name]
    for name, backend in reversed(backends.items()):
        if backend.pays(input, kernels, dilation):
            reason = backend.refuses(input, kernels, dilation)
            if reason is None:
                return backend
            if not torch.compiler.is_compiling():
                logger.debug("backend %r is not chosen, because %s", name, reason)
    raise ValueError(f"none of the backends {', '.join(backends)} can run here")
