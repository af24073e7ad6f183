"""Swapped models, and decoders with short convolutions, whose linear layers others quantized or parametrised."""

import pytest
import torch
import transformers

from seqdyconv.swap import add_short_conv, restore_self_attention, swap_self_attention
from tests.swap.changed_layers import CHANGES, assert_still_computes, dynamic, every_change, without_deprecations
from tests.swap.zoo import CASES, encoded

pytestmark = without_deprecations
IDS = torch.tensor([[5, 17, 30, 8, 9, 4]])


def decoder(model_type="qwen3"):
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 24, "num_key_value_heads": 2, "head_dim": 4, "pad_token_id": 0}
    config = transformers.AutoConfig.for_model(model_type, **sizes)
    model = add_short_conv(transformers.AutoModelForCausalLM.from_config(config))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return model.eval()


def second_scores(model):
    options = {"max_new_tokens": 2, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    return model.generate(IDS, **options).logits[0]


@pytest.mark.parametrize("name", CASES)
def test_every_family(name):
    model, batch = swap_self_attention(CASES[name].model(), kernel_size=5), CASES[name].batch()
    for change in ("int8", "dynamically quantized"):
        assert_still_computes(model, lambda model: encoded(model(**batch)), change)


@every_change
@pytest.mark.parametrize("mixer", ["parallel", "gated_short_conv"])
def test_other_mixers(mixer, change):
    model, batch = swap_self_attention(CASES["bert"].model(), mixer=mixer, weights="random"), CASES["bert"].batch()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    assert_still_computes(model, lambda model: model(**batch)[0], change)


@every_change
@pytest.mark.parametrize("run", [lambda model: model(IDS).logits, second_scores], ids=["forward", "generation"])
def test_decoders(run, change):
    assert_still_computes(decoder(), run, change)


@pytest.mark.parametrize("change", ["int8", "dynamically quantized"])
def test_swaps_of_changed_layers_are_refused(change):
    model = CHANGES[change][0](CASES["bert"].model())
    with pytest.raises(ValueError, match=r"value of BertSelfAttention is .*Linear, not a plain nn.Linear"):
        swap_self_attention(model)


def test_attention_comes_back_into_a_quantized_model():
    original = CASES["bert"].model()
    model = dynamic(swap_self_attention(CASES["bert"].model()))
    restore_self_attention(model, original, layers=[1])
    assert torch.equal(model.encoder.layer[1].attention.self.query.weight,
                       original.encoder.layer[1].attention.self.query.weight)  # fmt: skip
