"""Batches bounded in tokens for a Trainer of any task, and the arguments for it."""

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
    Trainer,
    set_seed,
)

from seqdyconv.training.token_batches import TokenBatchArguments, TokenBatches, example_lengths


def make_tokenizer():
    tokenizer = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")


def make_rows(number):
    """Texts of 2 to 8 tokens, in no order of their lengths."""
    return [{"input_ids": [2 + index] * (2 + 5 * index % 7), "labels": index % 2} for index in range(number)]


class MeasuredBatches(TokenBatches):
    """Its loss is the mean over the texts."""

    def measure(self, dataset):
        with self.evaluating() as model:
            found = [len(rows) * self.compute_loss(model, inputs) for rows, inputs, _ in self.own_batches(dataset)]
        return {"loss": float(sum(found)) / len(dataset)}


def make_trainer(path, rows=12, max_tokens=16, **options):
    set_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    dataset = Dataset.from_list(make_rows(rows))
    return MeasuredBatches(
        model=BertForSequenceClassification(BertConfig(vocab_size=20, **sizes)),
        args=TokenBatchArguments(
            str(path), max_tokens=max_tokens, report_to="none", disable_tqdm=True, save_strategy="no", **options
        ),
        train_dataset=dataset,
        eval_dataset=dataset,
        data_collator=DataCollatorWithPadding(make_tokenizer()),
    )


def texts(batches):
    return sorted(int(row[0]) for batch in batches for row in batch["input_ids"])


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"output_dir": None}, "output_dir is missing"),
            ({"per_device_train_batch_size": 4}, "per_device_train_batch_size has no effect here: max_tokens bounds"),
            ({"per_device_eval_batch_size": 4}, "per_device_eval_batch_size has no effect here: eval_max_tokens"),
            ({"resume_from_checkpoint": "checkpoint-1"}, "resume_from_checkpoint has no effect here: use resume"),
            ({"do_eval": True}, "do_eval has no effect here: use eval_strategy"),
            ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
            ({"eval_max_tokens": -1}, "eval_max_tokens must be at least 1, got -1"),
            ({"label_smoothing_factor": 1.0}, r"label_smoothing_factor must be in \[0, 1\), got 1.0"),
            ({"average_checkpoints": -1}, "average_checkpoints must be at least 0, got -1"),
            ({"early_stopping_patience": 2}, "early_stopping_patience needs metric_for_best_model"),
            ({"mix_lengths": True}, "mix_lengths needs packing"),
            ({"average_checkpoints": 2, "load_best_model_at_end": True}, "exclude each other"),
            ({"average_checkpoints": 3, "save_total_limit": 2}, r"= 3, got 2$"),
        ],
        ids=str,
    )
    def test_that_do_not_work(self, tmp_path, options, match):
        with pytest.raises(ValueError, match=match) as caught:
            TokenBatchArguments(**{"output_dir": str(tmp_path), **options})
        assert "\n" not in str(caught.value)

    def test_that_do(self, tmp_path):
        TokenBatchArguments(str(tmp_path), average_checkpoints=3, save_total_limit=3)
        TokenBatchArguments(
            str(tmp_path), early_stopping_patience=2, metric_for_best_model="loss", eval_strategy="epoch"
        )

    def test_all_without_effect_are_arguments_of_the_trainer(self, tmp_path):
        arguments = TokenBatchArguments(str(tmp_path))
        assert all(hasattr(arguments, name) for name in TokenBatchArguments.without_effect)


class TestTrainingBatches:
    def test_hold_every_text_once_within_the_bound(self, tmp_path):
        batches = list(make_trainer(tmp_path).get_train_dataloader())
        assert texts(batches) == list(range(2, 14))
        assert max(batch["input_ids"].numel() for batch in batches) <= 16

    def test_hold_texts_of_similar_length(self, tmp_path):
        batches = list(make_trainer(tmp_path, rows=14).get_train_dataloader())
        assert sum((batch["input_ids"] == 0).sum() for batch in batches) < sum(
            len(batch["labels"]) for batch in batches
        )

    def test_are_shuffled_anew_in_each_epoch_and_equal_for_a_seed(self, tmp_path):
        def orders(**options):
            dataloader = make_trainer(tmp_path, **options).get_train_dataloader()
            found = []
            for epoch in range(2):
                dataloader.set_epoch(epoch)
                found.append([row[0].item() for batch in dataloader for row in batch["input_ids"]])
            return found

        first, second = orders()
        assert first != second
        assert orders() == [first, second]
        assert orders(seed=7)[0] != first and orders(data_seed=7)[0] == orders(seed=7)[0]


class TestEvaluation:
    def test_goes_through_every_text_once_from_short_to_long(self, tmp_path):
        trainer = make_trainer(tmp_path, eval_max_tokens=24)
        batches = [inputs for _, inputs, _ in trainer.own_batches(trainer.eval_dataset)]
        assert texts(batches) == list(range(2, 14))
        lengths = [batch["input_ids"].shape[1] for batch in batches]
        assert lengths == sorted(lengths)
        assert 16 < max(batch["input_ids"].numel() for batch in batches) <= 24

    def test_what_is_measured_is_logged_and_its_time_is_counted(self, tmp_path):
        trainer = make_trainer(tmp_path, max_tokens=8)
        assert trainer.evaluation_seconds == 0
        plain = Trainer(trainer.model, trainer.args, trainer.data_collator, eval_dataset=trainer.eval_dataset)
        found = trainer.evaluate()["eval_loss"]
        assert found == pytest.approx(plain.evaluate()["eval_loss"], rel=1e-5)
        assert trainer.state.log_history[-1]["eval_loss"] == found
        first = trainer.evaluation_seconds
        trainer.evaluate()
        assert 0 < first < trainer.evaluation_seconds


def test_lengths_of_columns():
    rows = Dataset.from_list([{"input_ids": [1, 2, 3], "labels": [1]}, {"input_ids": [], "labels": [1, 2]}])
    assert example_lengths(rows).tolist() == [[3, 1], [0, 2]]
    assert example_lengths(rows.select([1, 0]), ["input_ids"]).tolist() == [[0], [3]]


@pytest.mark.parametrize("native", [True, False])
def test_bf16_is_for_devices_with_instructions_for_it(native, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "amx_bf16": native})
    trainer = make_trainer(tmp_path, bf16=True, use_cpu=True)
    assert trainer.args.bf16 == native
    assert ("no instructions for it" in caplog.text) != native
