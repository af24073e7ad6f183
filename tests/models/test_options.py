"""Options of the models: width and norm of the embeddings, activation, grouped linear layers; mixers in a decoder."""

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from seqdyconv.layers import MIXERS
from seqdyconv.models import (
    SeqDyConvCausalLMConfig,
    SeqDyConvConfig,
    SeqDyConvForCausalLM,
    SeqDyConvForConditionalGeneration,
    SeqDyConvForCTC,
    SeqDyConvForMaskedLM,
    SeqDyConvModel,
    SeqDyConvSpeechConfig,
)
from seqdyconv.models.modeling import GroupedLinear
from tests.helpers import assert_close, randomize

SIZES = {
    "vocab_size": 40,
    "hidden_size": 12,
    "encoder_kernel_sizes": [3, 4],
    "decoder_kernel_sizes": [4, 3],
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 18,
    "decoder_ffn_dim": 18,
    "dropout": 0.0,
}
TOKENS = torch.tensor([[5, 6, 7, 8, 2], [9, 4, 2, 1, 1]])
MASK = (TOKENS != 1).long()


def build(kind=SeqDyConvModel, **options):
    torch.manual_seed(0)
    alone = {"is_encoder_decoder": False} if kind is not SeqDyConvForConditionalGeneration else {}
    return randomize(kind(SeqDyConvConfig(**SIZES | alone | options)).double())


class TestEmbeddings:
    @pytest.mark.parametrize("size", [5, 12, 20])
    def test_of_another_size_are_projected(self, size):
        model = build(
            embedding_size=size,
            embedding_norm=True,
            encoder_position_type="learned",
            type_vocab_size=2,
            tie_word_embeddings=False,
        )
        embedding = model.embedding
        hidden = (embedding.tokens(TOKENS) + embedding.token_types.weight[0]) * 12**0.5 + embedding.positions.weight[:5]
        hidden = F.layer_norm(hidden, (size,), embedding.norm.weight, embedding.norm.bias)
        if size != 12:
            hidden = F.linear(hidden, embedding.project.weight, embedding.project.bias)
        assert_close(embedding(TOKENS, None), hidden)
        assert model(TOKENS).last_hidden_state.shape == (2, 5, 12)

    def test_rows_of_the_table_may_be_given(self):
        model = build(embedding_size=5, tie_word_embeddings=False)
        rows = model.get_input_embeddings()(TOKENS)
        assert torch.equal(model(inputs_embeds=rows).last_hidden_state, model(TOKENS).last_hidden_state)

    def test_models_with_an_output_of_their_own_train(self):
        options = {"embedding_size": 5, "tie_word_embeddings": False, "share_encoder_decoder_embeddings": False}
        translation = build(SeqDyConvForConditionalGeneration, **options)
        for model in (translation, build(SeqDyConvForMaskedLM, **options)):
            model(TOKENS, labels=TOKENS).loss.backward()
            assert all(parameter.grad is not None for parameter in model.parameters())
        assert translation.generate(TOKENS, max_new_tokens=3).shape[0] == 2


class TestFeedForward:
    @pytest.mark.parametrize("name, function", [("gelu", F.gelu), ("relu", F.relu), ("silu", F.silu)])
    def test_activation(self, name, function):
        ffn, input = build(activation_function=name).layers[0].ffn, torch.randn(2, 5, 12).double()
        inner = function(F.linear(input, ffn.in_proj.weight, ffn.in_proj.bias))
        assert_close(ffn(input), F.linear(inner, ffn.out_proj.weight, ffn.out_proj.bias))

    def test_grouped_layers_are_a_matrix_of_blocks(self):
        layer = randomize(GroupedLinear(6, 9, 3).double())
        assert_close(
            layer(torch.eye(6).double()), torch.block_diag(*layer.weight).T + layer.bias
        )  # one block for each group

    def test_groups(self):
        model = build(SeqDyConvForConditionalGeneration, ffn_groups=3)
        layers = [part for part in model.modules() if isinstance(part, GroupedLinear)]
        assert [tuple(layer.weight.shape) for layer in layers] == [(3, 6, 4), (3, 4, 6)] * 4
        model(TOKENS, labels=TOKENS).loss.backward()
        assert all(layer.weight.grad.any() for layer in layers)

    def test_groups_start_as_linear_layers_of_their_size_do(self):
        torch.manual_seed(0)
        weight = (
            SeqDyConvModel(
                SeqDyConvConfig(
                    **SIZES | {"hidden_size": 96, "encoder_ffn_dim": 192}, ffn_groups=3, is_encoder_decoder=False
                )
            )
            .layers[0]
            .ffn.in_proj.weight
        )
        bound = (6 / (64 + 32)) ** 0.5
        assert 0.98 * bound < weight.abs().max() <= bound


class TestEps:
    def test_is_that_of_all_layer_norms(self):
        speech = {
            "hidden_size": 12,
            "encoder_kernel_sizes": [3, 4],
            "encoder_attention_heads": 2,
            "layer_norm_eps": 0.5,
        }
        models = [
            build(
                SeqDyConvForConditionalGeneration,
                layer_norm_eps=0.5,
                encoder_normalize_before=True,
                decoder_normalize_before=True,
                embedding_norm=True,
            ),
            SeqDyConvForCTC(SeqDyConvSpeechConfig(vocab_size=9, encoder_block="conformer", **speech)),
        ]
        for model in models:
            assert {part.eps for part in model.modules() if isinstance(part, nn.LayerNorm)} == {0.5}

    def test_is_torchs_where_it_is_not_given(self):
        norms = [part for part in build().modules() if isinstance(part, nn.LayerNorm)]
        assert {norm.eps for norm in norms} == {nn.LayerNorm(1).eps}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"activation_function": "swoosh"}, "activation_function must be of .*gelu.*relu.*, got 'swoosh'"),
        ({"ffn_groups": 0}, "ffn_groups must divide hidden_size and encoder_ffn_dim, got 0 groups for 12 and 18"),
        ({"ffn_groups": 4}, "ffn_groups must divide hidden_size and encoder_ffn_dim, got 4 groups for 12 and 18"),
        ({"embedding_size": 0}, "embedding_size must be None or >= 1, got 0"),
        ({"embedding_size": 5}, "embedding_size=5 with hidden_size=12 needs tie_word_embeddings=False"),
    ],
    ids=str,
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(StrictDataclassError, match=message):
        SeqDyConvConfig(**SIZES | options)


@pytest.mark.parametrize("mixer", MIXERS)
def test_every_mixer_decodes_from_its_state(mixer):
    """Step by step with the cache, logits are those of the whole target."""
    model = build(SeqDyConvForConditionalGeneration, encoder_layer_types=mixer, decoder_layer_types=mixer)
    expected = model(TOKENS, MASK, decoder_input_ids=TOKENS).logits
    encoded, cache, steps = model.encoder(TOKENS, MASK), None, []
    for step in TOKENS.split(1, dim=1):
        output = model(
            attention_mask=MASK, encoder_outputs=encoded, decoder_input_ids=step, cache=cache, use_cache=True
        )
        cache = output.cache
        steps.append(output.logits)
    assert_close(torch.cat(steps, dim=1), expected)
    alone = model.encoder(TOKENS[1:, :3]).last_hidden_state
    assert_close(encoded.last_hidden_state[1:, :3], alone)


@pytest.mark.parametrize("mixer", MIXERS)
def test_every_mixer_makes_a_language_model(mixer):
    """Step by step with the cache, logits are those of the whole text, and of a packed row."""
    torch.manual_seed(0)
    model = randomize(SeqDyConvForCausalLM(SeqDyConvCausalLMConfig(**SIZES, decoder_layer_types=mixer)).double())
    expected, cache, steps = model(TOKENS).logits, None, []
    for step in TOKENS.split([2, 1, 1, 1], dim=1):
        output = model(step, cache=cache)
        cache = output.cache
        steps.append(output.logits)
    assert_close(torch.cat(steps, dim=1), expected)
    packed = model(TOKENS.view(1, -1), cu_seqlens=torch.tensor([0, 5, 10])).logits
    assert_close(packed.view_as(expected), expected)
