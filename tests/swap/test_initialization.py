"""A mixer that is new in somebody else's model starts there as it does alone."""

import pytest
import torch
from transformers import BertConfig, BertModel

from seqdyconv import build_mixer
from seqdyconv.layers import MIXERS, share_options
from seqdyconv.swap import swap_self_attention


@pytest.mark.parametrize("name", MIXERS)
def test_a_mixer_starts_in_a_swap_as_it_does_alone(name, draws_without_chance):
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 8}
    model = swap_self_attention(
        BertModel(BertConfig(vocab_size=20, **sizes)), mixer=name, kernel_size=4, weights="random"
    )
    inside = model.encoder.layer[0].attention.self.mixer.state_dict()
    options = share_options(name, {"kernel_size": 4, "glu": False, "generator_bias": True})
    alone = build_mixer(name, 12, 3, **options).state_dict()
    # BERT keeps its own output projection.
    assert inside.keys() == {key for key in alone if not key.startswith("out_proj")}
    for key, value in inside.items():
        assert torch.equal(value, alone[key]), key
