"""A training whose numbers are none any more stops in one line, and overwrites nothing; a full disk is one line too."""

import math
import resource

import pytest
import torch
from transformers import TrainerCallback

from seqdyconv.errors import exit_on_error
from seqdyconv.training.bookkeeping import DivergedError, FiniteNumbers
from seqdyconv.training.checkpoints import checkpoints, resumable_checkpoint
from seqdyconv.training.output_dir import OutputDirError
from seqdyconv.training.runs import is_finished, train_or_load
from tests.training.test_runs import make_trainer, weights


def break_loss(trainer, step, value, monkeypatch, evaluation=False):
    """The loss of a training step, or of the evaluation after it, is `value`."""
    compute_loss = trainer.compute_loss

    def broken(model, inputs, *args, **kwargs):
        found = compute_loss(model, inputs, *args, **kwargs)
        if model.training == evaluation or trainer.state.global_step != step - (not evaluation):
            return found
        return (found[0] * value, found[1]) if isinstance(found, tuple) else found * value

    monkeypatch.setattr(trainer, "compute_loss", broken)


def stopped(trainer, words):
    """What a training says that stops, which leaves finite weights alone behind."""
    with pytest.raises(DivergedError) as caught:
        train_or_load(trainer, None)
    message = str(caught.value)
    for word in words:
        assert word in message
    assert "\n" not in message
    folder = trainer.args.output_dir
    assert not is_finished(folder)
    for checkpoint in checkpoints(folder):
        assert all(bool(weight.isfinite().all()) for weight in weights(checkpoint).values())
    return [checkpoint.name for checkpoint in checkpoints(folder)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("filtered", [False, True])
def test_a_loss_that_is_none(tmp_path, monkeypatch, value, filtered):
    trainer = make_trainer(tmp_path, max_steps=6, save_steps=2, logging_nan_inf_filter=filtered, learning_rate=0.25)
    break_loss(trainer, 5, value, monkeypatch)
    words = [
        "the loss is NaN or infinite at step 5,",
        "too high a learning_rate (it is 0.25)",
        "checkpoint-4 is the last",
    ]
    assert stopped(trainer, words) == ["checkpoint-2", "checkpoint-4"]


def test_in_the_first_step_it_is_not_the_learning_rate(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, bf16=True)
    break_loss(trainer, 1, math.nan, monkeypatch)
    assert stopped(trainer, ["at step 1,", "bf16", "an example without labels", "no checkpoint was saved"]) == []


def test_the_line_stands_alone(tmp_path, monkeypatch, capsys):
    trainer = make_trainer(tmp_path, disable_tqdm=False)
    break_loss(trainer, 3, math.nan, monkeypatch)
    with pytest.raises(SystemExit), exit_on_error():
        train_or_load(trainer, None)
    line = capsys.readouterr().err.splitlines()[-1]
    assert ": error: the loss is NaN or infinite at step 3" in line
    assert "%" not in line


def test_one_of_several_accumulated_batches(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, gradient_accumulation_steps=2)
    break_loss(trainer, 2, math.nan, monkeypatch)
    assert stopped(trainer, ["the loss is NaN or infinite at step 2,"]) == ["checkpoint-1"]


@pytest.mark.parametrize("norm", [1.0, 0.0])
def test_a_gradient_that_is_none_with_a_loss_that_is_one(tmp_path, norm):
    trainer = make_trainer(tmp_path, max_grad_norm=norm)
    weight = next(trainer.model.parameters())
    weight.register_hook(lambda gradient: gradient * (math.inf if trainer.state.global_step == 2 else 1))
    assert stopped(trainer, ["the gradient is NaN or infinite at step 3,"]) == ["checkpoint-1", "checkpoint-2"]


@pytest.mark.parametrize("strategy", ["steps", "no"])
def test_weights_that_a_last_step_has_broken(tmp_path, strategy):
    """Loss and gradient were right: nothing but the weights tells."""
    trainer = make_trainer(tmp_path, max_steps=1, save_strategy=strategy, learning_rate=1000, weight_decay=1e38)
    assert stopped(trainer, ["the weights are NaN or infinite at step 1"]) == []
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_validation_loss_that_is_none(tmp_path, monkeypatch, value):
    trainer = make_trainer(tmp_path, eval_strategy="steps", eval_steps=1, metric_for_best_model="loss")
    break_loss(trainer, 3, value, monkeypatch, evaluation=True)
    assert stopped(trainer, ["the validation's eval_loss is", "at step 3"]) == ["checkpoint-1", "checkpoint-2"]


def test_a_resumed_run_counts_its_steps_from_the_first(tmp_path, monkeypatch):
    train_or_load(make_trainer(tmp_path, max_steps=6), None)
    (tmp_path / "trainer_state.json").unlink()
    trainer = make_trainer(tmp_path, max_steps=6, resume=True)
    break_loss(trainer, 6, math.nan, monkeypatch)
    with pytest.raises(DivergedError, match="at step 6,"):
        train_or_load(trainer, tmp_path / "checkpoint-3")


class TestFiniteNumbers:
    def test_the_first_step_that_was_not(self):
        numbers = FiniteNumbers()
        assert numbers.fault() is None
        for loss, norm in ((1.0, 2.0), (1.0, None), (3.0, math.nan), (math.nan, 1.0)):
            numbers.add_loss(torch.tensor(loss))
            numbers.end_step(norm)
        assert numbers.fault() == (2, "loss")

    def test_a_gradient(self):
        numbers = FiniteNumbers()
        numbers.add_loss(torch.tensor(1.0))
        numbers.end_step(torch.tensor(math.inf))
        assert numbers.fault() == (0, "gradient")


LIMITS = resource.getrlimit(resource.RLIMIT_FSIZE)


class NoRoom(TrainerCallback):
    """From a step on no file may be larger."""

    def __init__(self, step, size):
        self.step, self.size = step, size

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, LIMITS[1]))


class TestFullDisk:
    @pytest.mark.parametrize("size", [20, 15_000, 30_000])  # below that of the weights; of the optimizer's state
    def test_a_checkpoint_that_can_t_be_written_goes_and_the_one_before_stays(self, tmp_path, size):
        trainer = make_trainer(tmp_path, max_steps=6, save_steps=2)
        trainer.add_callback(NoRoom(3, size))
        try:
            with pytest.raises(OutputDirError, match=r"can't write checkpoint-4 in .*checkpoint-2 stays: --resume"):
                train_or_load(trainer, None)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, LIMITS)
        assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]
        assert resumable_checkpoint(tmp_path) == tmp_path / "checkpoint-2"

    def test_a_mistake_keeps_its_traceback(self, tmp_path, monkeypatch):
        trainer = make_trainer(tmp_path)
        monkeypatch.setattr(torch, "save", lambda *args, **kwargs: torch.ones(2) @ torch.ones(3))
        with pytest.raises(RuntimeError, match="size"):
            train_or_load(trainer, None)
