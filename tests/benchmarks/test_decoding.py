"""The benchmark of hybrid decoders runs."""

import pytest

from benchmarks import decoding


def test_prints_and_writes_a_row_for_each_model(tmp_path, capsys):
    decoding.main(["--quick", "--output", str(tmp_path / "table.md")])
    table = capsys.readouterr().out
    rows = [line.split("|")[2].strip() for line in table.splitlines() if line.startswith("| 8 |")]
    assert rows == ["no layer", "every other layer", "all layers"]
    assert (tmp_path / "table.md").read_text() == table


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--tokens", "0"], "must be at least 1"),
        (["--model", "no/such/folder"], "--model must be a folder with a config.json, got no/such/folder"),
    ],
)
def test_bad_options_stop_with_status_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        decoding.main(arguments)
    assert stop.value.code == 2 and message in capsys.readouterr().err
