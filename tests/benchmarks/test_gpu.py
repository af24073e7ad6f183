"""The benchmark for GPUs runs, as far as it can without one: on the CPU, with the backends that run there."""

import re
import subprocess
from pathlib import Path

import pytest

from benchmarks import gpu
from seqdyconv.functional.backends import Backend
from seqdyconv.functional.conv import BACKENDS
from tests.benchmarks.test_ops import wrong_values

SCRIPT = Path(gpu.__file__).with_suffix(".sh")
QUICK = ["--device", "cpu", "--quick", "--output"]


@pytest.mark.parametrize("part", gpu.PARTS)
def test_each_part_writes_its_table(part, tmp_path, capsys):
    gpu.main([part, *QUICK, str(tmp_path)])
    table = (tmp_path / f"gpu_{part}.md").read_text()
    assert table == capsys.readouterr().out
    title, _, columns, rule, *rows = table.splitlines()
    assert "torch" in title and "Triton" in title and rows
    assert {line.count("|") for line in (columns, rule, *rows)} == {columns.count("|")}
    assert "nan" not in table


def test_wrong_numbers_end_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(BACKENDS, "blocked", Backend(wrong_values))
    with pytest.raises(SystemExit, match="are wrong"):
        gpu.main(["check", *QUICK, str(tmp_path)])
    assert "| blocked | " in capsys.readouterr().out.partition(", WRONG")[0]


def test_without_a_gpu_it_says_so(capsys):
    with pytest.raises(SystemExit) as stop:
        gpu.main(["ops", "--device", "cuda:99"])
    assert stop.value.code == 2 or gpu.torch.cuda.is_available()


def test_the_script_runs_every_part_in_at_most_eight_minutes():
    assert subprocess.run(["bash", "-n", SCRIPT]).returncode == 0
    parts = re.findall(r"^ *part (\d+) (\w+)", SCRIPT.read_text(), re.MULTILINE)
    limits = {name: int(seconds) for seconds, name in parts}
    assert set(limits) == {*gpu.PARTS, "tests"} and sum(limits.values()) <= 480
