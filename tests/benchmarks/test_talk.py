"""The benchmark of TaLK convolutions runs, and the old way it compares with is right where the sequence is short."""

import pytest
import torch

from benchmarks import talk
from seqdyconv import talk_conv1d
from tests.helpers import assert_close


def test_prints_and_writes_three_tables(tmp_path, capsys):
    talk.main(["--quick", "--output", str(tmp_path / "table.md")])
    table = capsys.readouterr().out
    assert (tmp_path / "table.md").read_text() == table
    assert "| T | forward | ns | forward+backward | ns |" in table and "| 200 |" in table
    assert "| K | pass | blocked | prefix_sums | dynamic_conv1d | ÷ |" in table and "| 63 | forward+backward |" in table
    assert "| K | mean | dtype | blocked | prefix_sums | one cumsum |" in table and "| 63 | 3 | bfloat16 |" in table


def test_one_cumsum_is_a_talk_convolution():
    most, *tensors = talk.make(talk.parse(["--quick"]), 50, kernel_size=12)
    assert most == {"max_left": 5, "max_right": 6}
    assert_close(talk.one_cumsum(*tensors, **most), talk_conv1d(*tensors, **most), 1e-5)
    assert talk.one_cumsum(tensors[0].bfloat16(), *tensors[1:], **most).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--heads", "3"], "--heads must divide --channels, got 3 and 128"),
        (["--rounds", "0"], "must be at least 1"),
    ],
)
def test_bad_options_stop_with_status_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        talk.main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
