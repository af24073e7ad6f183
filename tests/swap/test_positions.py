"""Learned positions are extended: what a model gave it gives, and more."""

import pytest
import torch
from transformers import (
    AutoModel,
    BartConfig,
    BartModel,
    BertConfig,
    BertModel,
    ModernBertConfig,
    ModernBertModel,
    RobertaConfig,
    RobertaModel,
)

from seqdyconv.models import SeqDyConvConfig, SeqDyConvModel
from seqdyconv.swap import load_swapped, swap_self_attention
from seqdyconv.swap.positions import extend_positions, number_of_positions

SIZES = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
MODELS = {
    "bert": lambda: BertModel(BertConfig(max_position_embeddings=6, **SIZES)),
    "roberta": lambda: RobertaModel(RobertaConfig(max_position_embeddings=8, pad_token_id=1, **SIZES)),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_model_reads_longer_texts_and_short_ones_as_before(make, tmp_path):
    torch.manual_seed(0)
    model = swap_self_attention(make().eval(), kernel_size=3, weights="random")
    short, long = torch.randint(5, 30, (2, 6)), torch.randint(5, 30, (2, 20))
    with torch.no_grad():
        before = model(short).last_hidden_state
        assert number_of_positions(model) == 6
        assert number_of_positions(extend_positions(model, 20)) == 20
        torch.testing.assert_close(model(short).last_hidden_state, before, atol=0, rtol=0)
        found = model(long).last_hidden_state
        model.save_pretrained(tmp_path)
        torch.testing.assert_close(load_swapped(tmp_path)(long).last_hidden_state, found, atol=0, rtol=0)
        with pytest.raises((IndexError, RuntimeError)):
            model(torch.randint(5, 30, (2, 21)))


def test_the_ways_of_extending():
    model = BertModel(BertConfig(max_position_embeddings=3, **SIZES))
    rows = model.embeddings.position_embeddings.weight.detach().clone()
    for how, expected in {
        "repeat": rows[[0, 1, 2, 0, 1]],
        "interpolate": torch.stack([rows[0], rows[:2].mean(0), rows[1], rows[1:].mean(0), rows[2]]),
        "zero": torch.zeros(5, 8),
    }.items():
        other = MODELS["bert"]()
        other.embeddings.position_embeddings = torch.nn.Embedding.from_pretrained(rows)
        table = extend_positions(other, 5, how).embeddings.position_embeddings
        torch.testing.assert_close(table.weight, expected)
        assert not table.weight.requires_grad
    with pytest.raises(ValueError, match="repeat, interpolate, zero, got 'mirror'"):
        extend_positions(model, 5, "mirror")
    assert number_of_positions(extend_positions(model, 2)) == 3


def test_a_model_without_a_table_stays_as_it_is():
    model = ModernBertModel(ModernBertConfig(**SIZES, pad_token_id=0))
    assert number_of_positions(model) is None
    before = model.config.max_position_embeddings
    assert extend_positions(model, 10**5).config.max_position_embeddings == before


@pytest.mark.parametrize(
    ("kind", "config", "where"),
    [
        (
            BartModel,
            BartConfig(vocab_size=30),
            "encoder.embed_positions",
        ),
        (
            SeqDyConvModel,
            SeqDyConvConfig(vocab_size=30, encoder_position_type="learned", max_position_embeddings=1024),
            "embedding.positions",
        ),
    ],
)
def test_learned_positions_of_other_kinds_are_refused(kind, config, where):
    with torch.device("meta"):
        model = kind(config)
    assert extend_positions(model, 1024) is model
    assert number_of_positions(model) == 1024
    with pytest.raises(ValueError, match=f"has its learned positions in {where}"):
        extend_positions(model, 10**5)


def test_a_model_of_the_same_configuration_stays_as_it_is():
    config = BertConfig(max_position_embeddings=6, **SIZES)
    model, other = BertModel(config), BertModel(config)
    swap_self_attention(extend_positions(model, 20), layers=[1], kernel_size=3)
    assert model.config.max_position_embeddings == 20
    assert list(model.config.seqdyconv["layers"]) == ["1"]
    assert other.config is config
    assert config.to_dict() == BertConfig(max_position_embeddings=6, **SIZES).to_dict()
    assert model.encoder.layer[0].attention.self.config is model.config


def test_auto_model_loads_a_swapped_model_by_its_second_configuration(tmp_path):
    model = swap_self_attention(MODELS["bert"]().eval(), kernel_size=3, layers=[1], weights="random")
    model.save_pretrained(tmp_path)
    (tmp_path / "swapped_config.json").write_text('{"model_type": "seqdyconv_swapped"}')
    ids = torch.randint(5, 30, (2, 6))
    loaded = AutoModel.from_pretrained(tmp_path, _configuration_file="swapped_config.json", trust_remote_code=False)
    torch.testing.assert_close(loaded(ids).last_hidden_state, model(ids).last_hidden_state)
    options = {"_configuration_file": "swapped_config.json", "trust_remote_code": False}
    eager = AutoModel.from_pretrained(tmp_path, attn_implementation="eager", **options)
    assert eager.config._attn_implementation == "eager"
    asked = {"output_hidden_states": True, "num_labels": 5, "hidden_dropout_prob": 0.3}  # some are AutoModel's to read
    config = AutoModel.from_pretrained(tmp_path, **asked, **options).config
    assert {name: getattr(config, name) for name in asked} == asked
    with pytest.raises(ValueError, match="has no option output_loading_info"):
        AutoModel.from_pretrained(tmp_path, output_loading_info=True, **options)
    with pytest.raises(ValueError, match="load it with"):
        AutoModel.from_pretrained(tmp_path, trust_remote_code=False)
