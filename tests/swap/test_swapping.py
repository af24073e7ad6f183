"""The swap: which layers, which mixer, and that one that cannot work changes nothing and says why."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import transformers
from torch import nn

from seqdyconv import ConvMixer, LightweightConv1d, SelfAttention
from seqdyconv.layers import MIXERS
from seqdyconv.swap import attention_modules, load_swapped, select_layers, swap_self_attention, swapped_attention
from seqdyconv.swap.output_attentions import attention_recorded
from tests.helpers import assert_close
from tests.swap.zoo import CASES, TEXT


def bert(layers=4, **settings):
    torch.manual_seed(0)
    config = transformers.BertConfig(**{**TEXT, "num_hidden_layers": layers, **settings})
    return transformers.BertModel(config).eval()


def state(model):
    """All that a failed swap must leave: modules, weights, hooks and configuration."""
    modules = {name: (module, len(module._forward_pre_hooks)) for name, module in model.named_modules()}
    weights = {name: (id(value), value.clone()) for name, value in model.state_dict(keep_vars=True).items()}
    return modules, weights, model.config.to_dict(), model.training, model.config._attn_implementation


def assert_refused(model, match, **options):
    before = copy.copy(state(model))
    random = torch.get_rng_state()
    with pytest.raises(ValueError, match=match):
        swap_self_attention(model, **options)
    torch.set_rng_state(random)
    modules, weights, *rest = state(model)
    assert modules == before[0] and rest == list(before[2:])
    assert weights.keys() == before[1].keys()
    assert all(
        weights[name][0] == before[1][name][0] and weights[name][1].equal(before[1][name][1]) for name in weights
    )


def layer_id(value):
    return "a function" if callable(value) else str(value)  # not its address: all workers collect the same names


class TestLayers:
    @pytest.mark.parametrize(
        ("layers", "expected"),
        [
            (None, [0, 1, 2, 3, 4, 5]),
            (3, [3]),
            (0, [0]),
            (-1, [5]),
            ([4, 1], [1, 4]),
            ((0, -2), [0, 4]),
            (range(2, 5), [2, 3, 4]),
            ([1, 1], [1]),
            ("2", [2]),
            ("4-5", [4, 5]),
            ("0,2,4-5", [0, 2, 4, 5]),
            (" 1 , 3 - 4 ", [1, 3, 4]),
            ("every 1", [0, 1, 2, 3, 4, 5]),
            ("every 2", [1, 3, 5]),
            ("every 3", [2, 5]),
            (lambda number: number > 3, [4, 5]),
        ],
        ids=layer_id,
    )
    def test_that_are_meant(self, layers, expected):
        assert select_layers(layers, range(6)) == expected

    @pytest.mark.parametrize(
        ("layers", "match"),
        [
            (6, "no layer 6; the layers are 0-5"),
            (-7, "no layer -7; the layers are 0-5"),
            ([0, 6, 9], "no layer 6, 9; the layers are 0-5"),
            ("4-7", "no layer 7; the layers are 0-5"),
            ("0-999999999", "no layer 999999999"),
            ([], "chooses none; the layers are 0-5"),
            (lambda number: False, "chooses none"),
            ("every 7", "chooses none"),
            ("every 0", "numbers and ranges"),
            ("", "numbers and ranges"),
            ("5-4", "numbers and ranges"),
            ("1;2", "numbers and ranges"),
            ("last", "numbers and ranges"),
            (True, "must be ints.*got True"),
            ([0.0], "must be ints.*got 0.0"),
            (["0"], "must be ints.*got '0'"),
        ],
        ids=layer_id,
    )
    def test_that_cannot_be(self, layers, match):
        with pytest.raises(ValueError, match=match):
            select_layers(layers, range(6))
        assert_refused(bert(6), match, layers=layers)

    def test_one_after_the_other(self):
        model = bert()
        swap_self_attention(model, layers=[1], kernel_size=3)
        swap_self_attention(model, layers="3", mixer="lightweight_conv", kernel_size=7)
        assert list(swapped_attention(model)) == [1, 3]
        assert list(attention_modules(model)) == [0, 2]
        layers = model.config.seqdyconv["layers"]
        assert {number: (entry["mixer"], entry["kernel_size"]) for number, entry in layers.items()} == {
            "1": ("dynamic_conv", 3),
            "3": ("lightweight_conv", 7),
        }
        assert_refused(model, "swapped already: 1, 3", layers="0-3")
        assert_refused(model, "swapped already: 1, 3")

    def test_the_same_model_comes_back(self):
        model = bert()
        assert swap_self_attention(model) is model


class TestMixers:
    @pytest.mark.parametrize("mixer", MIXERS)
    def test_every_one_runs(self, mixer):
        model = swap_self_attention(bert(2), mixer=mixer, kernel_size=3)
        outputs = model(torch.randint(4, 40, (2, 7)))
        outputs[0].sum().backward()
        for module in swapped_attention(model).values():
            assert all(value.grad is not None for value in module.mixer.parameters())

    def test_options_reach_the_mixer(self):
        model = swap_self_attention(
            bert(1), mixer="lightweight_conv", kernel_size=4, num_heads=2, glu=True, weight_dropout=0.25, dilation=2
        )
        mixer = swapped_attention(model)[0].mixer
        assert isinstance(mixer, ConvMixer) and mixer.glu
        assert isinstance(mixer.conv, LightweightConv1d)
        assert (mixer.conv.kernel_size, mixer.conv.num_heads, mixer.conv.dilation) == (4, 2, 2)
        assert mixer.conv.weight_dropout == 0.25 and mixer.conv.padding == "same"

    def test_heads_are_those_of_the_attention(self):
        assert swapped_attention(swap_self_attention(bert()))[0].mixer.conv.num_heads == 4
        module = swapped_attention(swap_self_attention(bert(), mixer="self_attention"))[0]
        assert isinstance(module.mixer, SelfAttention) and module.mixer.num_heads == 4

    def test_no_second_output_projection(self):
        module = swapped_attention(swap_self_attention(bert()))[0]
        assert not any(name.startswith("out_proj") for name, _ in module.mixer.named_modules())

    def test_width_of_the_attention(self):
        model = swap_self_attention(CASES["t5"].model())  # 4 heads of 6 in a model of 16
        mixer = swapped_attention(model)[0].mixer
        assert (mixer.dim, mixer.conv.channels) == (16, 24)

    def test_weights_may_be_random(self):
        model = bert()
        value = model.encoder.layer[0].attention.self.value.weight
        assert not swapped_attention(swap_self_attention(model, weights="random"))[0].mixer.in_proj.weight.equal(value)

    def test_weights_are_taken_over(self):
        model = bert()
        value = model.encoder.layer[0].attention.self.value.weight
        assert swapped_attention(swap_self_attention(model))[0].mixer.in_proj.weight.equal(value)

    def test_kernels_start_from_the_attention(self):
        model, batch = bert(2), {"input_ids": torch.randint(4, 40, (4, 9))}
        swap_self_attention(model, layers=[0], kernel_size=5, calibration=[batch])
        swap_self_attention(model, layers=[1], kernel_size=5, calibration=[batch])  # beside a swapped layer
        for module in swapped_attention(model).values():
            assert module.mixer.conv.generator.bias.any() and not module.mixer.conv.generator.weight.any()

    def test_mode_and_dtype_are_those_of_the_model(self):
        model = swap_self_attention(bert().train().double(), layers=[0])
        module = swapped_attention(model)[0]
        assert all(part.training for part in module.modules())
        assert {value.dtype for value in module.state_dict().values()} == {torch.float64}

    def test_new_parameters_are_trained_in_a_frozen_model(self):
        model = swap_self_attention(bert().requires_grad_(False), layers=[0])
        trained = {name for name, value in model.named_parameters() if value.requires_grad}
        assert trained == {name for name, _ in model.named_parameters() if ".mixer." in name}

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"mixer": "attention"}, "mixer must be one of lightweight_conv, dynamic_conv.*got 'attention'"),
            ({"mixer": ["dynamic_conv"]}, "mixer must be one of"),
            ({"kernel_size": 0}, "kernel_size must be an int >= 1, got 0"),
            ({"kernel_size": 2.5}, "kernel_size must be an int >= 1, got 2.5"),
            ({"kernel_size": [3, 5, 7]}, "num_heads must be a multiple of the number of kernel sizes, got 4 heads for"),
            ({"num_heads": 3}, "num_heads must divide channels, got 3 heads and channels=16"),
            ({"num_heads": 0}, "num_heads must be an int >= 1, got 0"),
            ({"num_heads": "4"}, "num_heads must be an int >= 1, got '4'"),
            ({"kernel": 3}, "dynamic_conv has no option kernel in a swap; it has kernel_size,"),
            ({"causal": True}, "dynamic_conv has no option causal"),
            ({"mixer": "self_attention", "weight_dropout": 0.1}, "self_attention has no option weight_dropout"),
            ({"weight_dropout": 2.0}, "weight_dropout must be in"),
            ({"weight_dropout": "0.1"}, "weight_dropout must be a number"),
            ({"weights": "copied"}, "weights must be one of transfer, random, got 'copied'"),
            ({"calibration": []}, "calibration needs at least one batch"),
            ({"mixer": "self_attention", "calibration": [{"input_ids": torch.ones(1, 3).long()}]}, "only kernels"),
            ({"num_heads": 8, "calibration": [{"input_ids": torch.ones(1, 3).long()}]}, "must divide the 4 heads"),
        ],
        ids=str,
    )
    def test_options_that_do_not_work(self, options, match):
        assert_refused(bert(2), match, **options)


class TestModelsThatCannotBeSwapped:
    def test_no_model_of_transformers(self):
        for model in (nn.Linear(2, 2), "bert-base-uncased", bert(1).encoder):
            with pytest.raises(ValueError, match="must be a PreTrainedModel of transformers, got"):
                swap_self_attention(model)

    def test_compiled(self):
        with pytest.raises(ValueError, match="got OptimizedModule: swap before compiling"):
            swap_self_attention(torch.compile(bert(1), backend="eager"))

    def test_a_decoder_of_an_unknown_type(self):
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
        model = transformers.GPT2Model(transformers.GPT2Config(vocab_size=40, **sizes))
        assert_refused(
            model,
            "'gpt2' is in no known family, and no self-attention .* found: no modules of an encoder have query",
        )

    def test_bert_as_a_decoder(self):
        assert_refused(bert(2, is_decoder=True), "layer 0 belongs to a decoder: besides encoders, those of seqdyconv")

    def test_bart_as_a_decoder(self):
        config = CASES["bart"].config()
        config.is_decoder, config.is_encoder_decoder = True, False
        assert_refused(transformers.BartForCausalLM(config), "has no self-attention of an encoder")

    @pytest.mark.parametrize(
        ("name", "pattern"),
        [
            ("bart", "decoder.layers.*.encoder_attn"),
            ("t5", "decoder.block.*.layer.1.EncDecAttention"),
            ("whisper", "decoder.layers.*.encoder_attn"),
        ],
    )
    def test_cross_attention_of_a_decoder(self, name, pattern):
        assert_refused(
            CASES[name].model(), "finds the cross-attention of a decoder, whose keys and values", pattern=pattern
        )

    def test_cross_attention_of_bert(self):
        model = bert(2, is_decoder=True, add_cross_attention=True)
        assert_refused(model, "finds the cross-attention of a decoder", pattern="layer.*.crossattention.self")

    def test_cross_attention_stays(self):
        model = bert(2, is_decoder=True, add_cross_attention=True)
        model.config.is_decoder = False
        assert_refused(model, "belongs to a decoder")

    def test_flex_attention(self):
        model = bert(2)
        model.config._attn_implementation = "flex_attention"
        assert_refused(model, 'attn_implementation="sdpa"')

    def test_masks_of_flex_attention(self):
        module = swapped_attention(swap_self_attention(bert(2)))[0]
        mask = torch.nn.attention.flex_attention.create_block_mask(lambda b, h, q, k: q >= k, 1, 1, 8, 8, device="cpu")
        with pytest.raises(ValueError, match=r'BlockMask, as flex attention has it: load .*attn_implementation="sdpa"'):
            module(torch.randn(1, 8, 16), mask)

    def test_quantised(self):
        model = bert(2)
        model.is_quantized = True
        assert_refused(model, "quantized model")

    def test_projections_that_are_wrapped(self):
        model = bert(2)
        model.encoder.layer[1].attention.self.value = nn.Sequential(model.encoder.layer[1].attention.self.value)
        assert_refused(model, "value of BertSelfAttention is Sequential, not a plain nn.Linear")

    def test_a_mixer_of_another_width(self):
        assert_refused(
            CASES["t5"].model(), "works on 16 channels, but the attention of layer 0 on 24", mixer="self_attention"
        )


class TestOutputAttentions:
    def test_is_refused(self):
        ids = torch.randint(4, 40, (1, 5))
        model = swap_self_attention(bert(2, attn_implementation="eager"), layers=[0])
        for part in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            with pytest.raises(ValueError, match="output_attentions=True: swapped layers have no attention to return"):
                part(ids, output_attentions=True)
        model.config.output_attentions = True
        with pytest.raises(ValueError, match="output_attentions=True"):
            model(ids)
        assert model(ids, output_attentions=False)[0].shape == (1, 5, 16)

    def test_is_refused_while_another_thread_records_attention(self):
        model = swap_self_attention(bert(2, attn_implementation="eager"), layers=[0])
        with attention_recorded(), ThreadPoolExecutor(1) as pool:
            model(torch.randint(4, 40, (1, 5)), output_attentions=True)
            with pytest.raises(ValueError, match="output_attentions=True"):
                pool.submit(model, torch.randint(4, 40, (1, 5)), output_attentions=True).result()

    def test_is_refused_in_every_model_that_holds_a_swapped_layer(self):
        model = swap_self_attention(CASES["bart"].model(head=True))
        batch = CASES["bart"].batch()
        with pytest.raises(ValueError, match="output_attentions=True"):
            model.get_encoder()(input_ids=batch["input_ids"], output_attentions=True)
        with pytest.raises(ValueError, match="output_attentions=True"):
            model.generate(batch["input_ids"], output_attentions=True, return_dict_in_generate=True, max_new_tokens=2)

    def test_hidden_states_are_all_there(self):
        ids = torch.randint(4, 40, (1, 5))
        assert len(swap_self_attention(bert(3))(ids, output_hidden_states=True).hidden_states) == 4


class TestCallsThatAreNotOfAnEncoder:
    @pytest.mark.parametrize("name", ["encoder_hidden_states", "past_key_values", "cache", "is_causal"])
    def test_raise(self, name):
        module = swapped_attention(swap_self_attention(bert(1)))[0]
        with pytest.raises(ValueError, match=f"can't use {name}"):
            module(torch.randn(1, 4, 16), **{name: True})
        module(torch.randn(1, 4, 16), **{name: None})

    def test_masks_of_other_names_raise(self):
        module = swapped_attention(swap_self_attention(CASES["bert"].model()))[0]
        hidden, mask = torch.randn(1, 4, 16), torch.ones(1, 4)
        module(hidden, head_mask=mask, attn_mask=None)
        with pytest.raises(ValueError, match="reads padding from attention_mask, and can't use key_padding_mask"):
            module(hidden, key_padding_mask=mask)

    @pytest.mark.parametrize(
        ("mask", "match"),
        [
            (torch.ones(1, 4, 4), r"reads the padding from a mask \(B, T\), .* got \(1, 4, 4\)"),
            (torch.ones(1, 1, 2, 2, 6), r"got \(1, 1, 2, 2, 6\)"),
            (False, "can't read the padding from a bool$"),
        ],
        ids=["queries", "blocks", "bool"],
    )
    def test_masks_of_other_kinds_raise(self, mask, match):
        module = swapped_attention(swap_self_attention(CASES["bert"].model()))[0]
        with pytest.raises(ValueError, match=match):
            module(torch.randn(1, 4, 16), mask)

    def test_other_names_of_the_hidden_states_raise(self):
        module = swapped_attention(swap_self_attention(CASES["bert"].model()))[0]
        with pytest.raises(ValueError, match="mixes hidden_states, but gets query, key"):
            module(query=torch.randn(1, 4, 16), key=None)

    def test_sequences_packed_in_one_row_are_refused(self):
        module = swapped_attention(swap_self_attention(bert(1)))[0]
        with pytest.raises(ValueError, match="can't tell sequences packed in one row apart by cu_seq_lens_q: pad them"):
            module(torch.randn(1, 4, 16), cu_seq_lens_q=torch.tensor([0, 1, 4]))
        with pytest.raises(ValueError, match=r"mixes \(batch, time, channels\), but gets \(2, 3, 4, 16\)"):
            module(torch.randn(2, 3, 4, 16))

    def test_hidden_states_may_be_a_keyword(self):
        module = swapped_attention(swap_self_attention(bert(1)))[0]
        hidden = torch.randn(1, 4, 16)
        assert torch.equal(module(hidden_states=hidden)[0], module(hidden)[0])


class TestUnknownFamilies:
    def splinter(self):
        torch.manual_seed(0)
        return transformers.SplinterModel(transformers.SplinterConfig(**TEXT)).eval()

    def clip(self):
        sizes = {**TEXT, "image_size": 12, "patch_size": 4}
        torch.manual_seed(0)
        return transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**sizes)).eval()

    def test_raise_with_what_was_found(self):
        sizes = {**TEXT, "embedding_size": 16, "intra_bottleneck_size": 8, "true_hidden_size": 8}
        assert_refused(
            transformers.MobileBertModel(transformers.MobileBertConfig(**sizes)),
            r"'mobilebert' is in no known family, and no self-attention that can be swapped was found: "
            r"'encoder.layer.\*.attention.self' mixes query_tensor, key_tensor, value_tensor, attention_mask, not ",
        )

    def test_with_several_stacks_are_asked_which(self):
        config = transformers.CLIPConfig(text_config=TEXT, vision_config={**TEXT, "image_size": 12, "patch_size": 4})
        assert_refused(
            transformers.CLIPModel(config),
            r"several self-attentions: choose one with pattern=, of 'text_model.encoder.layers.\*.self_attn' \(2\), "
            r"'vision_model.encoder.layers.\*.self_attn' \(2\)$",
        )

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (lambda module: setattr(module, "is_causal", True), "'encoder.layer.. belongs to a decoder"),
            (lambda module: module.add_module("conv", nn.Conv1d(16, 16, 3)), "also holds conv"),
            (lambda module: module.add_module("layer_norm", nn.LayerNorm(16)), "also holds layer_norm"),
        ],
        ids=["causal", "a convolution", "a norm"],
    )
    def test_are_not_taken_for_what_they_are_not(self, change, match):
        model = self.splinter()
        for layer in model.encoder.layer:
            change(layer.attention.self)
        assert_refused(model, match.replace("layer..", r"layer.\*.attention.self'"))

    @pytest.mark.parametrize("pattern", [None, "encoder.layer.*.attention.self", "layer.*.attention.self"])
    def test_are_named_by_a_pattern(self, pattern):
        model, ids = self.splinter(), torch.randint(4, 40, (2, 7))
        mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
        expected = model(ids, attention_mask=mask)[0]
        swap_self_attention(model, mixer="self_attention", pattern=pattern)
        assert_close(model(ids, attention_mask=mask)[0][mask > 0], expected[mask > 0], 1e-5)
        assert list(swapped_attention(model)) == [0, 1]

    def test_are_swapped_layer_by_layer(self):
        model, ids = self.splinter(), torch.randint(4, 40, (2, 7))
        swap_self_attention(model, pattern="layer.*.attention.self", layers=[1], kernel_size=3)
        assert_refused(model, "layers of 'layer.*.attention.self' are swapped already", pattern="attention.self")
        assert_refused(model, "swapped already: 1", pattern="layer.*.attention.self", layers=[1])
        swap_self_attention(model, pattern="layer.*.attention.self", layers=[0], kernel_size=3)
        short = model(ids[:, :4])[0]
        mask = torch.tensor([[1] * 4 + [0] * 3] * 2)
        assert_close(model(ids, attention_mask=mask)[0][:, :4], short, 1e-5)

    def test_hidden_states_by_keyword(self):
        model, images = self.clip(), CASES["vit"].batch()
        expected = model(**images)[0]
        swap_self_attention(model, mixer="self_attention", pattern="encoder.layers.*.self_attn")
        assert_close(model(**images)[0], expected, 1e-5)

    def test_results_are_as_many_as_the_module_returns(self):
        class Attention(nn.Module):
            num_heads = 4

            def __init__(self, returned):
                super().__init__()
                self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(16, 16) for _ in range(4))
                self.returned = returned

            def forward(self, hidden_states, mask=None):
                hidden_states = self.out_proj(self.v_proj(hidden_states))
                return (hidden_states, None, None)[: self.returned] if self.returned else hidden_states

        hidden = torch.randn(1, 4, 16)
        for returned in (0, 1, 3):
            model = self.splinter()
            for layer in model.encoder.layer:
                layer.attention.self = Attention(returned)
            swap_self_attention(model, pattern="attention.self", kernel_size=3)
            results = swapped_attention(model)[1](hidden)
            assert torch.is_tensor(results) if returned == 0 else len(results) == returned

    @pytest.mark.parametrize(
        ("pattern", "match"),
        [
            ("encoder.block.*.attention", "has no self-attention of an encoder.*look like it: 'encoder.layer"),
            ("layer.*.output", "whose query, key, value and output projections are not told by their names: dense"),
            ("layer.*.attention", "SplinterAttention, whose query, key, value"),
            ("layer(.*)self", "pattern is the end of a module's name with . for numbers, got"),
        ],
    )
    def test_patterns_that_do_not_work(self, pattern, match):
        assert_refused(self.splinter(), match, pattern=pattern)

    @pytest.mark.parametrize(
        ("name", "settings", "pattern", "match"),
        [
            # Layers that still attend would go on without their position bias.
            (
                "LongT5",
                {
                    "vocab_size": 40,
                    "d_model": 16,
                    "d_kv": 4,
                    "d_ff": 24,
                    "num_layers": 2,
                    "num_heads": 4,
                    "num_decoder_layers": 1,
                },
                "encoder.block.*.layer.0.LocalSelfAttention",
                "LongT5LocalAttention hands its position bias on to others.* families t5, wavlm alone",
            ),
            (
                "MobileBert",
                {**TEXT, "embedding_size": 16, "intra_bottleneck_size": 8, "true_hidden_size": 8},
                "encoder.layer.*.attention.self",
                "query of layer 0 reads 8 channels and value 16",
            ),
        ],
        ids=lambda value: value if isinstance(value, str) and value.isalnum() else "",
    )
    def test_that_would_not_work_unnoticed(self, name, settings, pattern, match):
        model = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**settings))
        assert_refused(model, match, pattern=pattern, layers=[0])

    @pytest.mark.parametrize("name", ["Ernie", "LayoutLM", "Esm", "RoFormer", "MegatronBert", "EuroBert"])
    def test_real_steps_do_not_depend_on_padding(self, name, tmp_path):
        torch.manual_seed(0)
        settings = {**TEXT, "token_dropout": False} if name == "Esm" else TEXT
        model = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**settings)).eval()
        pattern = "layers.*.self_attn" if name == "EuroBert" else "encoder.layer.*.attention.self"
        swap_self_attention(model, pattern=pattern, kernel_size=5)
        ids, mask = torch.randint(4, 40, (2, 7)), torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
        outputs = model(ids.masked_fill(mask == 0, 1), attention_mask=mask)[0]
        assert_close(outputs[1:, :4], model(ids[1:, :4], attention_mask=mask[1:, :4])[0], 1e-5)
        model.save_pretrained(tmp_path)
        assert torch.equal(load_swapped(tmp_path)(ids.masked_fill(mask == 0, 1), attention_mask=mask)[0], outputs)

    def test_the_encoder_of_two_models(self):
        config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(
            transformers.BertConfig(**TEXT), transformers.BertConfig(**TEXT)
        )
        model = transformers.EncoderDecoderModel(config)
        assert_refused(model, "finds two modules for layer 0", pattern="encoder.layer.*.attention.self")
        assert_refused(model, "belongs to a decoder", pattern="decoder.bert.encoder.layer.*.attention.self")
        swap_self_attention(model, pattern="encoder.encoder.layer.*.attention.self")
        ids = torch.randint(4, 40, (2, 7))
        assert model(ids, decoder_input_ids=ids).logits.isfinite().all()

    def test_a_pattern_that_finds_a_number_twice(self):
        config = transformers.CLIPConfig(
            text_config={**TEXT, "hidden_size": 16}, vision_config={**TEXT, "image_size": 12, "patch_size": 4}
        )
        assert_refused(transformers.CLIPModel(config), "finds two modules for layer 0", pattern="layers.*.self_attn")

    def test_a_causal_encoder_raises_when_it_runs(self):
        model = transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT))
        swap_self_attention(model, pattern="encoder.layers.*.self_attn")
        with pytest.raises(ValueError, match="can't use is_causal"):
            model(torch.randint(4, 40, (1, 5)))

    def test_a_pattern_for_a_known_family_keeps_its_call(self):
        model = CASES["t5"].model()
        batch = CASES["t5"].batch()
        swap_self_attention(model, pattern="encoder.block.*.layer.0.SelfAttention", layers=[0], kernel_size=5)
        other = swap_self_attention(CASES["t5"].model(), layers=[0], kernel_size=5)
        other.load_state_dict(model.state_dict())
        assert torch.equal(model(**batch)[0], other(**batch)[0])
