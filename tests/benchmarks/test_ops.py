"""The benchmark of the operations runs, and does not time what is wrong."""

import json

import pytest

from benchmarks import ops
from seqdyconv.functional import blocked
from seqdyconv.functional.backends import Backend
from seqdyconv.functional.conv import BACKENDS


@pytest.mark.parametrize("op", ["dynamic", "lightweight"])
def test_writes_a_table_and_a_picture(op, tmp_path, capsys):
    ops.main(["--quick", "--op", op, "--output", str(tmp_path)])
    table = capsys.readouterr().out
    names = [*ops.runnable("cpu", "float32"), "unfold", "expand", *["conv1d"] * (op == "lightweight"), "sdpa"]
    assert f"| threads | T | H | K | pass | {' | '.join(names)} | others ÷ ours | of matmul | copies |" in table
    assert table.count("| 1 | 32 | 2 | 3 |") == table.count("| 1 | 32 | 16 | 4 |") == 2
    results = json.loads((tmp_path / f"ops_{op}.json").read_text())["results"]
    assert {row["contender"] for row in results} == {*names, "matmul", "copy"}
    assert all(row["milliseconds"] > 0 and row["peak_bytes"] >= 0 for row in results)
    assert (tmp_path / f"ops_{op}.png").read_bytes()[:4] == b"\x89PNG"


def wrong_values(input, weight, padding, dilation):
    return blocked.depthwise(input, weight.flip(-1), padding, dilation)


def wrong_gradients(input, weight, padding, dilation):
    return blocked.depthwise(input, weight, padding, dilation) + 0.1 * (weight - weight.detach()).sum()


def not_a_number(input, weight, padding, dilation):
    return blocked.depthwise(input, weight, padding, dilation) * float("nan")


@pytest.mark.parametrize(
    "backend, what",
    [(wrong_values, "values"), (wrong_gradients, "gradients of the kernels"), (not_a_number, "values")],
)
def test_refuses_to_time_a_wrong_backend(backend, what, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(BACKENDS, "blocked", Backend(backend))
    with pytest.raises(SystemExit) as stop:
        ops.main(["--quick", "--output", str(tmp_path)])
    assert f"blocked is wrong, so nothing is timed: at T=32 K=3 its {what} differ from reference" in stop.value.code
    assert capsys.readouterr().out == "" and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--heads", "3"], "--heads must divide --channels, got 3 and 512"),
        (["--rounds", "0"], "must be at least 1"),
        (["--op", "static"], "invalid choice: 'static'"),
    ],
)
def test_bad_options_stop_with_status_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        ops.main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_memory_counts_what_is_alive_at_once():
    import torch

    def call():
        first = torch.empty(1000, dtype=torch.float32)
        del first
        second = torch.empty(3000, dtype=torch.float32)
        return torch.empty(500, dtype=torch.float32), second

    assert ops.peak_memory(call, "cpu") == 3500 * 4
