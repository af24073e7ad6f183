"""Convolutions over time and features, and the numbers of ESPnet's layers."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from seqdyconv import (
    ConvMixer,
    DynamicConv1d,
    LightweightConv1d,
    TimeFeatureDynamicConv,
    TimeFeatureLightweightConv,
    build_mixer,
)
from tests.helpers import assert_close, golden, randomize
from tests.layers.behaviours import WIDTH, CompilesAndExports, MixesTime, sentences

LAYERS = {"lightweight": TimeFeatureLightweightConv, "dynamic": TimeFeatureDynamicConv}
OPTIONS = {
    "default": {},
    "renormalized, long, with a bias": {"renormalize": True, "kernel_size": 20, "feature_kernel_size": 3, "bias": True},
    "no softmax, dilated": {"weight_softmax": False, "dilation": 2, "feature_kernel_size": 1},
}
every_layer = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)


def build_layer(layer, options, *, causal=False, dtype=torch.float64, seed=0):
    options = {"kernel_size": 4, "num_heads": 3, "padding": "causal" if causal else "same"} | options
    return randomize(layer(WIDTH, **options, dtype=dtype), seed)


class TestBehaviours(MixesTime):
    @pytest.fixture(params=[(layer, options) for layer in LAYERS for options in OPTIONS], ids=": ".join)
    def build(self, request):
        layer, options = request.param
        return partial(build_layer, LAYERS[layer], OPTIONS[options])


class TestTracing(CompilesAndExports):
    @pytest.fixture(params=LAYERS)
    def build(self, request):
        return partial(build_layer, LAYERS[request.param], OPTIONS["renormalized, long, with a bias"])


def espnet(tensors, args, *, dynamic, features):
    """Our mixer with the weights of an ESPnet layer, and the name and view of each of its parameters in theirs.

    A view makes what belongs to our parameter of their tensor, weight or gradient. Their lightweight heads own every
    H-th channel, ours neighbouring ones: the channels between the linear layers are reordered, but where a kernel
    slides over these channels; there each channel gets a kernel of its own, and the view of gradients is a part.
    """
    channels, heads, size = args["n_feat"], args["wshare"], args["kernel_size"]
    taps = size // 2 + 1 if args["use_kernel_mask"] else size  # their causal kernels have no taps after the current one
    own_kernels, reordered = features and not dynamic, not features and not dynamic
    order = torch.arange(channels)
    if reordered:
        order = order.unflatten(0, (-1, heads)).T.flatten()
    layer = (
        (TimeFeatureDynamicConv if dynamic else TimeFeatureLightweightConv)
        if features
        else (DynamicConv1d if dynamic else LightweightConv1d)
    )
    conv = layer(
        channels,
        taps,
        channels if own_kernels else heads,
        padding="causal" if args["use_kernel_mask"] else "same",
        bias=args["use_bias"],
        **({"renormalize": True, "generator_bias": True} if dynamic else {}),
        **({"feature_kernel_size": size} if features else {}),
        dtype=torch.float64,
    )
    mixer = ConvMixer(channels, conv, dtype=torch.float64)
    both = torch.cat([order, channels + order])  # values and gates
    views = {
        "in_proj.weight": ("linear1.weight", lambda x: x[both]),
        "in_proj.bias": ("linear1.bias", lambda x: x[both]),
    }
    over_time, last = ("conv.conv", "conv.merge") if features else ("conv", "out_proj")
    if features:
        mixer.out_proj = nn.Identity()
    views[f"{last}.weight"] = ("linear2.weight", lambda x: x if features else x[:, order])
    views[f"{last}.bias"] = ("linear2.bias", lambda x: x)
    if args["use_bias"]:
        views[f"{over_time}.bias"] = ("bias", lambda x: x[order])
    if dynamic:
        views[f"{over_time}.generator.weight"] = (
            "linear_weight.weight",
            lambda x: x.unflatten(0, (heads, size))[:, :taps].flatten(0, 1),
        )
        views[f"{over_time}.generator.bias"] = ("linear_weight.bias", lambda x: x.view(heads, size)[:, :taps].flatten())
        for kind in ("weight", "bias") if features else ():
            views[f"conv.feature_generator.{kind}"] = (f"linear_weight_f.{kind}", lambda x: x)
    else:
        repeats = channels // heads if own_kernels else 1
        views[f"{over_time}.weight"] = ("weight", lambda x: x[:, 0, :taps].repeat(repeats, 1))
        if features:
            views["conv.feature_conv.weight"] = ("weight_f", lambda x: x[0])
    mixer.load_state_dict({ours: view(tensors[f"state.{theirs}"]) for ours, (theirs, view) in views.items()})
    return mixer, mixer.get_submodule(last), views


class TestGolden:
    """The layers of ESPnet, which are a mixer: their linear layers and GLU are in them."""

    @pytest.mark.parametrize("case", ["01", "02"])
    @pytest.mark.parametrize("features", [False, True], ids=["time", "time and features"])
    @pytest.mark.parametrize("dynamic", [False, True], ids=["lightweight", "dynamic"])
    def test_espnet(self, dynamic, features, case):
        tensors, header = golden(f"espnet_{'dynamicconv' if dynamic else 'lightconv'}{'2d' if features else ''}_{case}")
        args = header["args"]
        mixer, last, views = espnet(tensors, args, dynamic=dynamic, features=features)
        x = tensors["x"].requires_grad_()
        output = mixer(x)  # without the mask: theirs does not keep padding from the convolution
        if "mask" in tensors:  # but what it gives there is zeroed before the last linear layer
            output = torch.where(tensors["mask"].transpose(1, 2), output, last.bias)
        assert_close(output, tensors["out"], 1e-10)
        output.backward(tensors["cotangent"])
        assert_close(x.grad, tensors["grad.x"], 1e-10)
        for name, parameter in mixer.named_parameters():
            theirs, view = views[name]
            expected, actual = view(tensors[f"grad.{theirs}"]), parameter.grad
            if features and not dynamic and theirs == "weight":  # their kernel is the one of several channels
                heads = args["wshare"]
                expected, actual = expected[:heads], actual.unflatten(0, (-1, heads)).sum(0)
            assert_close(actual, expected, 1e-10, name)


class TestWhatItComputes:
    @every_layer
    @pytest.mark.parametrize("size", [1, 2, 3, 4, 9])
    def test_features_are_a_convolution_over_the_channels_of_each_step(self, layer, size):
        module, input = build_layer(layer, {"feature_kernel_size": size}), torch.stack(sentences(9, 8 + 1))
        if layer is TimeFeatureDynamicConv:
            kernels = module.feature_generator(input)
        else:
            kernels = module.feature_conv.weight[0].softmax(-1).expand(2, 9, size)
        windows = F.pad(input, ((size - 1) // 2, size // 2)).unfold(-1, size, 1)  # (B, T, C, K)
        features = (windows * kernels[:, :, None]).sum(-1)
        both = torch.cat([module.conv(input), features], dim=-1)
        assert_close(module(input), F.linear(both, module.merge.weight, module.merge.bias))

    @every_layer
    def test_starts_as_the_convolution_over_time(self, layer):
        module, input = layer(WIDTH, 4, 3, dtype=torch.float64), torch.stack(sentences(9, 9))
        assert_close(module(input), module.conv(input))
        module(input).sum().backward()
        assert module.merge.weight.grad[:, WIDTH:].any()  # the features are read as soon as it learns

    @every_layer
    def test_with_a_tap_that_keeps_and_a_merge_that_takes_it_features_are_the_input(self, layer):
        module, input = build_layer(layer, {"feature_kernel_size": 3, "weight_softmax": False}), sentences(9)[0][None]
        keep = torch.tensor([0.0, 1.0, 0.0]).double()
        with torch.no_grad():
            if layer is TimeFeatureDynamicConv:
                module.feature_generator = nn.Linear(WIDTH, 3, dtype=torch.float64)
                module.feature_generator.weight.zero_()
                module.feature_generator.bias.copy_(keep)
            else:
                module.feature_conv.weight.copy_(keep)
            module.merge.weight.copy_(torch.eye(WIDTH).repeat(1, 2))
            module.merge.bias.zero_()
        assert_close(module(input), module.conv(input) + input)

    @every_layer
    @pytest.mark.parametrize("lookahead", [1, 2])
    @pytest.mark.parametrize("options", [{}, {"renormalize": True}], ids=str)
    def test_streams_with_a_lookahead(self, layer, lookahead, options):
        name = "dynamic_conv_2d" if layer is TimeFeatureDynamicConv else "lightweight_conv_2d"
        mixer = randomize(
            build_mixer(name, WIDTH, 3, kernel_size=4, lookahead=lookahead, dtype=torch.float64, **options)
        )
        input = torch.stack(sentences(9, 9))
        assert mixer.lookahead == lookahead
        padded, mask = F.pad(input, (0, 0, 0, lookahead)), torch.arange(9 + lookahead) >= 9
        state, outputs = mixer.initial_state(2), []
        for chunk in (slice(0, 1), slice(1, 6), slice(6, None)):
            output, state = mixer.stream(padded[:, chunk], state, mask[chunk].expand(2, -1))
            outputs.append(output)
        assert_close(torch.cat(outputs, dim=1)[:, lookahead:], mixer(input))

    @every_layer
    def test_taps_of_both_kernels_are_dropped_in_training_alone(self, layer):
        torch.manual_seed(0)
        module, input = build_layer(layer, {"weight_dropout": 0.5}), torch.stack(sentences(90, 90))
        assert torch.equal(module(input), module(input))
        assert not torch.equal(module.train().features_of(input), module.features_of(input))
        assert module.conv.weight_dropout == 0.5


@every_layer
@pytest.mark.parametrize("size", [0, -3, 2.5])
def test_bad_size_of_the_feature_kernel(layer, size):
    with pytest.raises(ValueError, match=f"feature_kernel_size must be an int >= 1, got {size}"):
        layer(6, 4, 3, feature_kernel_size=size)
