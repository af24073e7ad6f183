"""Every option of every mixer reaches its layer from a model's configuration, and nothing is dropped on the way."""

import pytest
import torch
import yaml
from huggingface_hub.errors import StrictDataclassError

from seqdyconv import build_mixer
from seqdyconv.layers import MIXERS, share_options
from seqdyconv.models import (
    SeqDyConvConfig,
    SeqDyConvForConditionalGeneration,
    SeqDyConvModel,
    SeqDyConvSpeechConfig,
    SeqDyConvSpeechModel,
)
from tests.layers.mixer_cases import described, option_cases

SIZES = {
    "vocab_size": 20,
    "hidden_size": 12,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 8,
    "decoder_ffn_dim": 8,
}
CASES = option_cases()


def config_of(**options) -> SeqDyConvConfig:
    return SeqDyConvConfig(**{**SIZES, "decoder_kernel_sizes": [4], **options})


@pytest.mark.parametrize("mixer, options", CASES.values(), ids=CASES)
def test_an_option_reaches_the_layer_and_it_starts_as_alone(mixer, options, draws_without_chance):
    """From a YAML file's text: the layer is what ``build_mixer`` makes with the option, and only with it."""
    fields = yaml.safe_load(yaml.safe_dump({"encoder_layer_types": [mixer], "encoder_mixer_options": [options]}))
    config = config_of(**fields, encoder_kernel_sizes=[4], is_encoder_decoder=False)
    inside = SeqDyConvModel(config).layers[0].mixer
    size = share_options(mixer, {"kernel_size": 4})
    alone, plain = build_mixer(mixer, 12, 3, **size, **options), build_mixer(mixer, 12, 3, **size)
    assert described(inside) == described(alone)
    assert options == {} or described(inside) != described(plain)
    assert all(torch.equal(value, alone.state_dict()[name]) for name, value in inside.state_dict().items())


def test_a_mapping_for_all_layers_gives_each_mixer_what_it_has():
    kinds = ["dynamic_conv", "self_attention", "parallel"]
    config = config_of(
        encoder_layer_types=kinds,
        encoder_kernel_sizes=[3, 1, 5],
        encoder_mixer_options={"dilation": 2, "renormalize": True},
    )
    dynamic, attention, parallel = (layer.mixer for layer in SeqDyConvModel(config).layers)
    assert [(conv.dilation, conv.renormalize) for conv in (dynamic.conv, parallel.conv)] == [(2, True)] * 2
    assert described(attention) == described(build_mixer("self_attention", 12, 3))


def test_decoder_and_layers_have_their_own():
    config = config_of(
        decoder_kernel_sizes=[3, 5],
        decoder_mixer_options=[None, {"conv_dim": 24, "glu": False}],
        weight_dropout=0.1,
        encoder_mixer_options={"weight_dropout": 0.4},
    )
    model = SeqDyConvForConditionalGeneration(config)
    first, second = (layer.mixer for layer in model.decoder.layers)
    assert [(mixer.conv.channels, mixer.glu) for mixer in (first, second)] == [(12, True), (24, False)]
    assert [mixer.conv.padding for mixer in (first, second)] == ["causal"] * 2
    assert first.conv.weight_dropout == 0.1 and model.encoder.layers[0].mixer.conv.weight_dropout == 0.4


def test_speech_models_have_them_too():
    options = {"encoder_lookahead": 2, "encoder_position_type": "none", "encoder_mixer_options": {"dilation": 3}}
    for block in ("transformer", "conformer"):
        config = SeqDyConvSpeechConfig(
            **SIZES, encoder_kernel_sizes=[5], encoder_block=block, conformer_kernel_size=(7, 3), **options
        )
        layer = SeqDyConvSpeechModel(config).layers[0]
        assert (layer.mixer.conv.dilation, layer.mixer.conv.lookahead) == (3, 2)
        assert block == "transformer" or layer.conv.conv.kernel_sizes == (3, 7)


def test_they_are_saved_and_loaded(tmp_path):
    config = config_of(
        encoder_mixer_options={"dilation": 2},
        decoder_mixer_options=[{"renormalize": True}],
        encoder_kernel_sizes=((7, 3, 3), 4),
    )
    model = SeqDyConvForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path)
    loaded = SeqDyConvForConditionalGeneration.from_pretrained(tmp_path)
    for stack, saved in ((loaded.encoder, model.encoder), (loaded.decoder, model.decoder)):
        assert described(stack.layers) == described(saved.layers)
    assert loaded.config.encoder_kernel_sizes == [[7, 3, 3], 4]
    assert loaded.encoder.layers[0].mixer.conv.kernel_sizes == (3, 3, 7)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"dilatoin": 2}, r"no option dilatoin of dynamic_conv in encoder_mixer_options \(did you mean dilation\?\)"),
        ({"rank": 2}, "no option rank of dynamic_conv in encoder_mixer_options; options are conv_dim, glu, .*dilation"),
        ([None, {"rank": 2}], "encoder_mixer_options, layer 2: no option rank of dynamic_conv; options are"),
        ({"dilation": "2"}, "encoder_mixer_options, layer 1: dilation must be an int, got '2'"),
        ({"dilation": 0}, "encoder_mixer_options, layer 1: dilation must be an int >= 1, got 0"),
        ([None, {"conv_dim": 8}], "encoder_mixer_options, layer 2: num_heads must divide channels, got 3 heads"),
        ({"weight_softmax": False, "renormalize": True}, "layer 1: renormalize .* needs weight_softmax=True"),
        ([{"dilation": 2}], "encoder_mixer_options needs one entry for each of 2 layers, got 1"),
        ("dilation", "encoder_mixer_options must be a mapping, or a list of mappings and None, got 'dilation'"),
        ([None, 3], r"encoder_mixer_options must be a mapping, or a list of mappings and None, got \[None, 3\]"),
        ({"kernel_size": 3}, "encoder_mixer_options can't have kernel_size: encoder_kernel_sizes decides it"),
        ({"num_heads": 3}, "encoder_mixer_options can't have num_heads: encoder_attention_heads decides it"),
        ([{"causal": True}, None], "encoder_mixer_options can't have causal: the model decides it"),
        ({"lookahead": 1}, "encoder_mixer_options can't have lookahead: encoder_lookahead of a speech model decides"),
        ({"device": "cpu"}, "encoder_mixer_options can't have device: the model decides it"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_said_before_a_model_is_made(options, message):
    with pytest.raises(StrictDataclassError, match=message):
        config_of(encoder_kernel_sizes=[3, 5], encoder_mixer_options=options)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"encoder_kernel_sizes": [5, [3, 7]]}, r"layer 2: num_heads must be a multiple .*, got 3 heads for \(3, 7\)"),
        ({"encoder_layer_types": "talk_conv"}, "encoder_kernel_sizes, layer 1: kernel_size must be an int, got"),
        ({"encoder_kernel_sizes": [[]]}, r"encoder_kernel_sizes must be >= 1, got \[\[\]\]"),
        ({"encoder_kernel_sizes": [[3, 0, 3]]}, r"encoder_kernel_sizes must be >= 1, got \[\[3, 0, 3\]\]"),
        ({"encoder_kernel_sizes": [[3, 3, [3]]]}, "encoder_kernel_sizes"),
        ({"encoder_kernel_sizes": [[3, 3, "7"]]}, "encoder_kernel_sizes"),
    ],
    ids=str,
)
def test_kernel_sizes_that_do_not_fit(options, message):
    with pytest.raises(StrictDataclassError, match=message):
        config_of(**{"encoder_kernel_sizes": [[3, 3, 7]]} | options)


@pytest.mark.parametrize("size, message", [((3, 3, 3, 5, 7), "hidden_size must be a multiple"), ([3, 0], "got 0")])
def test_kernel_sizes_of_the_conformer_that_do_not_fit(size, message):
    with pytest.raises(StrictDataclassError, match=message):
        SeqDyConvSpeechConfig(**SIZES, encoder_kernel_sizes=[5], conformer_kernel_size=size)


def test_every_mixer_has_a_case():
    assert {mixer for mixer, _ in CASES.values()} == set(MIXERS)
