"""Sequences packed into one row: the models give what they give of each sequence alone."""

import pytest
import torch
from torch import Tensor
from transformers import DataCollatorWithFlattening, Trainer, TrainingArguments

from seqdyconv.models import (
    SeqDyConvForMaskedLM,
    SeqDyConvForMultipleChoice,
    SeqDyConvForQuestionAnswering,
    SeqDyConvForSequenceClassification,
    SeqDyConvForTokenClassification,
    SeqDyConvModel,
)
from tests.helpers import assert_all_close, assert_close
from tests.models import test_encoder_models as encoders
from tests.models import test_modeling as translation

LENGTHS = (9, 4, 1, 12)
every_encoder_config = pytest.mark.parametrize("options", encoders.CONFIGS.values(), ids=encoders.CONFIGS.keys())
every_config = pytest.mark.parametrize("options", translation.CONFIGS.values(), ids=translation.CONFIGS.keys())
every_head = pytest.mark.parametrize(
    "kind", [SeqDyConvForSequenceClassification, SeqDyConvForMaskedLM], ids=lambda kind: kind.__name__
)


def ends(rows: list[Tensor]) -> Tensor:
    return torch.tensor([0, *map(len, rows)]).cumsum(0)


def pack(rows: list[Tensor]) -> dict[str, Tensor]:
    return {"input_ids": torch.cat(rows)[None], "cu_seqlens": ends(rows)}


def gradients(loss: Tensor, model: torch.nn.Module) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {name: gradient for name, gradient in zip(names, found) if gradient is not None}


def token_labels(rows: list[Tensor]) -> list[Tensor]:
    """Labels of the same lengths, some of which do not count."""
    return [row.roll(1).masked_fill(torch.arange(len(row)) % 3 == 1, -100) for row in rows]


class TestEncoder:
    @every_encoder_config
    def test_hidden_states_are_those_of_each_text_alone(self, options):
        model, rows = encoders.build(SeqDyConvModel, **options), encoders.texts(*LENGTHS)
        types = [torch.arange(len(row)) % 2 for row in rows] if options.get("type_vocab_size") else None
        packed = model(
            **pack(rows), token_type_ids=None if types is None else torch.cat(types)[None], output_hidden_states=True
        )
        alone = [
            model(row[None], token_type_ids=None if types is None else types[n][None], output_hidden_states=True)
            for n, row in enumerate(rows)
        ]
        assert_close(packed.last_hidden_state[0], torch.cat([output.last_hidden_state[0] for output in alone]))
        assert len(packed.hidden_states) == 3
        for layer, hidden in enumerate(packed.hidden_states):
            assert_close(hidden[0], torch.cat([output.hidden_states[layer][0] for output in alone]))

    @every_encoder_config
    def test_classes_loss_and_gradients_are_those_of_each_text_alone(self, options):
        model, rows = encoders.build(**options), encoders.texts(*LENGTHS)
        labels = torch.tensor([2, 0, 1, 2])
        packed = model(**pack(rows), labels=labels)
        alone = [model(row[None], labels=labels[n : n + 1]) for n, row in enumerate(rows)]
        loss = sum(output.loss for output in alone) / len(rows)
        assert_close(packed.logits, torch.cat([output.logits for output in alone]))
        assert_close(packed.loss, loss)
        assert_all_close(gradients(packed.loss, model), gradients(loss, model), 1e-10)

    @every_encoder_config
    def test_masked_tokens_loss_and_gradients_are_those_of_the_padded_batch(self, options):
        model, rows = encoders.build(SeqDyConvForMaskedLM, **options), encoders.texts(*LENGTHS)
        labels = token_labels(rows)
        tokens, mask = encoders.pad(rows)
        padded = model(tokens, mask, labels=torch.nn.utils.rnn.pad_sequence(labels, True, -100))
        packed = model(**pack(rows), labels=torch.cat(labels)[None])
        assert_close(packed.logits[0], padded.logits[mask == 1])
        assert_close(packed.loss, padded.loss)
        assert_all_close(gradients(packed.loss, model), gradients(padded.loss, model), 1e-10)

    def test_classes_of_tokens_are_those_of_the_padded_batch(self):
        model, rows = encoders.build(SeqDyConvForTokenClassification), encoders.texts(*LENGTHS)
        labels = [row % 3 for row in rows]
        tokens, mask = encoders.pad(rows)
        padded = model(tokens, mask, labels=torch.nn.utils.rnn.pad_sequence(labels, True, -100))
        packed = model(**pack(rows), labels=torch.cat(labels)[None])
        assert_close(packed.logits[0], padded.logits[mask == 1])
        assert_close(packed.loss, padded.loss)

    def test_answers_loss_and_gradients_are_those_of_the_padded_batch(self):
        model, rows = encoders.build(SeqDyConvForQuestionAnswering), encoders.texts(*LENGTHS)
        positions = {"start_positions": torch.tensor([3, 0, 0, 9]), "end_positions": torch.tensor([8, 4, 0, 11])}
        tokens, mask = encoders.pad(rows)
        padded, packed = model(tokens, mask, **positions), model(**pack(rows), **positions)
        assert_close(packed.start_logits, padded.start_logits)
        assert_close(packed.loss, padded.loss)
        assert_all_close(gradients(packed.loss, model), gradients(padded.loss, model), 1e-10)

    def test_choices_are_not_packed(self):
        packed = pack(encoders.texts(*LENGTHS))
        for name in ("cu_seqlens", "cu_seq_lens_q"):
            with pytest.raises(ValueError, match=f"choices of a question have rows of their own: got {name}"):
                encoders.build(SeqDyConvForMultipleChoice)(packed["input_ids"][None], **{name: packed["cu_seqlens"]})

    def test_a_text_without_tokens_is_pooled_to_zeros(self):
        model, rows = encoders.build(), encoders.texts(5, 0, 3, 0)
        tokens, mask = encoders.pad(rows)
        assert_close(model(**pack(rows)).logits, model(tokens, mask).logits)

    def test_embeddings_may_be_packed(self):
        model, packed = encoders.build(), pack(encoders.texts(*LENGTHS))
        embeds = model.get_input_embeddings()(packed["input_ids"])
        assert_close(model(inputs_embeds=embeds, cu_seqlens=packed["cu_seqlens"]).logits, model(**packed).logits)

    def test_learned_positions_bound_each_text_and_not_the_row(self):
        model = encoders.build(encoder_position_type="learned", max_position_embeddings=12)
        assert model(**pack(encoders.texts(*LENGTHS))).logits.shape == (4, 3)
        with pytest.raises(ValueError, match="max_position_embeddings = 12, got a sequence of 13 tokens"):
            model(**pack(encoders.texts(3, 13)))

    def test_gradient_checkpointing(self):
        model, packed = encoders.build().train(), pack(encoders.texts(*LENGTHS))
        labels = torch.tensor([2, 0, 1, 2])
        torch.manual_seed(0)
        expected = gradients(model(**packed, labels=labels).loss, model)
        model.activation_checkpointing_enable()
        torch.manual_seed(0)
        assert_all_close(gradients(model(**packed, labels=labels).loss, model), expected, 1e-10)


class TestBatchesOfTransformers:
    """Rows of ``DataCollatorWithFlattening``, whatever it is asked for."""

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"position_ids_start": 2},
            {"return_flash_attn_kwargs": True},
            {"return_flash_attn_kwargs": True, "return_position_ids": False},
            {"return_seq_idx": True, "return_position_ids": False},
            {"return_seq_idx": True, "return_flash_attn_kwargs": True},
        ],
        ids=["positions", "positions from 2", "lengths", "lengths alone", "numbers", "all"],
    )
    @every_head
    def test_are_packed_texts(self, kind, options):
        model, rows = encoders.build(kind), encoders.texts(*LENGTHS)
        batch = DataCollatorWithFlattening(**options)([{"input_ids": row.tolist()} for row in rows])
        del batch["labels"]
        assert_close(model(**batch).logits, model(**pack(rows)).logits)

    def test_train_a_masked_language_model(self, tmp_path):
        model, rows = encoders.build(SeqDyConvForMaskedLM, torch.float32), encoders.texts(*LENGTHS)
        before = model.lm_head.bias.clone()
        Trainer(
            model,
            TrainingArguments(tmp_path, max_steps=1, per_device_train_batch_size=4, report_to="none", use_cpu=True),
            train_dataset=[{"input_ids": row.tolist()} for row in rows],
            data_collator=DataCollatorWithFlattening(return_flash_attn_kwargs=True),
        ).train()
        assert not model.lm_head.bias.equal(before)

    def test_positions_of_one_text_change_nothing(self):
        model, tokens, mask = encoders.build(), *encoders.pad(encoders.texts(6), extra=2)
        assert_close(model(tokens, mask, position_ids=torch.arange(8)[None]).logits, model(tokens, mask).logits)

    def test_positions_of_several_rows_are_refused(self):
        with pytest.raises(
            ValueError, match=r"position_ids tell .* got \(2, 5\) .*; the model counts positions itself"
        ):
            encoders.build()(torch.full((2, 5), 7), position_ids=torch.arange(5).expand(2, 5))

    def test_other_lengths_of_the_keys_are_refused(self):
        packed = pack(encoders.texts(4, 4))
        with pytest.raises(ValueError, match="cu_seq_lens_k must be those of the queries"):
            encoders.build()(**packed, cu_seq_lens_k=torch.tensor([0, 3, 8]))


class TestTranslation:
    @every_config
    def test_logits_loss_and_gradients_are_those_of_each_pair_alone(self, options):
        model = translation.build(**options)
        sources, targets = translation.sentences(9, 4, 1, 12), translation.sentences(6, 11, 2, 1)
        packed = model(
            **pack(sources),
            labels=torch.cat(targets)[None],
            decoder_cu_seqlens=ends(targets),
            output_hidden_states=True,
        )
        alone = [model(source[None], labels=target[None]) for source, target in zip(sources, targets)]
        loss = sum(output.loss * len(target) for output, target in zip(alone, targets)) / 20
        assert_close(packed.logits[0], torch.cat([output.logits[0] for output in alone]))
        encoded = torch.cat([output.encoder_last_hidden_state[0] for output in alone])
        assert_close(packed.encoder_last_hidden_state[0], encoded)
        assert packed.decoder_hidden_states[-1].shape == (1, 20, 16)
        assert_close(packed.loss, loss)
        assert_all_close(gradients(packed.loss, model), gradients(loss, model), 1e-10)

    def test_targets_begin_anew(self):
        model, targets = translation.build(), translation.sentences(3, 0, 1, 4, 0)
        shifted = model.prepare_decoder_input_ids_from_labels(torch.cat(targets)[None], ends(targets))
        start, pad = model.config.decoder_start_token_id, model.config.pad_token_id
        expected = [[start, *target[:-1].tolist()] for target in targets if len(target)]
        assert shifted[0].tolist() == [token for row in expected for token in row]
        labels = torch.tensor([[5, -100, 6, 7]])
        assert model.prepare_decoder_input_ids_from_labels(labels, torch.tensor([0, 3, 4])).tolist() == [
            [start, 5, pad, start]
        ]

    def test_no_cache_unless_asked(self):
        model, sources = translation.build(), translation.sentences(5, 3)
        packed = pack(sources)
        sides = {"decoder_input_ids": packed["input_ids"], "decoder_cu_seqlens": packed["cu_seqlens"]}
        assert model(**packed, **sides).cache is None
        with pytest.raises(ValueError, match="packed sequences are for training"):
            model(**packed, **sides, use_cache=True)

    @pytest.mark.parametrize("beams", [1, 2])
    def test_generate_refuses_packed_sources(self, beams):
        with pytest.raises(ValueError, match=r"packed sequences are for training.* generate\(\)"):
            translation.build().generate(**pack(translation.sentences(5, 3)), max_new_tokens=3, num_beams=beams)

    def test_a_reused_encoder_output_may_be_packed(self):
        model, sources = translation.build(), translation.sentences(5, 3)
        packed = pack(sources)
        sides = {"labels": packed["input_ids"], "decoder_cu_seqlens": packed["cu_seqlens"]}
        encoded = model.encoder(**packed)
        actual = model(encoder_outputs=encoded, cu_seqlens=packed["cu_seqlens"], **sides)
        assert_close(actual.logits, model(**packed, **sides).logits)

    @pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch, after a break
    def test_compiles_with_graph_breaks(self):
        torch._dynamo.reset()
        model = translation.build(encoder_kernel_sizes=[3], decoder_kernel_sizes=[4], decoder_layer_types="parallel")
        packed = pack(translation.sentences(5, 3))
        sides = {"labels": packed["input_ids"], "decoder_cu_seqlens": packed["cu_seqlens"]}
        compiled = torch.compile(model, backend="eager")
        assert_close(compiled(**packed, **sides).loss, model(**packed, **sides).loss)

    def test_one_side_alone_is_refused(self):
        model, packed = translation.build(), pack(translation.sentences(5, 3))
        with pytest.raises(ValueError, match="needs cu_seqlens of its own sequences and of the encoder's"):
            model(**packed, labels=packed["input_ids"])
        with pytest.raises(ValueError, match="needs cu_seqlens of its own sequences and of the encoder's"):
            model(packed["input_ids"], labels=packed["input_ids"], decoder_cu_seqlens=packed["cu_seqlens"])

    def test_different_numbers_of_sources_and_targets_are_refused(self):
        packed = pack(translation.sentences(5, 3))
        with pytest.raises(ValueError, match="sources and targets must be as many, got 2 and 1"):
            translation.build()(**packed, labels=packed["input_ids"], decoder_cu_seqlens=torch.tensor([0, 8]))

    def test_a_target_mask_is_refused(self):
        packed = pack(translation.sentences(5, 3))
        with pytest.raises(ValueError, match="attention_mask and cu_seqlens exclude each other"):
            translation.build()(
                **packed,
                labels=packed["input_ids"],
                decoder_cu_seqlens=packed["cu_seqlens"],
                decoder_attention_mask=torch.ones(1, 8),
            )

    def test_names_that_do_not_tell_sources_from_targets_are_refused(self):
        packed = pack(translation.sentences(5, 3))
        with pytest.raises(ValueError, match="told by cu_seqlens and decoder_cu_seqlens, got position_ids"):
            translation.build()(packed["input_ids"], labels=packed["input_ids"], position_ids=torch.arange(8)[None])


@pytest.mark.parametrize(
    ("cu_seqlens", "mask", "message"),
    [
        (torch.tensor([0, 5, 8]), torch.ones(1, 8), "attention_mask and cu_seqlens exclude each other"),
        (torch.tensor([0, 5, 7]), None, r"cu_seqlens must rise from 0 to T = 8, got \[0, 5, 7\]"),
        (torch.tensor([0.0, 8.0]), None, "cu_seqlens must be int32 or int64"),
    ],
    ids=["and a mask", "end", "dtype"],
)
@pytest.mark.parametrize(
    "kind", [SeqDyConvModel, SeqDyConvForSequenceClassification, SeqDyConvForMaskedLM], ids=lambda kind: kind.__name__
)
def test_bad_packing_is_refused(kind, cu_seqlens, mask, message):
    with pytest.raises(ValueError, match=message):
        encoders.build(kind)(torch.full((1, 8), 7), mask, cu_seqlens=cu_seqlens)


def test_several_rows_are_refused():
    with pytest.raises(ValueError, match="packed sequences are one row"):
        encoders.build()(torch.full((2, 8), 7), cu_seqlens=torch.tensor([0, 8]))
