"""Which checkpoint a resumed run starts from."""

import json

import pytest
import torch
from safetensors.torch import save_file

from seqdyconv.training.checkpoints import (
    checkpoints,
    is_complete,
    latest_checkpoint,
    remove_incomplete_checkpoints,
)

FILES = ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]


def write_checkpoint(folder):
    folder.mkdir()
    save_file({"weight": torch.ones(100)}, folder / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"state": torch.ones(100)}, folder / name)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 1}))
    return folder


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
