"""LightweightConv1d and DynamicConv1d."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from seqdyconv import DynamicConv1d, LightweightConv1d, dynamic_conv1d
from tests.helpers import assert_close, golden, randomize, streamed_late
from tests.layers.behaviours import WIDTH, CompilesAndExports, MixesTime, sentences, stream

LAYERS = {"lightweight": LightweightConv1d, "dynamic": DynamicConv1d}
OPTIONS = {
    "default": {},
    "no softmax, biases": {"weight_softmax": False, "bias": True},
    "renormalized": {"renormalize": True},
    "long": {"kernel_size": 20},
    "long, renormalized": {"kernel_size": 20, "renormalize": True},
    "dilated": {"dilation": 3, "renormalize": True, "bias": True},
    "several sizes": {"kernel_size": (2, 3, 7), "bias": True},
}
every_layer = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)


def build_layer(layer, options, *, causal=False, dtype=torch.float64, seed=0):
    options = {"kernel_size": 4, "num_heads": 3, "padding": "causal" if causal else "same"} | options
    if layer is DynamicConv1d and options.get("bias"):
        options["generator_bias"] = True
    return randomize(layer(WIDTH, **options, dtype=dtype), seed)


class TestBehaviours(MixesTime):
    @pytest.fixture(params=[(layer, options) for layer in LAYERS for options in OPTIONS], ids=": ".join)
    def build(self, request):
        layer, options = request.param
        return partial(build_layer, LAYERS[layer], OPTIONS[options])


class TestTracing(CompilesAndExports):
    @pytest.fixture(params=LAYERS)
    def build(self, request):
        return partial(build_layer, LAYERS[request.param], OPTIONS["dilated"])


class TestTracingOfSeveralSizes(CompilesAndExports):
    @pytest.fixture
    def build(self):
        return partial(build_layer, DynamicConv1d, {"kernel_size": (2, 3, 7), "renormalize": True})


class TestGolden:
    """The layers of fairseq, whose (T, B, C) becomes (B, T, C)."""

    @pytest.mark.parametrize("name", [f"fairseq_lightweight_{i:02}" for i in range(1, 7)])
    def test_lightweight(self, name):
        tensors, header = golden(name)
        args = header["args"]
        names = ("bias", "weight_softmax")
        layer = LightweightConv1d(
            args["input_size"],
            args["kernel_size"],
            args["num_heads"],
            padding=args["padding_l"],
            **{name: args[name] for name in names},
            dtype=torch.float64,
        )
        state = {"weight": tensors["state.weight"].squeeze(1)}
        if args["bias"]:
            state["bias"] = tensors["state.bias"]
        layer.load_state_dict(state)
        self.check(layer, tensors, {"weight": "weight", "bias": "bias"})

    @pytest.mark.parametrize("name", [f"fairseq_dynamic_{i:02}" for i in range(1, 12) if i != 5])
    def test_dynamic(self, name):
        tensors, header = golden(name)
        args = header["args"]
        layer = DynamicConv1d(
            args["input_size"],
            args["kernel_size"],
            args["num_heads"],
            padding=args["padding_l"],
            bias=args["conv_bias"],
            weight_softmax=args["weight_softmax"],
            renormalize=args["renorm_padding"],
            query_dim=args["query_size"],
            generator_bias=args["bias"],
            dtype=torch.float64,
        )
        names = {
            "generator.weight": "weight_linear.weight",
            "generator.bias": "weight_linear.bias",
            "bias": "conv_bias",
        }
        state = {ours: tensors[f"state.{theirs}"] for ours, theirs in names.items() if f"state.{theirs}" in tensors}
        layer.load_state_dict(state)
        self.check(layer, tensors, names)

    def check(self, layer, tensors, names):
        inputs = {"x": tensors["x"].transpose(0, 1).requires_grad_()}
        if "query" in tensors:
            inputs["query"] = tensors["query"].transpose(0, 1).requires_grad_()
        query = {"query": inputs["query"]} if "query" in inputs else {}
        output = layer(inputs["x"], **query)
        assert_close(output, tensors["out"].transpose(0, 1), 1e-10)
        output.backward(tensors["cotangent"].transpose(0, 1))
        for name, input in inputs.items():
            assert_close(input.grad, tensors[f"grad.{name}"].transpose(0, 1), 1e-10, name)
        for name, parameter in layer.named_parameters():
            assert_close(parameter.grad, tensors[f"grad.{names[name]}"].reshape(parameter.shape), 1e-10, name)
        if "out_incremental" in tensors:
            streamed = stream(layer, inputs["x"], [1] * output.shape[1])
            assert_close(streamed, tensors["out_incremental"].transpose(0, 1), 1e-10)

    def test_dynamic_with_one_projection_for_input_and_kernels(self):
        """fairseq's ``in_proj``: an ordinary linear layer and the function."""
        tensors, header = golden("fairseq_dynamic_05")
        channels, heads = header["args"]["input_size"], header["args"]["num_heads"]
        x = tensors["x"].transpose(0, 1)
        names = ("weight_linear.weight", "weight_linear.bias", "conv_bias")
        weight, weight_bias, bias = (tensors[f"state.{name}"] for name in names)
        inputs = [tensor.requires_grad_() for tensor in (x, weight, weight_bias, bias)]
        projected, logits = F.linear(x, weight, weight_bias).tensor_split([channels], dim=-1)
        kernels = logits.unflatten(-1, (heads, -1)).softmax(-1)
        output = dynamic_conv1d(projected, kernels, bias, padding="causal")
        assert_close(output, tensors["out"].transpose(0, 1), 1e-10)
        gradients = torch.autograd.grad(output, inputs, tensors["cotangent"].transpose(0, 1))
        assert_close(gradients[0], tensors["grad.x"].transpose(0, 1), 1e-10)
        for name, gradient in zip(names, gradients[1:]):
            assert_close(gradient, tensors[f"grad.{name}"], 1e-10, name)


class TestKernels:
    @every_layer
    def test_one_tap_is_a_gain(self, layer):
        module, input = build_layer(layer, {"kernel_size": 1, "weight_softmax": False}), torch.stack(sentences(9, 9))
        gains = module.weight[:, 0] if layer is LightweightConv1d else module.generator(input)
        assert_close(module(input), input * gains.repeat_interleave(2, dim=-1))
        assert_close(stream(module, input, [2, 1, 6]), module(input))

    @every_layer
    def test_softmax_is_made_in_float32(self, layer):
        module = build_layer(layer, {"kernel_size": 7, "padding": "causal"}, dtype=torch.bfloat16)
        input = torch.ones(1, 20, WIDTH, dtype=torch.bfloat16)
        assert_close(module(input)[:, 6:], torch.ones(1, 14, WIDTH), 1e-2)  # the taps of a kernel sum to one

    @every_layer
    def test_large_logits_stay_finite_in_float16(self, layer):
        module = build_layer(layer, {}, dtype=torch.float16)
        for parameter in module.parameters():
            parameter.data.fill_(6e4 if layer is LightweightConv1d else 1e3)
        assert module(torch.ones(1, 9, WIDTH, dtype=torch.float16)).isfinite().all()

    @every_layer
    @pytest.mark.parametrize("padding", ["same", "causal", 1])
    @pytest.mark.parametrize("kernel_size, dilation", [(4, 1), (20, 1), (3, 3)])
    def test_renormalized_taps_inside_the_sequence_sum_to_one(self, layer, padding, kernel_size, dilation):
        options = {"kernel_size": kernel_size, "dilation": dilation, "padding": padding}
        ones, mask = torch.ones(2, 9, WIDTH).double(), torch.arange(9) >= torch.tensor([[9], [5]])
        renormalized = build_layer(layer, options | {"renormalize": True})
        assert_close(renormalized(ones, padding_mask=mask)[~mask], torch.ones(14, WIDTH).double())
        plain = build_layer(layer, options)
        edge = plain(ones, padding_mask=mask)[:, 0]
        assert (edge < 0.999).all()

    def test_query_makes_the_kernels(self):
        layer = build_layer(DynamicConv1d, {"query_dim": 5})
        input, query = torch.stack(sentences(9, 9)), torch.randn(2, 9, 5).double()
        assert_close(layer(2 * input, query=query), 2 * layer(input, query=query))
        kernels = layer.generator(query).unflatten(-1, (3, 4)).softmax(-1)
        assert_close(layer(input, query=query), dynamic_conv1d(input, kernels))

    def test_query_streams_and_ignores_padding(self):
        layer = build_layer(DynamicConv1d, {"query_dim": 5, "padding": "causal", "renormalize": True})
        input, query = torch.stack(sentences(9, 9)), torch.randn(2, 9, 5).double()
        first, state = layer.stream(input[:, :4], layer.initial_state(2), query=query[:, :4])
        rest, _ = layer.stream(input[:, 4:], state, query=query[:, 4:])
        assert_close(torch.cat([first, rest], dim=1), layer(input, query=query))
        mask = torch.arange(9) >= 6
        input[:, 6:], query[:, 6:] = torch.nan, torch.nan
        output = layer(input, padding_mask=mask.expand(2, -1), query=query)
        assert_close(output[:, :6], layer(input[:, :6], query=query[:, :6]))


class TestSeveralKernelSizes:
    """With sizes (3, 7) a layer is two of one size, each on half of the channels; both predict from all of them."""

    CASES = {
        "two-sided": {},
        "causal": {"padding": "causal", "bias": True},
        "some steps ahead": {"padding": 5, "renormalize": True},
        "more ahead than the smaller kernel": {"padding": 2, "weight_softmax": False},
        "ahead alone": {"padding": 0, "renormalize": True},
        "dilated": {"dilation": 2, "renormalize": True},
    }

    @every_layer
    @pytest.mark.parametrize("options", CASES.values(), ids=CASES)
    def test_by_definition(self, layer, options):
        both = build_layer(layer, {"kernel_size": (7, 3), "num_heads": 6} | options)
        parts = [self.half_of(both, half, size, options) for half, size in enumerate((3, 7))]
        input, cotangent = torch.stack(sentences(9, 9)).requires_grad_(), torch.stack(sentences(9, 9, seed=1))
        mask = torch.tensor([[False] * 9, [True] * 2 + [False] * 5 + [True] * 2])
        for lookahead in both.lookaheads:
            both.set_lookahead(lookahead)
            halves = []
            for (part, state), half in zip(parts, input.split(3, dim=-1)):
                part.set_lookahead(min(lookahead, part.lookaheads[-1]))
                arguments = {"padding_mask": mask} | ({"query": input} if layer is DynamicConv1d else {})
                halves.append(torch.func.functional_call(part, state, (half,), arguments))
            outputs = [output * ~mask[..., None] for output in (both(input, padding_mask=mask), torch.cat(halves, -1))]
            assert_close(*outputs)
            wanted = [input, *both.parameters()]
            for pair in zip(*(torch.autograd.grad((output * cotangent).sum(), wanted) for output in outputs)):
                assert_close(*pair)
            if both.padding != "same":
                assert_close(streamed_late(both, input, [2, 1, 6]), both(input))

    def half_of(self, both, half, size, options):
        """A layer of one size, and of the parameters of ``both`` its part."""
        padding = both.padding
        if isinstance(padding, int):  # it reads no steps that the longest does not, and looks ahead as "same" at most
            padding = min(padding, size - 1 - min(6 - padding, size // 2))
        if layer_is_dynamic := isinstance(both, DynamicConv1d):
            options = options | {"query_dim": WIDTH, "generator_bias": both.generator.bias is not None}
        part = type(both)(3, size, 3, **options | {"padding": padding}, dtype=torch.float64)
        state = {"bias": both.bias.split(3)[half]} if both.bias is not None else {}
        if layer_is_dynamic:
            generator = both.generator.named_parameters()
            return part, state | {f"generator.{name}": rows.split([9, 21])[half] for name, rows in generator}
        return part, state | {"weight": both.weight.split([9, 21])[half].view(3, size)}

    @every_layer
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_autocast(self, layer, dtype):
        module = build_layer(layer, {"kernel_size": (3, 7), "num_heads": 2}, dtype=torch.float32)
        input = torch.stack(sentences(9, 9, dtype=torch.float32)).requires_grad_()
        with torch.autocast("cpu", dtype):
            found = module(input)
        assert_close(found, module(input), 0.05)
        assert torch.autograd.grad(found.float().sum(), input)[0].isfinite().all()

    @every_layer
    def test_several_are_the_same_in_any_order_and_one_is_one(self, layer):
        shapes = {name: value.shape for name, value in layer(6, 7, 2).state_dict().items()}
        assert {name: value.shape for name, value in layer(6, [7], 2).state_dict().items()} == shapes
        assert repr(layer(6, (7, 3), 2)) == repr(layer(6, [3, 7], 2)) and "(3, 7)" in repr(layer(6, [3, 7], 2))
        assert (layer(6, (7, 3), 2).kernel_size, layer(6, (7, 3), 2).reach) == (7, 6)

    @every_layer
    @pytest.mark.parametrize(
        "sizes, message",
        [
            (
                (3, 5, 7, 9),
                r"num_heads must be a multiple of the number of kernel sizes, got 3 heads for \(3, 5, 7, 9\)",
            ),
            ((), r"kernel_size must be an int >= 1, or several of them, got \(\)"),
            ((3, 0), "kernel_size must be an int >= 1, got 0"),
            ((3, (5, 7)), r"kernel_size must be an int >= 1, got \(5, 7\)"),
        ],
        ids=str,
    )
    def test_bad_sizes(self, layer, sizes, message):
        with pytest.raises(ValueError, match=message):
            layer(6, sizes, 3)


class TestTheLayersKernels:
    """``kernels`` are those that ``forward`` convolves with: the function with them gives the layer's output."""

    @pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
    @pytest.mark.parametrize("mask", [None, torch.arange(9) >= torch.tensor([[9], [5]])], ids=["no mask", "mask"])
    def test_dynamic(self, options, mask):
        layer, input = build_layer(DynamicConv1d, options), torch.stack(sentences(9, 9))
        kernels = layer.kernels(input, padding_mask=mask)
        assert kernels.shape == (2, 9, layer.num_heads, layer.kernel_size) and kernels.dtype == input.dtype
        zeroed = input if mask is None else input.masked_fill(mask[..., None], 0)
        output = dynamic_conv1d(zeroed, kernels, layer.bias, padding=layer.padding, dilation=layer.dilation)
        assert_close(output, layer(input, padding_mask=mask))

    @pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
    def test_lightweight(self, options):
        layer, input = build_layer(LightweightConv1d, options), torch.stack(sentences(9, 9))
        mask = torch.arange(9) >= torch.tensor([[9], [5]])
        kernels = layer.kernels(mask)
        dynamic = (2, 9, layer.num_heads, layer.kernel_size)
        assert kernels.shape == (dynamic if layer.renormalize else dynamic[2:])
        output = dynamic_conv1d(
            input.masked_fill(mask[..., None], 0),
            kernels.expand(dynamic),
            layer.bias,
            padding=layer.padding,
            dilation=layer.dilation,
        )
        assert_close(output, layer(input, padding_mask=mask))

    def test_lightweight_kernels_need_a_length_only_to_renormalize(self):
        layer = build_layer(LightweightConv1d, {})
        assert torch.equal(layer.kernels(), layer.kernels(torch.zeros(2, 9, dtype=torch.bool)))
        with pytest.raises(ValueError, match=r"with renormalize depend on the length: padding_mask .* must be given"):
            build_layer(LightweightConv1d, {"renormalize": True}).kernels()

    @every_layer
    def test_taps_are_dropped_in_training_alone(self, layer):
        module = build_layer(layer, {"weight_dropout": 0.5})
        arguments = () if layer is LightweightConv1d else (torch.stack(sentences(90, 90)),)
        assert (module.kernels(*arguments) > 0).all()
        torch.manual_seed(0)
        assert (module.train().kernels(*arguments) == 0).any()

    def test_query(self):
        layer = build_layer(DynamicConv1d, {"query_dim": 5})
        input, query = torch.stack(sentences(9, 9)), torch.randn(2, 9, 5).double()
        assert_close(dynamic_conv1d(input, layer.kernels(input, query=query)), layer(input, query=query))
        with pytest.raises(ValueError, match="query must be given if and only if"):
            layer.kernels(input)


class TestDropConnect:
    """weight_dropout drops taps of normalised kernels in training and scales the others."""

    @pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
    def test_taps_are_dropped_and_scaled(self, layer):
        torch.manual_seed(0)
        module = layer(2000, 5, num_heads=2000, padding="causal", weight_dropout=0.25)
        if layer is DynamicConv1d:
            torch.nn.init.zeros_(module.generator.weight)
        else:
            torch.nn.init.zeros_(module.weight)
        impulse = torch.zeros(1, 5, 2000)
        impulse[:, 0] = 1
        taps = module(impulse)  # without dropout each is 1/5
        dropped = taps == 0
        assert_close(taps[~dropped], torch.full_like(taps[~dropped], 1 / 5 / 0.75), 1e-6)
        assert 0.23 < dropped.float().mean() < 0.27
        assert_close(taps.mean(), torch.tensor(1 / 5), 5e-3)

    @every_layer
    def test_eval_mode_and_zero_drop_nothing(self, layer):
        input = torch.stack(sentences(9, 9))
        plain, dropping = build_layer(layer, {}), build_layer(layer, {"weight_dropout": 0.9})
        assert torch.equal(dropping(input), plain(input))
        assert torch.equal(plain.train()(input), plain.eval()(input))
        assert not torch.equal(dropping.train()(input), plain(input))

    def test_is_drawn_per_kernel(self):
        """A lightweight kernel loses its taps at all steps, a dynamic one at its own step."""
        torch.manual_seed(0)
        ones = torch.ones(1, 50, WIDTH).double()
        lightweight = build_layer(LightweightConv1d, {"weight_dropout": 0.5, "padding": "causal"}).train()
        inner = lightweight(ones)[0, 3:]
        assert_close(inner, inner[:1].expand_as(inner))
        dynamic = build_layer(DynamicConv1d, {"weight_dropout": 0.5, "padding": "causal"}).train()
        assert len(dynamic(ones)[0, 3:, 0].unique()) > 5


class TestConstruction:
    @every_layer
    @pytest.mark.parametrize(
        "options, message",
        [
            ({"channels": 0}, r"channels must be an int >= 1, got 0"),
            ({"kernel_size": 0}, r"kernel_size must be an int >= 1, got 0"),
            ({"kernel_size": 3.0}, r"kernel_size must be an int >= 1, got 3.0"),
            ({"num_heads": 0}, r"num_heads must be an int >= 1, got 0"),
            ({"num_heads": 4}, r"num_heads must divide channels, got 4 heads and channels=6"),
            ({"dilation": 0}, r"dilation must be an int >= 1, got 0"),
            ({"padding": "valid"}, r"padding must be .*got 'valid'"),
            ({"padding": 4}, r"padding must be .* 0 to .*= 3, got 4"),
            ({"weight_dropout": 1.0}, r"weight_dropout must be in \[0, 1\), got 1.0"),
            ({"weight_dropout": -0.1}, r"weight_dropout must be in \[0, 1\), got -0.1"),
            ({"weight_softmax": False, "renormalize": True}, r"renormalize .* needs weight_softmax=True"),
        ],
        ids=str,
    )
    def test_bad_options(self, layer, options, message):
        with pytest.raises(ValueError, match=message):
            layer(**{"channels": 6, "kernel_size": 4, "num_heads": 3} | options)

    @pytest.mark.parametrize("query_dim", [0, -1, 2.5])
    def test_bad_query_dim(self, query_dim):
        with pytest.raises(ValueError, match=rf"query_dim must be an int >= 1, got {query_dim}"):
            DynamicConv1d(6, 4, 3, query_dim=query_dim)

    def test_bad_query(self):
        input = torch.zeros(2, 9, 6)
        with pytest.raises(ValueError, match="query must be given if and only if"):
            DynamicConv1d(6, 4, 3, query_dim=5)(input)
        with pytest.raises(ValueError, match="query must be given if and only if"):
            DynamicConv1d(6, 4, 3)(input, query=input)
        with pytest.raises(ValueError, match=r"query must be .* = \(2, 9, 5\), got \(2, 8, 5\)"):
            DynamicConv1d(6, 4, 3, query_dim=5)(input, query=torch.zeros(2, 8, 5))
        with pytest.raises(ValueError, match=r"query must have the layer's dtype, .*32, got torch.float64"):
            DynamicConv1d(6, 4, 3, query_dim=5)(input, query=torch.zeros(2, 9, 5).double())

    def test_parameters(self):
        def shapes(layer):
            return {name: tuple(parameter.shape) for name, parameter in layer.named_parameters()}

        assert shapes(LightweightConv1d(6, 4, 3)) == {"weight": (3, 4)}
        assert shapes(LightweightConv1d(6, 4, 3, bias=True)) == {"bias": (6,), "weight": (3, 4)}
        assert shapes(DynamicConv1d(6, 4, 3)) == {"generator.weight": (12, 6)}
        assert shapes(DynamicConv1d(6, 4, 3, query_dim=5, bias=True, generator_bias=True)) == {
            "bias": (6,),
            "generator.weight": (12, 5),
            "generator.bias": (12,),
        }

    @every_layer
    def test_device_and_dtype(self, layer):
        module = layer(6, 4, 3, bias=True, device="meta", dtype=torch.bfloat16)
        assert {(p.device.type, p.dtype) for p in module.parameters()} == {("meta", torch.bfloat16)}

    def test_repr_names_what_was_changed(self):
        assert repr(LightweightConv1d(6, 4, 3)) == "LightweightConv1d(6, kernel_size=4, num_heads=3, padding='same')"
        layer = LightweightConv1d(
            6, 4, 3, padding="causal", dilation=2, bias=True, weight_dropout=0.1, renormalize=True
        )
        assert layer.extra_repr() == (
            "6, kernel_size=4, num_heads=3, padding='causal', "
            "dilation=2, weight_dropout=0.1, renormalize=True, bias=True"
        )
