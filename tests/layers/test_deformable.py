"""DeformableConv1d and DeformableDepthwiseConv1d."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from seqdyconv import (
    DeformableConv1d,
    DeformableDepthwiseConv1d,
    build_mixer,
    deformable_conv1d,
    deformable_depthwise_conv1d,
    lightweight_conv1d,
)
from seqdyconv.models import SeqDyConvConfig, SeqDyConvModel
from tests.helpers import assert_close, randomize
from tests.layers.behaviours import WIDTH, CompilesAndExports, MixesTime, padded, sentences

DEPTHWISE = {
    "default": {},
    "modulation, dilation, bias": {"modulation": True, "dilation": 3, "bias": True, "num_heads": 1},
    "long": {"kernel_size": 20, "num_heads": 6},
}
FULL = {
    "default": {},
    "modulation, dilation, groups": {"modulation": True, "dilation": 2, "groups": 2, "offset_groups": 3},
    "long, depthwise": {"kernel_size": 15, "groups": 6, "offset_groups": 6, "bias": False},
}


def build_depthwise(options, *, causal=False, dtype=torch.float64, seed=0):
    options = {"kernel_size": 4, "num_heads": 3, "padding": "causal" if causal else "same"} | options
    return randomize(DeformableDepthwiseConv1d(WIDTH, **options, dtype=dtype), seed)


def build_full(options, *, causal=False, dtype=torch.float64, seed=0):
    options = {"kernel_size": 4, "padding": "causal" if causal else "same"} | options
    return randomize(DeformableConv1d(WIDTH, WIDTH, **options, dtype=dtype), seed)


class TestBehavioursOfTheDepthwiseLayer(MixesTime):
    @pytest.fixture(params=DEPTHWISE)
    def build(self, request):
        return partial(build_depthwise, DEPTHWISE[request.param])


class TestBehavioursOfTheFullLayer(MixesTime):
    @pytest.fixture(params=FULL)
    def build(self, request):
        return partial(build_full, FULL[request.param])


class TestTracingOfTheDepthwiseLayer(CompilesAndExports):
    @pytest.fixture
    def build(self):
        return partial(build_depthwise, DEPTHWISE["modulation, dilation, bias"])


class TestTracingOfTheFullLayer(CompilesAndExports):
    @pytest.fixture
    def build(self):
        return partial(build_full, FULL["modulation, dilation, groups"])


LAYERS = {"depthwise": build_depthwise, "full": build_full}
every_layer = pytest.mark.parametrize("build", LAYERS.values(), ids=LAYERS)


class TestFree:
    """clamp=False: a tap may read anywhere in its sequence, and nowhere else."""

    @every_layer
    @pytest.mark.parametrize("options", [{}, {"modulation": True, "dilation": 2}, {"kernel_size": 1}], ids=str)
    def test_padding_and_packing_change_nothing(self, build, options):
        layer = build({"clamp": False} | options)
        layer.predictor.weight.data *= 4  # far offsets
        rows = sentences(3, 8, 10)
        expected = [layer(row[None])[0] for row in rows]
        for left, right in (([0, 0, 0], [0, 0, 0]), ([7, 2, 0], [0, 0, 0]), ([0, 3, 1], [2, 0, 40])):
            batch, mask = padded(rows, left, right, torch.nan)
            for row, alone, padding in zip(layer(batch, padding_mask=mask), expected, mask):
                assert_close(row[~padding], alone)
        packed = layer(torch.cat(rows)[None], cu_seqlens=torch.tensor([0, 3, 11, 21]))
        assert_close(packed[0], torch.cat(expected))

    @every_layer
    def test_reads_beyond_its_window(self, build):
        input = torch.stack(sentences(30)).requires_grad_()
        reached = {}
        for clamp in (True, False):
            layer = build({"clamp": clamp})
            layer.predictor.bias.data.fill_(10)
            (slope,) = torch.autograd.grad(layer(input)[0, 5].sum(), input)
            reached[clamp] = slope[0].abs().sum(-1).nonzero().max().item()
        assert reached[True] == 7 and reached[False] > 10

    @every_layer
    def test_does_not_stream_and_is_not_causal(self, build):
        layer = build({"clamp": False})
        with pytest.raises(ValueError, match="only a causal layer streams"):
            layer.stream(torch.stack(sentences(3, 3)), layer.initial_state(2))
        with pytest.raises(ValueError, match=r"clamp=(True|False).*got"):
            build({"clamp": False}, causal=True)
        with pytest.raises(ValueError, match=r'clamp=False needs padding="same".*got padding=.causal.'):
            build_mixer("deformable_conv", 6, 3, kernel_size=3, causal=True, clamp=False)


class TestStart:
    """With a new predictor nothing is moved."""

    @pytest.mark.parametrize("modulation", [False, True])
    @pytest.mark.parametrize("clamp", [False, True])
    def test_the_full_layer_is_conv1d(self, modulation, clamp):
        options = {"stride": 2, "padding": 3, "dilation": 2, "groups": 2}
        layer = DeformableConv1d(6, 8, 3, offset_groups=3, modulation=modulation, clamp=clamp, **options).double()
        plain = torch.nn.Conv1d(6, 8, 3, **options).double()
        plain.load_state_dict({name: layer.get_parameter(name) for name in ("weight", "bias")})
        input = torch.stack(sentences(12, 12))
        assert_close(layer(input), plain(input.transpose(1, 2)).transpose(1, 2))

    @pytest.mark.parametrize("options", [{}, {"modulation": True}, {"clamp": False}, {"dilation": 2}], ids=str)
    def test_the_depthwise_layer_is_a_lightweight_convolution(self, options):
        layer, input = DeformableDepthwiseConv1d(6, 5, 3, **options).double(), torch.stack(sentences(12, 12))
        assert_close(layer(input), lightweight_conv1d(input, layer.weight, dilation=layer.dilation))
        assert (layer.weight >= 0).all()
        wide = DeformableDepthwiseConv1d(2000, 9, 2000)
        assert 0.99 < wide.weight.sum(1).mean() < 1.01  # near an average of the taps

    @every_layer
    @pytest.mark.parametrize("causal", [False, True])
    def test_the_predictor_learns(self, build, causal):
        layer, input = build({"modulation": True}, causal=causal), torch.stack(sentences(12, 12))
        layer.reset_parameters()
        layer(input).square().sum().backward()
        assert (layer.predictor.weight.grad.abs().sum(1) > 0).all()

    def test_in_a_model(self):
        config = SeqDyConvConfig(
            vocab_size=9,
            hidden_size=6,
            encoder_layer_types="deformable_conv",
            encoder_ffn_dim=6,
            encoder_kernel_sizes=[3],
            encoder_attention_heads=3,
            is_encoder_decoder=False,
        )
        conv = SeqDyConvModel(config).layers[0].mixer.conv
        assert not conv.predictor.weight.any() and (conv.weight >= 0).all()


class TestPrediction:
    def test_the_full_layer_predicts_by_a_convolution_over_the_same_window(self):
        options = {"stride": 2, "padding": 1, "dilation": 2}
        layer = build_full({"kernel_size": 3, "offset_groups": 2, "modulation": True, **options})
        input = torch.stack(sentences(12, 12))
        predicted = F.conv1d(input.transpose(1, 2), layer.predictor.weight, layer.predictor.bias, **options)
        offset, gates = (part.unflatten(1, (2, 3)).permute(0, 3, 1, 2) for part in predicted.chunk(2, dim=1))
        expected = deformable_conv1d(input, offset, layer.weight, layer.bias, modulation=2 * gates.sigmoid(), **options)
        assert_close(layer(input), expected)

    def test_the_depthwise_layer_predicts_from_the_step(self):
        layer, input = build_depthwise({"modulation": True, "dilation": 2}), torch.stack(sentences(12, 12))
        offset, gates = (part.unflatten(-1, (3, 4)) for part in layer.predictor(input).chunk(2, dim=-1))
        expected = deformable_depthwise_conv1d(input, offset, layer.weight, modulation=2 * gates.sigmoid(), dilation=2)
        assert_close(layer(input), expected)

    @every_layer
    @pytest.mark.parametrize("clamp", [True, False], ids=["clamped", "free"])
    def test_sampling_tells_where_it_reads(self, build, clamp):
        """Of an input that counts its steps, each tap reads its position."""
        layer = build({"clamp": clamp, "modulation": True, "kernel_size": 5})
        input, mask = torch.stack(sentences(12, 12)), torch.arange(12) >= torch.tensor([[12], [9]])
        positions, weights = layer.sampling(input, padding_mask=mask)
        assert positions.shape == weights.shape == (2, 12, 3 if build is build_depthwise else 1, 5)
        if clamp:
            distance = positions - torch.arange(12)[:, None, None]
            assert distance.min() == -2 and distance.max() == 2
        else:
            assert positions[0].min() == -2 and positions[0].max() == 13 and positions[1].max() == 10
        if build is build_depthwise:
            around = torch.arange(-2, 14).double()
            shares = (1 - (positions[..., None] - around).abs()).clamp(min=0) * weights[..., None]
            zeros = F.pad(input.masked_fill(mask[..., None], 0), (0, 0, 2, 2)).unflatten(-1, (3, 2))
            expected = torch.einsum("bthkl,blhr->bthr", shares, zeros).flatten(2)
            assert_close(layer(input, padding_mask=mask)[~mask], expected[~mask])

    @pytest.mark.parametrize("lookahead", [0, 1, 3])
    def test_streams_with_a_lookahead(self, lookahead):
        mixer = randomize(build_mixer("deformable_conv", 6, 3, kernel_size=4, lookahead=lookahead, dtype=torch.float64))
        assert mixer.lookahead == lookahead
        input = torch.stack(sentences(9, 9))
        state, outputs = mixer.initial_state(2), []
        for chunk in input.split([3, 1, 5], dim=1):
            output, state = mixer.stream(chunk, state)
            outputs.append(output)
        if lookahead:
            end = torch.full((2, lookahead, 6), torch.nan, dtype=torch.float64)
            outputs.append(mixer.stream(end, state, torch.ones(2, lookahead, dtype=torch.bool))[0])
        assert_close(torch.cat(outputs, dim=1)[:, lookahead:], mixer(input))

    def test_taps_are_dropped_in_training_alone(self):
        torch.manual_seed(0)
        layer, input = build_depthwise({"weight_dropout": 0.5}), torch.stack(sentences(9, 9))
        assert torch.equal(layer(input), build_depthwise({})(input))
        assert not torch.equal(layer.train()(input), layer(input))


class TestStride:
    """Outputs of the full layer are fewer than its inputs."""

    @pytest.mark.parametrize("options", [{"padding": 0}, {"padding": 2, "dilation": 2}, {"clamp": False}], ids=str)
    def test_padding_after_a_sequence_changes_nothing(self, options):
        layer = build_full({"stride": 2, "padding": "valid"} | options)
        rows = sentences(8, 13)
        batch, mask = padded(rows, [0, 0], [6, 0], torch.nan)
        for row, output in zip(rows, layer(batch, padding_mask=mask)):
            alone = layer(row[None])[0]
            assert_close(output[: len(alone)], alone)

    def test_padding_by_whole_strides_before_it_changes_nothing(self):
        layer = build_full({"stride": 2, "padding": 2, "clamp": False})
        (row,) = sentences(9)
        batch, mask = padded([row], [4], [0], torch.nan)
        assert_close(layer(batch, padding_mask=mask)[:, 2:], layer(row[None]))

    def test_neither_packs_nor_streams(self):
        layer, input = build_full({"stride": 2, "padding": 0}), torch.stack(sentences(9))
        with pytest.raises(ValueError, match="cu_seqlens needs a layer whose output has as many steps as its input"):
            layer(input, cu_seqlens=torch.tensor([0, 4, 9]))
        with pytest.raises(ValueError, match=r"only a causal layer streams: .* and stride 1, got 0 and"):
            layer.stream(input, layer.initial_state(1))


class TestConstruction:
    @pytest.mark.parametrize(
        "options, message",
        [
            ({"kernel_size": 0}, r"kernel_size must be an int >= 1, got 0"),
            ({"stride": 0}, r"stride must be an int >= 1, got 0"),
            ({"groups": 4}, r"groups must divide in_channels and out_channels, got 4 groups, 6 and 8 channels"),
            ({"offset_groups": 4}, r"offset_groups must divide in_channels, got 4 groups and 6 channels"),
            ({"padding": "full"}, r"padding must be .*got 'full'"),
            ({"padding": "same", "stride": 2}, r"padding must be .*got 'same' with stride 2"),
            ({"padding_mode": "mirror"}, r"padding_mode must be one of zeros, .*got 'mirror'"),
            ({"padding": "causal", "padding_mode": "reflect"}, r"causal padding needs .*got 'reflect'"),
            ({"padding": "causal", "clamp": False}, r"causal padding needs .*clamp=True, got .*clamp=False"),
        ],
        ids=str,
    )
    def test_bad_options(self, options, message):
        with pytest.raises(ValueError, match=message):
            DeformableConv1d(**{"in_channels": 6, "out_channels": 8, "kernel_size": 3} | options)

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"num_heads": 4}, r"num_heads must divide channels, got 4 heads and channels=6"),
            ({"kernel_size": 3.0}, r"kernel_size must be an int >= 1, got 3.0"),
            ({"dilation": 0}, r"dilation must be an int >= 1, got 0"),
            ({"padding": "valid"}, r"padding must be .*got 'valid'"),
            ({"padding": 1, "clamp": False}, r"clamp=False needs padding=.same.*got padding=1"),
            ({"weight_dropout": 1.0}, r"weight_dropout must be in \[0, 1\), got 1.0"),
        ],
        ids=str,
    )
    def test_bad_options_of_the_depthwise_layer(self, options, message):
        with pytest.raises(ValueError, match=message):
            DeformableDepthwiseConv1d(**{"channels": 6, "kernel_size": 4, "num_heads": 3} | options)

    def test_input_shorter_than_the_kernel(self):
        with pytest.raises(ValueError, match="input must have at least 5 steps for a kernel that spans 5, got 4"):
            DeformableConv1d(6, 6, 3, dilation=2)(torch.zeros(1, 4, 6))

    @pytest.mark.parametrize(
        "arguments",
        [{"padding_mask": torch.zeros(1, 9).bool()}, {"cu_seqlens": torch.tensor([0, 4, 9])}],
        ids=["mask", "packed"],
    )
    def test_padding_modes_do_not_know_of_padding(self, arguments):
        layer = DeformableConv1d(6, 6, 3, padding="same", padding_mode="reflect")
        with pytest.raises(ValueError, match=r'needs padding_mode="zeros".*got .reflect.'):
            layer(torch.zeros(1, 9, 6), **arguments)

    def test_parameters(self):
        def shapes(layer):
            return {name: tuple(parameter.shape) for name, parameter in layer.named_parameters()}

        assert shapes(DeformableConv1d(6, 8, 3, groups=2, offset_groups=3, modulation=True)) == {
            "weight": (8, 3, 3),
            "bias": (8,),
            "predictor.weight": (18, 6, 3),
            "predictor.bias": (18,),
        }
        assert shapes(DeformableDepthwiseConv1d(6, 4, 3, bias=True)) == {
            "weight": (3, 4),
            "bias": (6,),
            "predictor.weight": (12, 6),
            "predictor.bias": (12,),
        }

    def test_device_and_dtype(self):
        for layer in (DeformableConv1d, DeformableDepthwiseConv1d):
            module = layer(6, 3, 3, bias=True, device="meta", dtype=torch.bfloat16)
            assert {(p.device.type, p.dtype) for p in module.parameters()} == {("meta", torch.bfloat16)}

    def test_repr_names_what_was_changed(self):
        full = DeformableConv1d(6, 8, 3, padding="same", offset_groups=2, clamp=False, bias=False)
        assert full.extra_repr() == "6, 8, kernel_size=3, padding='same', offset_groups=2, clamp=False, bias=False"
        depthwise = DeformableDepthwiseConv1d(6, 4, 3, padding="causal", modulation=True, bias=True)
        assert depthwise.extra_repr() == ("6, kernel_size=4, num_heads=3, padding='causal', modulation=True, bias=True")
