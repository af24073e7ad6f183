"""The mixers: one list of behaviours for every name in the registry, and what is special to some."""

import inspect
import re
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from seqdyconv import ConvMixer, DynamicConv1d, LightweightConv1d, ParallelMixer, SelfAttention, build_mixer
from seqdyconv.layers import MIXERS, mixer_options, share_options
from seqdyconv.layers.attention import attend
from tests.helpers import assert_close, randomize
from tests.layers.behaviours import WIDTH, CompilesAndExports, MixesTime, sentences

every_mixer = pytest.mark.parametrize("name", MIXERS)
every_conv = pytest.mark.parametrize("name", ["lightweight_conv", "dynamic_conv"])


def build_named(name, *, causal=False, dtype=torch.float64, seed=0, **options):
    options = share_options(name, {"kernel_size": 4}) | options
    return randomize(build_mixer(name, WIDTH, 3, **options, causal=causal, dtype=dtype), seed)


class TestBehaviours(MixesTime, CompilesAndExports):
    @pytest.fixture(params=MIXERS)
    def build(self, request):
        return partial(build_named, request.param)


class TestBehavioursOfParallelOptions(MixesTime):
    OPTIONS = {
        "lightweight": {"conv": "lightweight_conv"},
        "renormalize, dilation": {"renormalize": True, "dilation": 2},
        "one tap": {"kernel_size": 1},
    }

    @pytest.fixture(params=OPTIONS)
    def build(self, request):
        return partial(build_named, "parallel", **self.OPTIONS[request.param])


class TestTracingOfParallelOptions(CompilesAndExports):
    @pytest.fixture
    def build(self):
        return partial(build_named, "parallel", renormalize=True, dilation=2)


class TestConvMixer:
    @every_conv
    @pytest.mark.parametrize("glu", [True, False])
    def test_is_projection_gate_convolution_projection(self, name, glu):
        mixer, input = build_named(name, conv_dim=12, glu=glu), torch.stack(sentences(9, 9))
        projected = F.linear(input, mixer.in_proj.weight, mixer.in_proj.bias)
        if glu:
            values, gates = projected.chunk(2, dim=-1)
            projected = values * gates.sigmoid()
        expected = F.linear(mixer.conv(projected), mixer.out_proj.weight, mixer.out_proj.bias)
        assert_close(mixer(input), expected)

    @every_conv
    def test_options_reach_the_convolution(self, name):
        mixer = build_mixer(
            name, 6, 4, kernel_size=5, causal=True, conv_dim=8, dilation=2, weight_softmax=False, weight_dropout=0.1
        )
        assert (mixer.conv.channels, mixer.conv.kernel_size, mixer.conv.num_heads) == (8, 5, 4)
        assert (mixer.conv.padding, mixer.conv.dilation) == ("causal", 2)
        assert (mixer.conv.weight_softmax, mixer.conv.weight_dropout) == (False, 0.1)
        assert build_mixer(name, 6, 3, kernel_size=5, renormalize=True).conv.renormalize

    @every_conv
    def test_input_dropout_acts_in_training_alone(self, name):
        torch.manual_seed(0)
        mixer, input = build_named(name, input_dropout=0.5), torch.stack(sentences(9, 9))
        assert torch.equal(mixer(input), mixer(input))
        assert not torch.equal(mixer.train()(input), mixer(input))

    @every_conv
    @pytest.mark.parametrize("side", ["left", "right", "between", "all"])
    def test_of_much_padding_the_real_steps_alone_are_projected(self, name, side, monkeypatch):
        mixer, input = build_named(name), torch.stack(sentences(9, 9))
        mask = torch.zeros(2, 9, dtype=torch.bool)
        mask[1, {"left": slice(0, 5), "right": slice(3, 9), "between": slice(2, 7), "all": slice(0, 9)}[side]] = True
        garbage = input.masked_fill(mask[..., None], torch.nan)
        rows = []
        mixer.in_proj.register_forward_hook(lambda module, given, output: rows.append(given[0].numel() // WIDTH))
        fast = mixer(garbage, padding_mask=mask)
        monkeypatch.setattr("seqdyconv.layers.masking._ENOUGH_PADDING", 2)
        assert_close(fast, mixer(garbage, padding_mask=mask))
        assert rows == [int((~mask).sum()), mask.numel()]

    @every_conv
    def test_recomputing_keeps_the_input_alone_and_gives_the_same_gradients(self, name):
        input = torch.stack(sentences(9, 9))
        mask = torch.zeros(2, 9, dtype=torch.bool)
        mask[1, 6:] = True
        results = []
        for recompute in (False, True):
            mixer = build_named(name, recompute=recompute, input_dropout=0.3, weight_dropout=0.3).train()
            given, kept = input.clone().requires_grad_(), {}

            def keep(tensor, kept=kept):
                kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
                return tensor

            torch.manual_seed(1)
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                output = mixer(given, padding_mask=mask)
            gradients = torch.autograd.grad(output.square().sum(), (given, *mixer.parameters()))
            parameters = {parameter.untyped_storage().data_ptr() for parameter in mixer.parameters()}
            results.append((output, gradients, sum(size for place, size in kept.items() if place not in parameters)))
        (output, gradients, all_bytes), (again, same, few_bytes) = results
        assert torch.equal(output, again)
        assert all(torch.equal(one, other) for one, other in zip(gradients, same))
        assert few_bytes <= input.nbytes + mask.nbytes + 8 < all_bytes / 3

    @pytest.mark.parametrize("options", [{}, {"causal": True}, {"lookahead": 1}, {"dilation": 2, "renormalize": True}])
    @every_conv
    def test_a_long_sequence_goes_through_in_parts(self, name, options, monkeypatch):
        mixer, mask = build_named(name, recompute=True, **options), torch.zeros(2, 23, dtype=torch.bool)
        mask[1, 17:] = True
        given = torch.stack(sentences(23, 23)).requires_grad_()
        lengths = []
        mixer.in_proj.register_forward_hook(lambda module, inputs, output: lengths.append(inputs[0].shape[1]))
        results = []
        for chunk in (100, 5):
            monkeypatch.setattr("seqdyconv.layers.conv_mixer._CHUNK", chunk)
            lengths.clear()
            output = mixer(given, padding_mask=mask)
            gradients = torch.autograd.grad(output.sin().sum(), (given, *mixer.parameters()))
            with torch.no_grad():
                assert_close(mixer(given, padding_mask=mask), output)
            results.append((output, *gradients))
        assert max(lengths) <= 5 + 2 * mixer.conv.reach
        for one, other in zip(*results):
            assert_close(one, other)

    def test_takes_a_convolution_of_ones_own(self):
        mixer = ConvMixer(6, LightweightConv1d(8, 3, 2, bias=True), glu=False)
        assert mixer(torch.zeros(2, 9, 6)).shape == (2, 9, 6)


class TestSelfAttention:
    @pytest.mark.parametrize("causal", [False, True])
    def test_is_multi_head_attention(self, causal):
        ours = build_named("self_attention", causal=causal)
        theirs = torch.nn.MultiheadAttention(WIDTH, 3, batch_first=True, dtype=torch.float64).eval()
        state = ours.state_dict()
        theirs.load_state_dict(
            {
                "in_proj_weight": state["in_proj.weight"],
                "in_proj_bias": state["in_proj.bias"],
                "out_proj.weight": state["out_proj.weight"],
                "out_proj.bias": state["out_proj.bias"],
            }
        )
        input, padding = torch.stack(sentences(9, 9)), torch.arange(9) >= torch.tensor([[9], [6]])
        future = torch.ones(9, 9, dtype=torch.bool).triu(1) if causal else None
        expected, _ = theirs(input, input, input, key_padding_mask=padding, attn_mask=future, need_weights=False)
        assert_close(ours(input, padding_mask=padding)[~padding], expected[~padding])

    def test_attention_dropout_acts_in_training_alone(self):
        torch.manual_seed(0)
        mixer, input = build_named("self_attention", attention_dropout=0.5), torch.stack(sentences(9, 9))
        assert torch.equal(mixer(input), mixer(input))
        assert not torch.equal(mixer.train()(input), mixer(input))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_it_learns_in_half_precision_as_in_float32(self, dtype):
        torch.manual_seed(0)
        inputs = [torch.randn(2, 9, 6).to(dtype).requires_grad_() for _ in range(3)]
        wide = [input.detach().float().requires_grad_() for input in inputs]
        found, expected = attend(*inputs, 3, causal=True), attend(*wide, 3, causal=True)
        assert torch.equal(found, expected.to(dtype))
        for ours, theirs in zip(torch.autograd.grad(found.sum(), inputs), torch.autograd.grad(expected.sum(), wide)):
            assert torch.equal(ours, theirs.to(dtype))
        with torch.autocast("cpu", dtype):
            assert torch.equal(attend(*wide, 3, causal=True), found)


class TestParallelMixer:
    @pytest.mark.parametrize("causal", [False, True])
    @every_conv
    def test_is_the_sum_of_attention_and_convolution_of_one_value_projection(self, name, causal):
        mixer, input = build_named("parallel", conv=name, causal=causal), torch.stack(sentences(9, 9))
        query, key, value = F.linear(input, mixer.in_proj.weight, mixer.in_proj.bias).chunk(3, dim=-1)
        attended = attend(query, key, value, 3, causal=causal)
        expected = F.linear(attended + mixer.conv(value), mixer.out_proj.weight, mixer.out_proj.bias)
        assert_close(mixer(input), expected)

    def test_without_the_kernels_it_is_self_attention(self):
        mixer, attention = (
            build_named("parallel", conv="lightweight_conv", weight_softmax=False),
            build_named("self_attention"),
        )
        torch.nn.init.zeros_(mixer.conv.weight)
        state = mixer.state_dict()
        del state["conv.weight"]
        attention.load_state_dict(state)
        input = torch.stack(sentences(9, 9))
        assert_close(mixer(input), attention(input))

    def test_options_reach_the_convolution(self):
        mixer = ParallelMixer(
            6, 3, kernel_size=5, causal=True, dilation=2, weight_softmax=False, weight_dropout=0.1, generator_bias=True
        )
        assert (mixer.conv.channels, mixer.conv.kernel_size, mixer.conv.num_heads) == (6, 5, 3)
        assert (mixer.conv.padding, mixer.conv.dilation) == ("causal", 2)
        assert (mixer.conv.weight_softmax, mixer.conv.weight_dropout) == (False, 0.1)
        assert mixer.conv.generator.bias is not None
        assert ParallelMixer(6, 3, kernel_size=5, renormalize=True).conv.renormalize

    @pytest.mark.parametrize("option", [{"attention_dropout": 0.5}, {"weight_dropout": 0.5}], ids=str)
    def test_dropout_acts_in_training_alone(self, option):
        torch.manual_seed(0)
        mixer, input = build_named("parallel", **option), torch.stack(sentences(9, 9))
        assert torch.equal(mixer(input), mixer(input))
        assert not torch.equal(mixer.train()(input), mixer(input))

    def test_a_state_with_parts_of_another_shape_is_refused(self):
        mixer, input = build_named("parallel", causal=True), torch.stack(sentences(3, 3))
        state = mixer.initial_state(2)
        with pytest.raises(
            ValueError, match=r"state must be \(B, \(K-1\)\*dilation, C\) = \(2, 3, 6\), got \(2, 2, 6\)"
        ):
            mixer.stream(input, state._replace(conv=state.conv[:, :2]))
        for name, part in (("key", torch.zeros(2, 4, 5)), ("value", torch.zeros(2, 1, 6)), ("is_real", torch.ones(2))):
            broken = state._replace(attention=state.attention._replace(**{name: part}))
            with pytest.raises(ValueError, match=rf"{name} of state must be \(2, S.*, got \(2"):
                mixer.stream(input, broken)
        with pytest.raises(ValueError, match="state must be an AttentionState, got Tensor"):
            mixer.stream(input, state._replace(attention=state.conv))

    def test_unknown_convolution(self):
        with pytest.raises(ValueError, match="conv must be one of dynamic_conv, lightweight_conv, got 'fourier'"):
            ParallelMixer(6, 3, kernel_size=3, conv="fourier")


class TestRegistry:
    def test_names(self):
        assert list(MIXERS) == [
            "lightweight_conv",
            "dynamic_conv",
            "deformable_conv",
            "talk_conv",
            "self_attention",
            "parallel",
            "span_dynamic_conv",
            "mixed_attention",
            "lightweight_conv_2d",
            "dynamic_conv_2d",
            "short_conv",
            "gated_short_conv",
        ]
        convolutions = [build_mixer(name, 6, 3, kernel_size=3).conv for name in ("lightweight_conv", "dynamic_conv")]
        assert [type(conv) for conv in convolutions] == [LightweightConv1d, DynamicConv1d]
        assert isinstance(build_mixer("self_attention", 6, 3), SelfAttention)
        assert isinstance(build_mixer("parallel", 6, 3, kernel_size=3), ParallelMixer)

    @every_mixer
    def test_one_set_of_options_is_shared_by_all(self, name):
        options = {"kernel_size": 3, "causal": True, "glu": True, "attention_dropout": 0.1, "weight_dropout": 0.1}
        own = share_options(name, options)
        assert own.keys() == options.keys() & mixer_options(name).keys()
        assert build_mixer(name, 6, 3, **own)(torch.zeros(2, 9, 6)).shape == (2, 9, 6)

    def test_an_option_that_no_mixer_has_is_not_shared(self):
        with pytest.raises(ValueError, match=r"no option kernel_sise of any mixer \(did you mean kernel_size\?\)"):
            share_options("self_attention", {"kernel_sise": 3})

    def test_what_a_mixer_lacks_is_refused(self):
        with pytest.raises(ValueError, match=r"no option kernel_size of self_attention; options are causal, att"):
            build_mixer("self_attention", 6, 3, kernel_size=31)
        with pytest.raises(ValueError, match=r"no option weight_softmax of gated_short_conv"):
            build_mixer("gated_short_conv", 6, 3, weight_softmax=False)

    @pytest.mark.parametrize(
        "option, allowed",
        [
            ({"dilation": 2.5}, "dilation must be an int, got 2.5"),
            ({"dilation": True}, "dilation must be an int, got True"),
            ({"glu": 1}, "glu must be true or false, got 1"),
            ({"weight_dropout": "0.1"}, "weight_dropout must be a number, got '0.1'"),
            ({"conv_dim": [6]}, r"conv_dim must be an int or None, got \[6\]"),
        ],
        ids=str,
    )
    def test_values_of_another_kind_are_refused(self, option, allowed):
        with pytest.raises(ValueError, match=allowed):
            build_mixer("dynamic_conv", 6, 3, kernel_size=3, **option)

    @every_mixer
    def test_options_are_listed_with_default_and_help(self, name):
        signature = inspect.signature(MIXERS[name]).parameters
        options = mixer_options(name)
        assert options.keys() == signature.keys() - {"dim", "num_heads", "device", "dtype"}
        for option, listed in options.items():
            default = signature[option].default
            assert listed.required == (default is inspect.Parameter.empty)
            assert listed.required or listed.default == default
            assert len(listed.help) > 1 and "`" not in listed.help
            assert not re.fullmatch(r"(of .*, )?see \w+Conv1d\.", listed.help)

    def test_help_is_that_of_the_layer_that_has_the_option(self):
        assert mixer_options("mixed_attention")["renormalize"].help.startswith("softmax over the taps that read")
        assert mixer_options("parallel")["weight_dropout"].help.startswith("DropConnect, the probability")
        assert mixer_options("dynamic_conv")["glu"].help == "gate the convolution's input."

    def test_unknown_name(self):
        with pytest.raises(ValueError, match=r"mixer must be one of .*dynamic_conv.*parallel.*, got 'convolution'"):
            build_mixer("convolution", 6, 3)

    @every_mixer
    def test_unknown_option(self, name):
        with pytest.raises(ValueError, match=rf"no option kernel of {name}.*; options are .*causal"):
            build_mixer(name, 6, 3, kernel=3)

    @every_mixer
    def test_heads_that_do_not_divide_the_width(self, name):
        with pytest.raises(ValueError, match=r"num_heads must divide .*, got 4 heads and .*6"):
            build_mixer(name, 6, 4, **share_options(name, {"kernel_size": 3}))

    @pytest.mark.parametrize("name", ["lightweight_conv", "dynamic_conv", "parallel"])
    def test_convolutions_need_a_kernel_size(self, name):
        with pytest.raises(TypeError, match=r"missing .* 'kernel_size'"):
            build_mixer(name, 6, 3)

    @every_conv
    @pytest.mark.parametrize("option", [{"conv_dim": 0}, {"conv_dim": -6}, {"input_dropout": 1.5}], ids=str)
    def test_bad_options(self, name, option):
        with pytest.raises(ValueError, match=r"must be .*, got"):
            build_mixer(name, 6, 3, kernel_size=3, **option)

    @pytest.mark.parametrize("option", [{"attention_dropout": 1.5}, {"attention_dropout": -0.1}], ids=str)
    def test_bad_attention_options(self, option):
        with pytest.raises(ValueError, match=r"attention_dropout must be .*, got"):
            build_mixer("self_attention", 6, 3, **option)
