"""The benchmark of training steps runs, and times nothing that is wrong."""

import pytest
import torch

from benchmarks import layers, packing, training, translation


def test_writes_a_table_and_a_picture(tmp_path, capsys):
    threads = torch.get_num_threads()
    try:
        training.main(["--quick", "--output", str(tmp_path)])
    finally:
        torch.set_num_threads(threads)
    table = (tmp_path / "training_1.md").read_text()
    assert table in capsys.readouterr().out
    rows = [tuple(line.strip("| ").split(" | ")[:2]) for line in table.splitlines()[4:]]
    assert rows == [(task, mixer) for task in training.TASKS for mixer in training.MIXERS]
    assert (tmp_path / "training_1.png").stat().st_size > 10_000


def test_a_wrong_loss_ends_it():
    losses = iter([torch.tensor(1.0), torch.tensor(1.1)])
    with pytest.raises(
        SystemExit, match=r"a model is wrong, so nothing is timed: its loss is 1, by the definition 1\.1"
    ):
        training.check("a model", torch.nn.Linear(1, 1), lambda: next(losses))


def test_impossible_sizes_are_one_line(capsys):
    for benchmark in (training, translation, layers, packing):
        with pytest.raises(SystemExit) as end:
            benchmark.main(["--rounds", "0"])
        assert end.value.code == 2 and "--rounds: must be at least 1, got 0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        translation.main(["--tokens", "10", "--length", "24"])
    assert "--tokens must be those of a sentence at least, 24, got 10" in capsys.readouterr().err
