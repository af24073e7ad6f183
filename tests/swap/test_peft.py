"""Adapters by PEFT on swapped encoders and on decoders with short convolutions, by the names that people type."""

import contextlib
import copy
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import peft
import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model

from seqdyconv.models import SeqDyConvConfig, SeqDyConvForConditionalGeneration
from seqdyconv.swap import add_short_conv, remove_short_conv, swap_self_attention
from seqdyconv.swap.short_conv_projection import convolve_after_wrappers
from tests.helpers import assert_close
from tests.swap.any_decoder import all_places
from tests.swap.zoo import CASES

IDS = torch.tensor([[5, 17, 30, 8, 9, 4]])
SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}


def decoder(model_type="qwen3"):
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, num_key_value_heads=2, head_dim=4, pad_token_id=0, **SIZES)
    model = transformers.AutoModelForCausalLM.from_config(config)
    return perturbed(add_short_conv(model, on=all_places(model), static_kernel=True))


def encoder(name="bert", **options):
    model = CASES[name].model(head=True)
    return perturbed(swap_self_attention(model, kernel_size=5, **options))


def perturbed(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return model.eval()


def adapted(model, targets, **options):
    torch.manual_seed(1)
    options = {"init_lora_weights": False, "r": 2, **options}
    return get_peft_model(copy.deepcopy(model), LoraConfig(target_modules=targets, **options)).eval()


def adapters(model):
    return sorted(re.sub(r"^base_model\.model\.|\.lora_A\..*", "", name) for name, _ in model.named_parameters()
                  if ".lora_A." in name)  # fmt: skip


def of_projections(*roles, layers=(0, 1), inner=""):
    return [f"model.layers.{layer}.self_attn.{role}_proj{inner}" for layer in layers for role in roles]


class TestDecoders:
    @pytest.mark.parametrize(
        ("targets", "expected"),
        [
            (["q_proj", "v_proj"], of_projections("q", "v")),
            (["k_proj"], of_projections("k")),
            (["q_proj", "k_proj", "v_proj", "o_proj"], of_projections("k", "o", "q", "v")),
            (r".*(q_proj|v_proj)$", of_projections("q", "v")),
            (r".*\.self_attn\.(q|v)_proj", of_projections("q", "v")),
            (r".*(q_proj|v_proj)\.linear", of_projections("q", "v", inner=".linear")),
            (["q_proj.linear"], of_projections("q", inner=".linear")),
        ],
        ids=str,
    )
    def test_targets(self, targets, expected):
        assert adapters(adapted(decoder(), targets)) == sorted(expected)

    def test_all_linear_layers(self):
        found = adapters(adapted(decoder(), "all-linear"))
        assert len(found) == 2 * (7 * 2 + 2)  # projections and their generators, and those of the two inputs
        assert set(of_projections("q", "k", "v", inner=".linear")) < set(found)

    def test_layers_by_number(self):
        model = adapted(decoder(), ["q_proj"], layers_to_transform=[1])
        assert adapters(model) == of_projections("q", layers=[1])

    @pytest.mark.parametrize(
        ("model_type", "targets"),
        [
            ("llama", ["q_proj", "v_proj"]),
            ("qwen3", ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]),
            ("qwen3", "all-linear"),
            ("gemma2", r".*(q_proj|v_proj)\.linear"),
            ("mixtral", ["k_proj"]),
        ],
        ids=str,
    )
    def test_training_generation_and_merging(self, model_type, targets):
        model = adapted(decoder(model_type), targets)
        model.train()(IDS, labels=IDS).loss.backward()
        gradients = {name: value.grad for name, value in model.named_parameters() if value.requires_grad}
        assert all(value is not None and value.abs().sum() > 0 for value in gradients.values()), gradients.keys()
        model.eval()
        options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
        generated = model.generate(input_ids=IDS, **options)
        assert torch.equal(generated, model.generate(input_ids=IDS, use_cache=False, **options))
        expected = model(generated).logits
        merged = model.merge_and_unload()
        assert not any("lora" in name or "base_layer" in name for name, _ in merged.named_modules())
        assert_close(merged(generated).logits, expected, 1e-4)
        assert torch.equal(merged.generate(input_ids=IDS, **options), generated)

    def test_an_adapter_that_is_switched_off(self):
        model = adapted(decoder(), ["q_proj", "k_proj", "v_proj"])
        with model.disable_adapter():
            assert_close(model(IDS).logits, decoder()(IDS).logits, 1e-6)
        assert_close(model.unload()(IDS).logits, decoder()(IDS).logits, 1e-6)

    def test_saving_and_loading(self, tmp_path):
        model = adapted(decoder(), ["q_proj", "v_proj"])
        model.save_pretrained(tmp_path)
        assert_close(PeftModel.from_pretrained(decoder(), tmp_path)(IDS).logits, model(IDS).logits, 1e-6)

    def test_an_adapter_of_the_plain_model_fits(self, tmp_path):
        plain = remove_short_conv(decoder())
        model = adapted(plain, ["q_proj", "v_proj"])
        model.save_pretrained(tmp_path)
        loaded = PeftModel.from_pretrained(decoder(), tmp_path)
        found = peft.get_peft_model_state_dict(loaded)
        assert all(torch.equal(found[name], value) for name, value in peft.get_peft_model_state_dict(model).items())

    def test_convolutions_are_not_removed_under_an_adapter(self):
        model = adapted(decoder(), ["q_proj"]).base_model.model
        with pytest.raises(ValueError, match="q_proj of layer 0 is wrapped, in a Linear: unload the adapters first"):
            remove_short_conv(model)

    def test_threads_that_run_a_new_adapter_at_once_convolve_once(self):
        both = threading.Barrier(2)

        class Wrapper(torch.nn.Sequential):
            def register_forward_hook(self, *args, **options):
                with contextlib.suppress(threading.BrokenBarrierError):
                    both.wait(0.2)
                return super().register_forward_hook(*args, **options)

        attention = decoder().model.layers[0].self_attn
        attention.q_proj = wrapper = Wrapper(attention.q_proj)
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(convolve_after_wrappers, [attention] * 2))
        assert len(wrapper._forward_hooks) == 1


class TestEncoders:
    @pytest.mark.parametrize(
        ("options", "targets", "expected"),
        [
            ({"layers": "1"}, ["query", "value"], ["0.attention.self.query", "0.attention.self.value", "1.in"]),
            ({"layers": "1"}, ["query", "key", "value"],
             ["0.attention.self.key", "0.attention.self.query", "0.attention.self.value", "1.in"]),
            ({"layers": "1"}, ["in_proj", "out_proj"], ["1.in"]),
            ({}, ["query", "value"], ["0.in", "1.in"]),
            ({}, ["value"], ["0.in", "1.in"]),
            ({"mixer": "parallel"}, ["query", "value"], ["0.in", "1.in"]),
            ({}, r".*\.(query|value)", ["0.in", "1.in"]),
            ({}, ["value", "in_proj"], ["0.in", "1.in"]),
        ],
        ids=str,
    )  # fmt: skip
    def test_targets(self, options, targets, expected):
        full = [f"bert.encoder.layer.{name.replace('.in', '.attention.self.mixer.in_proj')}" if name.endswith(".in")
                else f"bert.encoder.layer.{name}" for name in expected]  # fmt: skip
        assert adapters(adapted(encoder(**options), targets)) == full

    @pytest.mark.parametrize(
        ("name", "targets"),
        [
            ("roberta", ["query", "value"]),
            ("distilbert", ["q_lin", "v_lin", "out_lin"]),
            ("mpnet", ["q", "v", "o"]),
            ("albert", ["query", "value"]),
            ("deberta-v2", ["query_proj", "value_proj"]),
            ("modernbert", ["Wqkv", "Wo"]),
            ("bart", ["q_proj", "v_proj"]),
            ("t5", ["q", "v"]),
            ("wav2vec2", ["q_proj", "v_proj", "out_proj"]),
            ("wav2vec2-bert", ["linear_q", "linear_v"]),
            ("whisper", ["q_proj", "v_proj"]),
            ("vit", ["q_proj", "v_proj"]),
            ("bert", "all-linear"),
        ],
        ids=str,
    )
    def test_a_step_merging_and_the_way_back(self, name, targets, tmp_path):
        base, batch = encoder(name), CASES[name].batch()
        model = adapted(base, targets)
        assert any(".mixer.in_proj" in adapter for adapter in adapters(model))
        model(**batch)[0].float().square().mean().backward()
        assert all(value.grad is not None for key, value in model.named_parameters() if ".mixer.in_proj.lora" in key)
        expected = model(**batch)[0]
        model.save_pretrained(tmp_path)
        assert_close(PeftModel.from_pretrained(copy.deepcopy(base), tmp_path)(**batch)[0], expected, 1e-5)
        merged = model.merge_and_unload()
        assert not any("lora" in key or "base_layer" in key for key, _ in merged.named_modules())
        assert_close(merged(**batch)[0], expected, 1e-4)

    def test_a_head_is_trained_beside_it(self, tmp_path):
        model = adapted(encoder(), ["query", "value"], modules_to_save=["classifier"], task_type="SEQ_CLS")
        model(input_ids=IDS, labels=torch.tensor([1])).loss.backward()
        trained = {name for name, value in model.named_parameters() if value.requires_grad and value.grad is not None}
        assert any("classifier" in name for name in trained) and any("in_proj" in name for name in trained)

    def test_layers_by_number(self):
        model = adapted(encoder(), ["value"], layers_to_transform=[1])
        assert adapters(model) == ["bert.encoder.layer.1.attention.self.mixer.in_proj"]

    def test_targets_that_are_not_there_raise(self):
        with pytest.raises(ValueError, match="not found in the base model"):
            adapted(encoder(), ["key"])


@pytest.mark.parametrize("targets", ["all-linear", ["in_proj", "out_proj"], ["query_proj", "memory_proj", "generator"]],
                         ids=str)  # fmt: skip
def test_our_own_models(targets):
    torch.manual_seed(0)
    config = SeqDyConvConfig(vocab_size=40, hidden_size=16, encoder_kernel_sizes=[3, 5], decoder_kernel_sizes=[3, 5],
                             encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=24,
                             decoder_ffn_dim=24, dropout=0.0)  # fmt: skip
    model = adapted(SeqDyConvForConditionalGeneration(config), targets)
    assert len(adapters(model)) > 5 and not any("lm_head" in name for name in adapters(model))
    model(input_ids=IDS, labels=IDS).loss.backward()
    options = {"max_new_tokens": 5, "num_beams": 2}
    generated = model.generate(input_ids=IDS, **options)
    assert torch.equal(generated, model.generate(input_ids=IDS, use_cache=False, **options))
    assert torch.equal(model.merge_and_unload().generate(input_ids=IDS, **options), generated)
