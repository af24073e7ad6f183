"""Models whose parameters FSDP shards: they compute, learn, stream, generate and give their state as before."""

import copy
from functools import partial

import pytest
import torch
import torch.distributed as dist
import transformers
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from seqdyconv.models import (
    SeqDyConvConfig,
    SeqDyConvForConditionalGeneration,
    SeqDyConvForCTC,
    SeqDyConvSpeechConfig,
)
from seqdyconv.swap import add_short_conv, swap_self_attention
from seqdyconv.swap.short_conv_places import PLACES
from tests.swap.zoo import CASES

IDS = torch.tensor([[5, 17, 30, 8, 9, 4]])
MIXERS = ["dynamic_conv", "parallel", "self_attention", "talk_conv", "span_dynamic_conv"]
STACKS = {"hidden_size": 16, "encoder_attention_heads": 4, "encoder_ffn_dim": 24, "dropout": 0.0}
STACKS |= {"decoder_attention_heads": 4, "decoder_ffn_dim": 24}


@pytest.fixture(scope="module", autouse=True)
def process_group(tmp_path_factory):
    store = dist.FileStore(str(tmp_path_factory.mktemp("group") / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def sharded(model):
    model = copy.deepcopy(model)
    mesh = dist.init_device_mesh("cpu", (1,))
    for module in list(model.modules()):
        if type(module).__name__ in (model._no_split_modules or ()):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "generate" if model.can_generate() else "stream")
    return model


def translator():
    torch.manual_seed(0)
    layers = {f"{side}_layer_types": MIXERS for side in ("encoder", "decoder")}
    sizes = {f"{side}_kernel_sizes": [3] * len(MIXERS) for side in ("encoder", "decoder")}
    return SeqDyConvForConditionalGeneration(SeqDyConvConfig(vocab_size=40, **STACKS, **layers, **sizes)).eval()


def decoder(**options):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
    config = transformers.Qwen3Config(vocab_size=40, num_key_value_heads=2, head_dim=4, **sizes)
    return add_short_conv(transformers.Qwen3ForCausalLM(config), on=PLACES, **options).eval()


MODELS = {
    "ours": translator,
    "short convolutions": partial(decoder, static_kernel=True),
    "short convolutions of a low rank": partial(decoder, rank=3),
    "swapped": lambda: swap_self_attention(CASES["t5"].model(head=True), kernel_size=5, layers=[0]),
}


@pytest.mark.parametrize("name", MODELS)
def test_training_generation_and_state(name):
    model = MODELS[name]()
    shards = sharded(model)
    loss, expected = shards(IDS, labels=IDS).loss, model(IDS, labels=IDS).loss
    loss.backward()
    expected.backward()
    assert torch.allclose(loss, expected)
    for ours, theirs in zip(shards.parameters(), model.parameters(), strict=True):
        assert theirs.grad is None or torch.allclose(ours.grad.full_tensor(), theirs.grad, atol=1e-5)
    options = {"max_new_tokens": 4, "num_beams": 2}
    assert torch.equal(shards.generate(IDS, **options), model.generate(IDS, **options))
    whole = StateDictOptions(full_state_dict=True)
    state = get_model_state_dict(shards, options=whole)
    assert state.keys() == get_model_state_dict(model).keys()
    assert all(torch.equal(state[key], value) for key, value in get_model_state_dict(model).items())
    set_model_state_dict(shards, state, options=whole)


def test_streaming():
    torch.manual_seed(0)
    sizes = {"vocab_size": 12, "num_mel_bins": 8, "subsampling_channels": 4, "encoder_kernel_sizes": [3, 5]}
    options = {"encoder_lookahead": 1, "encoder_position_type": "none", "encoder_block": "conformer"}
    model = SeqDyConvForCTC(SeqDyConvSpeechConfig(is_encoder_decoder=False, **STACKS, **sizes, **options)).eval()
    shards, frames = sharded(model), torch.randn(1, 40, 8)
    for layer in shards.encoder.layers:
        register_fsdp_forward_method(layer, "stream")
    with torch.no_grad():
        output, state = shards.stream(frames, shards.initial_state(1))
        expected, _ = model.stream(frames, model.initial_state(1))
        assert type(output) is torch.Tensor and torch.equal(output, expected)
        shards.stream(frames, state)
