"""Decoders of transformers, some of whose layers convolve instead of attending."""

import copy
import re
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
import torch
import transformers
from transformers import DynamicCache

from seqdyconv.swap import (
    add_short_conv,
    choose_layers,
    load_swapped,
    restore_self_attention,
    swap_self_attention,
    swapped_attention,
)
from seqdyconv.swap.conv_states import ConvStates
from seqdyconv.swap.decoders import FUSED
from tests.helpers import assert_close
from tests.swap.any_decoder import IDS, LEFT, PACKED, check_swap, decoder, with_random_convolutions

transformers.utils.logging.disable_progress_bar()

MIXERS = {
    "dynamic": {"kernel_size": 5},
    "dynamic with a gate, wide": {"kernel_size": 20, "glu": True, "dilation": 2},
    "two sizes": {"kernel_size": (3, 7)},
    "lightweight": {"mixer": "lightweight_conv", "kernel_size": 5},
    "short": {"mixer": "short_conv", "kernel_size": 4},
    "gated short": {"mixer": "gated_short_conv", "kernel_size": 3, "dynamic_kernel": True},
}
every_mixer = pytest.mark.parametrize("options", MIXERS.values(), ids=MIXERS)


def hybrid(model_type="llama", layers=None, **options):
    """A model with swapped layers whose kernels differ from step to step."""
    model = swap_self_attention(decoder(model_type), layers=layers, **{"kernel_size": 5, **options})
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for swapped in swapped_attention(model).values():
            for parameter in swapped.mixer.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) / 4)
    return model


def generate(model, ids, mask=None, **options):
    return model.generate(ids, attention_mask=mask, max_new_tokens=6, pad_token_id=0, **options)


class TestSwap:
    @pytest.mark.parametrize("model_type", ["llama", "qwen3", *FUSED])
    def test_one_tap_gives_a_single_token_what_attention_gives_it(self, model_type):
        model = decoder(model_type)  # most have two heads that share keys and values
        expected = model(IDS[:, :1]).logits
        swap_self_attention(model, kernel_size=1)
        assert_close(model(IDS[:, :1]).logits, expected, 1e-5)

    def test_configuration_tells_it(self):
        model = hybrid("qwen3", layers=[1], kernel_size=7)
        assert model.config.seqdyconv["family"] == "decoder"
        assert model.config.seqdyconv["layers"] == {
            "1": {"mixer": "dynamic_conv", "num_heads": 4, "kernel_size": 7, "glu": False, "generator_bias": True}
        }
        assert swapped_attention(model)[1].mixer.conv.padding == "causal"

    def test_swapped_in_turns(self):
        model = swap_self_attention(decoder(), layers=[0], kernel_size=3)
        swap_self_attention(model, layers=[1], mixer="gated_short_conv", kernel_size=3)
        assert [swapped.options["mixer"] for swapped in swapped_attention(model).values()] == [
            "dynamic_conv",
            "gated_short_conv",
        ]

    @torch.no_grad()
    def test_kernels_start_from_the_average_attention(self):
        model = decoder()
        model.set_attn_implementation("eager")
        maps = model(IDS, output_attentions=True).attentions[0].mean(0)  # (H, T, T)
        average = torch.stack([maps.diagonal(-back, 1, 2).mean(-1) for back in (2, 1, 0)], dim=-1)
        swap_self_attention(model, kernel_size=3, calibration=[{"input_ids": IDS}])
        kernels = swapped_attention(model)[0].mixer.conv.generator.bias.view(4, 3).softmax(-1)
        assert_close(kernels, average / average.sum(-1, keepdim=True), 1e-5)

    def test_layers_are_chosen_greedily(self):
        found = choose_layers(decoder(), lambda model: -float(model(IDS, labels=IDS).loss.detach()), max_loss=9.0)
        assert sorted(found.layers) == [0, 1]

    @pytest.mark.parametrize("model_type", ["qwen3_moe", "gemma3_text", "opt", "lfm2", "phi3", "gpt_neox"])
    def test_decoders_of_all_kinds(self, model_type):
        check_swap(model_type)


class TestCalls:
    @every_mixer
    @pytest.mark.parametrize("layers", [[0], None], ids=["first layer", "all layers"])
    def test_generation_with_a_cache_is_that_without(self, options, layers):
        model = hybrid(layers=layers, **options)
        for settings in ({}, {"num_beams": 2}):
            found = [generate(model, IDS, LEFT, use_cache=use_cache, **settings) for use_cache in (True, False)]
            assert torch.equal(*found)

    @every_mixer
    @torch.no_grad()
    def test_pieces_of_a_text_are_the_whole(self, options):
        model = hybrid(layers=[1], **options)
        whole, cache = model(IDS, attention_mask=LEFT).logits, DynamicCache(config=model.config)
        ends = [0, 1, 5, 7, 12]
        pieces = [
            model(IDS[:, begin:end], attention_mask=LEFT[:, :end], cache=cache).logits for begin, end in pairwise(ends)
        ]
        assert_close(torch.cat(pieces, dim=1)[LEFT > 0], whole[LEFT > 0], 1e-5)

    @every_mixer
    @torch.no_grad()
    def test_packed_sequences_are_what_they_are_alone(self, options):
        model = hybrid(layers=[0], **options)
        both = model(IDS, position_ids=PACKED.expand(2, -1), use_cache=False).logits
        alone = torch.cat([model(part, use_cache=False).logits for part in IDS.split([5, 7], dim=1)], dim=1)
        assert_close(both, alone, 1e-5)

    @torch.no_grad()
    def test_padding_on_the_right_changes_nothing(self):
        model, right = hybrid(), LEFT.flip(1)
        alone = model(IDS[:1, :9]).logits
        assert_close(model(IDS, attention_mask=right).logits[:1, :9], alone, 1e-5)

    def test_static_cache(self):
        model = hybrid(layers=[0])
        cached = generate(model, IDS, LEFT, cache_implementation="static", disable_compile=True)
        assert torch.equal(cached, generate(model, IDS, LEFT, use_cache=False))

    def test_weights_on_the_disk(self, tmp_path):
        model = hybrid(layers=[0])
        model.save_pretrained(tmp_path)
        names = ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head")
        places = {"model.layers": "disk", **dict.fromkeys(names, "cpu")}
        offloaded = load_swapped(tmp_path, device_map=places, offload_folder=tmp_path / "offloaded")
        assert torch.equal(generate(offloaded, IDS, LEFT), generate(model, IDS, LEFT))

    def test_assisted_decoding(self):
        model, assistant = hybrid(layers=[0]), decoder()
        assert torch.equal(
            generate(model, IDS[1:], assistant_model=assistant), generate(model, IDS[1:], use_cache=False)
        )

    @torch.no_grad()
    def test_its_part_of_the_cache_does_not_grow(self):
        model, cache = hybrid(), DynamicCache()
        model(torch.randint(3, 40, (2, 100)), cache=cache)
        model(IDS[:, :1], cache=cache)
        states = cache.layers[-1]
        assert isinstance(states, ConvStates)
        assert {tuple(inputs.shape) for inputs in states.inputs.values()} == {(2, 5, 32)}
        assert {tuple(layer.keys.shape) for layer in cache.layers[:-1]} == {(2, 1, 101, 1)}
        assert cache.get_seq_length() == 101

    @torch.no_grad()
    def test_a_cache_of_the_original_is_refused(self):
        cache = decoder()(IDS).cache
        with pytest.raises(ValueError, match="not the states of the model's convolutions"):
            hybrid(layers=[0])(IDS, cache=cache)

    @torch.no_grad()
    def test_packed_sequences_have_no_cache(self):
        with pytest.raises(ValueError, match="use_cache=False"):
            hybrid()(IDS, position_ids=PACKED.expand(2, -1), use_cache=True)
        with pytest.raises(ValueError, match="the attention of opt mixes packed sequences"):
            hybrid("opt")(IDS, position_ids=PACKED.expand(2, -1), use_cache=False)

    @torch.no_grad()
    def test_packing_by_a_mask_is_refused(self):
        causal, packed = torch.ones(12, 12).tril(), torch.block_diag(torch.ones(5, 5), torch.ones(7, 7)).tril()
        models = hybrid(layers=[0]), with_random_convolutions(add_short_conv(decoder()))
        for model in models:
            whole = model(IDS, attention_mask=causal.bool().expand(2, 1, -1, -1)).logits
            assert_close(whole, model(IDS).logits, 1e-5)
            with pytest.raises(ValueError, match=r"hides the step before .* position_ids that begin anew"):
                model(IDS, attention_mask=packed.bool().expand(2, 1, -1, -1))

    def test_in_threads(self):
        model = hybrid(layers=[0])
        expected = [generate(model, IDS), generate(model, IDS, LEFT)]
        with ThreadPoolExecutor(2) as threads:
            found = list(threads.map(lambda mask: generate(model, IDS, mask), [None, LEFT] * 3))
        assert all(torch.equal(tokens, expected[number % 2]) for number, tokens in enumerate(found))


class TestTraining:
    @pytest.mark.parametrize("options", [{}, {"recompute": True}], ids=["plain", "recomputed"])
    def test_gradient_checkpointing(self, options):
        model = hybrid(layers=[0], **options).train()
        expected = torch.autograd.grad(model(IDS, labels=IDS, attention_mask=LEFT).loss, list(model.parameters()))
        model.activation_checkpointing_enable({"use_reentrant": False})
        model(IDS, labels=IDS, attention_mask=LEFT).loss.backward()
        for parameter, gradient in zip(model.parameters(), expected):
            assert_close(parameter.grad, gradient, 1e-5)
            assert gradient.any()

    @torch.no_grad()
    def test_compiled_as_one_graph(self):
        torch._dynamo.reset()
        model = hybrid(layers=[0])
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        found = compiled(IDS, attention_mask=LEFT, use_cache=False).logits
        assert_close(found, model(IDS, attention_mask=LEFT).logits, 1e-5)


class TestDisk:
    @every_mixer
    def test_comes_back(self, options, tmp_path):
        model = hybrid(layers=[1], **options)
        model.save_pretrained(tmp_path)
        loaded = load_swapped(tmp_path)
        assert torch.equal(loaded(IDS, attention_mask=LEFT).logits, model(IDS, attention_mask=LEFT).logits)
        assert torch.equal(generate(loaded, IDS, LEFT), generate(model, IDS, LEFT))

    def test_restored(self):
        original = decoder()
        model = copy.deepcopy(original)
        names, hooks = str(model), len(model.model._forward_pre_hooks)
        swap_self_attention(model, kernel_size=5)
        restore_self_attention(model, original, layers=[0])
        assert list(swapped_attention(model)) == [1]
        restore_self_attention(model, original)
        assert (str(model), len(model.model._forward_pre_hooks)) == (names, hooks)
        assert not hasattr(model.config, "seqdyconv")
        assert torch.equal(model(IDS).logits, original(IDS).logits)


class TestRefused:
    @pytest.mark.parametrize(
        ("model_type", "options", "message"),
        [
            ("codegen", {}, "are not told by their names: out_proj (Linear), resid_dropout (Dropout), qkv_proj (Lin"),
            ("afmoe", {}, "self-attention of layer 0, AfmoeAttention, also holds gate_proj"),
            ("llama", {"mixer": "parallel"}, "parallel with these options can't stand in a decoder"),
            ("llama", {"mixer": "span_dynamic_conv"}, "span_dynamic_conv with these options can't stand in a decoder"),
            ("llama", {"mixer": "dynamic_conv_2d"}, "dynamic_conv_2d with these options can't stand in a decoder"),
            ("llama", {"mixer": "lightweight_conv_2d"}, "lightweight_conv_2d with these options can't stand in a deco"),
            ("llama", {"renormalize": True}, "dynamic_conv with these options can't stand in a decoder"),
            ("llama", {"causal": False}, "dynamic_conv has no option causal in a swap"),
            ("llama", {"lookahead": 2}, "lookahead must be >= 0 and causal False"),
            ("llama", {"layers": 2}, "there is no layer 2; the layers are 0-1"),
            ("ctrl", {}, "no modules of an encoder have query, key and value projections"),
        ],
    )
    def test_nothing_changes(self, model_type, options, message):
        model = decoder(model_type, **({"n_layer": 1, "dff": 16} if model_type == "ctrl" else {}))
        before = str(model), copy.deepcopy(model.config.to_dict())
        with pytest.raises(ValueError, match=re.escape(message)):
            swap_self_attention(model, **{"kernel_size": 5, **options})
        assert before == (str(model), model.config.to_dict())

    @pytest.mark.parametrize("change", [swap_self_attention, add_short_conv])
    @pytest.mark.parametrize(
        ("model_type", "settings"),
        [("gemma3_text", {"use_bidirectional_attention": True}), ("llama", {"is_causal": False})],
    )
    def test_decoders_that_attend_in_both_directions(self, change, model_type, settings):
        with pytest.raises(
            ValueError, match="layer 0 attends in both directions: convolutions in a decoder are causal"
        ):
            change(decoder(model_type, **settings), kernel_size=5)

    def test_layers_that_share_keys_and_values(self):
        settings = {"num_kv_shared_layers": 1, "num_hidden_layers": 4, "global_head_dim": 8}
        types = ["sliding_attention", "full_attention"] * 2
        model = decoder("gemma4_unified_text", layer_types=types, num_global_key_value_heads=2, **settings)
        with pytest.raises(ValueError, match="later layers read the keys and values of layer 1"):
            swap_self_attention(model, layers=[1])
        with pytest.raises(ValueError, match="layer 3 has no keys and values but those of an earlier layer"):
            swap_self_attention(model, layers=[3])
        swap_self_attention(model, layers=[0, 2], kernel_size=5)
        assert torch.equal(generate(model, IDS, LEFT), generate(model, IDS, LEFT, use_cache=False))

    def test_beside_short_convolutions(self):
        with pytest.raises(ValueError, match=r"has short convolutions: .* remove_short_conv first"):
            swap_self_attention(add_short_conv(decoder()))
        with pytest.raises(ValueError, match="layers 1 are swapped"):
            add_short_conv(hybrid(layers=[1]))

    def test_attentions(self):
        with pytest.raises(ValueError, match="swapped layers have no attention to return"):
            hybrid(layers=[0])(IDS, output_attentions=True)
