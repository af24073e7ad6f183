"""Self-attention of our own models becomes another mixer: what is kept, told and refused."""

import copy

import pytest
import torch
from torch import Tensor, nn

from seqdyconv.models import (
    SeqDyConvCausalLMConfig,
    SeqDyConvConfig,
    SeqDyConvForCausalLM,
    SeqDyConvForConditionalGeneration,
    SeqDyConvForCTC,
    SeqDyConvForMaskedLM,
    SeqDyConvForSequenceClassification,
    SeqDyConvSpeechConfig,
)
from seqdyconv.swap import (
    add_short_conv,
    choose_layers,
    load_swapped,
    restore_self_attention,
    swap_self_attention,
)
from tests.helpers import assert_close, randomize
from tests.models.test_modeling import pad, sentences
from tests.models.test_packing import LENGTHS, pack

WIDTH, HEADS = 16, 4
SIDES = {
    f"{side}_{name}": value
    for side in ("encoder", "decoder")
    for name, value in {"layer_types": "self_attention", "attention_heads": HEADS, "ffn_dim": 16}.items()
}
SMALL = SIDES | {"vocab_size": 50, "hidden_size": WIDTH, "encoder_kernel_sizes": [1, 1, 1]}
SMALL |= {"decoder_kernel_sizes": [1, 1, 1], "weight_dropout": 0.25}
KINDS = {
    SeqDyConvForCausalLM: SeqDyConvCausalLMConfig,
    SeqDyConvForSequenceClassification: SeqDyConvConfig,
    SeqDyConvForMaskedLM: SeqDyConvConfig,
    SeqDyConvForConditionalGeneration: SeqDyConvConfig,
    SeqDyConvForCTC: SeqDyConvSpeechConfig,
}
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def build(kind: type = SeqDyConvForCausalLM, **options: object) -> nn.Module:
    config = KINDS[kind](**(SMALL | {"is_encoder_decoder": kind is SeqDyConvForConditionalGeneration} | options))
    return randomize(kind(config)).eval().double()


def batch(model: nn.Module) -> dict[str, Tensor]:
    """Inputs of two rows, the second one padded."""
    if isinstance(model, SeqDyConvForCTC):
        mask = torch.arange(60) < torch.tensor([[60], [40]])
        return {"input_features": torch.randn(2, 60, 80, dtype=torch.double), "attention_mask": mask.long()}
    tokens, mask = pad(sentences(9, 6))
    target = {"labels": tokens} if isinstance(model, SeqDyConvForConditionalGeneration) else {}
    return {"input_ids": tokens, "attention_mask": mask, **target}


def types_of(model: nn.Module) -> list[list[str]]:
    """What each configuration in a model says of the layers that a swap may change."""
    sides = {"decoder"} if isinstance(model, SeqDyConvForCausalLM) else {"encoder"}
    return [getattr(part.config, f"{side}_layer_types") for part in (model, model.base_model) for side in sides]


class TestWeights:
    @every_kind
    def test_attention_with_the_old_projections_computes_what_the_model_did(self, kind):
        model = build(kind)
        inputs = batch(model)
        expected = model(**inputs).logits
        assert_close(swap_self_attention(model, mixer="self_attention")(**inputs).logits, expected)

    def test_the_values_feed_the_convolution_or_nothing_is_kept(self):
        model = build()
        old = [copy.deepcopy(layer.mixer) for layer in model.decoder.layers]
        swap_self_attention(model, layers=[0])
        swap_self_attention(model, layers=[1], mixer="parallel", weights="random")
        new = [layer.mixer for layer in model.decoder.layers]
        assert new[0].in_proj.weight.equal(old[0].in_proj.weight[2 * WIDTH :])
        assert new[0].out_proj.bias.equal(old[0].out_proj.bias)
        assert new[1].in_proj.weight.shape == old[1].in_proj.weight.shape
        assert not new[1].in_proj.weight.isclose(old[1].in_proj.weight).any()
        assert new[2].in_proj.weight.equal(old[2].in_proj.weight)

    @pytest.mark.parametrize("kind", [SeqDyConvForCausalLM, SeqDyConvForConditionalGeneration])
    def test_kernels_start_from_the_average_attention(self, kind):
        """Of padded rows, and of the same ones packed, averaged by hand."""
        model = build(kind)
        texts, causal = sentences(6, 4), kind is SeqDyConvForCausalLM
        layer, body = model.base_model.layers[0], model.base_model
        maps = []
        for text in texts:
            hidden = layer.mixer_residual.enter(body.embedding(text[None], None))
            query, key = (
                part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in layer.mixer.in_proj(hidden).chunk(3, -1)[:2]
            )
            scores = query @ key.mT / (WIDTH // HEADS) ** 0.5
            later = torch.ones_like(scores[0, 0], dtype=torch.bool).triu(1) if causal else torch.tensor(False)
            maps.append(scores.masked_fill(later, -torch.inf).softmax(-1)[0])
        taps = range(-2, 1) if causal else range(-1, 2)
        average = torch.stack([torch.cat([x.diagonal(tap, 1, 2) for x in maps], -1).mean(-1) for tap in taps], -1)
        tokens, mask = pad(texts, filler=7)
        for inputs in ({"input_ids": tokens, "attention_mask": mask, "labels": tokens}, pack(texts)):
            swapped = swap_self_attention(copy.deepcopy(model).train(), kernel_size=3, calibration=[inputs])
            mixer = swapped.base_model.layers[0].mixer
            assert_close(mixer.conv.generator.bias.view(HEADS, 3).softmax(-1), average / average.sum(-1, keepdim=True))
            assert mixer.training and not mixer.conv.generator.weight.any()

    @pytest.mark.parametrize("block", ["transformer", "conformer"])
    def test_a_recogniser_has_an_average_attention_too(self, block):
        model = build(SeqDyConvForCTC, encoder_block=block)
        swap_self_attention(model, layers=1, kernel_size=3, calibration=[batch(model)])
        assert not model.encoder.layers[1].mixer.conv.generator.weight.any()

    def test_the_new_mixer_is_in_the_state_of_the_old_one(self):
        model = build().to(torch.bfloat16).train()
        model.decoder.layers[1].mixer.requires_grad_(False)
        model.decoder.layers[0].mixer.eval()
        first, second, _ = (layer.mixer for layer in swap_self_attention(model).decoder.layers)
        assert {parameter.dtype for parameter in first.parameters()} == {torch.bfloat16}
        assert not first.training and second.training
        assert all(parameter.requires_grad for parameter in first.parameters())
        assert not any(parameter.requires_grad for parameter in second.parameters())


class TestConfiguration:
    @every_kind
    def test_the_model_is_a_plain_one_that_says_what_it_is(self, kind, tmp_path):
        model = build(kind)
        inputs = batch(model)
        swap_self_attention(model, layers="every 2", kernel_size=(3, 5))
        swap_self_attention(model, mixer="gated_short_conv", layers=-1, kernel_size=3)
        assert types_of(model) == [["self_attention", "dynamic_conv", "gated_short_conv"]] * 2
        assert model.base_model.layers[1].mixer.conv.weight_dropout == 0.25
        model.save_pretrained(tmp_path)
        loaded, info = kind.from_pretrained(tmp_path, dtype=torch.double, output_loading_info=True)
        assert not any(info.values())
        assert_close(loaded.eval()(**inputs).logits, model(**inputs).logits)
        with pytest.raises(ValueError, match="load it with from_pretrained"):
            load_swapped(tmp_path)

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            (None, [{}, {"glu": True, "generator_bias": True, "dilation": 2}, {}]),
            (
                {"attention_dropout": 0.5, "dilation": 3},
                [{"attention_dropout": 0.5}, {"glu": True, "generator_bias": True, "dilation": 2}, {"dilation": 3}],
            ),
            (
                [{"attention_dropout": 0.5}, None, {"dilation": 3}],
                [{"attention_dropout": 0.5}, {"glu": True, "generator_bias": True, "dilation": 2}, {"dilation": 3}],
            ),
        ],
        ids=["none", "of all layers", "of each layer"],
    )
    def test_other_layers_keep_their_options(self, given, expected):
        mixers = ["self_attention", "self_attention", "dynamic_conv"]
        model = build(decoder_layer_types=mixers, decoder_kernel_sizes=[1, 1, 3], decoder_mixer_options=given)
        swap_self_attention(model, layers=1, kernel_size=5, glu=True, dilation=2)
        assert [options or {} for options in model.config.decoder_mixer_options] == expected
        assert model.config.decoder_kernel_sizes == [1, 5, 3]

    def test_a_convolution_is_as_wide_as_the_attention(self):
        model = swap_self_attention(build(decoder_conv_dim=2 * WIDTH))
        assert model.decoder.layers[0].mixer.conv.channels == WIDTH


class TestLanguageModel:
    """Whatever takes the place of attention."""

    @pytest.fixture(params=["dynamic_conv", "parallel"])
    def model(self, request):
        return swap_self_attention(build(), mixer=request.param, layers="0,2", kernel_size=4)

    def test_decoding_in_chunks_equals_the_full_forward(self, model):
        tokens, mask = pad(sentences(9, 5), "left")
        cache = model(tokens[:, :6], mask[:, :6]).cache
        assert_close(model(tokens[:, 6:], mask, cache=cache).logits, model(tokens, mask).logits[:, 6:])
        settings = {"attention_mask": mask, "max_new_tokens": 5, "num_beams": 2}
        assert model.generate(tokens, **settings).equal(model.generate(tokens, use_cache=False, **settings))

    def test_packed_texts_are_as_each_alone(self, model):
        texts = sentences(*LENGTHS)
        assert_close(model(**pack(texts)).logits[0], torch.cat([model(text[None]).logits[0] for text in texts]))


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"layers": [0, 1]}, r"without self-attention: 1 \(dynamic_conv\); those with it are 0, 2"),
            ({"layers": [7]}, "no layer 7; the layers are 0-2"),
            ({"num_heads": 2}, "num_heads is that of all layers, decoder_attention_heads = 4, got 2"),
            ({"pattern": "layers.*.mixer"}, "pattern is for models of others"),
            ({"kernel_size": 0}, r"decoder_kernel_sizes must be >= 1, got \[0, 1, 0\]"),
            ({"kernel_size": "x"}, "kernel"),
            ({"mixer": "attention"}, "mixer must be one of"),
            ({"dilaton": 2}, "dynamic_conv has no option dilaton"),
            ({"conv_dim": 32}, "dynamic_conv has no option conv_dim"),
            ({"lookahead": 1}, "lookahead"),
            ({"weights": "old"}, "weights must be one of"),
            ({"calibration": []}, "at least one batch"),
            ({"mixer": "self_attention", "calibration": [{"input_ids": torch.tensor([[5, 6]])}]}, "weight_softmax"),
        ],
        ids=lambda value: ", ".join(value) if isinstance(value, dict) else "",
    )
    def test_what_can_not_be_changes_nothing(self, options, message):
        model = build(decoder_layer_types=["self_attention", "dynamic_conv", "self_attention"])
        before, modules = model.config.to_dict(), [id(module) for module in model.modules()]
        with pytest.raises(ValueError, match=message):
            swap_self_attention(model, **options)
        assert model.config.to_dict() == before and [id(module) for module in model.modules()] == modules

    def test_without_self_attention_there_is_nothing_to_swap(self):
        model = build(decoder_layer_types="talk_conv")
        with pytest.raises(ValueError, match="no layer has self-attention, but all have talk_conv"):
            swap_self_attention(model)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda model: restore_self_attention(model, model), "load the model as it was before the swap"),
            (add_short_conv, r"build it with decoder_mixer_options=\{"),
            (lambda model: choose_layers(model, float, max_loss=1), "name the layers"),
        ],
        ids=["restore", "short convolutions", "choice"],
    )
    def test_what_is_for_models_of_others_says_what_to_do(self, change, message):
        with pytest.raises(ValueError, match=f"SeqDyConvForCausalLM is a model of seqdyconv itself: {message}"):
            change(build())
