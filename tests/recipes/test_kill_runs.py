"""One of two processes is killed: see kill_runs.py, whose command kills many more, of each recipe."""

import json
import subprocess
import sys

import pytest

from tests.recipes.commands import REPOSITORY, environment, script


def test_killed_runs_end_like_undisturbed_ones(tmp_path):
    command = [
        sys.executable,
        str(REPOSITORY / "tests" / "recipes" / "kill_runs.py"),
        "--quick",
        f"--folder={tmp_path}",
    ]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout.count("1 of 1 killed runs ended with the weights and metrics of undisturbed ones") == 1

    # Two processes evaluate each text once.
    run = tmp_path / "text_classification" / "distilled on two processes" / "all" / "run"
    script("text_classification", "evaluate").main([str(run), "--use_cpu"])
    expected = json.loads((run / "metrics.json").read_text())
    found = json.loads((run / "evaluation" / "metrics.json").read_text())
    for name in ("test_loss", "test_accuracy", "test_examples"):
        assert found[name] == pytest.approx(expected[name], abs=1e-5)
