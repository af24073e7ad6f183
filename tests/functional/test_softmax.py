"""The softmax over taps is torch's, whatever way it is computed."""

import pytest
import torch
from torch.testing import assert_close

from seqdyconv.functional.softmax import softmax_over_taps


@pytest.mark.parametrize("taps", [1, 2, 15, 16, 40])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_of_any_number_of_taps(taps, dtype):
    torch.manual_seed(0)
    logits = (5 * torch.randn(2, 9, 3, taps)).to(dtype).requires_grad_()
    wide = torch.promote_types(dtype, torch.float32)
    gradient = torch.randn(2, 9, 3, taps, dtype=wide)
    found, expected = softmax_over_taps(logits), logits.softmax(-1, dtype=wide)
    assert_close(found, expected)
    assert found.is_contiguous()
    assert_close(torch.autograd.grad(found, logits, gradient), torch.autograd.grad(expected, logits, gradient))


def test_taps_that_are_ruled_out_get_nothing():
    logits = torch.zeros(4, 7)
    logits[:, 2:] = -torch.inf
    assert_close(softmax_over_taps(logits), torch.tensor([0.5, 0.5, 0, 0, 0, 0, 0]).expand(4, 7))
