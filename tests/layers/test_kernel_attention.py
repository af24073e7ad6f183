"""KernelAttentionConv1d/2d and ODConv1d/2d: kernels that an attention to the input makes."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from seqdyconv import KernelAttentionConv1d, KernelAttentionConv2d, ODConv1d, ODConv2d
from seqdyconv.layers import set_temperature
from tests.helpers import assert_all_close, assert_close, assert_matches, golden, randomize
from tests.layers.behaviours import WIDTH, CompilesAndExports, MixesTime, stream

LAYERS = {"kernel attention": (KernelAttentionConv1d, KernelAttentionConv2d), "ODConv": (ODConv1d, ODConv2d)}
SEQUENCE_OPTIONS = {
    "mixed": (KernelAttentionConv1d, {}),
    "time, sigmoid, linear, dilated, grouped": (
        KernelAttentionConv1d,
        {"mixing": "time", "routing": "sigmoid", "reduction": None, "dilation": 3, "groups": 2},
    ),
    "one kernel, long": (KernelAttentionConv1d, {"num_kernels": 1, "kernel_size": 20, "bias": False}),
    "ODConv": (ODConv1d, {}),
    "ODConv, time, depthwise": (ODConv1d, {"mixing": "time", "groups": WIDTH, "dilation": 2}),
}
IMAGE_OPTIONS = {
    "plain": {},
    "stride, groups": {"stride": (2, 1), "groups": 2, "padding": (1, 2)},
    "dilation": {"dilation": (1, 3), "kernel_size": (3, 2), "padding": "same"},
    "valid, no bias": {"padding": "valid", "bias": False, "kernel_size": (3, 1)},
    "wide padding": {"padding": (5, 4), "stride": (3, 2)},
    "reflect": {"padding": (1, 2), "padding_mode": "reflect"},
    "replicate": {"padding": (1, 2), "padding_mode": "replicate", "stride": 2},
    "circular": {"padding": "same", "padding_mode": "circular", "kernel_size": (4, 3)},
    "one tap": {"kernel_size": 1},
    "causal": {"padding": ("causal", 1), "stride": (2, 1), "dilation": (2, 1)},
}
every_layer = pytest.mark.parametrize("layer", LAYERS)
every_option = pytest.mark.parametrize("options", IMAGE_OPTIONS.values(), ids=IMAGE_OPTIONS)
every_mixing = pytest.mark.parametrize("mixing", ["global", "time", "frequency"])


def build_sequence_layer(layer, options, *, causal=False, dtype=torch.float64, seed=0):
    options = {"kernel_size": 4, "padding": "causal" if causal else "same", "num_kernels": 3} | options
    return randomize(layer(WIDTH, WIDTH, **options, dtype=dtype), seed)


def build_image_layer(layer, options, *, dtype=torch.float64, out_channels=6):
    options = {"kernel_size": 3, "padding": 1, "num_kernels": 3, "temperature": 0.7} | options
    return randomize(LAYERS[layer][1](4, out_channels, **options, dtype=dtype))


def images(batch, height, width=5, seed=0, dtype=torch.float64):
    return torch.randn(batch, 4, height, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def one_by_one(layer, input):
    """The definition: for each image and output a kernel from what that output squeezes, then ``F.conv2d``."""
    sizes = layer(input).shape[2:]
    pads = [steps for pair in reversed(layer.pads) for steps in pair]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    rows = []
    for image in input:
        padded = F.pad(image[None], pads, mode)
        row = torch.zeros(layer.out_channels, *sizes, dtype=input.dtype)
        for h in range(sizes[0]):
            for w in range(sizes[1]):
                weight, bias = kernel(layer, squeezed(layer, image, h, w))
                output = F.conv2d(padded, weight, bias, layer.stride, 0, layer.dilation, layer.groups)
                row[:, h, w] = output[0, :, h, w]
        rows.append(row)
    return torch.stack(rows)


def squeezed(layer, image, h, w):
    """(C,) for output (h, w)."""
    spans = [(size - 1) * step for size, step in zip(layer.kernel_size, layer.dilation)]
    taps = [span if axis == 0 and layer.causal else span // 2 for axis, span in enumerate(spans)]
    y, x = (o * layer.stride[axis] - layer.pads[axis][0] + taps[axis] for axis, o in enumerate((h, w)))
    seen = image
    if layer.mixing == "time":
        seen = image[:, [y]] if 0 <= y < image.shape[1] else torch.zeros(4, 1, 1)
    elif layer.causal:
        seen = image[:, : y + 1]
    if layer.mixing == "frequency":
        seen = seen[:, :, [x]] if 0 <= x < image.shape[2] else torch.zeros(4, 1, 1)
    return seen.to(image.dtype).mean((1, 2))


def kernel(layer, x):
    """The kernel and bias from (C,), written out."""
    attention = layer.attention
    if isinstance(layer, KernelAttentionConv2d):
        logits = attention.fc2(F.relu(attention.fc1(x))) / layer.temperature
        weights = logits.softmax(0)
        weight = torch.einsum("n,noihw->oihw", weights, layer.weight)
    else:
        hidden = F.relu(attention.norm(attention.fc(x)))
        weights = (attention.kernel_fc(hidden) / layer.temperature).softmax(0)
        weight = torch.einsum("n,noihw->oihw", weights, layer.weight)
        channel = (attention.channel_fc(hidden) / layer.temperature).sigmoid().view(layer.groups, -1)
        groups_of_outputs = weight.chunk(layer.groups)
        weight = torch.cat([outputs * scale[:, None, None] for outputs, scale in zip(groups_of_outputs, channel)])
        if attention.filter_fc is not None:
            weight = weight * (attention.filter_fc(hidden) / layer.temperature).sigmoid()[:, None, None, None]
        if attention.spatial_fc is not None:
            spatial = (attention.spatial_fc(hidden) / layer.temperature).sigmoid()
            weight = weight * spatial.view(layer.kernel_size)
    return weight, None if layer.bias is None else weights @ layer.bias


class TestOverTime(MixesTime):
    """In one dimension, what all layers over time promise: padding, streaming, compilation, export, ..."""

    @pytest.fixture(params=SEQUENCE_OPTIONS.values(), ids=SEQUENCE_OPTIONS)
    def build(self, request):
        return partial(build_sequence_layer, *request.param)


class TestTracing(CompilesAndExports):
    @pytest.fixture(params=["mixed", "ODConv, time, depthwise"])
    def build(self, request):
        return partial(build_sequence_layer, *SEQUENCE_OPTIONS[request.param])


class TestGolden:
    """The layers of Dynamic-convolution-Pytorch and ODConv, whose 1×1 convolutions are our linear layers."""

    @pytest.mark.parametrize("name", ["dyconv1d_01", "dyconv1d_02", "dyconv2d_01", "dyconv2d_02"])
    def test_kernel_attention(self, name):
        tensors, header = golden(name)
        args = header["args"]
        axes = 1 if "1d" in name else 2
        layer = LAYERS["kernel attention"][axes - 1](
            args["in_planes"],
            args["out_planes"],
            args["kernel_size"],
            **{key: args[key] for key in ("stride", "padding", "dilation", "groups", "bias", "temperature")},
            num_kernels=args["K"],
            reduction=args["ratio"],
            dtype=torch.float64,
        )
        self.check(layer, tensors, axes, {})
        weights = layer.mixture(channels_last(tensors["x"], axes))
        assert_close(weights.flatten(1), tensors["attention"])

    @pytest.mark.parametrize("name", ["odconv2d_01", "odconv2d_02", "odconv2d_03"])
    def test_odconv(self, name):
        tensors, header = golden(name)
        args = header["args"]
        layer = ODConv2d(
            args["in_planes"],
            args["out_planes"],
            args["kernel_size"],
            **{key: args[key] for key in ("stride", "padding", "dilation", "groups", "reduction")},
            bias=False,
            num_kernels=args["kernel_num"],
            norm="batch",
            dtype=torch.float64,
        )
        self.check(layer, tensors, 2, {"attention.norm.": "attention.bn."})

    def check(self, layer, tensors, axes, renamed):
        def theirs(name):
            for ours, original in renamed.items():
                name = name.replace(ours, original)
            return name

        own = layer.state_dict()
        assert {theirs(name) for name in own} == {key[6:] for key in tensors if key.startswith("state.")}
        layer.load_state_dict({name: tensors[f"state.{theirs(name)}"].reshape(own[name].shape) for name in own})
        layer.eval()
        input = channels_last(tensors["x"], axes).requires_grad_()
        output = layer(input)
        assert_close(output, channels_last(tensors["out"], axes), 1e-10)
        output.backward(channels_last(tensors["cotangent"], axes))
        assert_close(input.grad, channels_last(tensors["grad.x"], axes), 1e-10)
        for name, parameter in layer.named_parameters():
            assert_close(parameter.grad, tensors[f"grad.{theirs(name)}"].reshape(parameter.shape), 1e-10, name)


def channels_last(x, axes):
    return x.transpose(1, 2) if axes == 1 else x


class TestOneKernelIsConv:
    @pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")  # of nn.Conv2d
    @every_option
    def test_2d(self, options):
        options = {"kernel_size": 3, "padding": 1} | options
        causal = options["padding"] == ("causal", 1)  # which nn.Conv2d lacks
        torch.manual_seed(0)
        conv = nn.Conv2d(4, 6, **options | {"padding": (0, 1) if causal else options["padding"]})
        torch.manual_seed(0)
        layer = KernelAttentionConv2d(4, 6, **options, num_kernels=1)
        assert sum(p.numel() for p in layer.parameters()) == sum(p.numel() for p in conv.parameters())
        input = images(3, 7, dtype=torch.float32)
        assert_close(layer(input), conv(F.pad(input, (0, 0, layer.reach[0], 0)) if causal else input), 1e-6)
        assert (layer.mixture(input) == 1).all()

    @pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
    def test_1d(self, padding_mode):
        options = {"kernel_size": 3, "stride": 2, "padding": 2, "dilation": 2, "groups": 2}
        torch.manual_seed(0)
        conv = nn.Conv1d(4, 6, **options, padding_mode=padding_mode)
        torch.manual_seed(0)
        layer = KernelAttentionConv1d(4, 6, **options, padding_mode=padding_mode, num_kernels=1)
        input = torch.randn(3, 9, 4)
        assert_close(layer(input), conv(input.transpose(1, 2)).transpose(1, 2), 1e-6)

    def test_equal_kernels_too(self):
        """However they are mixed, the softmax's weights sum to one."""
        layer, input = build_image_layer("kernel attention", {"num_kernels": 4}), images(3, 7)
        with torch.no_grad():
            layer.weight.copy_(layer.weight[:1].expand_as(layer.weight))
            layer.bias.copy_(layer.bias[:1].expand_as(layer.bias))
        assert_close(layer(input), F.conv2d(input, layer.weight[0], layer.bias[0], padding=1))


class TestDefinition:
    @every_layer
    @every_mixing
    @every_option
    def test_2d(self, layer, mixing, options):
        module = build_image_layer(layer, {"mixing": mixing} | options)
        assert_matches(module, partial(one_by_one, module), images(2, 5, 4))

    @every_layer
    def test_1d_is_2d_of_width_one(self, layer):
        options = {"kernel_size": 3, "stride": 2, "padding": 1, "num_kernels": 3}
        one, two = (kind(4, 6, **options, dtype=torch.float64) for kind in LAYERS[layer])
        two = LAYERS[layer][1](4, 6, (3, 1), stride=(2, 1), padding=(1, 0), num_kernels=3, dtype=torch.float64)
        state = randomize(one).state_dict()
        two.load_state_dict({name: value.reshape(two.state_dict()[name].shape) for name, value in state.items()})
        input = images(2, 9, 1)
        assert_close(one(input[..., 0].transpose(1, 2)), two.eval()(input)[..., 0].transpose(1, 2))

    def test_condconv(self):
        layer = build_image_layer("kernel attention", {"routing": "sigmoid", "reduction": None, "temperature": 1.0})
        input = images(2, 5)
        weights = layer.attention.fc2(input.mean((2, 3))).sigmoid()
        assert_close(layer.mixture(input)[..., 0, 0], weights)
        expected = [
            F.conv2d(row[None], torch.einsum("n,noihw->oihw", w, layer.weight), w @ layer.bias, padding=1)
            for row, w in zip(input, weights)
        ]
        assert_close(layer(input), torch.cat(expected))

    def test_the_temperature_may_change(self):
        layer, input = build_image_layer("kernel attention", {}), images(2, 5)
        layer.temperature = 1e6
        assert_close(layer.mixture(input), torch.full((2, 3, 1, 1), 1 / 3).double(), 1e-5)
        layer.temperature = 1e-6
        assert_close(layer.mixture(input).amax(1), torch.ones(2, 1, 1).double())
        model = nn.Sequential(layer, nn.ReLU(), build_image_layer("ODConv", {}))
        assert set_temperature(model, 5.0) == 2 and layer.temperature == model[2].temperature == 5.0

    def test_a_kernels_start_is_that_of_conv(self):
        torch.manual_seed(0)
        layer = KernelAttentionConv2d(64, 64, 3, num_kernels=2)
        conv = nn.Conv2d(64, 64, 3)
        for kernel, bias in zip(layer.weight, layer.bias):
            assert_close(kernel.std(), conv.weight.std(), 0.02)
            assert_close(bias.std(), conv.bias.std(), 0.02)


class TestPadding:
    @every_layer
    @every_mixing
    @pytest.mark.parametrize("padding", [1, ("causal", 1)], ids=str)
    def test_changes_nothing(self, layer, mixing, padding):
        """Outputs and gradients of a spectrogram are those of it alone, whatever stands in its padding."""
        module = build_image_layer(layer, {"mixing": mixing, "padding": padding, "stride": 2})
        rows = [images(1, length, seed=length)[0] for length in (4, 9, 7)]
        alone = [row.clone().requires_grad_() for row in rows]
        expected = [module(row[None])[0] for row in alone]
        gradients = torch.autograd.grad([row.square().sum() for row in expected], [*module.parameters(), *alone])
        batch = torch.full((3, 4, 11, 5), torch.nan).double()
        mask = torch.ones(3, 11, dtype=torch.bool)
        for b, (row, start) in enumerate(zip(rows, (0, 2, 4))):  # a stride of 2 counts from the start
            batch[b, :, start : start + row.shape[1]] = row
            mask[b, start : start + row.shape[1]] = False
        batch.requires_grad_()
        output = module(batch, padding_mask=mask)
        actual = [
            output[b, :, start // 2 :][:, : row.shape[1]] for b, (row, start) in enumerate(zip(expected, (0, 2, 4)))
        ]
        for one, other in zip(actual, expected):
            assert_close(one, other)
        *rest, input_gradient = torch.autograd.grad(
            [row.square().sum() for row in actual], [*module.parameters(), batch]
        )
        rest += [row[:, ~padded] for row, padded in zip(input_gradient, mask)]
        for one, other in zip(rest, gradients):
            assert_close(one, other)

    @every_layer
    def test_copied_steps_can_not_be_masked(self, layer):
        module = build_image_layer(layer, {"padding_mode": "reflect"})
        with pytest.raises(ValueError, match=r'padding_mask needs padding_mode="zeros".*got \'reflect\''):
            module(images(2, 5), padding_mask=torch.zeros(2, 5, dtype=torch.bool))


class TestStreaming:
    """In two dimensions, with a stride along time: the convolutions of a speech front end."""

    @every_layer
    @every_mixing
    @settings(deadline=None, derandomize=True, database=None, max_examples=10)
    @given(chunks=st.lists(st.integers(1, 7), min_size=1, max_size=6), stride=st.integers(1, 3))
    def test_any_chunking_streams_the_full_forward(self, layer, mixing, chunks, stride):
        module = build_image_layer(layer, {"mixing": mixing, "padding": ("causal", 1), "stride": (stride, 2)})
        input, state, outputs = images(2, sum(chunks)), module.initial_state(2, 5), []
        for chunk in input.split(chunks, dim=2):
            output, state = module.stream(chunk, state)
            outputs.append(output)
        assert_close(torch.cat(outputs, dim=2), module(input))
        assert [part.shape for part in state] == [part.shape for part in module.initial_state(2, 5)]

    def test_rows_that_have_ended_wait(self):
        module = build_image_layer("kernel attention", {"padding": ("causal", 1), "stride": 2})
        long, short = images(1, 9), images(1, 3, seed=1)
        mask = torch.zeros(2, 9, dtype=torch.bool)
        mask[1, 3:] = True
        batch = torch.cat([long, F.pad(short, (0, 0, 0, 6), value=torch.nan)])
        state, outputs = module.initial_state(2, 5), []
        for steps in (slice(0, 4), slice(4, 7), slice(7, 9)):
            output, state = module.stream(batch[:, :, steps], state, mask[:, steps])
            outputs.append(output)
        output = torch.cat(outputs, dim=2)
        assert_close(output[:1], module(long))
        assert_close(output[1:, :, :2], module(short))

    def test_rows_out_of_step_are_refused(self):
        module = build_image_layer("kernel attention", {"padding": ("causal", 1), "stride": 2})
        mask = torch.tensor([[False, False], [False, True]])
        _, state = module.stream(images(2, 2), module.initial_state(2, 5), mask)
        with pytest.raises(ValueError, match=r"rows of a chunk must be equally far .* got \[0, 1\] steps"):
            module.stream(images(2, 2), state)

    def test_a_state_of_another_width_is_refused(self):
        module = build_image_layer("kernel attention", {"padding": ("causal", 1)})
        with pytest.raises(ValueError, match=r"inputs of state must be \(2, 2, 20\), got \(2, 2, 24\)"):
            module.stream(images(2, 3), module.initial_state(2, 6))
        with pytest.raises(ValueError, match="state must be a MixedConvState, got Tensor"):
            module.stream(images(2, 3), torch.zeros(2, 2, 20))
        with pytest.raises(ValueError, match="width must be given"):
            module.initial_state(2)
        with pytest.raises(ValueError, match="width must be given"):
            KernelAttentionConv1d(4, 6, 3).initial_state(2, 5)

    def test_the_running_mean_is_kept_in_float32(self):
        module = build_sequence_layer(KernelAttentionConv1d, {}, causal=True, dtype=torch.bfloat16)
        input = torch.randn(1, 600, WIDTH).bfloat16() + 3
        state = module.initial_state(1)
        assert state.total.dtype == state.steps.dtype == torch.float32 and state.inputs.dtype == torch.bfloat16
        assert_close(stream(module, input, [1] * 600), module(input), 0.02)


class TestTorch:
    @every_layer
    @pytest.mark.parametrize("options", [{}, {"mixing": "frequency"}, {"padding": ("causal", 1), "stride": 2}], ids=str)
    def test_gradients(self, layer, options):
        module = build_image_layer(layer, options)
        mask = torch.tensor([[False, False, False, True]])
        names = [name for name, _ in module.named_parameters()]

        def function(input, *parameters):
            return torch.func.functional_call(module, dict(zip(names, parameters)), (input,), {"padding_mask": mask})

        input = images(1, 4, 3).requires_grad_()
        assert torch.autograd.gradcheck(function, (input, *module.parameters()), fast_mode=True)

    @every_layer
    def test_compiles_as_one_graph_and_exports(self, layer):
        torch._dynamo.reset()
        module, input = build_image_layer(layer, {"padding": ("causal", 1), "stride": 2}), images(2, 9)
        mask = torch.arange(9) > torch.tensor([[9], [6]])
        compiled = torch.compile(module, fullgraph=True, backend="eager")
        assert_close(compiled(input, padding_mask=mask), module(input, padding_mask=mask))
        # An axis of size 1 is a case of its own for the exporter: there must be two outputs.
        batch, time = torch.export.Dim("batch"), torch.export.Dim("time", min=3)
        shapes = {"input": {0: batch, 2: time}, "padding_mask": {0: batch, 1: time}}
        exported = torch.export.export(module, (input,), {"padding_mask": mask}, dynamic_shapes=shapes).module()
        for steps in (3, 8, 30):
            input, mask = images(3, steps), torch.arange(steps) > torch.tensor([[40], [5], [0]])
            assert_close(exported(input, padding_mask=mask), module(input, padding_mask=mask))

    @every_layer
    @every_mixing
    def test_low_precision(self, layer, mixing):
        single, input = build_image_layer(layer, {"mixing": mixing}, dtype=torch.float32), images(2, 7).float()
        low = build_image_layer(layer, {"mixing": mixing}, dtype=torch.bfloat16)
        assert low(input.bfloat16()).dtype == torch.bfloat16
        assert_close(low(input.bfloat16()), single(input), 0.05)
        assert low.mixture(input.bfloat16()).dtype == torch.float32
        with torch.autocast("cpu", torch.bfloat16):
            output = single(input)
        assert output.dtype == torch.bfloat16
        assert_close(output, single(input), 0.05)

    @every_layer
    @every_mixing
    def test_an_empty_batch(self, layer, mixing):
        module = build_image_layer(layer, {"mixing": mixing, "stride": 2})
        output = module(images(0, 7))
        assert output.shape == (0, 6, 4, 3)
        output.sum().backward()
        assert all((parameter.grad == 0).all() for parameter in module.parameters() if parameter.grad is not None)

    @every_layer
    def test_strided_input(self, layer):
        module, input = build_image_layer(layer, {}), images(2, 7)
        strided = input.permute(3, 2, 0, 1).contiguous().permute(2, 3, 1, 0)
        assert not strided.is_contiguous()
        assert_close(module(strided), module(input))


class TestConstruction:
    @every_layer
    @pytest.mark.parametrize(
        "options, message",
        [
            ({"in_channels": 0}, r"in_channels must be an int >= 1, got 0"),
            ({"num_kernels": 0}, r"num_kernels must be an int >= 1, got 0"),
            ({"kernel_size": (3, 0)}, r"kernel_size must be an int >= 1, got 0"),
            ({"kernel_size": (3, 3, 3)}, r"kernel_size must be one int or 2, got \(3, 3, 3\)"),
            ({"stride": 1.5}, r"stride must be an int >= 1, got 1.5"),
            ({"groups": 3}, r"groups must divide in_channels and out_channels, got 3 groups, 4 and 6 channels"),
            ({"padding": -1}, r"padding must be .*got -1"),
            ({"padding": (0, "causal")}, r"padding may be .*time, the first axis, got it for axis 1"),
            ({"padding": "same", "stride": (1, 2)}, r"padding must be .*got 'same' with stride 2"),
            ({"padding": (1,)}, r"padding must be one value or 2, got \(1,\)"),
            ({"padding": ("causal", 1), "padding_mode": "reflect"}, r'causal padding needs padding_mode="zeros", got'),
            ({"padding_mode": "mirror"}, r"padding_mode must be one of zeros, .*got 'mirror'"),
            ({"mixing": "space"}, r"mixing must be one of global, time, frequency, got 'space'"),
            ({"temperature": 0}, r"temperature must be above 0, got 0"),
            ({"reduction": -1}, r"reduction must be at least 0, got -1"),
        ],
        ids=str,
    )
    def test_bad_options(self, layer, options, message):
        with pytest.raises(ValueError, match=message):
            LAYERS[layer][1](**{"in_channels": 4, "out_channels": 6, "kernel_size": 3} | options)

    def test_bad_options_of_one_layer(self):
        with pytest.raises(ValueError, match=r"routing must be one of softmax, sigmoid, got 'hard'"):
            KernelAttentionConv2d(4, 6, 3, routing="hard")
        with pytest.raises(ValueError, match=r"mixing must be one of global, time, got 'frequency'"):
            KernelAttentionConv1d(4, 6, 3, mixing="frequency")
        with pytest.raises(ValueError, match=r"norm must be one of layer, batch, got 'group'"):
            ODConv2d(4, 6, 3, norm="group")
        with pytest.raises(ValueError, match=r'norm="batch" would normalise over padded steps .*got \'time\''):
            ODConv2d(4, 6, 3, norm="batch", mixing="time")

    @every_layer
    @pytest.mark.parametrize(
        "input, mask, message",
        [
            (torch.zeros(4, 7, 7), None, r"input must be \(B, C, H, W\) .*C = 4, got \(4, 7, 7\)"),
            (torch.zeros(2, 5, 7, 7), None, r"input must be .*C = 4, got \(2, 5, 7, 7\)"),
            (torch.zeros(2, 4, 0, 7), None, r"input must be .*H, W >= 1.*got \(2, 4, 0, 7\)"),
            (torch.zeros(2, 4, 7, 7).double(), None, r"input must have the layer's dtype, torch.float32, got"),
            (torch.zeros(2, 4, 7, 2), None, r"a kernel that spans 3 steps does not fit into an input of 2 .*axis 1"),
            (torch.zeros(2, 4, 7, 7), torch.zeros(2, 7), r"padding_mask must be bool \(B, H\) = \(2, 7\), .*float32"),
            (torch.zeros(2, 4, 7, 7), torch.zeros(2, 6).bool(), r"padding_mask must be .*got torch.bool \(2, 6\)"),
        ],
        ids=["3-D", "channels", "no steps", "dtype", "too narrow", "mask dtype", "mask length"],
    )
    def test_bad_input(self, layer, input, mask, message):
        module = LAYERS[layer][1](4, 6, 3)
        with pytest.raises(ValueError, match=message):
            module(input, padding_mask=mask)

    @pytest.mark.parametrize("mode, longest", [("reflect", 3), ("circular", 4)])
    def test_padding_that_copies_more_than_there_is(self, mode, longest):
        KernelAttentionConv2d(4, 6, 3, padding=longest, padding_mode=mode)(torch.zeros(2, 4, 4, 4))
        layer = KernelAttentionConv2d(4, 6, 3, padding=longest + 1, padding_mode=mode)
        with pytest.raises(ValueError, match=rf"{mode} padding of {longest + 1} steps needs a longer input, got 4"):
            layer(torch.zeros(2, 4, 4, 4))

    @every_layer
    def test_device_and_dtype(self, layer):
        for kind in LAYERS[layer]:
            module = kind(4, 6, 3, device="meta", dtype=torch.bfloat16)
            assert {(p.device.type, p.dtype) for p in module.parameters()} == {("meta", torch.bfloat16)}

    def test_parameters(self):
        def shapes(layer):
            return {name: tuple(parameter.shape) for name, parameter in layer.named_parameters()}

        assert shapes(KernelAttentionConv1d(8, 6, 5, groups=2)) == {
            "weight": (4, 6, 4, 5),
            "bias": (4, 6),
            "attention.fc1.weight": (3, 8),
            "attention.fc2.weight": (4, 3),
            "attention.fc2.bias": (4,),
        }
        assert shapes(ODConv2d(8, 8, 1, groups=8, num_kernels=1, bias=False)) == {
            "weight": (1, 8, 1, 1, 1),
            "attention.fc.weight": (16, 8),
            "attention.norm.weight": (16,),
            "attention.norm.bias": (16,),
            "attention.channel_fc.weight": (8, 16),
            "attention.channel_fc.bias": (8,),
        }

    def test_repr_names_what_was_changed(self):
        layer = KernelAttentionConv2d(4, 6, 3, padding=("causal", 1), routing="sigmoid", bias=False)
        assert layer.extra_repr() == (
            "4, 6, kernel_size=(3, 3), num_kernels=4, padding=('causal', 1), routing='sigmoid', bias=False"
        )


def test_all_images_are_one_convolution():
    layer, input = build_image_layer("kernel attention", {}), images(16, 7)
    with torch.profiler.profile(acc_events=True) as profile:
        layer(input)
    assert sum(event.count for event in profile.key_averages() if event.key == "aten::conv2d") == 1


def test_stream_states_equal_whatever_the_chunks():
    layer, input = build_image_layer("kernel attention", {"padding": ("causal", 1), "stride": 2}), images(2, 9)
    _, whole = layer.stream(input, layer.initial_state(2, 5))
    _, first = layer.stream(input[:, :, :4], layer.initial_state(2, 5))
    _, both = layer.stream(input[:, :, 4:], first)
    assert_all_close(both._asdict(), whole._asdict(), 1e-12)
