"""TaLKConv1d."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from seqdyconv import ConvMixer, TaLKConv1d, build_mixer, talk_conv1d
from tests.helpers import assert_close, randomize
from tests.layers.behaviours import WIDTH, CompilesAndExports, MixesTime, sentences, stream

OPTIONS = {
    "default": {},
    "bias": {"bias": True},
    "two steps": {"kernel_size": 2},
    "longer than the sequence": {"kernel_size": 20},
    "by prefix sums": {"kernel_size": 90},
    "one head": {"num_heads": 1},
}


def build_layer(options, *, causal=False, dtype=torch.float64, seed=0):
    options = {"kernel_size": 4, "num_heads": 3, "padding": "causal" if causal else "same"} | options
    return randomize(TaLKConv1d(WIDTH, **options, dtype=dtype), seed)


class TestBehaviours(MixesTime):
    @pytest.fixture(params=OPTIONS.values(), ids=OPTIONS)
    def build(self, request):
        return partial(build_layer, request.param)


class TestTracing(CompilesAndExports):
    @pytest.fixture
    def build(self):
        return partial(build_layer, OPTIONS["by prefix sums"])


class TestWindows:
    @pytest.mark.parametrize("padding, left, right", [("same", 3, 4), ("causal", 7, 0), (0, 0, 7), (2, 2, 5)])
    def test_come_from_a_linear_layer_and_a_sigmoid(self, padding, left, right):
        layer, input = build_layer({"kernel_size": 8, "padding": padding}), torch.stack(sentences(9, 9))
        shares = F.linear(input, layer.generator.weight, layer.generator.bias).sigmoid()
        first, last = shares.chunk(2, dim=-1) if left and right else (shares, shares)
        expected = talk_conv1d(input, left * first, right * last, max_left=left, max_right=right)
        assert_close(layer(input), expected)
        assert_close(torch.stack(layer.extents(input)), torch.stack([left * first, right * last]))
        assert layer.lookahead == right

    def test_one_step_is_the_input(self):
        layer, input = build_layer({"kernel_size": 1}), torch.stack(sentences(9, 9))
        assert_close(layer(input), input)
        assert_close(stream(layer, input, [2, 1, 6]), input)

    def test_start_at_half_their_length(self):
        """Whatever the input: a new layer's generator has small weights and no bias."""
        layer = TaLKConv1d(WIDTH, 9, 3)
        left, right = layer.extents(torch.zeros(1, 5, WIDTH))
        assert torch.equal(left, torch.full_like(left, 2)) and torch.equal(right, left)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_are_not_rounded_to_a_low_dtype(self, dtype):
        layer = build_layer({"kernel_size": 1001, "padding": "causal"}, dtype=dtype)
        left, right = layer.extents(torch.stack(sentences(300, 300, dtype=dtype)))
        assert left.dtype == right.dtype == torch.float32
        assert not torch.equal(left, left.to(dtype).float())

    def test_large_logits_stay_finite_in_float16(self):
        layer = build_layer({}, dtype=torch.float16)
        for parameter in layer.parameters():
            parameter.data.fill_(1e3)
        assert_close(layer(torch.ones(1, 9, WIDTH, dtype=torch.float16))[:, 2:-2], torch.ones(1, 5, WIDTH), 1e-3)


class TestStreaming:
    @pytest.mark.parametrize("padding", [0, 1, 3])
    @pytest.mark.parametrize("chunks", [[1] * 13, [13], [4, 2, 7]], ids=str)
    def test_a_layer_that_looks_ahead_is_late_by_that(self, padding, chunks):
        layer, input = build_layer({"kernel_size": 5, "padding": padding}), torch.stack(sentences(13, 13))
        ahead = layer.lookahead
        output = stream(layer, F.pad(input, (0, 0, 0, ahead)), [*chunks, ahead])
        assert_close(output[:, ahead:], layer(input))

    def test_the_state_is_the_last_inputs(self):
        layer, input = build_layer({"kernel_size": 5, "padding": "causal"}), torch.stack(sentences(13, 13))
        state = layer.initial_state(2)
        assert torch.equal(state, torch.zeros(2, 4, WIDTH).double())
        assert torch.equal(layer.stream(input, state)[1], input[:, -4:])


class TestOffsetDropout:
    def test_windows_are_dropped_and_the_others_grow_up_to_the_longest(self):
        torch.manual_seed(0)
        layer = TaLKConv1d(WIDTH, 9, 3, padding="causal", offset_dropout=0.25)
        input = torch.zeros(4, 1000, WIDTH)  # without dropout each window reaches 4 steps back
        left, _ = layer.extents(input)
        dropped = left == 0
        assert 0.23 < dropped.float().mean() < 0.27
        assert_close(left[~dropped], torch.full_like(left[~dropped], 4 / 0.75), 1e-6)
        torch.nn.init.constant_(layer.generator.bias, 5.0)
        left, _ = layer.extents(input)
        assert set(left.unique().tolist()) == {0.0, 8.0}

    def test_each_side_is_dropped_by_itself(self):
        torch.manual_seed(0)
        layer = build_layer({"offset_dropout": 0.5}).train()
        left, right = (extent == 0 for extent in layer.extents(torch.stack(sentences(90, 90))))
        assert (left & right).any() and (left & ~right).any() and (~left & right).any()

    def test_a_dropped_window_is_the_current_step(self):
        torch.manual_seed(0)
        layer, input = build_layer({"offset_dropout": 0.999}).train(), torch.stack(sentences(9, 9))
        assert_close(layer(input), input / 4)

    def test_eval_mode_and_zero_drop_nothing(self):
        input = torch.stack(sentences(9, 9))
        plain, dropping = build_layer({}), build_layer({"offset_dropout": 0.9})
        assert torch.equal(dropping(input), plain(input))
        assert torch.equal(plain.train()(input), plain.eval()(input))
        assert not torch.equal(dropping.train()(input), plain(input))


def test_as_a_mixer():
    mixer = build_mixer("talk_conv", WIDTH, 3, kernel_size=31, causal=True, offset_dropout=0.1, conv_dim=12)
    assert isinstance(mixer, ConvMixer) and isinstance(mixer.conv, TaLKConv1d)
    assert (mixer.conv.channels, mixer.conv.kernel_size, mixer.conv.num_heads) == (12, 31, 3)
    assert (mixer.conv.padding, mixer.conv.offset_dropout, mixer.lookahead) == ("causal", 0.1, 0)
    assert build_mixer("talk_conv", WIDTH, 3, kernel_size=31, lookahead=4).lookahead == 4


class TestConstruction:
    @pytest.mark.parametrize(
        "options, message",
        [
            ({"channels": 0}, r"channels must be an int >= 1, got 0"),
            ({"kernel_size": 0}, r"kernel_size must be an int >= 1, got 0"),
            ({"kernel_size": 3.0}, r"kernel_size must be an int >= 1, got 3.0"),
            ({"num_heads": 4}, r"num_heads must divide channels, got 4 heads and channels=6"),
            ({"padding": "valid"}, r"padding must be .*got 'valid'"),
            ({"padding": 4}, r"padding must be .* 0 to .*= 3, got 4"),
            ({"offset_dropout": 1.0}, r"offset_dropout must be in \[0, 1\), got 1.0"),
        ],
        ids=str,
    )
    def test_bad_options(self, options, message):
        with pytest.raises(ValueError, match=message):
            TaLKConv1d(**{"channels": 6, "kernel_size": 4, "num_heads": 3} | options)

    @pytest.mark.parametrize("padding, rows", [("same", 6), ("causal", 3), (0, 3), (1, 6)])
    def test_parameters(self, padding, rows):
        layer = TaLKConv1d(6, 4, 3, padding=padding, bias=True)
        shapes = {name: tuple(parameter.shape) for name, parameter in layer.named_parameters()}
        assert shapes == {"bias": (6,), "generator.weight": (rows, 6), "generator.bias": (rows,)}
        assert TaLKConv1d(6, 4, 3).bias is None

    def test_device_and_dtype(self):
        layer = TaLKConv1d(6, 4, 3, bias=True, device="meta", dtype=torch.bfloat16)
        assert {(p.device.type, p.dtype) for p in layer.parameters()} == {("meta", torch.bfloat16)}

    def test_repr_names_what_was_changed(self):
        assert TaLKConv1d(6, 4, 3).extra_repr() == "6, kernel_size=4, num_heads=3, padding='same'"
        layer = TaLKConv1d(6, 4, 3, padding="causal", offset_dropout=0.1, bias=True)
        assert layer.extra_repr() == "6, kernel_size=4, num_heads=3, padding='causal', offset_dropout=0.1, bias=True"
