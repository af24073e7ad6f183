"""A run from the checks of its directory to its reports: at once, resumed, and when it has ended before."""

import contextlib
import json
import logging

import pytest
import torch
from datasets import Dataset
from huggingface_hub import HfApi
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    TrainerCallback,
    TrainerState,
    set_seed,
)

from seqdyconv.data.tables import DataError
from seqdyconv.errors import InputError
from seqdyconv.runtime.options import DecodingArguments
from seqdyconv.training.arguments import resolved_arguments
from seqdyconv.training.averaging import average_checkpoints
from seqdyconv.training.checkpoints import STATE_FILE, checkpoints, latest_checkpoint
from seqdyconv.training.output_dir import OutputDirError, begin_run, is_run
from seqdyconv.training.run_trainer import RunTrainer
from seqdyconv.training.runs import Run, is_finished, train_or_load
from seqdyconv.training.token_batches import TokenBatchArguments
from tests.training.test_token_batches import MeasuredBatches, make_rows, make_tokenizer


def make_trainer(path, **options):
    set_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = BertForSequenceClassification(BertConfig(vocab_size=20, **sizes))
    common = {"max_steps": 4, "save_steps": 1, "max_tokens": 16, "report_to": "none", "disable_tqdm": True, "seed": 0}
    return MeasuredBatches(
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
    train_or_load(trainer, None)
    assert trainer.counts.seconds > 0
    assert is_finished(tmp_path)
    assert json.loads((tmp_path / STATE_FILE).read_text())["global_step"] == 4
    assert equal(weights(tmp_path), weights(checkpoints(tmp_path)[-1]))
    assert equal(dict(trainer.model.state_dict()), weights(tmp_path))


def test_goes_on_from_a_checkpoint(tmp_path):
    train_or_load(make_trainer(tmp_path / "whole"), None)
    resumed = make_trainer(tmp_path / "resumed", resume=True)
    train_or_load(resumed, tmp_path / "whole" / "checkpoint-2")
    assert resumed.state.global_step == 4
    assert equal(weights(tmp_path / "resumed"), weights(tmp_path / "whole"))


def test_averages_the_last_checkpoints(tmp_path):
    trainer = make_trainer(tmp_path, average_checkpoints=3)
    train_or_load(trainer, None)
    average_checkpoints([tmp_path / f"checkpoint-{step}" for step in (2, 3, 4)], tmp_path / "expected.safetensors")
    assert equal(weights(tmp_path), load_file(tmp_path / "expected.safetensors"))
    assert equal(dict(trainer.model.state_dict()), weights(tmp_path))
    assert not equal(weights(tmp_path), weights(tmp_path / "checkpoint-4"))


def test_a_training_is_not_lost_where_there_are_fewer_checkpoints_to_average(tmp_path, caplog):
    best = {"save_strategy": "best", "eval_strategy": "steps", "eval_delay": 9, "metric_for_best_model": "loss"}
    for name, options, number in (("few", {"save_steps": 2}, 2), ("none", best, 0)):
        trainer = make_trainer(tmp_path / name, average_checkpoints=3, **options)
        with caplog.at_level(logging.WARNING, "seqdyconv"):
            train_or_load(trainer, None)
        assert is_finished(tmp_path / name) and len(checkpoints(tmp_path / name)) == number
        assert f"average_checkpoints: there are {number} of 3 checkpoints" in caplog.text
    assert equal(dict(trainer.model.state_dict()), weights(tmp_path / name))


def test_an_old_checkpoint_that_is_the_best_is_not_averaged(tmp_path):
    options = {"save_total_limit": 2, "metric_for_best_model": "loss", "greater_is_better": True, "eval_steps": 1}
    options |= {"eval_strategy": "steps", "learning_rate": 1e-2}  # the largest loss is that of the first evaluation
    trainer = make_trainer(tmp_path, average_checkpoints=2, **options)
    train_or_load(trainer, None)
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-1")
    assert [folder.name for folder in checkpoints(tmp_path)] == ["checkpoint-3", "checkpoint-4"]
    average_checkpoints(checkpoints(tmp_path), tmp_path / "expected.safetensors")
    assert equal(weights(tmp_path), load_file(tmp_path / "expected.safetensors"))


@pytest.mark.parametrize("before, now", [(0, 2), (3, 1)])
def test_the_final_model_of_a_run_that_has_ended_is_not_averaged_anew(tmp_path, before, now):
    trainer = make_trainer(tmp_path, average_checkpoints=before)
    begin_run(tmp_path, resolved_arguments(trainer.args))
    train_or_load(trainer, None)
    again = make_trainer(tmp_path, average_checkpoints=now, resume=True)
    told = f"has ended with average_checkpoints: {max(1, before)}, got {now}: its final model stays"
    with pytest.raises(OutputDirError, match=told), Run(again.args, (), "").preparation():
        pytest.fail("the block was entered")


def test_a_damaged_checkpoint_is_not_averaged(tmp_path):
    class Damage(TrainerCallback):
        def on_train_end(self, *args, **kwargs):
            file = tmp_path / "checkpoint-2" / "model.safetensors"
            content = bytearray(file.read_bytes())
            content[-3] ^= 1
            file.write_bytes(content)

    trainer = make_trainer(tmp_path, average_checkpoints=3)
    trainer.add_callback(Damage())
    with pytest.raises(OutputDirError, match=r"checkpoint-2/model\.safetensors: it is not as it was saved"):
        train_or_load(trainer, None)
    assert not is_finished(tmp_path)


@pytest.mark.parametrize("average", [0, 2])
def test_a_run_that_has_ended_is_loaded(tmp_path, average):
    train_or_load(make_trainer(tmp_path, average_checkpoints=average), None)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = make_trainer(tmp_path, average_checkpoints=average, resume=True)
    train_or_load(again, latest_checkpoint(tmp_path))
    assert again.state.global_step == 4
    assert equal(dict(again.model.state_dict()), weights(tmp_path))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_final_model_without_its_state_has_not_ended(tmp_path):
    train_or_load(make_trainer(tmp_path), None)
    expected = weights(tmp_path)
    (tmp_path / STATE_FILE).unlink()
    assert not is_finished(tmp_path)
    train_or_load(make_trainer(tmp_path, resume=True), latest_checkpoint(tmp_path))
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


def test_a_state_that_was_cut_off_has_not_ended(tmp_path):
    (tmp_path / STATE_FILE).write_text('{"global_step": 4, "log_his')
    assert not is_finished(tmp_path)


class TestRun:
    def run(self, path, *groups, **options):
        return Run(TokenBatchArguments(str(path), report_to="none", **options), groups, "python train.py")

    def test_nothing_is_written_before_it_begins(self, tmp_path):
        run = self.run(tmp_path / "run")
        with run.preparation():
            assert not run.has_tokenizer
            assert list(tmp_path.iterdir()) == []
            assert run.begin()
        assert sorted(file.name for file in run.output_dir.iterdir()) == ["run.yaml", "training_data.yaml"]

    def begun(self, path, *data, **options):
        run = self.run(path, **options)
        with run.preparation():
            run.begin(*data)
        return run

    def test_a_directory_that_is_not_free_is_refused_before_any_work(self, tmp_path):
        self.begun(tmp_path)
        with pytest.raises(OutputDirError, match="holds another run"), self.run(tmp_path).preparation():
            pytest.fail("the block was entered")

    def test_what_fails_in_the_preparation_leaves_the_old_run_as_it_was(self, tmp_path):
        self.begun(tmp_path)
        before = (tmp_path / "run.yaml").read_text()
        with pytest.raises(DataError), self.run(tmp_path, overwrite=True, seed=7).preparation():
            raise DataError("no such file")
        assert (tmp_path / "run.yaml").read_text() == before

    def test_a_resumed_run_keeps_its_arguments(self, tmp_path):
        make_tokenizer().save_pretrained(self.begun(tmp_path, seed=3).output_dir)
        resumed = self.run(tmp_path, seed=3, resume=True, logging_steps=7)
        with resumed.preparation():
            # Whoever was killed before the first checkpoint may have been writing the tokenizer.
            assert resumed.checkpoint is None and not resumed.has_tokenizer
        with pytest.raises(OutputDirError, match="seed was 3 and is now 4"):
            self.run(tmp_path, DecodingArguments(num_beams=2), seed=4, resume=True).preparation().__enter__()

    @pytest.mark.parametrize(
        "change, split",
        [
            (lambda rows: rows, None),
            (lambda rows: rows[:-1], "train"),
            (lambda rows: [*rows, rows[0]], "train"),
            (lambda rows: rows[::-1], "train"),
            (lambda rows: [*rows[:-1], {"input_ids": [6], "text": "b"}], "train"),
            (lambda rows: [*rows[:-1], {"input_ids": [5], "text": "c"}], "train"),
            (lambda rows: [{"input_ids": [1, 2, 3]}, {"input_ids": [4, 0]}, *rows[2:]], "train"),
            (lambda rows: [{"ids": row["input_ids"], "text": row["text"]} for row in rows], "train"),
        ],
        ids=["none", "removed", "added", "reordered", "edited", "other text", "moved token", "renamed"],
    )
    @pytest.mark.parametrize("has_ended", [False, True])
    def test_the_data_of_a_resumed_run_are_those_it_began_with(self, tmp_path, change, split, has_ended):
        rows = [{"input_ids": ids, "text": text} for ids, text in (([1, 2], "a"), ([3, 4, 0], ""), ([5], "b"))]
        self.begun(tmp_path, {"train": Dataset.from_list(rows)})
        if has_ended:
            TrainerState(global_step=4).save_to_json(tmp_path / STATE_FILE)
        kept = (tmp_path / "training_data.yaml").read_bytes()
        resumed = self.run(tmp_path, resume=True)
        table = Dataset.from_list(change(rows) * 2).select(range(len(change(rows))))  # stored in another way
        with contextlib.ExitStack() as stack:
            if split is not None:
                told = f"the {split} data are not those that the run in {tmp_path} began with .*--overwrite"
                stack.enter_context(pytest.raises(OutputDirError, match=told))
            with resumed.preparation():
                assert resumed.begin({"train": table}) != has_ended
        assert (tmp_path / "training_data.yaml").read_bytes() == kept

    @pytest.mark.parametrize(
        "options, decides",
        [
            ({"eval_strategy": "epoch"}, False),
            ({"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}, True),
            ({"eval_strategy": "epoch", "metric_for_best_model": "loss", "early_stopping_patience": 2}, True),
        ],
        ids=["reported", "best", "early stopping"],
    )
    def test_validation_data_belong_to_it_where_they_decide(self, tmp_path, options, decides):
        train, labels = Dataset.from_dict({"input_ids": [[1]]}), {"train": ["no", "yes"]}
        self.begun(tmp_path, {"train": train, "validation": train}, labels, **options)
        other = {"train": train, "validation": Dataset.from_dict({"input_ids": [[2]]})}
        for data, label_names, split in (
            (other, labels, "validation" if decides else None),
            ({"train": train}, labels, "validation" if decides else None),
            ({"train": train, "validation": train}, {"train": ["no", "perhaps"]}, "train"),
        ):
            resumed = self.run(tmp_path, resume=True, **options)
            with resumed.preparation():
                if split is None:
                    assert resumed.begin(data, label_names)
                else:
                    with pytest.raises(OutputDirError, match=f"the {split} data are not those"):
                        resumed.begin(data, label_names)

    def test_a_run_of_a_version_that_kept_no_digest_goes_on(self, tmp_path):
        self.begun(tmp_path, {"train": Dataset.from_dict({"input_ids": [[1]]})})
        (tmp_path / "training_data.yaml").unlink()
        TrainerState(global_step=4).save_to_json(tmp_path / STATE_FILE)
        resumed = self.run(tmp_path, resume=True)
        with resumed.preparation():
            assert not resumed.begin({"train": Dataset.from_dict({"input_ids": [[2]]})})

    @pytest.mark.parametrize("content", ["max_tokens: [1", "\x00", "- 1", "? [a]\n: b", "1: 2"])
    def test_a_damaged_run_file_is_one_line(self, tmp_path, content):
        self.begun(tmp_path)
        (tmp_path / "run.yaml").write_text(content)
        with pytest.raises(InputError) as caught, self.run(tmp_path, resume=True).preparation():
            pytest.fail("the block was entered")
        assert str(tmp_path) in str(caught.value)

    def test_the_test_set_is_left_alone_where_settings_are_chosen(self, tmp_path):
        assert self.run(tmp_path).held_out({"train", "test", "validation"}) == ["validation", "test"]
        assert self.run(tmp_path, do_predict=False).held_out({"train", "test", "validation"}) == ["validation"]

    def test_validation_needs_data(self, tmp_path):
        self.run(tmp_path).check_splits({"train"})
        run = self.run(tmp_path, eval_strategy="epoch")
        run.check_splits({"train", "validation"})
        with pytest.raises(DataError, match="there is no validation data: give some, or eval_strategy: no"):
            run.check_splits({"train", "test"})

    def test_trains_reports_and_sums_up(self, tmp_path, capsys):
        trainer = make_trainer(tmp_path, label_smoothing_factor=0.1)
        run = Run(trainer.args, (DecodingArguments(num_beams=9),), "python train.py a.yaml")
        with run.preparation():
            run.begin()
        metrics = run.train(trainer, "labels")
        assert metrics["train_steps"] == 4 and metrics["train_labels"] > 0
        assert metrics["train_seconds"] >= metrics["train_seconds_without_evaluation"] > 0
        assert metrics["parameters"] == sum(weight.numel() for weight in trainer.model.parameters())
        run.write_metrics(metrics)
        written = json.loads((tmp_path / "metrics.json").read_text())
        assert written["wall_seconds"] > 0
        record = json.loads((tmp_path / "record.json").read_text())
        assert (record["command"], record["metrics"]) == ("python train.py a.yaml", written)
        assert record["config"]["num_beams"] == 9 and "output_dir" not in record["config"]
        assert torch.__version__.startswith(record["versions"]["torch"].partition("+")[0])
        assert record["machine"]["threads"] == torch.get_num_threads() and record["code"]["version"]
        run.plot_learning_curves(trainer, "Labels", {})
        card = {"tags": ["labels"], "languages": [], "data": {}, "usage": "print(1)"}
        run.write_model_card("labels", metrics, summary="A model.", **card)
        text = (tmp_path / "README.md").read_text()
        assert f"# {tmp_path.name}: labels" in text and "python train.py a.yaml" in text
        assert "save_steps: 1" in text and "num_beams: 9" in text and "length_penalty" not in text
        assert "(learning_curves.png)" in text
        run.print_summary(metrics, [{"text": "a b"}], {"accuracy": "50.00"})
        lines = capsys.readouterr().out.splitlines()
        assert "  text        a b" in lines and f"{'accuracy':<28}50.00" in lines
        assert any(line.startswith("training, labels/s ") for line in lines)
        assert lines[-1] == f"{'written to':<28}{tmp_path}"

    def test_what_is_pushed_is_all_that_it_has_come_to(self, tmp_path, monkeypatch):
        pushed = []

        def upload(hub, repo_id, folder_path, ignore_patterns, **options):
            pushed.append(repo_id)
            if len(pushed) == 1:
                raise ConnectionError("no network\nat all")
            content = [str(file.relative_to(folder_path)) for file in folder_path.rglob("*") if file.is_file()]
            kept = set(filter_repo_objects(content, ignore_patterns=ignore_patterns))
            assert {"README.md", "metrics.json", "record.json", "model.safetensors"} <= kept
            assert "python train.py" in (folder_path / "README.md").read_text()
            assert not any("checkpoint-" in name for name in kept)

        monkeypatch.setattr(HfApi, "upload_folder", upload)
        monkeypatch.setattr(HfApi, "whoami", lambda hub, token=None: {})
        monkeypatch.setattr(RunTrainer, "init_hf_repo", lambda trainer: setattr(trainer, "hub_model_id", "me/model"))
        card = {"summary": "A model.", "tags": ["labels"], "languages": [], "data": {}, "usage": "print(1)"}
        for resume in (False, True):
            trainer = make_trainer(tmp_path, resume=resume, push_to_hub=True, hub_strategy="end")
            with (run := Run(trainer.args, (), "python train.py a.yaml")).preparation():
                run.begin()
            metrics = run.train(trainer, "labels")
            run.write_metrics(metrics)
            no_network = pytest.raises(
                InputError, match=r"can't push .* to me/model: no network; .* --resume pushes it$"
            )
            with contextlib.nullcontext() if resume else no_network:
                run.write_model_card("labels", metrics, **card)
        assert pushed == ["me/model"] * 2

    def test_a_run_keeps_its_tokenizer_and_reports_as_a_whole(self, tmp_path):
        found = []
        for resume in (False, True, True):
            trainer = make_trainer(tmp_path, max_steps=5, resume=resume)
            with (run := Run(trainer.args, (), "")).preparation():
                assert run.has_tokenizer == resume
                assert run.begin() != resume
            found.append(run.train(trainer, "labels"))
            if len(found) == 1:
                assert run.checkpoint is None
                state = json.loads((tmp_path / "checkpoint-5" / STATE_FILE).read_text())
                (tmp_path / STATE_FILE).unlink()
            else:
                assert run.checkpoint == tmp_path / "checkpoint-5"
        assert found[0]["train_labels"] > 10
        for name in ("parameters", "train_steps", "train_labels"):
            assert found[0][name] == found[1][name] == found[2][name]
        assert found[1] == found[2]
        assert found[1]["train_seconds"] >= state["stateful_callbacks"]["Counts"]["args"]["seconds"] > 0

    def test_a_run_of_a_version_that_did_not_count_gives_no_counts(self, tmp_path):
        trainer = make_trainer(tmp_path)
        train_or_load(trainer, None)
        for folder in (tmp_path, tmp_path / "checkpoint-4"):
            state = json.loads((folder / STATE_FILE).read_text())
            del state["stateful_callbacks"]["Counts"]
            (folder / STATE_FILE).write_text(json.dumps(state))
        (tmp_path / "checkpoint-4" / "SHA256SUMS").unlink()
        begin_run(tmp_path, resolved_arguments(trainer.args))
        for _ in range(2):
            again = make_trainer(tmp_path, resume=True)
            with (run := Run(again.args, (), "")).preparation():
                run.begin()
            assert run.train(again, "labels").keys() == {"parameters", "train_steps"}
            (tmp_path / STATE_FILE).unlink(missing_ok=True)
