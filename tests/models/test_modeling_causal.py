"""The language model: what padding, caching, packing, generation, training and saving promise."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DataCollatorWithFlattening,
    DynamicCache,
    Trainer,
    TrainingArguments,
    pipeline,
)

from seqdyconv.models import SeqDyConvCausalLMConfig, SeqDyConvForCausalLM, SeqDyConvModel
from seqdyconv.models.cache import mixer_states
from tests.helpers import assert_all_close, assert_close
from tests.models.test_modeling import pad, sentences
from tests.models.test_packing import LENGTHS, gradients, pack

SMALL = {
    "vocab_size": 50,
    "hidden_size": 16,
    "decoder_kernel_sizes": [4, 7, 15],
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 32,
}
CONFIGS = {
    "dynamic": {},
    "hybrid, learned positions": {
        "decoder_layer_types": ["gated_short_conv", "self_attention", "parallel"],
        "decoder_position_type": "learned",
    },
    "attention, post-norm, short convolutions": {
        "decoder_layer_types": "self_attention",
        "decoder_normalize_before": False,
        "decoder_mixer_options": [None, {"short_conv": "static"}, {"short_conv": "dynamic", "short_conv_size": 3}],
    },
    "hybrid, no positions, an output of its own": {
        "decoder_layer_types": ["lightweight_conv", "self_attention", "dynamic_conv"],
        "decoder_position_type": "none",
        "tie_word_embeddings": False,
        "embedding_size": 8,
    },
}
HYBRID = CONFIGS["hybrid, learned positions"]
DROPOUTS = dict.fromkeys(["dropout", "attention_dropout", "activation_dropout", "input_dropout", "weight_dropout"], 0.2)
every_config = pytest.mark.parametrize("options", CONFIGS.values(), ids=CONFIGS)
both_sides = pytest.mark.parametrize("side", ["left", "right"])


def build(dtype: torch.dtype = torch.float64, **options) -> SeqDyConvForCausalLM:
    """A small model whose weights are large enough to make every part count."""
    torch.manual_seed(0)
    model = SeqDyConvForCausalLM(SeqDyConvCausalLMConfig(**(SMALL | options))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    return model.to(dtype)


class TestPadding:
    @every_config
    @both_sides
    @pytest.mark.parametrize("filler", [-100, 7], ids=["padding has no labels", "labels are the tokens"])
    def test_logits_and_loss_are_those_of_each_text_alone(self, options, side, filler):
        model, texts = build(**options), sentences(9, 4, 1, 2)
        tokens, mask = pad(texts, side, extra=3, filler=7)
        output = model(tokens, mask, labels=tokens.masked_fill(mask == 0, filler))
        alone = [model(text[None], labels=text[None]) for text in texts]
        for row, real, one in zip(output.logits, mask, alone):
            assert_close(row[real == 1], one.logits[0])
        counts = [len(text) - 1 for text in texts]
        assert_close(output.loss, sum(one.loss * n for one, n in zip(alone, counts)) / sum(counts))

    @every_config
    @pytest.mark.parametrize("beams", [1, 3])
    def test_prompts_of_a_batch_go_on_as_each_alone(self, options, beams):
        model, prompts = build(**options), sentences(6, 2, 1)
        settings = {"max_new_tokens": 7, "num_beams": beams, "do_sample": False}
        tokens, mask = pad(prompts, "left", extra=2)
        batch = model.generate(tokens, attention_mask=mask, **settings)
        for row, prompt in zip(batch[:, tokens.shape[1] :], prompts):
            expected = model.generate(prompt[None], **settings)[0, len(prompt) :]
            assert row[: len(expected)].tolist() == expected.tolist()
            assert set(row[len(expected) :].tolist()) <= {model.config.pad_token_id}

    def test_a_mask_of_another_shape_is_refused(self):
        tokens, mask = pad(sentences(5))
        with pytest.raises(ValueError, match=r"^attention_mask must be \(B, T\) = \(1, 5\), got \(1, 4\)"):
            build()(tokens, mask[:, 1:])

    def test_a_row_of_padding_gives_finite_numbers_in_bfloat16(self):
        tokens, mask = pad(sentences(5, 5), "left")
        mask[1] = 0
        output = build(torch.bfloat16, **HYBRID)(tokens, mask, labels=tokens)
        assert output.logits.isfinite().all() and output.loss.isfinite()


class TestCache:
    @every_config
    @both_sides
    def test_decoding_in_chunks_equals_the_full_forward(self, options, side):
        model, prompts, following = build(**options), sentences(6, 2, 1), torch.stack(sentences(5, 5, 5))
        prompt, mask = pad(prompts, side, filler=9)
        cache, logits = model(prompt, mask).cache, []
        for chunk in following.split([1, 3, 1], dim=1):
            mask = torch.cat([mask, torch.ones_like(chunk)], dim=1)
            logits.append(model(chunk, mask, cache=cache).logits)
        for row, begun, more in zip(torch.cat(logits, dim=1), prompts, following):
            assert_close(row, model(torch.cat([begun, more])[None]).logits[0, -5:])
        assert cache.get_seq_length() == 11

    @every_config
    def test_reordering_swaps_the_texts(self, options):
        model, tokens, order = build(**options), torch.stack(sentences(8, 8, 8)), torch.tensor([2, 0, 0])
        cache = model(tokens[:, :6]).cache
        cache.reorder_cache(order)
        assert_close(model(tokens[order, 6:], cache=cache).logits, model(tokens[order]).logits[:, 6:])

    @every_config
    @pytest.mark.parametrize(
        "settings",
        [
            {"do_sample": False},
            {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.6},
            {"do_sample": True, "top_k": 10},
        ],
        ids=["greedy", "beam", "sampling"],
    )
    def test_generate_gives_the_same_tokens_with_and_without_it(self, options, settings):
        model, results = build(**options), []
        tokens, mask = pad(sentences(5, 3), "left")
        for use_cache in (True, False):
            torch.manual_seed(5)
            generated = model.generate(tokens, attention_mask=mask, max_new_tokens=6, use_cache=use_cache, **settings)
            results.append(generated.tolist())
        assert results[0] == results[1]

    def test_a_text_goes_on_from_the_cache_of_its_beginning(self):
        model, tokens = build(**HYBRID), torch.stack(sentences(9, 9))
        cache = model(tokens[:, :6]).cache
        settings = {"max_new_tokens": 4, "do_sample": False}
        assert model.generate(tokens, cache=cache, **settings).equal(model.generate(tokens, **settings))

    def test_a_convolution_keeps_as_many_inputs_as_its_kernel_reaches_back(self):
        cache = build()(torch.stack(sentences(40))).cache
        assert [kept.state.shape[1] for kept in mixer_states(cache)] == [k - 1 for k in SMALL["decoder_kernel_sizes"]]

    def test_one_of_keys_and_values_is_refused(self):
        with pytest.raises(ValueError, match=r"cache must be one that this model returned.* got a DynamicCache"):
            build()(torch.stack(sentences(4)), cache=DynamicCache())

    def test_decoding_with_an_assistant_is_refused(self):
        with pytest.raises(ValueError, match="assisted generation is not supported with stateful models"):
            build().generate(torch.stack(sentences(4)), assistant_model=build(), max_new_tokens=2)


class TestPacking:
    @every_config
    def test_logits_loss_and_gradients_are_those_of_each_text_alone(self, options):
        model, texts = build(**options), sentences(*LENGTHS)
        packed = model(**pack(texts), labels=torch.cat(texts)[None], output_hidden_states=True)
        alone = [model(text[None], labels=text[None]) for text in texts]
        loss = sum(one.loss * (len(text) - 1) for one, text in zip(alone, texts)) / sum(n - 1 for n in LENGTHS)
        assert_close(packed.logits[0], torch.cat([one.logits[0] for one in alone]))
        assert len(packed.hidden_states) == 4 and packed.cache is None
        assert_close(packed.loss, loss)
        assert_all_close(gradients(packed.loss, model), gradients(loss, model), 1e-10)

    @pytest.mark.parametrize(
        "options",
        [{}, {"return_flash_attn_kwargs": True}, {"return_seq_idx": True, "return_position_ids": False}],
        ids=["positions", "lengths", "numbers"],
    )
    def test_rows_of_transformers_are_packed_texts(self, options):
        model, texts = build(**HYBRID), sentences(*LENGTHS)
        batch = DataCollatorWithFlattening(**options)([{"input_ids": text.tolist()} for text in texts])
        expected = model(**pack(texts), labels=torch.cat(texts)[None])
        output = model(**batch)
        assert_close(output.logits, expected.logits)
        assert_close(output.loss, expected.loss)

    def test_the_decoder_by_itself_makes_no_cache_of_them(self):
        model, packed = build(), pack(sentences(5, 3))
        output = model.decoder(**packed)
        assert output.cache is None
        assert_close(model.lm_head(output.last_hidden_state), model(**packed).logits)
        with pytest.raises(ValueError, match=r"packed sequences are told by cu_seqlens .*, got cu_seq_lens_q"):
            model.decoder(packed["input_ids"], cu_seq_lens_q=packed["cu_seqlens"])

    def test_a_cache_or_a_mask_is_refused(self):
        packed = pack(sentences(5, 3))
        with pytest.raises(ValueError, match="packed sequences are for training"):
            build()(**packed, use_cache=True)
        with pytest.raises(ValueError, match=r"packed sequences are for training.* generate\(\)"):
            build().generate(**packed, max_new_tokens=3)
        with pytest.raises(ValueError, match="attention_mask and cu_seqlens exclude each other"):
            build()(**packed, attention_mask=torch.ones(1, 8))


class TestTraining:
    def test_the_loss_is_that_of_the_next_tokens(self):
        model, tokens = build(), torch.stack(sentences(6, 6))
        labels = tokens.clone()
        labels[0, 2] = labels[1, 0] = -100
        output = model(tokens, labels=labels)
        costs = [
            -output.logits[row, step - 1].log_softmax(-1)[tokens[row, step]]
            for row in range(2)
            for step in range(1, 6)
            if (row, step) != (0, 2)
        ]
        assert_close(output.loss, torch.stack(costs).mean())
        assert_close(model(tokens, labels=labels, num_items_in_batch=4).loss, torch.stack(costs).sum() / 4)
        assert output.cache is None

    def test_one_token_has_nothing_before_it(self):
        assert build()(torch.tensor([[5]]), labels=torch.tensor([[5]])).loss == 0

    @every_config
    def test_every_parameter_gets_the_same_gradient_with_activation_checkpointing(self, options):
        tokens, found = torch.stack(sentences(6, 6)), []
        for checkpointing in (False, True):
            model = build(**options, **DROPOUTS).train()
            if checkpointing:
                model.activation_checkpointing_enable()
            model(tokens, labels=tokens).loss.backward()  # build() seeds, so both drop the same
            found.append({name: parameter.grad for name, parameter in model.named_parameters()})
        assert all(gradient is not None for gradient in found[0].values())
        torch.testing.assert_close(found[0], found[1])

    @pytest.mark.parametrize("options", [{}, HYBRID], ids=["convolutions", "hybrid"])
    def test_activation_checkpointing_goes_without_a_cache(self, options):
        model, tokens = build(**options).train(), torch.stack(sentences(6, 6))
        model.activation_checkpointing_enable()
        with torch.no_grad():
            cache = model(tokens).cache
        assert cache.get_seq_length() == 6 and model(tokens).cache is None
        with pytest.raises(ValueError, match=r"activation checkpointing .* train without a cache"):
            model(tokens, cache=cache)

    def test_the_trainer_learns_alike_from_whole_and_accumulated_packed_rows(self, tmp_path):
        found = []
        for rows, steps in ((4, 1), (1, 4)):
            model = build(dropout=0.0)
            arguments = TrainingArguments(
                tmp_path,
                max_steps=1,
                per_device_train_batch_size=rows,
                gradient_accumulation_steps=steps,
                optim="sgd",
                learning_rate=0.1,
                report_to="none",
                use_cpu=True,
            )
            data = [{"input_ids": text.tolist()} for text in sentences(9, 4, 2, 7)]
            Trainer(model, arguments, train_dataset=data, data_collator=DataCollatorWithFlattening()).train()
            found.append(dict(model.named_parameters()))
        assert_all_close(*found, 1e-10)
        assert not found[0]["decoder.embedding.tokens.weight"].equal(build().get_input_embeddings().weight)


class TestInputs:
    def test_rows_of_the_embedding_table_stand_for_tokens(self):
        model, tokens = build(**HYBRID), torch.stack(sentences(6, 6))
        rows = model.get_input_embeddings()(tokens)
        assert_close(model(inputs_embeds=rows).logits, model(tokens).logits)
        generated = model.generate(inputs_embeds=rows, max_new_tokens=4, do_sample=False)
        assert generated.equal(model.generate(tokens, max_new_tokens=4, do_sample=False)[:, 6:])

    def test_neither_or_both_are_refused(self):
        with pytest.raises(ValueError, match="decoder needs input_ids or inputs_embeds, got neither"):
            build()()
        with pytest.raises(ValueError, match="decoder needs input_ids or inputs_embeds, got both"):
            build()(torch.tensor([[5]]), inputs_embeds=torch.zeros(1, 1, 16))

    @pytest.mark.parametrize("kept", [1, 3, torch.tensor([0, 4])], ids=str)
    def test_logits_of_some_steps(self, kept):
        model, tokens = build(), torch.stack(sentences(6, 6))
        steps = kept if isinstance(kept, Tensor) else slice(-kept, None)
        assert_close(model(tokens, logits_to_keep=kept).logits, model(tokens).logits[:, steps])

    @pytest.mark.parametrize("kept", [2, torch.tensor([0, 2])], ids=str)
    def test_labels_without_logits_of_all_steps_are_refused(self, kept):
        tokens = torch.stack(sentences(4))
        with pytest.raises(ValueError, match=r"labels need the logits of all steps, logits_to_keep=0, got "):
            build()(tokens, labels=tokens, logits_to_keep=kept)

    def test_attention_maps_are_refused(self):
        with pytest.raises(ValueError, match="output_attentions=True is not supported"):
            build()(torch.tensor([[5]]), output_attentions=True)

    def test_learned_positions_end(self):
        model = build(**HYBRID, max_position_embeddings=8)
        with pytest.raises(ValueError, match="max_position_embeddings = 8, got a sequence of 9 tokens"):
            model(torch.full((1, 9), 5))


class TestSaving:
    @every_config
    def test_the_auto_class_loads_what_was_saved(self, options, tmp_path):
        model, tokens = build(torch.float32, **options), torch.stack(sentences(6, 6))
        model.save_pretrained(tmp_path)
        loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info.values()), info
        assert AutoConfig.from_pretrained(tmp_path).to_diff_dict() == model.config.to_diff_dict()
        assert torch.equal(loaded(tokens).logits, model(tokens).logits)

    def test_the_output_is_tied_or_not(self):
        model = build()
        assert model.lm_head.weight is model.get_input_embeddings().weight
        assert build(tie_word_embeddings=False).lm_head.weight.shape == (50, 16)

    def test_it_has_no_encoder(self):
        with pytest.raises(ValueError, match="a language model has no encoder: load it with AutoModelForCausalLM"):
            SeqDyConvModel(SeqDyConvCausalLMConfig(**SMALL))
        assert not any("encoder" in name or "cross" in name for name in build().state_dict())
        with pytest.raises(ValueError, match="has no encoder and takes no encoder_hidden_states"):
            build().decoder(torch.tensor([[5]]), torch.zeros(1, 2, 16))

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"is_encoder_decoder": True}, "a language model has no encoder"),
            ({"encoder_vocab_size": 7}, "a language model has no encoder"),
            ({"decoder_layer_types": "fourier"}, "decoder_layer_types must be of .*dynamic_conv.*, got fourier"),
            ({"decoder_attention_heads": 3}, "decoder_attention_heads must divide .* got 3 heads for 16 and 16$"),
            ({"embedding_size": 8}, "embedding_size=8 with hidden_size=16 needs tie_word_embeddings=False"),
        ],
        ids=str,
    )
    def test_options_that_cannot_be(self, options, message):
        with pytest.raises(StrictDataclassError, match=message):
            SeqDyConvCausalLMConfig(**SMALL | options)

    def test_options_of_an_encoder_are_not_looked_at(self):
        assert SeqDyConvCausalLMConfig(**SMALL, encoder_attention_heads=5).encoder_attention_heads == 5


def test_forward_and_loss_compile_into_one_graph():
    torch._dynamo.reset()
    model, (tokens, mask) = build(**HYBRID), pad(sentences(9, 4), "left")

    def run(tokens, mask):
        output = model(tokens, mask, labels=tokens)
        return output.logits, output.loss

    for actual, expected in zip(
        torch.compile(run, backend="aot_eager", fullgraph=True)(tokens, mask), run(tokens, mask)
    ):
        torch.testing.assert_close(actual, expected)


def test_the_pipeline_goes_on_with_texts(tmp_path):
    from seqdyconv.data.sentencepiece_tokenizers import train_sentencepiece_tokenizer

    tokenizer = train_sentencepiece_tokenizer(["Click the icon.", "The document is saved."] * 3, vocab_size=280)
    build(torch.float32, vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    generate = pipeline("text-generation", model=str(tmp_path), device="cpu")
    texts = ["Click the", "The document is"]
    settings = {"max_new_tokens": 5, "do_sample": False, "return_full_text": False}
    alone = [generate(text, **settings) for text in texts]
    assert all(isinstance(result[0]["generated_text"], str) for result in alone)
    assert generate(texts, **settings, batch_size=2) == alone
