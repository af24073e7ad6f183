"""How the tests of an operation run over its backends: where each is at home, and what it is not asked for."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from seqdyconv.functional.backends import Backend
from tests.helpers import TOLERANCES

WIDEST_FIRST = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
CAPABILITIES = {"second_derivatives": "second derivatives", "transforms": "torch.func"}


def each(backends: Mapping[str, Backend], *, but: str | None = None, dtype=None, **needs: bool) -> pytest.MarkDecorator:
    """Run a test with every ``backend``; one that declares it lacks what the test needs is skipped, saying so."""
    parameters = []
    for name, backend in backends.items():
        missing = [said for field, said in CAPABILITIES.items() if needs.get(field) and not getattr(backend, field)]
        if dtype is not None and not takes(backend, dtype):
            missing.append(str(dtype))
        reason = f"backend {name} declares no {' and no '.join(missing)}"
        parameters.append(pytest.param(name, marks=[pytest.mark.skip(reason)] if missing else []))
    return pytest.mark.parametrize("backend", [parameter for parameter in parameters if parameter.values[0] != but])


def takes(backend: Backend, dtype: torch.dtype) -> bool:
    return backend.dtypes is None or dtype in backend.dtypes


def at_home(backend: Backend, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors where the backend runs, and, where it does not take their dtype, in the widest that it takes."""
    if reason := backend.limits(torch.zeros(1, 1, 1), (1, 1), 1):
        pytest.skip(f"it cannot run here, because {reason}")
    device = "cpu" if backend.devices is None or "cpu" in backend.devices else backend.devices[0]
    if device != "cpu" and not torch.get_device_module(device).is_available():
        pytest.skip(f"there is no {device} here")
    widest = next(dtype for dtype in WIDEST_FIRST if takes(backend, dtype))
    return tuple(tensor.to(device, tensor.dtype if takes(backend, tensor.dtype) else widest) for tensor in tensors)


def within(output: Tensor, tolerance: float = 1e-10) -> float:
    """The tolerance that is asked of float64, or what the dtype of ``output`` allows."""
    return tolerance if output.dtype == torch.float64 else TOLERANCES[output.dtype]
