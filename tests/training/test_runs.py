"""A training from its first step to its final model: at once, resumed, and when it has ended before."""

import json

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import BertConfig, BertForSequenceClassification, DataCollatorWithPadding, set_seed

from seqdyconv.training.averaging import average_checkpoints
from seqdyconv.training.checkpoints import checkpoints, latest_checkpoint
from seqdyconv.training.output_dir import begin_run, is_run
from seqdyconv.training.runs import STATE_FILE, is_finished, train_or_load
from seqdyconv.training.token_batches import TokenBatchArguments, TokenBatches
from tests.training.test_token_batches import make_rows, make_tokenizer


def make_trainer(path, **options):
    set_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = BertForSequenceClassification(BertConfig(vocab_size=20, **sizes))
    common = {"max_steps": 4, "save_steps": 1, "max_tokens": 16, "report_to": "none", "disable_tqdm": True, "seed": 0}
    return TokenBatches(
        model=model,
        args=TokenBatchArguments(str(path), **{**common, **options}),
        train_dataset=Dataset.from_list(make_rows(10)),
        eval_dataset=Dataset.from_list(make_rows(10)),
        data_collator=DataCollatorWithPadding(make_tokenizer()),
    )


def weights(path):
    return load_file(path / "model.safetensors")


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_trains_and_saves(tmp_path):
    trainer = make_trainer(tmp_path)
    assert not is_finished(tmp_path)
    assert train_or_load(trainer, None) > 0
    assert is_finished(tmp_path)
    assert json.loads((tmp_path / STATE_FILE).read_text())["global_step"] == 4
    assert equal(weights(tmp_path), weights(checkpoints(tmp_path)[-1]))
    assert equal(dict(trainer.model.state_dict()), weights(tmp_path))


def test_goes_on_from_a_checkpoint(tmp_path):
    train_or_load(make_trainer(tmp_path / "whole"), None)
    resumed = make_trainer(tmp_path / "resumed", resume=True)
    assert train_or_load(resumed, tmp_path / "whole" / "checkpoint-2") > 0
    assert resumed.state.global_step == 4
    assert equal(weights(tmp_path / "resumed"), weights(tmp_path / "whole"))


def test_averages_the_last_checkpoints(tmp_path):
    trainer = make_trainer(tmp_path, average_checkpoints=3)
    train_or_load(trainer, None)
    average_checkpoints([tmp_path / f"checkpoint-{step}" for step in (2, 3, 4)], tmp_path / "expected.safetensors")
    assert equal(weights(tmp_path), load_file(tmp_path / "expected.safetensors"))
    assert equal(dict(trainer.model.state_dict()), weights(tmp_path))
    assert not equal(weights(tmp_path), weights(tmp_path / "checkpoint-4"))


@pytest.mark.parametrize("average", [0, 2])
def test_a_run_that_has_ended_is_loaded(tmp_path, average):
    train_or_load(make_trainer(tmp_path, average_checkpoints=average), None)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = make_trainer(tmp_path, average_checkpoints=average, resume=True)
    assert train_or_load(again, latest_checkpoint(tmp_path)) is None
    assert again.state.global_step == 4
    assert equal(dict(again.model.state_dict()), weights(tmp_path))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_final_model_without_its_state_has_not_ended(tmp_path):
    train_or_load(make_trainer(tmp_path), None)
    expected = weights(tmp_path)
    (tmp_path / STATE_FILE).unlink()
    assert not is_finished(tmp_path)
    assert train_or_load(make_trainer(tmp_path, resume=True), latest_checkpoint(tmp_path)) is not None
    assert is_finished(tmp_path) and equal(weights(tmp_path), expected)


@pytest.mark.parametrize("limit, best, left", [(1, False, [4]), (2, False, [3, 4]), (1, True, [1]), (2, True, [1, 4])])
def test_old_checkpoints_go_and_folders_of_others_stay(tmp_path, limit, best, left):
    (tmp_path / "checkpoint-0").mkdir()
    (tmp_path / "checkpoint-0" / "notes.md").write_text("mine")
    options = {"save_total_limit": limit}
    if best:  # by the largest loss: that of the first evaluation
        options |= {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 1, "learning_rate": 1e-2}
        options |= {"metric_for_best_model": "loss", "greater_is_better": True}
    trainer = make_trainer(tmp_path, **options)
    train_or_load(trainer, None)
    assert [folder.name for folder in checkpoints(tmp_path)] == [f"checkpoint-{step}" for step in left]
    assert (tmp_path / "checkpoint-0" / "notes.md").read_text() == "mine"


def test_the_run_that_is_replaced_goes_with_the_first_step(tmp_path):
    begin_run(tmp_path, {"run": 1})
    begin_run(tmp_path, {"run": 2}, overwrite=True)
    trainer = make_trainer(tmp_path, max_steps=1)
    assert is_run(tmp_path / "replaced_run")
    train_or_load(trainer, None)
    assert not (tmp_path / "replaced_run").exists()
