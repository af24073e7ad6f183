"""ShortConv1d and the gated short convolution."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from transformers import DynamicCache, Lfm2Config
from transformers.models.lfm2.modeling_lfm2 import Lfm2ShortConv

from seqdyconv import GatedShortConv, ShortConv1d, build_mixer, dynamic_conv1d, low_rank_conv1d
from seqdyconv.layers.short import JointShortConv1d
from tests.helpers import assert_close, golden, randomize
from tests.layers.behaviours import WIDTH, CompilesAndExports, MixesTime, sentences, stream

OPTIONS = {
    "headwise": {},
    "headwise, static": {"static_kernel": True, "generator_bias": True, "bias": True},
    "low rank": {"rank": 2, "generator_bias": True},
    "low rank, static": {"rank": 5, "static_kernel": True, "residual": False, "silu": True},
    "static": {"dynamic_kernel": False, "static_kernel": True},
    "MLP": {"generator_reduction": 2, "residual": False, "silu": True, "generator_bias": True, "num_heads": None},
    "MLP, low rank": {"generator_reduction": 2, "rank": 3},
    "one tap": {"kernel_size": 1, "static_kernel": True},
    "long": {"kernel_size": 20, "rank": 2},
}


def build_short(options=None, *, causal=False, dtype=torch.float64, seed=0):
    options = {"kernel_size": 4, "num_heads": 3, "padding": "causal" if causal else "same", **(options or {})}
    return randomize(ShortConv1d(WIDTH, **options, dtype=dtype), seed)


class TestBehaviours(MixesTime):
    # A layer of one tap sees no future, and streams whatever its padding is: it has a class of its own.
    @pytest.fixture(params=[name for name in OPTIONS if name != "one tap"])
    def build(self, request):
        return partial(build_short, OPTIONS[request.param])


class TestTracing(CompilesAndExports):
    @pytest.fixture(params=["low rank, static"])
    def build(self, request):
        return partial(build_short, OPTIONS[request.param])


class TestBehavioursOfMixerOptions(MixesTime):
    OPTIONS = {
        "low rank": ("short_conv", {"rank": 2}),
        "static": ("short_conv", {"dynamic_kernel": False, "static_kernel": True, "glu": False}),
        "gated, dynamic": ("gated_short_conv", {"dynamic_kernel": True}),
        "gated, low rank, wide": ("gated_short_conv", {"dynamic_kernel": True, "rank": 2, "conv_dim": 12}),
    }

    @pytest.fixture(params=OPTIONS)
    def build(self, request):
        name, options = self.OPTIONS[request.param]

        def build(*, causal=False, dtype=torch.float64, seed=0):
            return randomize(build_mixer(name, WIDTH, 3, kernel_size=4, causal=causal, dtype=dtype, **options), seed)

        return build


class TestGolden:
    """dynamic-conv1d, whose tap 0 is the current step."""

    @pytest.mark.parametrize("kind", ["headwise", "lowrank"])
    @pytest.mark.parametrize("number", ["01", "02"])
    def test_outputs_and_gradients(self, kind, number):
        tensors, header = golden(f"dynamic_conv1d_{kind}_{number}")
        args, sizes = header["args"], header["shapes"]
        options = {"residual": args["residual"], "static_kernel": args["static"], "dtype": torch.float64}
        if kind == "headwise":
            # The kernels are an input there: here the generator is the identity, and the query holds them.
            layer = ShortConv1d(sizes["D"], sizes["W"], sizes["H"], query_dim=sizes["H"] * sizes["W"], **options)
            generated = "weight"
        else:
            layer = ShortConv1d(sizes["D"], sizes["W"], rank=sizes["R"], query_dim=sizes["R"], **options)
            layer.basis.data = tensors["U"].unflatten(1, (sizes["W"], -1)).flip(1).transpose(1, 2).contiguous()
            generated = "z"
        layer.generator.weight.data = torch.eye(layer.query_dim, dtype=torch.float64)
        if args["static"]:
            layer.static_kernel.data = tensors["static_w"].flip(0).T.contiguous()
        input, kernels = tensors["x"].requires_grad_(), tensors[generated].requires_grad_()
        query = kernels.flip(-1).flatten(2) if kind == "headwise" else kernels
        output = layer(input, query=query)
        assert_close(output, tensors["out"], 1e-10)

        (output * tensors["cotangent"]).sum().backward()
        assert_close(input.grad, tensors["grad.x"], 1e-10)
        assert_close(kernels.grad, tensors[f"grad.{generated}"], 1e-10)
        if kind == "lowrank":
            assert_close(layer.basis.grad.transpose(1, 2).flip(1).flatten(1), tensors["grad.U"], 1e-10)
        if args["static"]:
            assert_close(layer.static_kernel.grad.T.flip(0), tensors["grad.static_w"], 1e-10)


class TestKernels:
    def test_is_the_sum_of_static_and_predicted_kernels_and_the_input(self):
        layer, input = build_short(OPTIONS["headwise, static"]), torch.stack(sentences(9, 9))
        kernels = layer.generator(input).unflatten(-1, (3, 4)).repeat_interleave(2, dim=2) + layer.static_kernel
        assert_close(layer(input), dynamic_conv1d(input, kernels, layer.bias) + input)

    def test_static_is_a_depthwise_convolution_and_the_input(self):
        layer, input = build_short(OPTIONS["static"], causal=True), torch.stack(sentences(9, 9))
        convolved = F.conv1d(F.pad(input.transpose(1, 2), (3, 0)), layer.static_kernel[:, None], groups=WIDTH)
        assert_close(layer(input), convolved.transpose(1, 2) + input)

    def test_full_rank_is_a_kernel_for_each_channel(self):
        headwise = build_short({"num_heads": None}, causal=True)
        low_rank = build_short({"rank": WIDTH * 4}, causal=True)
        low_rank.generator.load_state_dict(headwise.generator.state_dict())
        low_rank.basis.data = torch.eye(WIDTH * 4).double().unflatten(1, (WIDTH, 4))
        input = torch.stack(sentences(9, 9))
        assert headwise.num_heads == WIDTH
        assert_close(low_rank(input), headwise(input))

    @pytest.mark.parametrize("rank", [None, 2])
    def test_the_generator_of_jet_nemotron(self, rank):
        layer = build_short(
            {
                "generator_reduction": 2,
                "generator_bias": True,
                "silu": True,
                "residual": False,
                "num_heads": None,
                "rank": rank,
                "query_dim": 8,
            }
        )
        input, query = torch.stack(sentences(9, 9)), torch.randn(2, 9, 8).double()
        first, _, last = layer.generator
        assert (first.weight.shape, first.bias) == ((4, 8), None)
        generated = F.silu(query @ first.weight.T) @ last.weight.T + last.bias
        convolved = (
            dynamic_conv1d(input, generated.unflatten(-1, (WIDTH, 4)))
            if rank is None
            else low_rank_conv1d(input, generated, layer.basis)
        )
        assert_close(layer(input, query=query), F.silu(convolved))

    @pytest.mark.parametrize("options", [{}, {"rank": 3}, {"generator_reduction": 2}], ids=str)
    def test_starts_as_the_identity_and_learns(self, options):
        torch.manual_seed(0)
        layer, input = ShortConv1d(WIDTH, 4, 3, **options), torch.stack(sentences(9, 9, dtype=torch.float32))
        assert torch.equal(layer(input), input)
        optimizer = torch.optim.SGD(layer.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            (layer(input) - input.roll(1, dims=1)).square().mean().backward()
            optimizer.step()
        assert all(parameter.grad.any() for parameter in layer.parameters())

    def test_static_kernels_start_small(self):
        layer = ShortConv1d(1000, 4, dynamic_kernel=False, static_kernel=True)
        assert 0.49 < layer.static_kernel.abs().max() <= 0.5


class TestQuery:
    @pytest.mark.parametrize("rank", [None, 2])
    def test_makes_the_kernels(self, rank):
        layer = build_short({"query_dim": 5, "rank": rank})
        input, query = torch.stack(sentences(9, 9)), torch.randn(2, 9, 5).double()
        assert_close(layer(2 * input, query=query), 2 * layer(input, query=query))
        assert not torch.allclose(layer(input, query=2 * query), layer(input, query=query))

    @pytest.mark.parametrize("rank", [None, 2])
    def test_streams_and_ignores_padding(self, rank):
        layer = build_short({"query_dim": 5, "rank": rank, "static_kernel": True}, causal=True)
        input, query = torch.stack(sentences(9, 9)), torch.randn(2, 9, 5).double()
        first, state = layer.stream(input[:, :4], layer.initial_state(2), query=query[:, :4])
        rest, _ = layer.stream(input[:, 4:], state, query=query[:, 4:])
        assert_close(torch.cat([first, rest], dim=1), layer(input, query=query))
        expected = layer(input[:, :6], query=query[:, :6])
        input[:, 6:], query[:, 6:] = torch.nan, torch.nan
        mask = (torch.arange(9) >= 6).expand(2, -1)
        assert_close(layer(input, padding_mask=mask, query=query)[:, :6], expected)
        assert_close(layer.stream(input, layer.initial_state(2), mask, query)[0][:, :6], expected)

    def test_of_packed_sequences(self):
        layer = build_short({"query_dim": 5, "rank": 2})
        input, query = torch.cat(sentences(4, 5))[None], torch.randn(1, 9, 5).double()
        output = layer(input, query=query, cu_seqlens=torch.tensor([0, 4, 9]))
        alone = [layer(input[:, part], query=query[:, part]) for part in (slice(0, 4), slice(4, 9))]
        assert_close(output, torch.cat(alone, dim=1))

    def test_that_does_not_fit(self):
        input = torch.zeros(2, 9, 6)
        with pytest.raises(ValueError, match="query must be given if and only if"):
            ShortConv1d(6, 4, 3, query_dim=5)(input)
        with pytest.raises(ValueError, match="query must be given if and only if"):
            ShortConv1d(6, 4, 3)(input, query=input)
        with pytest.raises(ValueError, match=r"query must be .* = \(2, 9, 5\), got \(2, 8, 5\)"):
            ShortConv1d(6, 4, 3, query_dim=5)(input, query=torch.zeros(2, 8, 5))


@pytest.mark.parametrize("options", [{}, {"rank": 2}, {"dynamic_kernel": False}], ids=str)
@pytest.mark.parametrize("query_dim", [None, 5])
def test_a_layer_that_looks_ahead_streams_late(options, query_dim):
    """With padding=P the output comes K−1−P steps late, after as many padded steps."""
    if not options.get("dynamic_kernel", True):
        query_dim = None
    layer = build_short({"padding": 1, "static_kernel": True, "query_dim": query_dim, **options})
    input, query = torch.stack(sentences(9, 9)), torch.randn(2, 9, 5).double() if query_dim else None
    late = F.pad(input, (0, 0, 0, 2))
    queries = [None] * 3 if query is None else F.pad(query, (0, 0, 2, 0)).split([3, 1, 7], dim=1)
    state, outputs = layer.initial_state(2), []
    for chunk, of_output in zip(late.split([3, 1, 7], dim=1), queries):
        output, state = layer.stream(chunk, state, query=of_output)
        outputs.append(output)
    assert layer.lookahead == 2
    assert_close(torch.cat(outputs, dim=1)[:, 2:], layer(input, query=query))


def test_one_tap_is_a_gain():
    layer, input = build_short(OPTIONS["one tap"]), torch.stack(sentences(9, 9))
    gains = layer.generator(input).repeat_interleave(2, dim=-1) + layer.static_kernel[:, 0] + 1
    assert_close(layer(input), gains * input)
    assert_close(stream(layer, input, [2, 1, 6]), layer(input))


class TestConstruction:
    @pytest.mark.parametrize(
        "options, message",
        [
            ({"channels": 0}, r"num_heads must be an int >= 1, got 0|channels must be an int >= 1, got 0"),
            ({"kernel_size": 0}, r"kernel_size must be an int >= 1, got 0"),
            ({"num_heads": 4}, r"num_heads must divide channels, got 4 heads and channels=6"),
            ({"padding": "valid"}, r"padding must be .*got 'valid'"),
            ({"rank": 0}, r"rank must be an int >= 1, got 0"),
            ({"query_dim": 2.5}, r"query_dim must be an int >= 1, got 2.5"),
            ({"generator_reduction": 0}, r"generator_reduction must be an int >= 1, got 0"),
            ({"dynamic_kernel": False}, r"a short convolution has a kernel: .* must be True"),
            ({"dynamic_kernel": False, "static_kernel": True, "rank": 2}, r"rank must be None where dynamic_kernel"),
        ],
        ids=str,
    )
    def test_bad_options(self, options, message):
        with pytest.raises(ValueError, match=message):
            ShortConv1d(**{"channels": 6, "kernel_size": 4, "num_heads": 3} | options)

    def test_parameters(self):
        def shapes(*args, **options):
            return {name: tuple(value.shape) for name, value in ShortConv1d(*args, **options).named_parameters()}

        assert shapes(6, 4, 3) == {"generator.weight": (12, 6)}
        assert shapes(6, 4, 3, rank=2, generator_bias=True, query_dim=5, static_kernel=True, bias=True) == {
            "basis": (2, 6, 4),
            "static_kernel": (6, 4),
            "bias": (6,),
            "generator.weight": (2, 5),
            "generator.bias": (2,),
        }
        assert shapes(6, 4, 3, dynamic_kernel=False, static_kernel=True) == {"static_kernel": (6, 4)}
        assert shapes(6, 4, 3, generator_reduction=100) == {"generator.0.weight": (1, 6), "generator.2.weight": (12, 1)}

    def test_device_and_dtype(self):
        layer = ShortConv1d(6, 4, 3, rank=2, static_kernel=True, bias=True, device="meta", dtype=torch.bfloat16)
        assert {(p.device.type, p.dtype) for p in layer.parameters()} == {("meta", torch.bfloat16)}

    def test_repr_tells_the_kind(self):
        assert ShortConv1d(6, 4, 3).extra_repr() == (
            "6, kernel_size=4, num_heads=3, padding='causal', static_kernel=False, residual=True"
        )
        assert ShortConv1d(6, 4, rank=2, static_kernel=True, residual=False, silu=True, bias=True).extra_repr() == (
            "6, kernel_size=4, rank=2, padding='causal', static_kernel=True, residual=False, silu=True, bias=True"
        )


class TestLfm2:
    """The block of transformers, whose channels come before time."""

    def both(self):
        config = Lfm2Config(
            hidden_size=WIDTH,
            num_hidden_layers=2,
            layer_types=["conv", "full_attention"],
            num_attention_heads=3,
            num_key_value_heads=3,
            conv_L_cache=3,
        )
        theirs = randomize(Lfm2ShortConv(config, 0).double())
        ours = GatedShortConv(WIDTH, 3, causal=True, dtype=torch.float64)
        for name in ("in_proj", "out_proj"):
            getattr(ours, name).weight.data = getattr(theirs, name).weight.data
        ours.conv.static_kernel.data = theirs.conv.weight.data[:, 0]
        return ours.eval(), theirs, config

    def test_is_equal_without_padding(self):
        ours, theirs, _ = self.both()
        input = torch.stack(sentences(9, 9))
        assert_close(ours(input), theirs(input))

    def test_is_right_after_a_right_padded_prefill_where_theirs_is_not(self):
        ours, theirs, config = self.both()
        rows = sentences(9, 6)
        batch = torch.nn.utils.rnn.pad_sequence([row[:-1] for row in rows], batch_first=True)
        mask = torch.arange(8) >= torch.tensor([[8], [5]])
        last = torch.stack([row[-1:] for row in rows])
        expected = torch.stack([ours(row[None])[0, -1:] for row in rows])
        _, state = ours.stream(batch, ours.initial_state(2), mask)
        assert_close(ours.stream(last, state)[0], expected)
        cache = DynamicCache(config=config)
        theirs(batch, cache=cache, attention_mask=(~mask).long())
        output = theirs(last, cache=cache)
        assert_close(output[0], expected[0])
        assert not torch.allclose(output[1], expected[1], atol=0.01)

    def test_starts_as_the_static_block_with_predicted_kernels(self):
        ours, _, _ = self.both()
        dynamic = GatedShortConv(WIDTH, 3, causal=True, dynamic_kernel=True, dtype=torch.float64)
        missing, unexpected = dynamic.load_state_dict(ours.state_dict(), strict=False)
        assert (missing, unexpected) == (["conv.generator.weight"], [])
        input = torch.stack(sentences(9, 9))
        assert_close(dynamic(input), ours(input))


class TestJoint:
    """Several short convolutions in one call."""

    @staticmethod
    def parts(**options):
        built = (ShortConv1d(channels, 4, channels // 2, dtype=torch.float64, **options) for channels in (8, 4))
        return [randomize(part, seed) for seed, part in enumerate(built)]

    @pytest.mark.parametrize("options", [{"query_dim": 6, "static_kernel": True, "bias": True, "silu": True},
                                         {"dynamic_kernel": False, "static_kernel": True}], ids=str)  # fmt: skip
    def test_is_what_each_gives(self, options):
        parts = self.parts(**options)
        joint, input, hidden = JointShortConv1d(parts), torch.randn(2, 9, 12).double(), torch.randn(2, 9, 6).double()
        query = hidden if "query_dim" in options else None
        mask = torch.arange(9) >= torch.tensor([[9], [6]])
        inputs = input.split([8, 4], dim=-1)
        expected = torch.cat([part(x, padding_mask=mask, query=query) for part, x in zip(parts, inputs)], dim=-1)
        assert_close(joint(input, padding_mask=mask, query=query), expected)
        state, outputs = joint.initial_state(2), []
        for step in range(9):
            chunk = slice(step, step + 1)
            queries = None if query is None else query[:, chunk]
            output, state = joint.stream(input[:, chunk], state, mask[:, chunk], queries)
            outputs.append(output)
        assert_close(torch.cat(outputs, 1)[~mask], expected[~mask])
        assert not list(joint.parameters())

    @pytest.mark.parametrize("options", [{"rank": 2, "query_dim": 6}, {"padding": "same", "query_dim": 6}, {}], ids=str)
    def test_refuses_what_is_not_alike(self, options):
        with pytest.raises(ValueError, match="parts must"):
            JointShortConv1d(self.parts(**options))
