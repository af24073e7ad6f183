"""ConvSubsampling: lengths, padding, streaming."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqdyconv.layers import ConvSubsampling
from tests.helpers import assert_close, randomize

BINS = 10
KINDS = {
    "static": {},
    "mixed kernels": {"num_kernels": 3},
    "causal": {"causal": True},
    "causal, mixed kernels": {"causal": True, "num_kernels": 3},
}
every_kind = pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
causal_kinds = pytest.mark.parametrize("num_kernels", [1, 3])


def build(dtype=torch.float64, **options):
    return randomize(ConvSubsampling(BINS, 6, 4, dtype=dtype, **options))


def frames(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, BINS, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def test_is_two_convolutions_of_stride_two():
    layer, input = build(), frames(2, 23)
    hidden = input[:, None]
    for conv in (layer.conv1, layer.conv2):
        hidden = F.relu(F.conv2d(hidden, conv.weight[0], conv.bias[0], stride=2, padding=1))
    expected = F.linear(hidden.transpose(1, 2).reshape(2, 6, -1), layer.out_proj.weight, layer.out_proj.bias)
    assert_close(layer(input)[0], expected)


@every_kind
def test_the_length_is_a_quarter_rounded_up(options):
    layer = build(**options)
    lengths = list(range(1, 42))
    expected = [math.ceil(math.ceil(length / 2) / 2) for length in lengths]
    assert layer.output_lengths(torch.tensor(lengths)).tolist() == expected
    assert [layer(frames(1, length))[0].shape[1] for length in lengths] == expected


@every_kind
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("filler", [7.0, torch.nan])
def test_padding_changes_nothing(options, side, filler):
    layer, lengths, longest = build(**options), [1, 2, 5, 8, 11], 14
    batch, mask = torch.full((5, longest, BINS), filler).double(), torch.ones(5, longest, dtype=torch.bool)
    for row, length in enumerate(lengths):
        where = slice(0, length) if side == "right" else slice(longest - length, longest)
        batch[row, where], mask[row, where] = frames(1, length)[0], False
    output, output_mask = layer(batch, mask)
    assert (~output_mask).sum(1).tolist() == layer.output_lengths(torch.tensor(lengths)).tolist()
    assert (output_mask.int().diff(dim=1) >= 0).all()  # padding is on the right
    for row, length in enumerate(lengths):
        assert_close(output[row, ~output_mask[row]], layer(frames(1, length))[0][0])


@causal_kinds
def test_a_causal_layer_does_not_see_the_future(num_kernels):
    layer, input = build(causal=True, num_kernels=num_kernels), frames(2, 30)
    changed = input.clone()
    changed[:, 17:] += 100
    actual, expected = layer(changed)[0], layer(input)[0]
    assert_close(actual[:, :5], expected[:, :5])  # step 4 is at frame 16
    assert not torch.allclose(actual[:, 5], expected[:, 5])


@causal_kinds
@settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(chunks=st.lists(st.integers(1, 11), min_size=1, max_size=8))
def test_any_chunking_streams_the_full_forward(num_kernels, chunks):
    layer, input = build(causal=True, num_kernels=num_kernels), frames(2, sum(chunks))
    state, outputs, seen = layer.initial_state(2), [], 0
    for chunk in input.split(chunks, dim=1):
        output, state = layer.stream(chunk, state)
        outputs.append(output)
        seen += chunk.shape[1]
        assert sum(part.shape[1] for part in outputs) == -(-seen // 4)  # a step comes with its frame, none is late
    assert_close(torch.cat(outputs, dim=1), layer(input)[0])


def test_a_layer_that_sees_the_future_does_not_stream():
    layer = build()
    with pytest.raises(ValueError, match="only a causal layer streams, got causal=False"):
        layer.stream(frames(1, 3), layer.initial_state(1))


def test_a_state_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="state must be a SubsamplingState, got NoneType"):
        build(causal=True).stream(frames(1, 3), None)


INPUT, MASK = frames(3, 21), torch.arange(21) >= torch.tensor([[21], [10], [1]])


def assert_same(run, layer):
    output, output_mask = run(INPUT, MASK)
    expected, expected_mask = layer(INPUT, MASK)
    assert output_mask.equal(expected_mask)
    assert_close(output[~output_mask], expected[~expected_mask])


def test_compiles_as_one_graph():
    layer = build(causal=True, num_kernels=3)
    assert_same(torch.compile(layer, backend="eager", fullgraph=True), layer)


def test_exports_with_any_batch_and_length():
    layer = build(causal=True, num_kernels=3)
    # Where the output has one step, at up to four frames, the program would be another one.
    steps = {0: torch.export.Dim("batch"), 1: torch.export.Dim("time", min=5)}
    arguments = (frames(2, 9), torch.zeros(2, 9, dtype=torch.bool))
    assert_same(torch.export.export(layer, arguments, dynamic_shapes=(steps, steps)).module(), layer)


@pytest.mark.parametrize(
    ("input", "mask", "message"),
    [
        (torch.zeros(2, 9, 8), None, r"input must be .*C = 10, got \(2, 9, 8\)"),
        (torch.zeros(2, 0, 10), None, r"input must be .*T >= 1.*, got \(2, 0, 10\)"),
        (torch.zeros(2, 9, 10), torch.zeros(2, 8).bool(), r"padding_mask must be .* = \(2, 9\).*, got .*\(2, 8\)"),
    ],
)
def test_bad_input(input, mask, message):
    with pytest.raises(ValueError, match=message):
        build(dtype=torch.float32)(input, mask)


def test_bad_options():
    with pytest.raises(ValueError, match="channels must be an int >= 1, got 0"):
        ConvSubsampling(10, 6, 0)
