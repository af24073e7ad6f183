"""The translation model: what padding, caching, generation, saving and exporting promise."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForSeq2SeqLM, GenerationConfig, pipeline

from seqdyconv.models import SeqDyConvConfig, SeqDyConvForConditionalGeneration
from seqdyconv.models.cache import decoder_cache
from seqdyconv.models.export import DecoderStepProgram, EncoderProgram, export_decoder_step, export_encoder
from tests.helpers import assert_close

SMALL = {
    "vocab_size": 50,
    "hidden_size": 16,
    "encoder_kernel_sizes": [3, 7],
    "decoder_kernel_sizes": [4, 7, 15],
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
}
SEPARATE = {"share_encoder_decoder_embeddings": False}
CONFIGS = {
    "dynamic": {},
    "lightweight, pre-norm": {
        "encoder_layer_types": "lightweight_conv",
        "decoder_layer_types": "lightweight_conv",
        "encoder_normalize_before": True,
        "decoder_normalize_before": True,
    },
    "mixed, learned positions": {
        "encoder_layer_types": ["self_attention", "dynamic_conv"],
        "decoder_layer_types": ["dynamic_conv", "self_attention", "parallel"],
        "encoder_position_type": "learned",
        "decoder_position_type": "learned",
    },
    "narrow, no GLU, no positions, two vocabularies": {
        **SEPARATE,
        "encoder_vocab_size": 60,
        "encoder_conv_dim": 8,
        "decoder_conv_dim": 24,
        "encoder_glu": False,
        "decoder_glu": False,
        "encoder_position_type": "none",
        "decoder_position_type": "none",
    },
    "parallel, pre-norm": {
        "encoder_layer_types": ["parallel", "dynamic_conv"],
        "decoder_layer_types": "parallel",
        "decoder_normalize_before": True,
    },
    "attention, nothing shared": {
        **SEPARATE,
        "tie_word_embeddings": False,
        "encoder_layer_types": "self_attention",
        "decoder_layer_types": "self_attention",
    },
}
every_config = pytest.mark.parametrize("options", CONFIGS.values(), ids=CONFIGS.keys())


def build(dtype: torch.dtype = torch.float64, **options) -> SeqDyConvForConditionalGeneration:
    """A small model whose weights are large enough to make every part count."""
    torch.manual_seed(0)
    model = SeqDyConvForConditionalGeneration(SeqDyConvConfig(**(SMALL | options))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    return model.to(dtype)


def sentences(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(4, 50, (length,), generator=generator) for length in lengths]


def pad(rows: list[torch.Tensor], side: str = "right", extra: int = 0, filler: int = 1):
    """Tokens and attention mask of a batch, (B, T)."""
    longest = max(map(len, rows)) + extra
    tokens = torch.full((len(rows), longest), filler)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for index, row in enumerate(rows):
        where = slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)
        tokens[index, where], mask[index, where] = row, 1
    return tokens, mask


class TestPadding:
    @every_config
    @pytest.mark.parametrize("side", ["left", "right"])
    def test_the_logits_of_real_tokens_do_not_depend_on_padding_or_batch_mates(self, options, side):
        model = build(**options)
        sources, targets = sentences(9, 4, 1), sentences(6, 11, 2)
        source, source_mask = pad(sources, side, extra=3, filler=7)
        target, target_mask = pad(targets, side, extra=2, filler=8)
        logits = model(source, source_mask, decoder_input_ids=target, decoder_attention_mask=target_mask).logits
        for index in range(3):
            alone = model(sources[index][None], decoder_input_ids=targets[index][None]).logits[0]
            torch.testing.assert_close(logits[index, target_mask[index] == 1], alone, rtol=0, atol=1e-10)

    @every_config
    @pytest.mark.parametrize("side", ["left", "right"])
    @pytest.mark.parametrize("beams", [1, 3])
    def test_generate_gives_each_sentence_of_a_batch_what_it_gives_it_alone(self, options, side, beams):
        model = build(**options)
        sources = sentences(9, 4, 1)
        source, mask = pad(sources, side, extra=2, filler=7)
        settings = {"max_new_tokens": 8, "num_beams": beams, "do_sample": False}
        batch = model.generate(source, attention_mask=mask, **settings)
        for row, alone in zip(batch, sources):
            expected = model.generate(alone[None], **settings)[0]
            assert row[: len(expected)].tolist() == expected.tolist()
            assert set(row[len(expected) :].tolist()) <= {model.config.pad_token_id}

    @every_config
    def test_a_source_of_nothing_but_padding_gives_finite_numbers_in_bfloat16(self, options):
        model = build(torch.bfloat16, **options)
        source, mask = pad(sentences(5, 5))
        mask[1] = 0
        assert model(source, mask, labels=source).logits.isfinite().all()

    def test_a_mask_of_another_shape_is_refused(self):
        source, mask = pad(sentences(5))
        with pytest.raises(ValueError, match=r"attention_mask must be \(B, T\) = \(1, 5\), got \(1, 4\)"):
            build()(source, mask[:, 1:], labels=source)


class TestCache:
    @every_config
    def test_decoding_in_chunks_equals_the_full_forward(self, options):
        model = build(**options)
        source, mask = pad(sentences(9, 4))
        target = torch.stack(sentences(12, 12))
        full = model(source, mask, decoder_input_ids=target).logits
        cache, parts = None, []
        for chunk in target.split([4, 1, 2, 1, 1, 3], dim=1):
            output = model(source, mask, decoder_input_ids=chunk, cache=cache, use_cache=True)
            cache = output.cache
            parts.append(output.logits)
        torch.testing.assert_close(torch.cat(parts, dim=1), full, rtol=0, atol=1e-10)

    @every_config
    @pytest.mark.parametrize("side", ["left", "right"])
    def test_prompts_of_different_lengths_go_on_as_each_alone(self, options, side):
        model = build(**options)
        source, source_mask = pad(sentences(5, 5, 5))
        prompts, following = sentences(6, 2, 1), torch.stack(sentences(3, 3, 3))
        prompt, mask = pad(prompts, side, filler=9)
        cache = model(source, source_mask, decoder_input_ids=prompt, decoder_attention_mask=mask).cache
        logits = []
        for step in range(3):
            mask = torch.cat([mask, torch.ones(3, 1, dtype=torch.long)], dim=1)
            output = model(
                source,
                source_mask,
                decoder_input_ids=following[:, step : step + 1],
                decoder_attention_mask=mask,
                cache=cache,
            )
            logits.append(output.logits)
        for index in range(3):
            alone = torch.cat([prompts[index], following[index]])[None]
            expected = model(source[index][None], decoder_input_ids=alone).logits[0, -3:]
            torch.testing.assert_close(torch.cat(logits, dim=1)[index], expected, rtol=0, atol=1e-10)

    @every_config
    def test_reordering_swaps_the_sentences(self, options):
        model = build(**options)
        source, mask = pad(sentences(9, 4, 6))
        target = torch.stack(sentences(8, 8, 8))
        order = torch.tensor([2, 0, 0])
        cache = model(source, mask, decoder_input_ids=target[:, :6]).cache
        cache.reorder_cache(order)
        rest = model(source[order], mask[order], decoder_input_ids=target[order, 6:], cache=cache).logits
        full = model(source[order], mask[order], decoder_input_ids=target[order]).logits
        torch.testing.assert_close(rest, full[:, 6:], rtol=0, atol=1e-10)

    @every_config
    @pytest.mark.parametrize(
        "settings",
        [
            {"do_sample": False},
            {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.6},
            {"do_sample": True, "top_k": 10},
            {"do_sample": False, "repetition_penalty": 1.3, "min_new_tokens": 5},
        ],
        ids=["greedy", "beam", "sampling", "penalty"],
    )
    def test_generate_gives_the_same_tokens_with_and_without_it(self, options, settings):
        model = build(**options)
        source, mask = pad(sentences(9, 4))
        results = []
        for use_cache in (True, False):
            torch.manual_seed(5)
            generated = model.generate(source, attention_mask=mask, max_new_tokens=8, use_cache=use_cache, **settings)
            results.append(generated.tolist())
        assert results[0] == results[1]

    def test_a_convolution_keeps_as_many_inputs_as_its_kernel_reaches_back(self):
        model = build()
        cache = model(*pad(sentences(5)), decoder_input_ids=torch.stack(sentences(40))).cache
        sizes = [layer.state.shape[1] for layer in cache.self_attention_cache.layers]
        assert sizes == [kernel - 1 for kernel in SMALL["decoder_kernel_sizes"]]
        assert cache.get_seq_length() == 40

    def test_an_empty_one_has_no_steps_and_reorders(self):
        cache = decoder_cache(2)
        cache.self_attention_cache.reorder_cache(torch.tensor([0]))
        assert cache.get_seq_length() == 0


class TestEncoderOutputs:
    @pytest.mark.parametrize("return_dict", [True, False])
    def test_those_of_an_earlier_call_stand_for_the_source(self, return_dict):
        model, tokens = build(), torch.stack(sentences(4, 4))
        encoded = model.encoder(tokens, return_dict=return_dict)
        expected = model(tokens, decoder_input_ids=tokens).logits
        assert_close(model(encoder_outputs=encoded, decoder_input_ids=tokens).logits, expected)


class TestRowsOfTheEmbeddingTables:
    @pytest.mark.parametrize("options", [{}, CONFIGS["attention, nothing shared"]], ids=["shared", "own"])
    def test_they_stand_for_tokens_on_either_side(self, options):
        model, source, target = build(**options), torch.stack(sentences(5, 5)), torch.stack(sentences(3, 3))
        sources, targets = model.encoder.embedding.tokens(source), model.decoder.embedding.tokens(target)
        expected = model(source, decoder_input_ids=target, labels=target)
        output = model(inputs_embeds=sources, decoder_inputs_embeds=targets, labels=target)
        assert_close(output.logits, expected.logits)
        assert_close(output.loss, expected.loss)
        generated = model.generate(inputs_embeds=sources, max_new_tokens=4, num_beams=2)
        assert generated.equal(model.generate(source, max_new_tokens=4, num_beams=2))

    def test_both_are_refused(self):
        model, tokens = build(), torch.stack(sentences(5))
        rows = model.get_input_embeddings()(tokens)
        with pytest.raises(ValueError, match="the decoder needs input_ids or inputs_embeds, got both"):
            model(tokens, decoder_input_ids=tokens, decoder_inputs_embeds=rows)
        with pytest.raises(ValueError, match="the encoder needs input_ids or inputs_embeds, got both"):
            model(tokens, inputs_embeds=rows, labels=tokens)


class TestTraining:
    def test_the_loss_is_the_mean_over_labels_that_count(self):
        model = build()
        source, mask = pad(sentences(5, 3))
        labels = torch.stack(sentences(6, 6))
        labels[1, 2:] = -100
        output = model(source, mask, labels=labels)
        chosen = output.logits.log_softmax(-1).gather(2, labels.clamp(min=0)[..., None])[..., 0][labels != -100]
        torch.testing.assert_close(output.loss, -chosen.mean())
        assert output.cache is None

    def test_parts_of_a_batch_add_up_when_the_number_of_items_is_given(self):
        model = build()
        source, mask = pad(sentences(5, 3))
        labels = torch.stack(sentences(6, 6))
        labels[1, 2:] = -100
        whole = model(source, mask, labels=labels).loss
        parts = [
            model(source[i : i + 1], mask[i : i + 1], labels=labels[i : i + 1], num_items_in_batch=8).loss
            for i in range(2)
        ]
        torch.testing.assert_close(sum(parts), whole)

    @every_config
    def test_every_parameter_gets_the_same_gradient_with_activation_checkpointing(self, options):
        source, mask = pad(sentences(5, 3))
        gradients = []
        for checkpointing in (False, True):
            model = build(**options, dropout=0.0).train()
            if checkpointing:
                model.activation_checkpointing_enable()
            model(source, mask, labels=source).loss.backward()
            gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
        assert all(gradient is not None for gradient in gradients[0].values())
        torch.testing.assert_close(gradients[0], gradients[1])

    def test_dropout_acts_in_training_alone(self):
        model = build(dropout=0.3, attention_dropout=0.3, activation_dropout=0.3, input_dropout=0.3, weight_dropout=0.3)
        source, mask = pad(sentences(5, 3))

        def logits() -> torch.Tensor:
            return model(source, mask, decoder_input_ids=source).logits

        assert logits().equal(logits())
        model.train()
        assert not logits().equal(logits())

    def test_hidden_states_are_those_of_each_layer(self):
        output = build()(*pad(sentences(5)), decoder_input_ids=torch.stack(sentences(4)), output_hidden_states=True)
        assert len(output.encoder_hidden_states) == 3
        assert len(output.decoder_hidden_states) == 4
        assert output.encoder_hidden_states[-1].equal(output.encoder_last_hidden_state)

    def test_nothing_that_counts_costs_nothing(self):
        tokens = torch.stack(sentences(4))
        loss = build()(tokens, labels=torch.full_like(tokens, -100), num_items_in_batch=torch.tensor(0)).loss
        assert loss == 0


class TestSaving:
    @every_config
    def test_the_auto_class_loads_what_was_saved(self, options, tmp_path):
        model = build(**options)
        source, mask = pad(sentences(9, 4))
        target = torch.stack(sentences(3, 3))
        model.save_pretrained(tmp_path)
        loaded, info = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert loaded.config.to_diff_dict() == model.config.to_diff_dict()
        batch = {"input_ids": source, "attention_mask": mask, "decoder_input_ids": target}
        assert_close(loaded(**batch).logits, model(**batch).logits)

    def test_shared_embeddings_are_one_parameter(self):
        model = build()
        assert model.lm_head.weight is model.encoder.embedding.tokens.weight
        assert model.lm_head.weight is model.decoder.embedding.tokens.weight
        separate = build(**SEPARATE)
        assert separate.lm_head.weight is separate.decoder.embedding.tokens.weight
        assert separate.lm_head.weight is not separate.encoder.embedding.tokens.weight

    def test_new_weights_follow_the_paper(self):
        torch.manual_seed(0)
        model = SeqDyConvForConditionalGeneration(SeqDyConvConfig(**(SMALL | {"vocab_size": 4000, "hidden_size": 64})))
        embedding = model.get_input_embeddings().weight
        assert embedding[model.config.pad_token_id].eq(0).all()
        assert embedding.std().item() == pytest.approx(64**-0.5, rel=0.02)
        bound = (6 / (64 + 128)) ** 0.5
        largest = model.encoder.layers[0].mixer.in_proj.weight.abs().max().item()
        assert 0.95 * bound < largest <= bound

    def test_the_vocabulary_can_grow(self):
        model = build()
        model.resize_token_embeddings(55)
        assert model(torch.tensor([[54]]), decoder_input_ids=torch.tensor([[53]])).logits.shape == (1, 1, 55)


class TestConfig:
    def test_one_name_stands_for_all_layers(self):
        config = SeqDyConvConfig(encoder_layer_types="self_attention", encoder_kernel_sizes=[3, 5])
        assert config.encoder_layer_types == ["self_attention"] * 2

    def test_it_survives_saving(self, tmp_path):
        config = SeqDyConvConfig(**SMALL, decoder_layer_types=["dynamic_conv", "self_attention", "dynamic_conv"])
        config.save_pretrained(tmp_path)
        assert AutoConfig.from_pretrained(tmp_path).to_diff_dict() == config.to_diff_dict()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"encoder_layer_types": ["dynamic_conv"]}, "encoder_layer_types and encoder_kernel_sizes .* got 1 and 7"),
            ({"decoder_layer_types": "fourier"}, "decoder_layer_types must be of .*dynamic_conv.*, got fourier"),
            ({"encoder_kernel_sizes": [3, 0]}, r"encoder_kernel_sizes must be >= 1, got \[3, 0\]"),
            ({"encoder_attention_heads": 7}, "encoder_attention_heads must divide .* got 7 heads for 512 and 512"),
            ({"decoder_conv_dim": 100}, "decoder_attention_heads must divide .* got 8 heads for 512 and 100"),
            ({"encoder_position_type": "rotary"}, "encoder_position_type must be of .*, got 'rotary'"),
            ({"dropout": 1.5}, r"dropout must be in \[0, 1\), got 1.5"),
            ({"tie_word_embeddings": False}, "share_encoder_decoder_embeddings=True .* needs tie_word_embeddings=True"),
            ({"encoder_vocab_size": 10}, "shared embeddings need one vocabulary"),
            ({"hidden_size": "wide"}, "hidden_size"),
            ({"hidden_size": 0}, "hidden_size must be >= 1, got 0"),
            ({"vocab_size": 0}, "vocab_size must be >= 1, got 0"),
            ({**SEPARATE, "encoder_vocab_size": 0}, "encoder_vocab_size must be None or >= 1, got 0"),
            ({"encoder_ffn_dim": 0}, "encoder_ffn_dim must be >= 1, got 0"),
            ({"decoder_conv_dim": 0}, "decoder_conv_dim must be None or >= 1, got 0"),
            ({"max_position_embeddings": 0}, "max_position_embeddings must be >= 1, got 0"),
            ({"position_offset": -1}, "position_offset must be >= 0, got -1"),
            ({"layer_norm_eps": -1.0}, r"layer_norm_eps must be >= 0, got -1\.0"),
            ({"layer_norm_eps": float("nan")}, "layer_norm_eps must be >= 0, got nan"),
            ({"pad_token_id": -1}, r"pad_token_id must be None or in \[0, 32000\), got -1"),
            ({**SEPARATE, "encoder_vocab_size": 9, "pad_token_id": 9}, r"pad_token_id must be .*\[0, 9\), got 9"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, options, message):
        with pytest.raises(StrictDataclassError, match=message):
            SeqDyConvConfig(**options)


class TestErrors:
    def test_no_source_or_no_target_is_refused(self):
        model = build()
        with pytest.raises(ValueError, match="needs decoder_input_ids or labels"):
            model(torch.tensor([[5]]))
        with pytest.raises(ValueError, match="needs input_ids or encoder_outputs"):
            model(decoder_input_ids=torch.tensor([[5]]))

    def test_attention_maps_are_refused(self):
        model, tokens = build(), torch.tensor([[5]])
        for source in ({"input_ids": tokens}, {"encoder_outputs": model.encoder(tokens)}):
            with pytest.raises(ValueError, match="output_attentions=True is not supported"):
                model(**source, decoder_input_ids=tokens, output_attentions=True)

    def test_tokens_that_are_no_batch_are_refused(self):
        with pytest.raises(ValueError, match=r"input_ids must be \(B, T\), got \(2,\)"):
            build()(torch.tensor([5, 6]), decoder_input_ids=torch.tensor([[5]]))
        with pytest.raises(ValueError, match=r"inputs_embeds must be \(B, T, D\), got \(2, 16\)"):
            build().encoder(inputs_embeds=torch.ones(2, 16, dtype=torch.float64))

    @pytest.mark.parametrize("mask", [(1, 4), (2, 3)], ids=str)
    def test_a_mask_of_another_shape_than_the_encoders_output_is_refused(self, mask):
        model, tokens = build(), torch.stack(sentences(4, 4))
        mask = torch.zeros(mask, dtype=torch.long)
        with pytest.raises(ValueError, match=r"attention_mask of the encoder's output must be .* = \(2, 4\), got"):
            model(encoder_outputs=model.encoder(tokens), attention_mask=mask, decoder_input_ids=tokens)

    def test_another_number_of_sources_than_of_targets_is_refused(self):
        tokens = torch.stack(sentences(4, 4))
        with pytest.raises(ValueError, match="sources and targets must be as many, got 1 and 2"):
            build()(tokens[:1], decoder_input_ids=tokens)

    def test_labels_that_do_not_count_need_a_padding_token(self):
        model, labels = build(pad_token_id=None), torch.tensor([[5, 6]])
        assert model.prepare_decoder_input_ids_from_labels(labels).tolist() == [[2, 5]]
        with pytest.raises(ValueError, match="labels of -100 need a configuration with pad_token_id, got None"):
            model.prepare_decoder_input_ids_from_labels(torch.tensor([[-100, 6]]))

    def test_decoding_with_an_assistant_is_refused(self):
        with pytest.raises(ValueError, match="assisted generation is not supported with stateful models"):
            build().generate(torch.stack(sentences(4)), prompt_lookup_num_tokens=2, max_new_tokens=2)

    def test_a_search_without_a_token_that_ends_it_is_refused(self):
        with pytest.raises(ValueError, match="a search needs a configuration with eos_token_id, got None"):
            DecoderStepProgram(build(eos_token_id=None))

    @pytest.mark.parametrize(("start", "first", "token"), [(2, 0, 2), (None, 3, 3)])
    def test_labels_are_read_after_the_token_that_generate_starts_from(self, start, first, token):
        model = build(decoder_start_token_id=start, bos_token_id=first)
        assert model.prepare_decoder_input_ids_from_labels(torch.tensor([[5, 6, 7]])).tolist() == [[token, 5, 6]]
        generated = model.generate(torch.tensor([[5]]), max_new_tokens=1)
        assert generated[0, 0] == token

    def test_labels_without_a_token_to_start_from_are_refused(self):
        model = build(decoder_start_token_id=None, bos_token_id=None)
        with pytest.raises(ValueError, match="decoder_start_token_id or bos_token_id, got None"):
            model(torch.tensor([[5]]), labels=torch.tensor([[5]]))

    def test_learned_positions_end(self):
        model = build(encoder_position_type="learned", max_position_embeddings=8)
        with pytest.raises(ValueError, match="max_position_embeddings = 8, got a sequence of 9 tokens"):
            model(torch.full((1, 9), 5), decoder_input_ids=torch.tensor([[5]]))


class TestExport:
    PARTS = {  # states of several parts; that of a kernel of one tap has no rows, nor will
        "decoder_layer_types": ["parallel", "dynamic_conv", "mixed_attention"],
        "decoder_kernel_sizes": [1, 7, 4],
        "decoder_normalize_before": True,
    }

    @pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch.export.load's own
    def test_encoder_and_decoding_step_give_the_logits_of_the_model_for_any_sizes(self, tmp_path):
        model = build(torch.float32, **CONFIGS["mixed, learned positions"] | self.PARTS)
        encode, step = export_encoder(model).module(), export_decoder_step(model)
        torch.export.save(step, tmp_path / "step.pt2")
        step = torch.export.load(tmp_path / "step.pt2").module(check_guards=False)
        program = DecoderStepProgram(model)
        for lengths, beams in (([1], 1), ([9, 4], 3), ([50, 3, 20], 2)):
            source, mask = pad(sentences(*lengths))
            target = torch.stack(sentences(*[5] * len(lengths) * beams)).unflatten(0, (-1, beams))
            bias, memory = encode(source, mask)
            states, rows = program.initial_states(), torch.zeros(len(lengths), beams, dtype=torch.long)
            scores = torch.rand(len(lengths), beams)
            each = [x.repeat_interleave(beams, 0) for x in (source, mask)]
            logits = model(*each, decoder_input_ids=target.flatten(0, 1)).logits.unflatten(0, (-1, beams))
            for time in range(5):
                *best, states = step(target[..., time], torch.tensor([[time]]), rows, scores, bias, memory, states)
                for given, expected in zip(best, program.choose(logits[:, :, time], scores)):
                    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4)
                rows = torch.arange(len(lengths) * beams).unflatten(0, (-1, beams))

    def test_beams_continue_the_rows_that_they_name(self):
        model = build(torch.float32, **CONFIGS["mixed, learned positions"] | self.PARTS)
        program, encode = DecoderStepProgram(model), EncoderProgram(model)
        source, mask = pad(sentences(9, 4, 6))
        bias, memory = encode(source, mask)
        first, scores = torch.tensor([[4, 5], [6, 7], [8, 9]]), torch.zeros(3, 2)
        begun = program(first, torch.tensor([[0]]), first * 0, scores, bias, memory, program.initial_states())[-1]
        # The second sentence has left; the others go on from one of their beams, or both the other way round.
        kept, rows, second = torch.tensor([0, 2]), torch.tensor([[1, 1], [5, 4]]), torch.tensor([[10, 11], [12, 13]])
        bias, memory, scores = bias[kept], [x[kept] for x in memory], scores[kept]
        best = program(second, torch.tensor([[1]]), rows, scores, bias, memory, begun)[:-1]
        target = torch.stack([first.flatten()[rows], second], dim=-1)
        each = [x[kept].repeat_interleave(2, 0) for x in (source, mask)]
        logits = model(*each, decoder_input_ids=target.flatten(0, 1)).logits[:, -1].unflatten(0, (2, 2))
        for given, expected in zip(best, program.choose(logits, scores)):
            torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4)

    def test_the_forward_compiles_into_one_graph(self):
        model = build(**CONFIGS["mixed, learned positions"])
        source, mask = pad(sentences(9, 4))
        target = torch.stack(sentences(6, 6))

        def logits(source, mask, target):
            return model(source, mask, decoder_input_ids=target, use_cache=False).logits

        compiled = torch.compile(logits, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(source, mask, target), logits(source, mask, target))


class TestPipeline:
    @pytest.fixture
    def folder(self, tmp_path):
        from seqdyconv.data.sentencepiece_tokenizers import train_sentencepiece_tokenizer

        texts = ["Klicken Sie auf das Symbol.", "Click the icon.", "Das Dokument wird gespeichert."]
        tokenizer = train_sentencepiece_tokenizer(texts * 3, vocab_size=290)
        build(torch.float32, vocab_size=len(tokenizer)).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        return str(tmp_path)

    def test_it_translates_one_text_many_texts_and_batches_alike(self, folder):
        translate = pipeline("seq2seq-translation", model=folder, device="cpu")
        texts = ["Klicken Sie auf das Symbol.", "Das Dokument"]
        alone = [translate(text, max_new_tokens=6) for text in texts]
        assert all(isinstance(result["translation_text"], str) for result in alone)
        assert translate(texts, max_new_tokens=6) == alone
        assert translate(texts, max_new_tokens=6, batch_size=2) == alone

    def test_it_returns_several_translations_of_each_text(self, folder):
        translate = pipeline("seq2seq-translation", model=folder, device="cpu")
        results = translate(["Das Symbol.", "Das"], num_beams=3, num_return_sequences=2, batch_size=2)
        assert [len(result) for result in results] == [2, 2]

    def test_options_of_generate_come_as_one_object_too(self, folder):
        options = {"num_beams": 2, "num_return_sequences": 2}
        config = GenerationConfig(**options, eos_token_id=2, pad_token_id=1, decoder_start_token_id=2)
        translate = pipeline("seq2seq-translation", model=folder, device="cpu")
        expected = translate("Das Symbol.", **options)
        assert len(expected) == 2
        assert translate("Das Symbol.", generation_config=config) == expected
        config.max_new_tokens = 2
        assert translate("Das Symbol.", generation_config=config) == translate(
            "Das Symbol.", **options, max_new_tokens=2
        )

    def test_options_of_all_calls_are_told_once(self, folder):
        options = {"num_beams": 2, "num_return_sequences": 2}
        translate = pipeline("seq2seq-translation", model=folder, device="cpu")
        expected = translate("Das Symbol.", **options)
        assert pipeline("seq2seq-translation", model=folder, device="cpu", **options)("Das Symbol.") == expected

    def test_what_is_no_text_is_refused(self, folder):
        with pytest.raises(ValueError, match="takes a str or a list of them, got int"):
            pipeline("seq2seq-translation", model=folder, device="cpu")(5)
