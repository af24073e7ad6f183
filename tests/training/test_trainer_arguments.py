"""Arguments of the Trainer that can't be are one line before any work; the Trainer is tried on a tiny model."""

import logging

import pytest
import torch
from transformers import Trainer

from seqdyconv.errors import InputError
from seqdyconv.training.language_models import LanguageModelTrainingArguments
from seqdyconv.training.run_trainer import RunArguments
from seqdyconv.training.sentence_embedding import SentenceTrainingArguments
from seqdyconv.training.speech_recognition import SpeechTrainingArguments
from seqdyconv.training.text_classification import ClassificationTrainingArguments
from seqdyconv.training.trainer import TokenBatchTrainingArguments
from seqdyconv.training.trainer_arguments import RULES, try_trainer

FOO = {"foo": 1, "use_reentrant": True}
NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize("name", RULES)
def test_no_number_is_nan_infinite_or_below_its_range(name, tmp_path):
    for value in (NAN, INFINITE, -INFINITE, -2, 1e300, 10**30):
        if value in RULES[name]:
            continue
        with pytest.raises(InputError, match=f"^{name} must be "):
            TokenBatchTrainingArguments(str(tmp_path), **{name: value})


@pytest.mark.parametrize(
    "options, message",
    [
        ({"max_steps": 0}, "max_steps must be at least 1, or -1"),
        ({"adam_beta2": 2.0}, r"adam_beta2 must be in \[0, 1\), got 2.0"),
        (
            {"report_to": "nonsense"},
            "report_to must be none, all, or of what is installed .*tensorboard.* got 'nonsense'",
        ),
        ({"report_to": ["tensorboard", "mlflow"]}, "report_to must be .* got 'mlflow'"),
        ({"optim": "magic"}, "magic is not a valid OptimizerNames"),
        ({"lr_scheduler_type": "magic"}, "magic is not a valid SchedulerType"),
        ({"lr_scheduler_kwargs": '{"min_lr": NaN}'}, "lr_scheduler_kwargs must be a finite number, got nan"),
        ({"lr_scheduler_kwargs": "{"}, "the arguments of the training can't be used"),
        ({"accelerator_config": "nowhere.json"}, "No such file"),
        ({"deepspeed": "nowhere.json"}, "the arguments of the training can't be used"),
        ({"save_strategy": "best"}, "the best model is found by evaluations: set eval_strategy"),
        ({"load_best_model_at_end": True, "save_strategy": "no"}, "found by evaluations: set eval_strategy"),
        ({"load_best_model_at_end": True, "eval_strategy": "epoch"}, "requires the save and eval strategy to match"),
        ({"eval_strategy": "steps", "eval_steps": 0}, "eval_steps must be above 0, got 0"),
        ({"average_checkpoints": 2, "save_strategy": "no"}, "average_checkpoints needs checkpoints: set save_strategy"),
        ({"early_stopping_patience": 1, "metric_for_best_model": "loss"}, "needs evaluations: set eval_strategy"),
        ({"dataloader_prefetch_factor": 2}, "dataloader_prefetch_factor"),
        ({"fp16": True, "bf16": True}, "At most one of fp16 and bf16"),
        ({"output_dir": ""}, "output_dir is missing"),
        ({"output_dir": "\udcff"}, "output_dir must be text that can be written in UTF-8"),
    ],
)
def test_combinations_that_cannot_be(options, message, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        RunArguments(**{"output_dir": str(tmp_path / "run"), **options})
    assert "\n" not in str(caught.value)


def test_one_process_trains_on_one_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(RunArguments, "n_gpu", 4)
    with pytest.raises(InputError, match="can't train on 4 GPUs: start one each, torchrun --nproc_per_node 4"):
        RunArguments(str(tmp_path))


@pytest.mark.parametrize(
    "kind, names",
    [
        (TokenBatchTrainingArguments, "loss, bleu, chrf"),
        (ClassificationTrainingArguments, "loss, accuracy, macro_f1"),
        (SpeechTrainingArguments, "loss, wer, cer"),
    ],
)
def test_the_best_model_is_known_by_what_is_measured(kind, names, tmp_path):
    with pytest.raises(InputError, match=f"must be one of {names}, .* got 'f1'"):
        kind(str(tmp_path), metric_for_best_model="f1", eval_strategy="epoch")
    assert kind(str(tmp_path), metric_for_best_model="eval_loss", eval_strategy="epoch").greater_is_better is False


@pytest.mark.parametrize(
    "kind",
    [
        TokenBatchTrainingArguments,
        ClassificationTrainingArguments,
        SpeechTrainingArguments,
        LanguageModelTrainingArguments,
        SentenceTrainingArguments,
    ],
)
def test_the_best_model_has_the_least_errors_and_costs(kind, tmp_path):
    costs = {"loss", "wer", "cer", "perplexity", "bits_per_byte"}
    more = {"predict_with_generate": True} if kind is TokenBatchTrainingArguments else {}
    for metric in kind.metric_names:
        args = kind(str(tmp_path), metric_for_best_model=metric, eval_strategy="epoch", **more)
        assert args.greater_is_better is (metric not in costs), metric
    asked = kind(str(tmp_path), metric_for_best_model="loss", greater_is_better=True, eval_strategy="epoch")
    assert asked.greater_is_better is True


@pytest.mark.parametrize(
    ("schedule", "options"), [("reduce_lr_on_plateau", {"patience": 0}), ("greedy", {"patience": 0, "min_lr": 1e-9})]
)
@pytest.mark.parametrize(("metric", "values"), [("accuracy", [50, 60, 70]), ("loss", [3, 2, 1])])
def test_a_learning_rate_that_follows_a_metric_does_not_fall_while_it_gets_better(
    schedule, options, metric, values, tmp_path
):
    settings = {"lr_scheduler_type": schedule, "lr_scheduler_kwargs": options, "learning_rate": 1e-3}
    args = ClassificationTrainingArguments(str(tmp_path), metric_for_best_model=metric, report_to="none", **settings)
    trainer = Trainer(torch.nn.Linear(1, 1), args, eval_dataset=[{}])
    trainer.create_optimizer_and_scheduler(num_training_steps=10)
    rate = trainer.optimizer.param_groups[0]
    for value in values:
        trainer.lr_scheduler.step(value)
        assert rate["lr"] >= 1e-3
    best = rate["lr"]
    for value in values[:2]:  # it was better before
        trainer.lr_scheduler.step(value)
    assert rate["lr"] < best


def test_bleu_is_measured_of_generated_texts(tmp_path):
    with pytest.raises(InputError, match="bleu is measured with predict_with_generate alone"):
        TokenBatchTrainingArguments(str(tmp_path), metric_for_best_model="eval_bleu", eval_strategy="epoch")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"optim": "adamw_bnb_8bit"}, "bitsandbytes"),
        ({"optim": "galore_adamw"}, "galore"),
        ({"optim_args": "nonsense"}, "can't be used"),
        ({"lr_scheduler_kwargs": {"foo": 1}}, "unexpected keyword argument 'foo'"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "num_decay_steps"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "min_lr"),
        ({"torch_compile_backend": "nonsense"}, "not a valid DynamoBackend"),
        ({"use_liger_kernel": True}, "liger"),
        ({"dataloader_multiprocessing_context": "nonsense", "dataloader_num_workers": 1}, "valid start method"),
        ({"activation_checkpointing": True, "activation_checkpointing_kwargs": FOO}, "Unexpected keyword.* foo"),
    ],
)
def test_what_the_trainer_cannot_make(options, message, tmp_path):
    args = RunArguments(str(tmp_path / "run"), report_to="none", **options)
    with pytest.raises(InputError, match=message) as caught:
        try_trainer(args)
    assert "\n" not in str(caught.value) and not any(tmp_path.iterdir())


def test_a_try_leaves_the_arguments_as_they_were_and_writes_nothing(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    args = TokenBatchTrainingArguments(str(tmp_path / "run"), dataloader_num_workers=2, max_steps=7, warmup_steps=9)
    before = args.to_dict()
    with caplog.at_level(logging.WARNING, "seqdyconv"):
        try_trainer(args)
    assert args.to_dict() == before and not any(tmp_path.iterdir())
    assert [record.getMessage() for record in caplog.records] == ["the 9 warmup_steps do not end in 7 max_steps"]
