"""How far a layer looks ahead can be changed at any time: taps that are too far ahead are left out, the others stay."""

import pytest
import torch

from seqdyconv import DeformableDepthwiseConv1d, DynamicConv1d, LightweightConv1d, build_mixer
from seqdyconv.layers import share_options
from seqdyconv.layers.mixers import mixers_with
from tests.helpers import TOLERANCES, assert_close, randomize, streamed_late

LEFT, KERNEL_SIZE = 4, 9


def by_definition(layer, input, lookahead):
    """A loop over steps and taps, with kernels whose taps beyond the look-ahead are forbidden before the softmax."""
    steps, heads = input.shape[1], layer.num_heads
    if isinstance(layer, DynamicConv1d):
        logits = layer.generator(input).view(1, steps, heads, KERNEL_SIZE)
    else:
        logits = layer.weight.expand(1, steps, heads, KERNEL_SIZE)
    offsets = torch.arange(KERNEL_SIZE) * layer.dilation - LEFT
    if layer.weight_softmax:
        kernels = logits.masked_fill(offsets > lookahead, -torch.inf).softmax(-1)
    else:
        kernels = logits.masked_fill(offsets > lookahead, 0)
    rows = []
    for t in range(steps):
        row = torch.zeros(1, heads, layer.channels // heads, dtype=input.dtype)
        for k, offset in enumerate(offsets.tolist()):
            if 0 <= t + offset < steps:
                row = row + kernels[:, t, :, k, None] * input[:, t + offset].view(1, heads, -1)
        rows.append(row.flatten(1))
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("kind", [LightweightConv1d, DynamicConv1d])
@pytest.mark.parametrize(
    "options", [{}, {"weight_softmax": False}, {"dilation": 2}], ids=["softmax", "none", "dilated"]
)
def test_the_taps_ahead_of_it_are_masked_in_the_kernel(kind, options):
    layer = randomize(kind(6, KERNEL_SIZE, 3, padding=LEFT, **options, dtype=torch.float64))
    input = torch.randn(1, 13, 6, dtype=torch.float64, requires_grad=True)
    for lookahead in layer.lookaheads:
        layer.set_lookahead(lookahead)
        assert layer.lookahead == lookahead
        found, expected = layer(input), by_definition(layer, input, lookahead)
        torch.testing.assert_close(found, expected)
        for one, other in zip(
            *(torch.autograd.grad(out.sin().sum(), (input, *layer.parameters())) for out in (found, expected))
        ):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", mixers_with("lookahead"))
@pytest.mark.parametrize("options", [{}, {"dilation": 2}, {"renormalize": True}], ids=str)
def test_every_mixer_sees_no_further_and_streams_what_it_gives_of_the_whole(name, options):
    options = share_options(name, options)
    mixer = randomize(build_mixer(name, 6, 3, kernel_size=5, lookahead=3, **options, dtype=torch.float64))
    input = torch.randn(2, 20, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = mixer(input)
    assert list(mixer.lookaheads) == ([1, 3] if "dilation" in options else [0, 1, 2, 3])
    for lookahead in mixer.lookaheads:
        mixer.set_lookahead(lookahead)
        output = mixer(input)
        changed = torch.cat([input[:, : 10 + lookahead], 2 * input[:, 10 + lookahead :]], dim=1)
        torch.testing.assert_close(mixer(changed)[:, :10], output[:, :10])
        assert not torch.allclose(mixer(changed)[:, 10], output[:, 10])
        torch.testing.assert_close(streamed_late(mixer, input, [3, 1, 16]), output)
    mixer.set_lookahead()
    assert mixer.lookahead == 3 and torch.equal(mixer(input), whole)


EDGES = {
    "no sequence": torch.zeros(0, 5),
    "one step": torch.zeros(2, 1),
    "fewer steps than it looks ahead": torch.tensor([[0, 0], [0, 1]]),
    "all padding": torch.ones(2, 7),
}


@pytest.mark.parametrize("name", mixers_with("lookahead"))
@pytest.mark.parametrize("padding", EDGES.values(), ids=EDGES)
def test_short_and_padded_sequences(name, padding):
    mixer = randomize(build_mixer(name, 6, 3, kernel_size=5, lookahead=3))
    input = torch.randn(*padding.shape, 6, requires_grad=True)
    for lookahead in mixer.lookaheads:
        mixer.set_lookahead(lookahead)
        output = mixer(torch.where(padding[..., None] > 0, torch.nan, input), padding_mask=padding.bool())
        assert output.shape == input.shape and torch.isfinite(output).all()
        assert torch.isfinite(torch.autograd.grad(output.sum(), input)[0]).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", mixers_with("lookahead"))
def test_autocast(name, dtype):
    mixer = randomize(build_mixer(name, 6, 3, kernel_size=5, lookahead=3))
    mixer.set_lookahead(1)
    input = torch.randn(2, 12, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    with torch.autocast("cpu", dtype):
        found = mixer(input)
    expected = mixer(input)
    assert found.dtype == dtype
    assert_close(found, expected, 10 * TOLERANCES[dtype])
    gradients = [torch.autograd.grad(output.float().sum(), input)[0] for output in (found, expected)]
    assert_close(*gradients, 10 * TOLERANCES[dtype])


def test_what_it_cannot_look_ahead_is_refused():
    layer = LightweightConv1d(6, KERNEL_SIZE, 3, padding=LEFT)
    for steps in (-1, 5):
        with pytest.raises(ValueError, match=f"lookahead must be one of 0, 1, 2, 3, 4, got {steps}"):
            layer.set_lookahead(steps)
    # A tap that may read any step does so wherever its place is.
    assert list(DeformableDepthwiseConv1d(6, KERNEL_SIZE, 3, clamp=False).lookaheads) == [4]
