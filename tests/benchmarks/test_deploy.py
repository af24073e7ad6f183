"""The benchmark of exported models runs."""

import pytest

from benchmarks import deploy


def test_prints_and_writes_a_row_of_translation_for_each_size(tmp_path, capsys):
    deploy.main(["translation", "--quick", "--output", str(tmp_path / "table.md")])
    table = capsys.readouterr().out
    head, row = (line for line in table.splitlines() if line.startswith(("| threads", "| 1 |")))
    assert "| ours, generate() | ours, search | ours, float32 | ours, int8 | Marian, generate() |" in head
    assert row.startswith("| 1 | 2 | 2 |") and row.count("|") == head.count("|")
    assert (tmp_path / "table.md").read_text() == table


def test_prints_a_row_of_encoding_for_each_length(capsys):
    deploy.main(["encoding", "--quick"])
    head, row = (line for line in capsys.readouterr().out.splitlines() if line.startswith(("| threads", "| 1 |")))
    assert head.count("self-attention") == head.count("dynamic") == 3
    assert row.startswith("| 1 | 32 |") and row.count("|") == head.count("|")


def test_bad_options_stop_with_status_2(capsys):
    with pytest.raises(SystemExit) as stop:
        deploy.main(["--rounds", "0"])
    assert stop.value.code == 2
    assert "must be at least 1" in capsys.readouterr().err
