"""The mean of checkpoints."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from seqdyconv.training.averaging import average_checkpoints


def write(folder, **tensors):
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_floats_are_averaged_and_the_rest_is_taken_from_the_last(tmp_path):
    folders = [
        write(
            tmp_path / str(n),
            weight=torch.full((2, 3), float(n)),
            half=torch.tensor([n], dtype=torch.bfloat16),
            steps=torch.tensor(n),
        )
        for n in (1, 2, 6)
    ]
    average_checkpoints(folders, tmp_path / "mean.safetensors")
    mean = load_file(tmp_path / "mean.safetensors")
    assert torch.equal(mean["weight"], torch.full((2, 3), 3.0))
    assert mean["half"].dtype == torch.bfloat16 and mean["half"].item() == 3
    assert mean["steps"].item() == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "6", "mean.safetensors"]


def test_the_sum_keeps_the_precision_of_float64(tmp_path):
    folders = [write(tmp_path / str(n), weight=torch.tensor([value])) for n, value in enumerate([1e8, 1.0, -1e8])]
    average_checkpoints(folders, tmp_path / "mean.safetensors")
    assert load_file(tmp_path / "mean.safetensors")["weight"].item() == pytest.approx(1 / 3)


def test_one_checkpoint_is_itself(tmp_path):
    weight = torch.randn(5)
    average_checkpoints([write(tmp_path / "a", weight=weight)], tmp_path / "mean.safetensors")
    assert torch.equal(load_file(tmp_path / "mean.safetensors")["weight"], weight)


def test_checkpoints_that_do_not_fit_raise_and_leave_no_file(tmp_path):
    first = write(tmp_path / "a", weight=torch.ones(2))
    for other in (write(tmp_path / "b", weight=torch.ones(3)), write(tmp_path / "c", bias=torch.ones(2))):
        with pytest.raises(ValueError, match="hold other tensors"):
            average_checkpoints([first, other], tmp_path / "mean.safetensors")
    with pytest.raises(ValueError, match="no checkpoints"):
        average_checkpoints([], tmp_path / "mean.safetensors")
    with pytest.raises(OSError):
        average_checkpoints([tmp_path / "missing"], tmp_path / "mean.safetensors")
    assert not list(tmp_path.glob("*mean*"))
