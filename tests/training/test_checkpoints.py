"""Which checkpoint a resumed run starts from, and which it refuses: nothing is removed or written then."""

import json
import pickle
import random
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from seqdyconv.training.checkpoints import (
    STATE_FILE,
    SUMS_FILE,
    check_checkpoint,
    checkpoints,
    is_complete,
    latest_checkpoint,
    remove_incomplete_checkpoints,
    resumable_checkpoint,
    seal_checkpoint,
)
from seqdyconv.training.output_dir import OutputDirError, check_output_dir, remove_run_folder
from seqdyconv.training.runs import train_or_load
from tests.training.test_runs import make_trainer

PICKLED = ["optimizer.pt", "scheduler.pt", "rng_state.pth"]
FILES = [STATE_FILE, "model.safetensors", *PICKLED]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The checkpoints of a run that was killed before it saved its final model."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    train_or_load(make_trainer(folder, max_steps=5, save_steps=2, save_total_limit=2), None)
    for name in (STATE_FILE, "model.safetensors"):
        (folder / name).unlink()
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """A copy of that, with checkpoint-4 and checkpoint-5."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(run, words, load=False):
    """The refusal of a run's newest checkpoint, which leaves everything as it was."""
    before = content(run)
    with pytest.raises(OutputDirError) as caught:
        found = resumable_checkpoint(run)
        if load:  # only what is to be trained tells that another was trained
            train_or_load(make_trainer(run, max_steps=5, save_steps=2, resume=True), found)
    assert content(run) == before
    message = str(caught.value)
    for word in words:
        assert word in message
    assert len(message) < 500 and "\n" not in message
    return message


def test_the_newest_complete_checkpoint_is_found_by_number(run):
    assert [folder.name for folder in checkpoints(run)] == ["checkpoint-4", "checkpoint-5"]
    shutil.copytree(run / "checkpoint-4", run / "checkpoint-20")
    assert latest_checkpoint(run) == run / "checkpoint-20"
    assert latest_checkpoint(run / "nowhere") is None


@pytest.mark.parametrize(
    "name", ["checkpoint-007", "checkpoint-1e3", "checkpoint-best", "checkpoint-٦", "checkpoint--6"]
)
def test_other_names_are_no_checkpoints(run, name):
    (run / "checkpoint-5").rename(run / name)
    assert resumable_checkpoint(run) == run / "checkpoint-4"
    assert remove_incomplete_checkpoints(run) == [] and (run / name / STATE_FILE).is_file()


@pytest.mark.parametrize("name", ["checkpoint-6", "checkpoint-999999999999"])
def test_a_checkpoint_of_another_step_is_refused(run, name):
    shutil.copytree(run / "checkpoint-4", run / name)
    refused(run, [f"{name}/{STATE_FILE}", "it is of step 4", "go on from checkpoint-5"])


def test_a_link_or_a_file_in_the_place_of_a_checkpoint_is_refused(run, tmp_path):
    (run / "run.yaml").write_text("a: 1\n")
    (run / "checkpoint-5").rename(tmp_path / "elsewhere")
    for make in (
        lambda path: path.symlink_to(tmp_path / "elsewhere"),
        lambda path: path.symlink_to(tmp_path / "nowhere"),
        lambda path: path.write_text("mine"),
    ):
        make(run / "checkpoint-5")
        with pytest.raises(OutputDirError, match=r"checkpoint-5 is a (link|file), where a checkpoint may be written"):
            check_output_dir(run, resume=True)
        assert latest_checkpoint(run) == run / "checkpoint-4"
        (run / "checkpoint-5").unlink()


def test_what_a_killed_process_has_left_is_passed_over_and_removed(run):
    folder = run / "checkpoint-5"
    for left in ([SUMS_FILE, STATE_FILE], ["optimizer.pt"], ["model.safetensors"]):
        for name in left:
            (folder / name).unlink()
        assert not is_complete(folder)
        assert resumable_checkpoint(run) == run / "checkpoint-4"
    (folder / STATE_FILE).write_text('{"global_step": 5, "log_his')
    (folder / "notes.md").write_text("mine")
    assert remove_incomplete_checkpoints(run) == [folder]
    assert [path.name for path in folder.iterdir()] == ["notes.md"]


@pytest.mark.parametrize("kept", range(8))
def test_a_removal_that_is_killed_leaves_no_checkpoint(run, monkeypatch, kept):
    unlink, left = Path.unlink, iter(range(kept))

    def interrupted(self, **kwargs):
        if next(left, None) is None:
            raise KeyboardInterrupt
        unlink(self, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", interrupted)
        remove_run_folder(run / "checkpoint-5")
    whole = kept < 2  # its digests are all that is gone
    assert resumable_checkpoint(run) == run / f"checkpoint-{5 if whole else 4}"


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file):
    file.write_bytes(b"")


def flip(file):
    values = bytearray(file.read_bytes())
    for place in random.Random(0).sample(range(len(values)), 3):
        values[place] ^= 0x41
    file.write_bytes(values)


def flip_the_end(file):
    values = bytearray(file.read_bytes())
    values[-200 if file.suffix == ".safetensors" else len(values) // 2] ^= 1
    file.write_bytes(values)


def foreign(file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("letter.txt", "Dear Sir or Madam")


def text(file):
    file.write_text("mine")


def remove(file):
    file.unlink()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [cut, empty, flip, flip_the_end, foreign, text, remove])
def test_a_damaged_file_is_named_with_what_to_do(run, name, damage):
    damage(run / "checkpoint-5" / name)
    refused(run, [f"checkpoint-5/{name}", f"remove {run / 'checkpoint-5'} to go on from checkpoint-4"])
    shutil.rmtree(run / "checkpoint-5")
    assert resumable_checkpoint(run) == run / "checkpoint-4"


@pytest.mark.parametrize("name", FILES[1:])
@pytest.mark.parametrize("damage", [cut, foreign, remove])
def test_so_is_one_of_a_version_that_wrote_no_digests(run, name, damage):
    (run / "checkpoint-5" / SUMS_FILE).unlink()
    damage(run / "checkpoint-5" / name)
    refused(run, [f"checkpoint-5/{name}", "go on from checkpoint-4"])


@pytest.mark.parametrize("seed", range(6))
def test_flipped_bytes_of_pickled_files_are_noticed_without_digests(run, seed):
    (run / "checkpoint-5" / SUMS_FILE).unlink()
    file = run / "checkpoint-5" / PICKLED[seed % 3]
    values = bytearray(file.read_bytes())
    place = random.Random(seed).randrange(len(values) // 4)
    values[place : place + 40] = bytes(value ^ 0x5A for value in values[place : place + 40])
    file.write_bytes(values)
    refused(run, [f"checkpoint-5/{file.name}"])


@pytest.mark.parametrize("damage", [empty, text, flip])
def test_damaged_digests_are_no_excuse(run, damage):
    damage(run / "checkpoint-5" / SUMS_FILE)
    refused(run, ["checkpoint-5/", "go on from checkpoint-4"])


class Attack:
    def __reduce__(self):
        return Path.touch, (Path("attacked"),)


@pytest.mark.parametrize("name", PICKLED)
@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_never_run(run, tmp_path, monkeypatch, name, zipped):
    monkeypatch.chdir(tmp_path)
    file = run / "checkpoint-5" / name
    if zipped:
        torch.save({"state": Attack(), "python": Attack()}, file)
    else:
        file.write_bytes(pickle.dumps(Attack()))
    seal_checkpoint(run / "checkpoint-5")  # whoever plants code can write digests
    refused(run, [f"checkpoint-5/{name}"])
    assert not Path("attacked").exists()


def edit(folder, **values):
    state = json.loads((folder / STATE_FILE).read_text())
    (folder / STATE_FILE).write_text(json.dumps({**state, **values}))
    seal_checkpoint(folder)


STATES = [
    ({"global_step": "5"}, "global_step must be a whole number, got '5'"),
    ({"global_step": True}, "global_step must be a whole number"),
    ({"global_step": -5}, "global_step must be a whole number"),
    ({"global_step": 5000}, "it is of step 5000"),
    ({"epoch": float("nan")}, "epoch must be a number, got nan"),
    ({"best_metric": "high"}, "best_metric must be a number, got 'high'"),
    ({"total_flos": []}, "total_flos must be a number"),
    ({"log_history": "none"}, "log_history must be a list"),
    ({"log_history": [1, 2]}, "log_history must be a list"),
    ({"stateful_callbacks": None}, "stateful_callbacks must be a mapping"),
    ({"best_model_checkpoint": "../../thesis"}, "best_model_checkpoint must be a checkpoint of the run"),
    ({"best_model_checkpoint": 7}, "best_model_checkpoint must be a checkpoint of the run"),
    ({"evil": 1}, "the state of a training has no evil"),
]


@pytest.mark.parametrize("values, message", STATES)
def test_a_state_that_can_t_be(run, values, message):
    edit(run / "checkpoint-5", **values)
    refused(run, [f"checkpoint-5/{STATE_FILE}", message])


@pytest.mark.parametrize("content", ["[]", "7", "null", "[" * 100_000])
def test_a_state_that_is_none(run, content):
    (run / "checkpoint-5" / STATE_FILE).write_text(content)
    seal_checkpoint(run / "checkpoint-5")
    refused(run, [f"checkpoint-5/{STATE_FILE}", "it is not the state of a training"])


@pytest.mark.parametrize(
    "callbacks",
    [
        {"Counts": {"args": {"evil": 1}}},
        {"Counts": {"args": 7}},
        {"Counts": 7},
        {"Counts": {"args": {"items": "many"}}},
        {"Counts": {"args": {"unlogged_loss": ["nan"]}}},
        {"TrainerControl": {"args": {"evil": True}}},
    ],
)
def test_callbacks_that_are_none_of_ours(run, callbacks):
    edit(run / "checkpoint-5", stateful_callbacks=callbacks)
    refused(run, [f"checkpoint-5/{STATE_FILE}"], load=True)


class TestAnotherModel:
    def test_weights_of_other_names_or_shapes(self, run):
        file = run / "checkpoint-5" / "model.safetensors"
        weights = load_file(file)
        name = next(iter(weights))
        for other in (
            {key: value for key, value in weights.items() if key != name},
            {**weights, "more": torch.ones(1)},
            {**weights, name: torch.ones(3)},
            {f"model.{key}": value for key, value in weights.items()},
        ):
            save_file(other, file, metadata={"format": "pt"})
            seal_checkpoint(run / "checkpoint-5")
            refused(run, ["checkpoint-5/model.safetensors", "it is of another model"], load=True)

    def test_optimizers_of_other_parameters(self, run):
        file = run / "checkpoint-5" / "optimizer.pt"
        state = torch.load(file, weights_only=True)
        fewer = {**state, "param_groups": state["param_groups"][:1]}
        shaped = {**state, "state": {0: {**state["state"][0], "exp_avg": torch.ones(1, 2, 3)}}}
        numbered = {**state, "state": {999: state["state"][0]}}
        for other in (fewer, shaped, numbered, {}, {"state": 1, "param_groups": 2}, {"param_groups": [], "state": {}}):
            torch.save(other, file)
            seal_checkpoint(run / "checkpoint-5")
            refused(run, ["checkpoint-5/optimizer.pt", "not the optimizer's state of this model"], load=True)

    def test_schedules_of_other_rates(self, run):
        file = run / "checkpoint-5" / "scheduler.pt"
        state = torch.load(file, weights_only=True)
        for other in ({**state, "base_lrs": [1.0, 1.0]}, {**state, "last_epoch": "5"}, {}, {"weight": torch.ones(2)}):
            torch.save(other, file)
            seal_checkpoint(run / "checkpoint-5")
            refused(run, ["checkpoint-5/scheduler.pt", "another learning rate's schedule"], load=True)

    def test_random_numbers_of_something_else(self, run):
        file = run / "checkpoint-5" / "rng_state.pth"
        state = torch.load(file, weights_only=False)
        for other in ({}, {**state, "python": 7}, {**state, "cpu": torch.ones(3)}, {**state, "numpy": ["a"]}, [1]):
            torch.save(other, file)
            seal_checkpoint(run / "checkpoint-5")
            refused(run, ["checkpoint-5/rng_state.pth"])


def test_a_checkpoint_of_several_processes_needs_as_many(run):
    folder = run / "checkpoint-5"
    (folder / "rng_state.pth").rename(folder / "rng_state_0.pth")
    shutil.copy(folder / "rng_state_0.pth", folder / "rng_state_1.pth")
    seal_checkpoint(folder)
    check_checkpoint(folder, processes=2)
    for processes in (1, 3):
        with pytest.raises(OutputDirError, match=f"written by 2 processes and can't be resumed by {processes}"):
            check_checkpoint(folder, processes)
    (folder / "rng_state_1.pth").write_bytes(b"PK")
    with pytest.raises(OutputDirError, match=r"rng_state_1\.pth"):
        check_checkpoint(folder, processes=2)


def test_the_only_checkpoint_is_no_reason_to_begin_anew(run):
    shutil.rmtree(run / "checkpoint-4")
    empty(run / "checkpoint-5" / "optimizer.pt")
    refused(run, [f"remove {run / 'checkpoint-5'} to begin anew"])


def test_a_moved_run_finds_its_best_checkpoint(tmp_path):
    options = {"max_steps": 5, "save_steps": 1, "eval_steps": 1, "eval_strategy": "steps", "learning_rate": 1e-2}
    options |= {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}
    train_or_load(make_trainer(tmp_path / "run", **options), None)
    best = load_file(tmp_path / "run" / "model.safetensors")
    (tmp_path / "run" / STATE_FILE).unlink()
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    # The best of the run that was copied is another one now.
    shutil.copy(tmp_path / "run/checkpoint-5/model.safetensors", tmp_path / "run/checkpoint-1/model.safetensors")
    moved = make_trainer(tmp_path / "copy", resume=True, **options)
    train_or_load(moved, resumable_checkpoint(tmp_path / "copy"))
    found = load_file(tmp_path / "copy" / "model.safetensors")
    assert all(torch.equal(found[name], value) for name, value in best.items())
    (tmp_path / "copy" / STATE_FILE).unlink()
    shutil.rmtree(tmp_path / "copy" / "checkpoint-1")
    with pytest.raises(OutputDirError, match=r"the best checkpoint so far, .*/checkpoint-1, is missing"):
        train_or_load(make_trainer(tmp_path / "copy", resume=True, **options), resumable_checkpoint(tmp_path / "copy"))


class TestFinalModel:
    @pytest.mark.parametrize("damage", [cut, empty, text, remove])
    def test_a_damaged_one_is_told(self, trained, tmp_path, damage):
        run = Path(shutil.copytree(trained, tmp_path / "run"))
        shutil.copy(run / "checkpoint-5" / STATE_FILE, run)
        shutil.copy(run / "checkpoint-5" / "model.safetensors", run)
        damage(run / "model.safetensors")
        refused(run, [f"remove {run / STATE_FILE} to go on from checkpoint-5", "run/model.safetensors"], load=True)

    def test_a_state_that_is_none_is_told(self, run):
        (run / STATE_FILE).write_text('{"global_step": "5"}')
        refused(run, [f"remove {run / STATE_FILE} to go on from checkpoint-5"], load=True)
