"""Span-based dynamic convolution by itself, as a mixer, and beside attention."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from seqdyconv import DynamicConv1d, MixedAttention, SpanDynamicConv1d, SpanDynamicConvMixer, build_mixer
from seqdyconv.layers.attention import attend
from tests.helpers import assert_close, randomize
from tests.layers.behaviours import WIDTH, CompilesAndExports, MixesTime, sentences, stream

OPTIONS = {
    "default": {},
    "long, renormalized": {"kernel_size": 20, "renormalize": True},
    "no softmax, dilated": {"weight_softmax": False, "dilation": 2},
}


def build_layer(options, *, causal=False, dtype=torch.float64, seed=0):
    options = {"kernel_size": 4, "num_heads": 3, "padding": "causal" if causal else "same"} | options
    return randomize(SpanDynamicConv1d(WIDTH, **options, dtype=dtype), seed)


def build_named(name, *, causal=False, dtype=torch.float64, seed=0, **options):
    options = {"num_heads": 3, "kernel_size": 4} | options
    return randomize(build_mixer(name, WIDTH, **options, causal=causal, dtype=dtype), seed)


class TestBehaviours(MixesTime):
    @pytest.fixture(params=OPTIONS)
    def build(self, request):
        return partial(build_layer, OPTIONS[request.param])


class TestBehavioursOfMixedAttentionOptions(MixesTime):
    OPTIONS = {
        "renormalized, dilated": {"renormalize": True, "dilation": 2},
        "one tap, three heads of each": {"kernel_size": 1, "head_ratio": 1},
    }

    @pytest.fixture(params=OPTIONS)
    def build(self, request):
        return partial(build_named, "mixed_attention", **self.OPTIONS[request.param])


class TestTracing(CompilesAndExports):
    @pytest.fixture
    def build(self):
        return partial(build_layer, OPTIONS["long, renormalized"])


class TestTracingOfMixedAttentionOptions(CompilesAndExports):
    @pytest.fixture
    def build(self):
        return partial(build_named, "mixed_attention", renormalize=True, dilation=2)


class TestLayer:
    @pytest.mark.parametrize("padding", ["same", "causal", 1])
    @pytest.mark.parametrize("size", [1, 4, 5, 12])
    def test_kernels_come_from_the_query_and_a_separable_convolution_of_the_source(self, padding, size):
        left = {"same": (size - 1) // 2, "causal": size - 1}.get(padding, min(1, size - 1))
        layer = build_layer({"kernel_size": size, "padding": padding if padding != 1 else left, "source_dim": 5})
        input, query, source = (torch.randn(2, 9, width).double() for width in (6, 6, 5))
        convolved = F.conv1d(
            F.pad(source.transpose(1, 2), (left, size - 1 - left)), layer.depthwise.weight[:, None], groups=5
        )
        span = F.linear(convolved.transpose(1, 2), layer.pointwise.weight, layer.pointwise.bias)
        logits = F.linear(query * span, layer.conv.generator.weight, layer.conv.generator.bias)
        kernels = logits.unflatten(-1, (3, size)).softmax(-1)
        windows = F.pad(input, (0, 0, left, size - 1 - left)).unfold(1, size, 1)  # (B, T, C, K)
        expected = (windows * kernels.repeat_interleave(2, dim=2)).sum(-1)
        assert_close(layer(input, query=query, source=source), expected)

    def test_query_and_source_are_the_input_where_they_are_not_given(self):
        layer, input = build_layer({}), torch.stack(sentences(9, 9))
        assert_close(layer(input), layer(input, query=input, source=input))

    def test_where_the_span_says_nothing_it_is_a_dynamic_convolution_of_the_query(self):
        layer, plain = build_layer({}), DynamicConv1d(WIDTH, 4, 3, generator_bias=True, dtype=torch.float64)
        with torch.no_grad():
            layer.pointwise.weight.zero_()
            layer.pointwise.bias.fill_(1)
        plain.load_state_dict(layer.conv.state_dict())
        input = torch.stack(sentences(9, 9))
        assert_close(layer(input), plain(input))

    def test_query_and_source_stream_and_ignore_padding(self):
        layer = build_layer({"padding": "causal", "source_dim": 5, "renormalize": True})
        input, query, source = (torch.randn(2, 9, width).double() for width in (6, 6, 5))
        expected = layer(input, query=query, source=source)
        first, state = layer.stream(input[:, :4], layer.initial_state(2), None, query[:, :4], source[:, :4])
        rest, _ = layer.stream(input[:, 4:], state, None, query[:, 4:], source[:, 4:])
        assert_close(torch.cat([first, rest], dim=1), expected)
        mask = (torch.arange(9) >= 6).expand(2, -1)
        for tensor in (input, query, source):
            tensor[:, 6:] = torch.nan
        assert_close(layer(input, padding_mask=mask, query=query, source=source)[:, :6], expected[:, :6])

    def test_query_and_source_are_packed(self):
        layer = build_layer({"source_dim": 5})
        rows = [[torch.randn(1, time, width).double() for width in (6, 6, 5)] for time in (3, 8)]
        expected = torch.cat([layer(input, query=query, source=source) for input, query, source in rows], dim=1)
        input, query, source = (torch.cat(parts, dim=1) for parts in zip(*rows))
        packed = layer(input, query=query, source=source, cu_seqlens=torch.tensor([0, 3, 11]))
        assert_close(packed, expected)

    @pytest.mark.parametrize("padding", [1, 2])
    def test_streams_with_a_lookahead(self, padding):
        layer, input = build_layer({"padding": padding, "renormalize": True}), torch.stack(sentences(9, 9))
        assert_late_stream(layer, input, 3 - padding)

    def test_dropout_acts_in_training_alone(self):
        torch.manual_seed(0)
        layer, input = build_layer({"weight_dropout": 0.5}), torch.stack(sentences(9, 9))
        assert torch.equal(layer(input), layer(input))
        assert not torch.equal(layer.train()(input), layer(input))

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"channels": 0}, "channels must be an int >= 1, got 0"),
            ({"num_heads": 4}, "num_heads must divide channels, got 4 heads and channels=6"),
            ({"kernel_size": 0}, "kernel_size must be an int >= 1, got 0"),
            ({"padding": 4}, r"padding must be .* 0 to .*= 3, got 4"),
            ({"source_dim": 0}, "source_dim must be an int >= 1, got 0"),
            ({"weight_dropout": 1.0}, r"weight_dropout must be in \[0, 1\), got 1.0"),
            ({"weight_softmax": False, "renormalize": True}, "renormalize .* needs weight_softmax=True"),
        ],
        ids=str,
    )
    def test_bad_options(self, options, message):
        with pytest.raises(ValueError, match=message):
            SpanDynamicConv1d(**{"channels": 6, "kernel_size": 4, "num_heads": 3} | options)

    def test_bad_query_and_source(self):
        layer, input = SpanDynamicConv1d(6, 4, 3, source_dim=5), torch.zeros(2, 9, 6)
        with pytest.raises(ValueError, match=r"source must be \(B, T, 5\) = \(2, 9, 5\), got \(2, 9, 6\)"):
            layer(input)
        with pytest.raises(ValueError, match=r"query must be \(B, T, 6\) = \(2, 9, 6\), got \(2, 8, 6\)"):
            layer(input, query=torch.zeros(2, 8, 6), source=torch.zeros(2, 9, 5))
        for name, part in (("query", input.double()), ("source", torch.zeros(2, 9, 5).double())):
            with pytest.raises(ValueError, match=rf"{name} must have the layer's dtype, .*32, got torch.float64"):
                layer(input, **{"query": input, "source": torch.zeros(2, 9, 5), name: part})


def assert_late_stream(module, input, lookahead):
    """A stream of 1, 5 and the other steps, and of as many padded ones as it is late, gives the full forward."""
    assert module.lookahead == lookahead
    time = input.shape[1]
    padded, mask = F.pad(input, (0, 0, 0, lookahead)), torch.arange(time + lookahead) >= time
    state, outputs = module.initial_state(len(input)), []
    for chunk in (slice(0, 1), slice(1, 6), slice(6, None)):
        output, state = module.stream(padded[:, chunk], state, mask[chunk].expand(len(input), -1))
        outputs.append(output)
    assert_close(torch.cat(outputs, dim=1)[:, lookahead:], module(input))


class TestMixer:
    def test_is_query_and_value_around_the_convolution(self):
        mixer, input = build_named("span_dynamic_conv", conv_dim=12), torch.stack(sentences(9, 9))
        assert isinstance(mixer, SpanDynamicConvMixer)
        query, value = F.linear(input, mixer.in_proj.weight, mixer.in_proj.bias).chunk(2, dim=-1)
        expected = mixer.conv(value, query=query, source=input)
        assert_close(mixer(input), F.linear(expected, mixer.out_proj.weight, mixer.out_proj.bias))

    @pytest.mark.parametrize("lookahead", [1, 2])
    def test_streams_with_a_lookahead(self, lookahead):
        mixer = build_named("span_dynamic_conv", lookahead=lookahead)
        assert_late_stream(mixer, torch.stack(sentences(9, 9)), lookahead)

    def test_options_reach_the_convolution(self):
        mixer = build_mixer(
            "span_dynamic_conv",
            6,
            4,
            kernel_size=5,
            causal=True,
            conv_dim=8,
            dilation=2,
            weight_softmax=False,
            weight_dropout=0.1,
        )
        conv = mixer.conv.conv
        assert (conv.channels, conv.kernel_size, conv.num_heads, conv.padding, conv.dilation) == (8, 5, 4, "causal", 2)
        assert (conv.weight_softmax, conv.weight_dropout) == (False, 0.1)
        assert (mixer.conv.depthwise.padding, mixer.conv.depthwise.dilation) == ("causal", 2)

    def test_input_dropout_acts_in_training_alone(self):
        torch.manual_seed(0)
        mixer, input = build_named("span_dynamic_conv", input_dropout=0.5), torch.stack(sentences(9, 9))
        assert torch.equal(mixer(input), mixer(input))
        assert not torch.equal(mixer.train()(input), mixer(input))


class TestMixedAttention:
    @pytest.mark.parametrize("causal", [False, True])
    @pytest.mark.parametrize("heads, ratio, each", [(6, 2, 3), (6, 3, 2), (3, 1, 3), (3, 2, 1), (2, 9, 1)])
    def test_is_attention_beside_the_convolution(self, causal, heads, ratio, each):
        mixer = randomize(MixedAttention(12, heads, kernel_size=4, head_ratio=ratio, causal=causal).double())
        input = torch.randn(2, 9, 12).double()
        query, key, value, convolved = F.linear(input, mixer.in_proj.weight, mixer.in_proj.bias).chunk(4, dim=-1)
        assert mixer.conv.conv.num_heads == each
        attended = attend(query, key, value, each, causal=causal)
        both = torch.cat([attended, mixer.conv(convolved, query=query, source=input)], dim=-1)
        assert_close(mixer(input), F.linear(both, mixer.out_proj.weight, mixer.out_proj.bias))

    def test_without_what_it_convolves_it_is_the_first_half_of_self_attention(self):
        mixer = build_named("mixed_attention", num_heads=2)
        attention = randomize(build_mixer("self_attention", WIDTH, 2, dtype=torch.float64))
        with torch.no_grad():
            query, key, value = attention.in_proj.weight.chunk(3)
            mixer.in_proj.weight.copy_(torch.cat([query[:3], key[:3], value]))
            query, key, value = attention.in_proj.bias.chunk(3)
            mixer.in_proj.bias.copy_(torch.cat([query[:3], key[:3], value]))
            for layer in (mixer.out_proj, attention.out_proj):
                layer.weight.copy_(torch.eye(WIDTH))
                layer.bias.zero_()
        input = torch.stack(sentences(9, 9))
        assert_close(mixer(input)[..., :3], attention(input)[..., :3])

    @pytest.mark.parametrize("option", [{"attention_dropout": 0.5}, {"weight_dropout": 0.5}], ids=str)
    def test_dropout_acts_in_training_alone(self, option):
        torch.manual_seed(0)
        mixer, input = build_named("mixed_attention", **option), torch.stack(sentences(9, 9))
        assert torch.equal(mixer(input), mixer(input))
        assert not torch.equal(mixer.train()(input), mixer(input))

    def test_a_stream_does_not_grow_the_convolutions_rows(self):
        mixer, input = build_named("mixed_attention", causal=True), torch.stack(sentences(9, 9))
        state = mixer.stream(input, mixer.initial_state(2))[1]
        assert state.conv.source.shape == (2, 3, 6) and state.conv.input.shape == (2, 3, 3)
        assert state.attention.key.shape == (2, 9, 3)
        assert_close(stream(mixer, input, [4, 5]), mixer(input))

    @pytest.mark.parametrize(
        "dim, options, message",
        [
            (10, {"num_heads": 5, "head_ratio": 2}, "dim must be a multiple of 4: 2 heads attend and .*, got dim=10"),
            (9, {"num_heads": 3}, "dim must be a multiple of 2: 1 heads attend and .*, got dim=9"),
            (6, {"num_heads": 4}, "num_heads must divide dim, got 4 heads and dim=6"),
            (6, {"num_heads": 3, "head_ratio": 0}, "head_ratio must be an int >= 1, got 0"),
            (6, {"num_heads": 3, "attention_dropout": 1.0}, r"attention_dropout must be in \[0, 1\), got 1.0"),
        ],
        ids=str,
    )
    def test_bad_options(self, dim, options, message):
        with pytest.raises(ValueError, match=message):
            MixedAttention(dim, kernel_size=4, **options)
