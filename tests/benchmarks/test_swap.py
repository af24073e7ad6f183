"""The benchmark of swapped models runs."""

import pytest
import torch

from benchmarks import swap


def test_prints_and_writes_a_row_for_each_model(tmp_path, capsys):
    swap.main(["--quick", "--dtype", "bfloat16", "--padding", "0.3", "--output", str(tmp_path / "table.md")])
    table = capsys.readouterr().out
    rows = [line.split("|")[2].strip() for line in table.splitlines() if line.startswith("| 8 × 2 |")]
    assert rows == [
        "original",
        "dynamic_conv, half",
        "dynamic_conv, all",
        "lightweight_conv, half",
        "lightweight_conv, all",
    ]
    assert (tmp_path / "table.md").read_text() == table


def test_a_share_of_the_batch_is_padding():
    options = swap.parse(["--padding", "0.25", "--tokens", "4000"])
    mask = swap.batch(swap.load(swap.parse(["--quick"])), 100, options)["attention_mask"]
    assert mask[-1].all() and mask.float().mean().item() == pytest.approx(0.75, abs=0.01)
    assert torch.equal(mask, mask.sort(dim=1, descending=True).values)  # on the right


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--rounds", "0"], "must be at least 1"),
        (["--padding", "0.5"], "--padding must be from 0 to below 0.5, got 0.5"),
        (["--model", "no/such/folder"], "--model must be a folder with a config.json, got no/such/folder"),
        (["--mixer", "attention"], "invalid choice: 'attention'"),
    ],
)
def test_bad_options_stop_with_status_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        swap.main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
