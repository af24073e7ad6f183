"""Fixtures of all tests."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="module")
def nan_filled_memory() -> Iterator[None]:
    """``torch.empty`` and its relatives return NaN, so that a result which reads unwritten memory can't look right."""
    torch.use_deterministic_algorithms(True)  # fill_uninitialized_memory is on by default, but acts only with this
    assert torch.empty(1000).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
