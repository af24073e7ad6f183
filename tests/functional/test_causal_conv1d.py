"""The interface of causal-conv1d, against its definition: a convolution of each sequence alone."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from seqdyconv.functional import causal_conv1d_fn, causal_conv1d_update
from tests.helpers import assert_matches

CHANNELS, WIDTH = 6, 4


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reference(x, weight, bias, past=None, activation=None):
    past = x.new_zeros(*x.shape[:2], weight.shape[1] - 1) if past is None else past
    output = F.conv1d(torch.cat([past, x], -1), weight[:, None], bias, groups=len(weight))
    return F.silu(output) if activation else output


WEIGHT, BIAS = noise(CHANNELS, WIDTH, seed=1), noise(CHANNELS, seed=2)


@pytest.mark.parametrize("activation", [None, "silu", "swish"])
@pytest.mark.parametrize("time", [1, 3, 20])
@pytest.mark.parametrize("channels_last", [True, False])
def test_a_whole_sequence(time, activation, channels_last):
    x = noise(2, time, CHANNELS).transpose(1, 2) if channels_last else noise(2, CHANNELS, time)
    assert_matches(
        lambda *inputs: causal_conv1d_fn(*inputs, activation=activation),
        lambda *inputs: reference(*inputs, activation=activation),
        x,
        WEIGHT,
        BIAS,
    )


@pytest.mark.parametrize("time", [1, 2, 20])
def test_states_before_and_after(time):
    x, past = noise(2, CHANNELS, time), noise(2, CHANNELS, WIDTH - 1, seed=3)

    def with_states(x, weight, bias, past):
        return causal_conv1d_fn(x, weight, bias, initial_states=past, return_final_states=True)

    def expected(x, weight, bias, past):
        return reference(x, weight, bias, past), torch.cat([past, x], -1)[..., -(WIDTH - 1) :]

    assert_matches(with_states, expected, x, WEIGHT, BIAS, past)
    place = torch.zeros_like(past)
    output = causal_conv1d_fn(x, WEIGHT, final_states_out=place)
    assert isinstance(output, Tensor)
    assert torch.equal(place, F.pad(x, (WIDTH - 1, 0))[..., -(WIDTH - 1) :])


@pytest.mark.parametrize("how", ["seq_idx", "cu_seqlens"])
def test_sequences_in_a_row_are_as_alone(how):
    parts = [noise(1, CHANNELS, time, seed=time) for time in (5, 1, 2, 9)]
    row = torch.cat(parts, -1)
    ends = [0, 5, 6, 8, 17]
    if how == "cu_seqlens":
        output = causal_conv1d_fn(row, WEIGHT, BIAS, activation="silu", cu_seqlens=torch.tensor(ends))
    else:
        numbers = torch.tensor([[0] * 5 + [1] + [2] * 2 + [3] * 9])
        two = causal_conv1d_fn(
            row.expand(2, -1, -1), WEIGHT, BIAS, torch.cat([numbers, 7 * numbers // 6]), activation="silu"
        )
        output = two[:1]
        assert torch.equal(two[1:], output)
    expected = [reference(part, WEIGHT, BIAS, activation="silu") for part in parts]
    torch.testing.assert_close(output, torch.cat(expected, -1))


@pytest.mark.parametrize("size", [WIDTH - 1, WIDTH + 3])
@pytest.mark.parametrize("ring", [True, False])
@pytest.mark.parametrize("rows", [None, [4, 0]])
def test_steps_give_what_the_whole_gives_and_change_the_state_in_place(size, ring, rows):
    x = noise(2, CHANNELS, 20)
    states = torch.zeros(5, CHANNELS, size, dtype=torch.float64) if rows else x.new_zeros(2, CHANNELS, size)
    before = states.data_ptr()
    indices = torch.tensor(rows) if rows else None
    outputs, seen = [], 0
    for time in (1, 1, 3, 1, 2, 9, 1, 1, 1):
        chunk = x[..., seen] if time == 1 else x[..., seen : seen + time]
        steps = torch.full((2,), seen) if ring else None
        output = causal_conv1d_update(chunk, states, WEIGHT, BIAS, "silu", steps, indices)
        assert output.shape == chunk.shape
        outputs.append(output.view(2, CHANNELS, time))
        seen += time
    torch.testing.assert_close(torch.cat(outputs, -1), reference(x, WEIGHT, BIAS, activation="silu"))
    assert states.data_ptr() == before
    if not ring:
        assert torch.equal(states[indices] if rows else states, x[..., -size:])
    if rows:
        assert not states[1:4].any()


def test_a_batch_of_no_rows():
    x, seq_idx = noise(0, CHANNELS, 5), torch.zeros(0, 5, dtype=torch.int32)
    assert causal_conv1d_fn(x, WEIGHT, seq_idx=seq_idx).shape == (0, CHANNELS, 5)


def test_results_have_the_dtype_of_the_input():
    x = noise(1, CHANNELS, 5).bfloat16()
    assert causal_conv1d_fn(x, WEIGHT.float()).dtype == torch.bfloat16
    state = torch.zeros(1, CHANNELS, WIDTH - 1, dtype=torch.bfloat16)
    assert causal_conv1d_update(x, state, WEIGHT.float()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"activation": "gelu"}, 'activation must be None, "silu" or "swish", got \'gelu\''),
        ({"weight": WEIGHT[:3]}, r"weight must be \(C, W\) with C = 6, got \(3, 4\)"),
        ({"weight": WEIGHT[:, :0]}, r"weight must be \(C, W\) with W >= 1, got \(6, 0\)"),
        ({"bias": BIAS[:1]}, r"bias must be \(C,\) = \(6,\), got \(1,\)"),
        ({"bias": BIAS.float()}, "bias must have the weight's dtype, torch.float64, got torch.float32"),
        ({"seq_idx": torch.zeros(1, 3)}, r"seq_idx must be \(B, T\) = \(1, 5\), got \(1, 3\)"),
        ({"initial_states": torch.zeros(1, 6, 4)}, r"initial_states must be \(B, C, W-1 = 3\)"),
        ({"seq_idx": torch.zeros(1, 5), "return_final_states": True}, "exclude each other.*got seq_idx and states"),
        ({"seq_idx": torch.zeros(1, 5), "cu_seqlens": torch.tensor([0, 5])}, "got seq_idx and cu_seqlens"),
    ],
)
def test_what_does_not_fit_is_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        causal_conv1d_fn(**{"x": noise(1, CHANNELS, 5), "weight": WEIGHT, **arguments})
    if arguments.keys() <= {"activation", "weight", "bias"}:
        state = noise(1, CHANNELS, WIDTH - 1)
        for x in (noise(1, CHANNELS), noise(1, CHANNELS, 1), noise(1, CHANNELS, 5)):
            with pytest.raises(ValueError, match=message):
                causal_conv1d_update(**{"x": x, "conv_state": state, "weight": WEIGHT, **arguments})
    with pytest.raises(ValueError, match=r"conv_state must be \(B, C, at least W-1 = 3\)"):
        causal_conv1d_update(noise(1, CHANNELS), noise(1, CHANNELS, 2), WEIGHT)
    for indices in (torch.tensor([0, 1]), torch.tensor([0.0]), torch.tensor([[0]])):
        with pytest.raises(ValueError, match=r"conv_state_indices must be int32 or int64 \(B,\) = \(1,\), got "):
            causal_conv1d_update(noise(1, CHANNELS), noise(2, CHANNELS, 3), WEIGHT, conv_state_indices=indices)
