"""Models of transformers with short convolutions give with ours what they give with their own."""

import pytest
import torch
import transformers

from seqdyconv.swap import restore_causal_conv1d, swap_causal_conv1d

SIZES = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "pad_token_id": 0, "eos_token_id": 1}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 16}
LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
LINEAR |= {"layer_types": ["linear_attention", "full_attention"], "head_dim": 8}
MODELS = {
    "Mamba": {"state_size": 4},
    "Mamba2": {"state_size": 4, "num_heads": 4, "head_dim": 8, "n_groups": 1, "chunk_size": 8},
    "Lfm2": {**HEADS, "layer_types": ["conv", "full_attention"], "conv_L_cache": 3},
    "Qwen3Next": {**HEADS, **LINEAR, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8},
}


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    config = getattr(transformers, f"{request.param}Config")(**SIZES, **MODELS[request.param])
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    yield model
    restore_causal_conv1d(model)


def ids(rows=2, time=11):
    return torch.randint(2, 30, (rows, time), generator=torch.Generator().manual_seed(1))


def test_outputs_gradients_and_generated_tokens_are_equal(model):
    def results():
        model.zero_grad()
        logits = model(ids()).logits
        logits.square().mean().backward()
        gradients = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
        mask = torch.ones_like(ids())
        mask[0, :3] = 0
        tokens = model.generate(ids(), attention_mask=mask, max_new_tokens=6, do_sample=False)
        return logits.detach(), gradients, tokens

    expected = results()
    assert swap_causal_conv1d(model) is model
    found = results()
    torch.testing.assert_close(found[:2], expected[:2], atol=1e-5, rtol=1e-4)
    assert torch.equal(found[2], expected[2])


def test_swapping_twice_and_restoring(model):
    module = __import__(type(model).__module__, fromlist=["causal_conv1d_fn"])
    theirs = module.causal_conv1d_fn
    swap_causal_conv1d(swap_causal_conv1d(model))
    assert module.causal_conv1d_fn is not theirs
    restore_causal_conv1d(model)
    assert module.causal_conv1d_fn is theirs


def test_other_models_are_refused():
    with pytest.raises(ValueError, match="Linear has no layers that call causal_conv1d_fn"):
        swap_causal_conv1d(torch.nn.Linear(2, 2))
