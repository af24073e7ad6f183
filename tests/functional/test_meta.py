"""On the meta device, which has shapes and no numbers, every operation tells the shape of its result."""

import pytest
import torch

from seqdyconv import (
    deformable_conv1d,
    deformable_depthwise_conv1d,
    dynamic_conv1d,
    dynamic_conv1d_step,
    lightweight_conv1d,
    low_rank_conv1d,
    talk_conv1d,
)
from seqdyconv.functional import causal_conv1d_fn

OPS = {
    "lightweight": lambda x, new: lightweight_conv1d(x, new(4, 31)),
    "dynamic": lambda x, new: dynamic_conv1d(x, new(2, 9, 4, 31), softmax=True),
    "a step": lambda x, new: dynamic_conv1d_step(x, new(2, 2, 8), new(2, 9, 4, 3))[0],
    "low rank": lambda x, new: low_rank_conv1d(x, new(2, 9, 2), new(2, 8, 3)),
    "TaLK": lambda x, new: talk_conv1d(x, new(2, 9, 4), new(2, 9, 4), max_left=3, max_right=1),
    "TaLK, long": lambda x, new: talk_conv1d(x, new(2, 9, 4), new(2, 9, 4), max_left=40, max_right=1),
    "deformable": lambda x, new: deformable_conv1d(x, new(2, 9, 2, 3), new(8, 8, 3), padding="same", clamp=False),
    "deformable, depthwise": lambda x, new: deformable_depthwise_conv1d(x, new(2, 9, 4, 3), new(4, 3)),
    "causal-conv1d": lambda x, new: causal_conv1d_fn(x.mT, new(8, 4), new(8), activation="silu").mT,
}


@pytest.mark.parametrize("op", OPS.values(), ids=list(OPS))
def test_shapes_are_told_without_numbers(op):
    input = torch.empty(2, 9, 8, device="meta")
    output = op(input, lambda *shape: torch.empty(shape, device="meta"))
    assert (output.shape, output.device.type) == (input.shape, "meta")
