"""The encoder and its heads: what padding, pooling, losses, saving and the pipelines promise."""

import math

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    pipeline,
)
from transformers.loss.loss_utils import ForQuestionAnsweringLoss

from seqdyconv.models import (
    SeqDyConvConfig,
    SeqDyConvForConditionalGeneration,
    SeqDyConvForMaskedLM,
    SeqDyConvForMultipleChoice,
    SeqDyConvForQuestionAnswering,
    SeqDyConvForSequenceClassification,
    SeqDyConvForTokenClassification,
    SeqDyConvModel,
)
from seqdyconv.models.modeling_encoder import pool
from tests.helpers import assert_close

WORDS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "a", "bad", "book", "film", "good", "not", "the"]
SMALL = {
    "vocab_size": 50,
    "hidden_size": 20,  # the default heads of a decoder do not divide it
    "encoder_kernel_sizes": [3, 6],
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 32,
    "is_encoder_decoder": False,
    "num_labels": 3,
}
CONFIGS = {
    "dynamic": {},
    "lightweight, pre-norm, max": {
        "encoder_layer_types": "lightweight_conv",
        "encoder_normalize_before": True,
        "pooling": "max",
    },
    "mixed, learned positions, token types, first": {
        "encoder_layer_types": ["self_attention", "dynamic_conv"],
        "encoder_position_type": "learned",
        "type_vocab_size": 2,
        "pooling": "first",
    },
    "parallel, untied": {"encoder_layer_types": "parallel", "tie_word_embeddings": False},
}
HEADS = {
    SeqDyConvModel: AutoModel,
    SeqDyConvForSequenceClassification: AutoModelForSequenceClassification,
    SeqDyConvForMaskedLM: AutoModelForMaskedLM,
    SeqDyConvForTokenClassification: AutoModelForTokenClassification,
    SeqDyConvForQuestionAnswering: AutoModelForQuestionAnswering,
    SeqDyConvForMultipleChoice: AutoModelForMultipleChoice,
}
PER_TEXT = (SeqDyConvForSequenceClassification, SeqDyConvForMultipleChoice)
every_config = pytest.mark.parametrize("options", CONFIGS.values(), ids=CONFIGS.keys())
every_model = pytest.mark.parametrize("kind", HEADS, ids=lambda kind: kind.__name__)


def build(kind=SeqDyConvForSequenceClassification, dtype: torch.dtype = torch.float64, **options):
    """A small model whose weights are large enough to make every part count."""
    torch.manual_seed(0)
    model = kind(SeqDyConvConfig(**(SMALL | options))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    return model.to(dtype)


def texts(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(5, 50, (length,), generator=generator) for length in lengths]


def pad(rows: list[torch.Tensor], side: str = "right", extra: int = 0, filler: int = 1):
    """Tokens and attention mask of a batch, (B, T)."""
    longest = max(map(len, rows)) + extra
    tokens = torch.full((len(rows), longest), filler)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for index, row in enumerate(rows):
        where = slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)
        tokens[index, where], mask[index, where] = row, 1
    return tokens, mask


def output_of(model, *args, **kwargs):
    """All outputs; the rows are the choices of one question where the model chooses."""
    if isinstance(model, SeqDyConvForMultipleChoice):
        args = [argument[None] for argument in args]
        kwargs = {name: value[None] if isinstance(value, torch.Tensor) else value for name, value in kwargs.items()}
    return model(*args, **kwargs)


def result(model, *args, **kwargs) -> torch.Tensor:
    """What a model is for, one row each: hidden states of the encoder, logits of the others."""
    output = output_of(model, *args, **kwargs)
    if isinstance(model, SeqDyConvForQuestionAnswering):
        return torch.stack([output.start_logits, output.end_logits], -1)
    return output[0][0] if isinstance(model, SeqDyConvForMultipleChoice) else output[0]


def labels_of(kind, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """Some labels for two rows."""
    numbers = torch.tensor([2, 0])
    if kind is SeqDyConvForQuestionAnswering:
        return {"start_positions": numbers, "end_positions": torch.tensor([3, 2])}
    if kind is SeqDyConvForMultipleChoice:
        return {"labels": torch.tensor(1)}
    if kind is SeqDyConvForTokenClassification:
        return {"labels": tokens % 3}
    return {"labels": tokens if kind is SeqDyConvForMaskedLM else numbers}


class TestPadding:
    @every_config
    @every_model
    @pytest.mark.parametrize("side", ["left", "right"])
    def test_results_do_not_depend_on_padding_or_batch_mates(self, kind, options, side):
        model, rows = build(kind, **options), texts(9, 4, 1)
        tokens, mask = pad(rows, side, extra=3, filler=7)
        batch = result(model, tokens, mask)
        for index, row in enumerate(rows):
            actual = batch[index] if kind in PER_TEXT else batch[index, mask[index] == 1]
            torch.testing.assert_close(actual, result(model, row[None])[0], rtol=0, atol=1e-10)

    @every_config
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
    def test_a_text_of_nothing_but_padding_gives_finite_numbers_and_gradients(self, options, dtype):
        model = build(dtype=dtype, **options)
        tokens, mask = pad(texts(5, 0))
        output = model(tokens, mask, labels=torch.tensor([0, 1]))
        assert output.logits.dtype == dtype and output.logits.isfinite().all()
        output.loss.backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())

    def test_a_mask_of_another_shape_is_refused(self):
        with pytest.raises(ValueError, match=r"attention_mask must be \(B, T\) = \(1, 5\), got \(1, 4\)"):
            build()(torch.full((1, 5), 7), torch.ones(1, 4))


class TestPooling:
    hidden = torch.tensor([[[9.0, -9.0], [1, -2], [3, -4], [9, 9]], [[5, 6], [9, 9], [9, 9], [9, 9]]])
    padding = torch.tensor([[True, False, False, True], [False, True, True, True]])

    @pytest.mark.parametrize(
        ("pooling", "expected"), [("mean", [2.0, -3.0]), ("max", [3.0, -2.0]), ("first", [1.0, -2.0])]
    )
    def test_sees_the_real_tokens_alone(self, pooling, expected):
        hidden = self.hidden.masked_fill(self.padding[..., None], math.nan)
        assert pool(hidden, self.padding, pooling).tolist() == [expected, [5.0, 6.0]]

    @pytest.mark.parametrize("pooling", ["mean", "max", "first"])
    def test_of_no_token_is_zero(self, pooling):
        assert pool(self.hidden, torch.ones_like(self.padding), pooling).eq(0).all()

    def test_a_mean_of_half_precision_does_not_overflow(self):
        hidden = torch.full((1, 9000, 2), 8.0, dtype=torch.float16)
        assert torch.equal(pool(hidden, None, "mean"), hidden[:, 0])

    @pytest.mark.parametrize("pooling", ["mean", "max", "first"])
    def test_no_mask_is_no_padding(self, pooling):
        assert pool(self.hidden, None, pooling).equal(pool(self.hidden, torch.zeros_like(self.padding), pooling))

    def test_its_result_is_dropped_out_in_training_alone(self):
        model = build(dropout=0.0, classifier_dropout=0.5)
        tokens, mask = pad(texts(5, 3))
        assert result(model, tokens, mask).equal(result(model, tokens, mask))
        model.train()
        assert not result(model, tokens, mask).equal(result(model, tokens, mask))
        assert result(model.encoder, tokens, mask).equal(result(model.encoder, tokens, mask))
        assert build(dropout=0.3).dropout == 0.3


class TestPairs:
    types = torch.tensor([[0, 0, 0, 1, 1]])

    def test_token_types_tell_texts_apart(self):
        model, tokens = build(type_vocab_size=2), torch.stack(texts(5))
        plain = result(model, tokens)
        assert result(model, tokens, token_type_ids=torch.zeros_like(self.types)).equal(plain)
        assert not torch.allclose(result(model, tokens, token_type_ids=self.types), plain)

    def test_their_table_may_be_on_the_disk(self, tmp_path):
        model, tokens = build(type_vocab_size=2).float(), torch.stack(texts(5))
        model.save_pretrained(tmp_path)
        places = {"encoder": "disk", "classifier": "cpu"}
        offloaded = type(model).from_pretrained(tmp_path, device_map=places, offload_folder=tmp_path / "offloaded")
        assert result(offloaded, tokens).equal(result(model, tokens))

    def test_without_token_types_they_are_not_looked_at(self):
        model, tokens = build(), torch.stack(texts(5))
        assert result(model, tokens, token_type_ids=self.types).equal(result(model, tokens))


class TestInputs:
    @every_model
    def test_rows_of_the_embedding_table_stand_for_tokens(self, kind):
        model = build(kind, type_vocab_size=2)
        tokens, mask = pad(texts(5, 3))
        embeds = model.get_input_embeddings()(tokens).masked_fill(mask[..., None] == 0, 3.0)
        actual, expected = result(model, inputs_embeds=embeds, attention_mask=mask), result(model, tokens, mask)
        keep = mask == 1 if actual.dim() == 3 else slice(None)
        torch.testing.assert_close(actual[keep], expected[keep])

    @every_model
    def test_neither_or_both_of_tokens_and_embeddings_are_refused(self, kind):
        model = build(kind)
        with pytest.raises(ValueError, match="needs input_ids or inputs_embeds, got neither"):
            model()
        with pytest.raises(ValueError, match="needs input_ids or inputs_embeds, got both"):
            model(torch.tensor([[5]]), inputs_embeds=torch.zeros(1, 1, 20).double())

    @every_model
    def test_attention_maps_are_refused(self, kind):
        with pytest.raises(ValueError, match="output_attentions=True is not supported"):
            build(kind)(torch.tensor([[5]]), output_attentions=True)

    def test_learned_positions_end(self):
        model = build(encoder_position_type="learned", max_position_embeddings=8)
        with pytest.raises(ValueError, match="max_position_embeddings = 8, got a sequence of 9 tokens"):
            model(torch.full((1, 9), 5))

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_padding_has_no_learned_position(self, side):
        model = build(encoder_position_type="learned", max_position_embeddings=8)
        text, real = torch.full((1, 12), 1), torch.zeros(1, 12, dtype=torch.long)
        place = slice(4, 12) if side == "left" else slice(8)
        text[:, place], real[:, place] = texts(8)[0], 1
        padded = model.encoder(text, attention_mask=real).last_hidden_state[:, place]
        assert_close(padded, model.encoder(texts(8)[0][None]).last_hidden_state)


class TestOutputs:
    @every_model
    def test_hidden_states_are_those_of_each_layer(self, kind):
        model, tokens = build(kind), torch.stack(texts(5))
        output = output_of(model, tokens, output_hidden_states=True)
        assert [tuple(hidden.shape) for hidden in output.hidden_states] == [(1, 5, 20)] * 3
        assert output.hidden_states[-1].equal(model.base_model(tokens).last_hidden_state)
        assert output_of(model, tokens).hidden_states is None

    @every_model
    def test_a_tuple_where_one_is_asked_for(self, kind):
        model, tokens = build(kind), torch.stack(texts(5))
        output = output_of(model, tokens, return_dict=False)
        assert type(output) is tuple and output[0].equal(output_of(model, tokens)[0])


class TestClassificationLoss:
    LABELS = {
        "single_label_classification": (3, torch.tensor([2, 0])),
        "multi_label_classification": (3, torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]).double()),
        "regression": (1, torch.tensor([0.5, -1.5]).double()),
    }
    every_problem = pytest.mark.parametrize("problem", LABELS)

    @staticmethod
    def expected(problem, logits, labels):
        if problem == "regression":
            return F.mse_loss(logits[:, 0], labels)
        if problem == "multi_label_classification":
            return F.binary_cross_entropy_with_logits(logits, labels)
        return F.cross_entropy(logits, labels)

    @every_problem
    def test_is_the_mean_over_the_labels(self, problem):
        num_labels, labels = self.LABELS[problem]
        model = build(num_labels=num_labels, problem_type=problem)
        output = model(*pad(texts(5, 3)), labels=labels)
        torch.testing.assert_close(output.loss, self.expected(problem, output.logits, labels))

    @every_problem
    def test_the_first_labels_decide_which_where_nothing_else_does(self, problem):
        num_labels, labels = self.LABELS[problem]
        model = build(num_labels=num_labels)
        output = model(*pad(texts(5, 3)), labels=labels)
        torch.testing.assert_close(output.loss, self.expected(problem, output.logits, labels))
        assert model.config.problem_type == problem

    @every_problem
    def test_parts_of_a_batch_add_up_when_the_number_of_items_is_given(self, problem):
        num_labels, labels = self.LABELS[problem]
        model, (tokens, mask) = build(num_labels=num_labels, problem_type=problem), pad(texts(5, 3))
        parts = [
            model(tokens[i : i + 1], mask[i : i + 1], labels=labels[i : i + 1], num_items_in_batch=labels.numel()).loss
            for i in range(2)
        ]
        torch.testing.assert_close(sum(parts), model(tokens, mask, labels=labels).loss)

    def test_is_zero_where_no_label_counts(self):
        model, tokens, labels = build(num_labels=3), torch.stack(texts(5, 5)), torch.tensor([-100, -100])
        assert model(tokens, labels=labels).loss == 0
        assert model(tokens, labels=labels, num_items_in_batch=torch.tensor(4)).loss == 0

    def test_every_number_counts_in_a_regression(self):
        model, tokens, labels = build(num_labels=1), torch.stack(texts(5, 5)), torch.tensor([-100.0, 2.0])
        whole = model(tokens, labels=labels.double()).loss
        assert_close(model(tokens, labels=labels.double(), num_items_in_batch=2).loss, whole)


class TestMaskedLMLoss:
    labels = torch.tensor([[7, -100, 9, -100, -100], [-100, 5, -100, -100, -100]])

    def test_is_the_mean_over_labels_that_count(self):
        output = build(SeqDyConvForMaskedLM)(*pad(texts(5, 3)), labels=self.labels)
        expected = F.cross_entropy(output.logits.flatten(0, 1), self.labels.flatten())
        torch.testing.assert_close(output.loss, expected)

    def test_parts_of_a_batch_add_up_when_the_number_of_items_is_given(self):
        model, (tokens, mask) = build(SeqDyConvForMaskedLM), pad(texts(5, 3))
        parts = [
            model(tokens[i : i + 1], mask[i : i + 1], labels=self.labels[i : i + 1], num_items_in_batch=3).loss
            for i in range(2)
        ]
        torch.testing.assert_close(sum(parts), model(tokens, mask, labels=self.labels).loss)

    def test_is_zero_where_nothing_was_masked(self):
        labels = torch.full((2, 5), -100)
        assert build(SeqDyConvForMaskedLM)(*pad(texts(5, 3)), labels=labels).loss == 0


class TestTokenClassificationLoss:
    labels = torch.tensor([[1, -100, 2, 0, -100], [-100, 1, 0, -100, -100]])

    def test_is_the_mean_over_labels_that_count_and_parts_of_a_batch_add_up(self):
        model, (tokens, mask) = build(SeqDyConvForTokenClassification), pad(texts(5, 3))
        output = model(tokens, mask, labels=self.labels)
        assert output.logits.shape == (2, 5, 3)
        torch.testing.assert_close(output.loss, F.cross_entropy(output.logits.flatten(0, 1), self.labels.flatten()))
        parts = [
            model(tokens[i : i + 1], mask[i : i + 1], labels=self.labels[i : i + 1], num_items_in_batch=5).loss
            for i in range(2)
        ]
        torch.testing.assert_close(sum(parts), output.loss)


class TestMultipleChoiceLoss:
    def test_is_the_mean_over_questions_and_parts_of_a_batch_add_up(self):
        model, (tokens, mask) = build(SeqDyConvForMultipleChoice), pad(texts(5, 3, 4, 2, 5, 1))
        tokens, mask, labels = tokens.view(2, 3, 5), mask.view(2, 3, 5), torch.tensor([2, 0])
        output = model(tokens, mask, labels=labels)
        assert output.logits.shape == (2, 3)
        torch.testing.assert_close(output.loss, F.cross_entropy(output.logits, labels))
        parts = [
            model(tokens[i : i + 1], mask[i : i + 1], labels=labels[i : i + 1], num_items_in_batch=2).loss
            for i in range(2)
        ]
        torch.testing.assert_close(sum(parts), output.loss)

    def test_texts_without_choices_are_refused(self):
        with pytest.raises(ValueError, match=r"input_ids must be \(B, C, T\), got \(2, 5\)"):
            build(SeqDyConvForMultipleChoice)(torch.stack(texts(5, 5)))


class TestQuestionAnsweringLoss:
    def test_is_that_of_transformers_where_nothing_is_padded(self):
        tokens, positions = torch.stack(texts(5, 5)), {"start_positions": torch.tensor([1, 7])}
        positions["end_positions"] = torch.tensor([4, 2])
        output = build(SeqDyConvForQuestionAnswering)(tokens, **positions)
        expected = ForQuestionAnsweringLoss(output.start_logits, output.end_logits, **positions)
        torch.testing.assert_close(output.loss, expected)

    def test_does_not_depend_on_padding(self):
        model, rows = build(SeqDyConvForQuestionAnswering), texts(5, 3)
        for side, places in (("right", ([1, 2], [4, 2])), ("left", ([4, 7], [7, 7]))):
            positions = dict(zip(("start_positions", "end_positions"), map(torch.tensor, places)))
            tokens, mask = pad(rows, side, extra=3)
            alone = [model(rows[0][None], start_positions=torch.tensor([1]), end_positions=torch.tensor([4]))]
            alone.append(model(rows[1][None], start_positions=torch.tensor([2]), end_positions=torch.tensor([2])))
            torch.testing.assert_close(model(tokens, mask, **positions).loss, sum(row.loss for row in alone) / 2)

    def test_answers_that_are_not_there_do_not_count(self):
        model, (tokens, mask) = build(SeqDyConvForQuestionAnswering), pad(texts(5, 3))
        one = model(tokens[:1], mask[:1], start_positions=torch.tensor([1]), end_positions=torch.tensor([2])).loss
        for absent in (-100, -1, 3, 5):  # outside, and padded
            positions = {"start_positions": torch.tensor([1, absent]), "end_positions": torch.tensor([2, absent])}
            torch.testing.assert_close(model(tokens, mask, **positions).loss, one)
        nothing = torch.tensor([9, 9])
        assert model(tokens, mask, start_positions=nothing, end_positions=nothing).loss == 0

    def test_one_end_alone_is_refused(self):
        with pytest.raises(ValueError, match="start_positions and end_positions, got one of them"):
            build(SeqDyConvForQuestionAnswering)(torch.tensor([[5, 6]]), start_positions=torch.tensor([1]))


class TestTraining:
    @pytest.mark.parametrize(
        ("kind", "options"),
        [(kind, options) for kind in [*HEADS][1:3] for options in CONFIGS.values()] + [(k, {}) for k in [*HEADS][3:]],
    )
    def test_every_parameter_gets_the_same_gradient_with_activation_checkpointing(self, kind, options):
        tokens, mask = pad(texts(5, 3))
        gradients = []
        for checkpointing in (False, True):
            model = build(kind, **options, dropout=0.0).train()
            if checkpointing:
                model.activation_checkpointing_enable()
            output_of(model, tokens, mask, **labels_of(kind, tokens)).loss.backward()
            gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
        assert all(gradient is not None for gradient in gradients[0].values())
        torch.testing.assert_close(gradients[0], gradients[1])

    def test_the_trainer_learns_alike_from_whole_and_accumulated_batches(self, tmp_path):
        rows = [{"input_ids": row.tolist(), "labels": index % 3} for index, row in enumerate(texts(5, 3, 8, 4, 6, 2))]
        collator = DataCollatorWithPadding(words_tokenizer())
        weights = []
        for size, steps in ((6, 1), (2, 3), (4, 2)):
            arguments = TrainingArguments(
                tmp_path,
                per_device_train_batch_size=size,
                gradient_accumulation_steps=steps,
                max_steps=1,
                seed=1,
                learning_rate=0.1,
                optim="sgd",
                use_cpu=True,
                report_to="none",
                disable_tqdm=True,
                save_strategy="no",
            )
            model = build(dtype=torch.float32, dropout=0.0)
            Trainer(model, arguments, train_dataset=rows, data_collator=collator).train()
            weights.append(model.classifier.weight.detach())
        torch.testing.assert_close(weights[1], weights[0])
        torch.testing.assert_close(weights[2], weights[0])

    def test_new_weights_of_a_tied_output_are_those_of_the_embedding(self):
        torch.manual_seed(0)
        options = SMALL | {"vocab_size": 4000, "hidden_size": 64}
        tied, untied = (
            SeqDyConvForMaskedLM(SeqDyConvConfig(**options, tie_word_embeddings=tie)) for tie in (True, False)
        )
        assert tied.lm_head.weight is tied.get_input_embeddings().weight
        assert untied.lm_head.weight is not untied.get_input_embeddings().weight
        for model in (tied, untied):
            assert model.lm_head.weight.std().item() == pytest.approx(64**-0.5, rel=0.02)
            assert model.get_input_embeddings().weight[1].eq(0).all()


class TestSaving:
    @every_config
    @every_model
    def test_the_auto_class_loads_what_was_saved(self, kind, options, tmp_path):
        model, batch = build(kind, **options), pad(texts(9, 4))
        model.save_pretrained(tmp_path)
        loaded, info = HEADS[kind].from_pretrained(tmp_path, output_loading_info=True)
        assert type(loaded) is kind
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert loaded.config.to_diff_dict() == model.config.to_diff_dict()
        assert_close(result(loaded, *batch), result(model, *batch))

    @pytest.mark.parametrize("options", [{}, {"share_encoder_decoder_embeddings": False, "encoder_vocab_size": 60}])
    def test_every_model_loads_the_encoder_of_every_other(self, options, tmp_path):
        seq2seq = {"is_encoder_decoder": True, "decoder_attention_heads": 4, "decoder_kernel_sizes": [3]}
        sources = [build(kind) for kind in [*HEADS][:2]]
        sources.append(build(SeqDyConvForConditionalGeneration, **seq2seq, decoder_ffn_dim=32, **options))
        batch = pad(texts(9, 4))
        for source in sources:
            source.save_pretrained(tmp_path / type(source).__name__)
            for kind, auto in HEADS.items():
                loaded, info = auto.from_pretrained(
                    tmp_path / type(source).__name__, output_loading_info=True, ignore_mismatched_sizes=True
                )
                assert type(loaded) is kind and not loaded.config.is_encoder_decoder
                assert not [key for key in info["missing_keys"] if key.startswith(("encoder.", "layers."))]
                assert_close(result(loaded.base_model, *batch), result(source.base_model, *batch))

    def test_the_vocabulary_can_grow(self, tmp_path):
        model = build(SeqDyConvForMaskedLM)
        model.resize_token_embeddings(55)
        assert result(model, torch.tensor([[54]])).shape == (1, 1, 55)
        model.save_pretrained(tmp_path)
        loaded = AutoModelForMaskedLM.from_pretrained(tmp_path)
        assert_close(result(loaded, torch.tensor([[54]])), result(model, torch.tensor([[54]])))

    def test_labels_have_names(self, tmp_path):
        build(id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1}, num_labels=2).save_pretrained(tmp_path)
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
        assert loaded.config.id2label == {0: "bad", 1: "good"}
        other = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
        assert result(other, torch.tensor([[5]])).shape == (1, 5)


class TestConfig:
    def test_the_decoder_of_an_encoder_is_not_looked_at(self):
        SeqDyConvConfig(**SMALL, decoder_layer_types=[], tie_word_embeddings=False, encoder_vocab_size=10)
        with pytest.raises(StrictDataclassError, match=r"decoder_attention_heads must .*is_encoder_decoder=False"):
            SeqDyConvConfig(**(SMALL | {"is_encoder_decoder": True}))

    @every_model
    def test_a_model_without_a_decoder_says_so_and_leaves_the_callers_configuration_alone(self, kind):
        config = SeqDyConvConfig(**(SMALL | {"is_encoder_decoder": True, "decoder_attention_heads": 4}))
        before = config.to_dict()
        assert not kind(config).config.is_encoder_decoder
        assert config.to_dict() == before

    def test_a_translation_model_needs_a_decoder(self, tmp_path):
        with pytest.raises(ValueError, match="needs a configuration with is_encoder_decoder=True, got False"):
            SeqDyConvForConditionalGeneration(SeqDyConvConfig(**SMALL))
        build().save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="needs a configuration with is_encoder_decoder=True, got False"):
            AutoModelForSeq2SeqLM.from_pretrained(tmp_path)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"pooling": "last"}, "pooling must be of mean, max, first, got 'last'"),
            ({"classifier_dropout": 1.5}, r"classifier_dropout must be in \[0, 1\), got 1.5"),
            ({"type_vocab_size": -1}, "type_vocab_size must be >= 0, got -1"),
            ({"encoder_attention_heads": 3}, "encoder_attention_heads must divide .* got 3 heads for 20 and 20"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, options, message):
        with pytest.raises(StrictDataclassError, match=message):
            SeqDyConvConfig(**(SMALL | options))


class TestPrograms:
    # What a head adds is the same with every encoder.
    @pytest.mark.parametrize(
        ("kind", "options"),
        [(SeqDyConvModel, options) for options in CONFIGS.values()] + [(kind, {}) for kind in [*HEADS][1:3]],
        ids=[*CONFIGS, *(kind.__name__ for kind in [*HEADS][1:3])],
    )
    def test_the_forward_compiles_into_one_graph(self, kind, options):
        torch._dynamo.reset()
        model, batch = build(kind, **options), pad(texts(9, 4))
        compiled = torch.compile(lambda *batch: result(model, *batch), backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(*batch), result(model, *batch))

    @pytest.mark.parametrize("kind", [SeqDyConvForSequenceClassification, SeqDyConvForMaskedLM])
    def test_the_loss_compiles_into_one_graph(self, kind):
        torch._dynamo.reset()
        model, (tokens, mask) = build(kind, problem_type="single_label_classification"), pad(texts(9, 4))
        labels = tokens if kind is SeqDyConvForMaskedLM else torch.tensor([0, 2])
        compiled = torch.compile(lambda: model(tokens, mask, labels=labels).loss, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(), model(tokens, mask, labels=labels).loss)

    @pytest.mark.parametrize(
        "kind", [SeqDyConvModel, SeqDyConvForSequenceClassification, SeqDyConvForQuestionAnswering]
    )
    def test_it_exports_for_any_batch_and_length(self, kind):
        options = CONFIGS["mixed, learned positions, token types, first"]
        model = build(kind, **options, max_position_embeddings=64)
        sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("time", max=64)}
        shapes = {"input_ids": sizes, "attention_mask": sizes}
        tokens, mask = pad(texts(9, 4))
        example = {"input_ids": tokens, "attention_mask": mask}
        program = torch.export.export(model, (), example, dynamic_shapes=shapes).module()
        for lengths in ([1], [9, 4], [50, 3, 20]):
            tokens, mask = pad(texts(*lengths))
            torch.testing.assert_close(program(input_ids=tokens, attention_mask=mask)[0], model(tokens, mask)[0])


def words_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
    )


class TestPipelines:
    @pytest.mark.parametrize("options", [{}, {"type_vocab_size": 2}], ids=["", "token types"])
    def test_text_classification(self, options, tmp_path):
        model = build(dtype=torch.float32, num_labels=2, id2label={0: "bad", 1: "good"}, **options)
        model.save_pretrained(tmp_path)
        words_tokenizer().save_pretrained(tmp_path)
        classify = pipeline("text-classification", model=str(tmp_path), device="cpu")
        sentences = ["the film", "a good book", "not a bad film"]
        alone = [classify(sentence)[0] for sentence in sentences]
        together = classify(sentences, batch_size=3)
        assert [row["label"] for row in together] == [row["label"] for row in alone]
        torch.testing.assert_close([row["score"] for row in together], [row["score"] for row in alone])
        tokens = torch.tensor([[WORDS.index("the"), WORDS.index("film")]])
        scores = result(model, tokens).softmax(1)[0]
        assert alone[0]["label"] == ["bad", "good"][scores.argmax()]
        assert alone[0]["score"] == pytest.approx(scores.max().item(), rel=1e-4)

    def test_fill_mask(self, tmp_path):
        model = build(SeqDyConvForMaskedLM, torch.float32, vocab_size=len(WORDS))
        model.save_pretrained(tmp_path)
        words_tokenizer().save_pretrained(tmp_path)
        best = pipeline("fill-mask", model=str(tmp_path), device="cpu")("the <mask> film", top_k=1)[0]
        tokens = torch.tensor([[WORDS.index(word) for word in ("the", "<mask>", "film")]])
        assert best["token"] == result(model, tokens)[0, 1].argmax()
        assert best["token_str"] == WORDS[best["token"]]

    def test_token_classification(self, tmp_path):
        names = {0: "O", 1: "B-WORK", 2: "I-WORK"}
        model = build(SeqDyConvForTokenClassification, torch.float32, id2label=names)
        model.save_pretrained(tmp_path)
        words_tokenizer().save_pretrained(tmp_path)
        classify = pipeline("token-classification", model=str(tmp_path), device="cpu", ignore_labels=[])
        sentences = ["not a bad film", "the book"]
        for found, sentence in zip(classify(sentences, batch_size=2), sentences, strict=True):
            words = sentence.split()
            expected = result(model, torch.tensor([[WORDS.index(word) for word in words]]))[0].argmax(-1)
            assert [entity["word"] for entity in found] == words
            assert [entity["entity"] for entity in found] == [names[number] for number in expected.tolist()]

    def test_feature_extraction(self, tmp_path):
        model = build(SeqDyConvModel, torch.float32)
        model.save_pretrained(tmp_path)
        words_tokenizer().save_pretrained(tmp_path)
        features = pipeline("feature-extraction", model=str(tmp_path), device="cpu")("the film")
        tokens = torch.tensor([[WORDS.index("the"), WORDS.index("film")]])
        torch.testing.assert_close(torch.tensor(features), result(model, tokens))
