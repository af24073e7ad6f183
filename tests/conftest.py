"""Fixtures of all tests."""

import gc
import os
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

# One thread for each of the workers that share the cores, and for the processes that tests start.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
# bf16 trains in bfloat16 on every machine, though that may be slow.
torch.cpu.get_capabilities = lambda: {"avx512_bf16": True}


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Folders of tests run on all cores; named files at once in this process, since workers take seconds to start."""
    return 0 if any(".py" in name for name in config.args) else min(os.cpu_count() or 1, 8)


def pytest_collection_finish() -> None:
    """Leave the modules and tests out of all garbage collections, and begin no training with one: they are tiny."""
    gc.collect()
    gc.freeze()
    if memory := sys.modules.get("accelerate.utils.memory"):
        memory.gc = SimpleNamespace(collect=int)


@pytest.fixture(scope="module")
def nan_filled_memory() -> Iterator[None]:
    """``torch.empty`` and its relatives return NaN, so that a result which reads unwritten memory can't look right."""
    torch.use_deterministic_algorithms(True)  # fill_uninitialized_memory is on by default, but acts only with this
    assert torch.empty(1000).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def draws_without_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random numbers lie evenly in their range, in order: two tensors are equal where shape and distribution are."""

    def fill(tensor: torch.Tensor, low: float, high: float) -> torch.Tensor:
        with torch.no_grad():
            numbers = torch.linspace(low, high, tensor.numel(), dtype=torch.float64, device="cpu")
            return tensor.copy_(numbers.view(tensor.shape))

    def uniform_(self: torch.Tensor, a: float = 0.0, b: float = 1.0, *, generator: object = None) -> torch.Tensor:
        return fill(self, a, b)

    def normal_(self: torch.Tensor, mean: float = 0.0, std: float = 1.0, *, generator: object = None) -> torch.Tensor:
        return fill(self, mean - 2 * std, mean + 2 * std)

    monkeypatch.setattr(torch.Tensor, "uniform_", uniform_)
    monkeypatch.setattr(torch.Tensor, "normal_", normal_)
