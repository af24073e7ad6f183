"""Which output directory is accepted, and which checkpoint a resumed run starts from."""

import json

import pytest
import torch
from safetensors.torch import save_file

from seqdyconv.training.checkpoints import (
    OutputDirError,
    check_resumed_arguments,
    checkpoints,
    is_complete,
    latest_checkpoint,
    prepare_output_dir,
    remove_incomplete_checkpoints,
    write_run_file,
)

FILES = ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]


def write_checkpoint(folder):
    folder.mkdir()
    save_file({"weight": torch.ones(100)}, folder / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"state": torch.ones(100)}, folder / name)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 1}))
    return folder


def test_a_new_or_empty_directory_is_accepted(tmp_path):
    assert prepare_output_dir(tmp_path / "a" / "b").is_dir()
    assert prepare_output_dir(tmp_path / "a" / "b").is_dir()


def test_a_run_is_kept_unless_resume_or_overwrite_says_so(tmp_path):
    write_run_file(tmp_path, {"steps": 1})
    with pytest.raises(OutputDirError, match=r"holds another run: add --resume .* or --overwrite"):
        prepare_output_dir(tmp_path)
    prepare_output_dir(tmp_path, resume=True)
    assert (tmp_path / "run.yaml").exists()
    prepare_output_dir(tmp_path, overwrite=True)
    assert list(tmp_path.iterdir()) == []


def test_files_of_somebody_else_are_never_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    for flags in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(OutputDirError, match="holds files"):
            prepare_output_dir(tmp_path, **flags)
    with pytest.raises(OutputDirError, match="is a file"):
        prepare_output_dir(tmp_path / "thesis.tex")
    with pytest.raises(OutputDirError, match="can't make"):
        prepare_output_dir(tmp_path / "thesis.tex" / "run")
    assert (tmp_path / "thesis.tex").read_text() == "x"


def test_resume_needs_a_run_and_excludes_overwrite(tmp_path):
    with pytest.raises(OutputDirError, match="no run to resume"):
        prepare_output_dir(tmp_path / "new", resume=True)
    with pytest.raises(OutputDirError, match="exclude each other"):
        prepare_output_dir(tmp_path, resume=True, overwrite=True)


def test_a_resumed_run_keeps_what_alters_its_weights(tmp_path):
    write_run_file(tmp_path, {"learning_rate": 1e-3, "logging_steps": 10, "sizes": [3, 7], "none": None})
    same = {"learning_rate": 1e-3, "logging_steps": 99, "sizes": [3, 7], "none": None}
    check_resumed_arguments(tmp_path, same, may_change={"logging_steps"})
    with pytest.raises(
        OutputDirError, match=r"learning_rate was 0.001 and is now 0.1; sizes was \[3, 7\] and is now \[3\]"
    ):
        check_resumed_arguments(tmp_path, {**same, "learning_rate": 0.1, "sizes": [3]}, may_change={"logging_steps"})


def test_the_newest_complete_checkpoint_is_found_by_number(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    for step in (5, 10, 100):
        write_checkpoint(tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-best").mkdir()
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-100"
    assert [folder.name for folder in checkpoints(tmp_path)] == ["checkpoint-5", "checkpoint-10", "checkpoint-100"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
def test_a_checkpoint_with_a_damaged_file_is_skipped_and_removed(tmp_path, name, damage):
    write_checkpoint(tmp_path / "checkpoint-1")
    file = write_checkpoint(tmp_path / "checkpoint-2") / name
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(content[:-5] if damage == "cut" else b"")
    assert not is_complete(tmp_path / "checkpoint-2")
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-1"
    assert remove_incomplete_checkpoints(tmp_path) == [tmp_path / "checkpoint-2"]
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["checkpoint-1"]


def test_a_checkpoint_of_several_processes_needs_the_state_of_each(tmp_path):
    folder = write_checkpoint(tmp_path / "checkpoint-1")
    (folder / "rng_state.pth").rename(folder / "rng_state_0.pth")
    torch.save({}, folder / "rng_state_1.pth")
    assert is_complete(folder)
    (folder / "rng_state_1.pth").write_bytes(b"PK")
    assert not is_complete(folder)
