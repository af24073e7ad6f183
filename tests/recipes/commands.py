"""What the tests of all recipes' commands share."""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from seqdyconv.training.output_dir import begin_run, remove_replaced_run
from tests.crash_points import crash_points

REPOSITORY = Path(__file__).parents[2]
RECIPES = REPOSITORY / "recipes"


def script(recipe: str, name: str) -> ModuleType:
    """The module of a recipe's script, under a name that no other recipe's script has."""
    spec = importlib.util.spec_from_file_location(f"{recipe}_{name}_script", RECIPES / recipe / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def error_of(main: Callable, words: list[str], capsys: pytest.CaptureFixture) -> str:
    """The one line that a command with bad input writes."""
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(lines) == 1
    return lines[0]


def environment(**more: str) -> dict[str, str]:
    """That of a command in a process of its own."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), **more}


def results(folder: Path) -> dict[str, Any]:
    """What a run has ended with, times aside: its metrics, its log and its weights."""
    times = re.compile("second|runtime|real_time_factor")
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    rows = [json.loads((folder / "metrics.json").read_text()), *history]
    digests = {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("model.safetensors"))
        if "checkpoint" not in str(file.relative_to(folder))
    }
    return {
        "log": [{name: value for name, value in row.items() if not times.search(name)} for row in rows],
        "weights": digests,
    }


def check_crash_points(main: Callable, words: list[str], folder: Path, shares: Sequence[float]) -> None:
    """A process that is killed at a file operation, and resumed, ends like an undisturbed one.

    Args:
        main: That of train.py.
        words: The command's words, all but --output_dir.
        folder: Where to write to.
        shares: Of the file operations that are done before the kill.
    """
    with crash_points(folder / "all", folder / "points", every=12) as points:
        main([*words, f"--output_dir={folder / 'all'}"])
    expected = results(folder / "all")
    for share in shares:
        point = points[int(share * len(points))]
        main([*words, f"--output_dir={point}", "--resume"])
        assert results(point) == expected


def check_overwrite(main: Callable, words: list[str], run: Path, folder: Path, wrong: list[str], capsys: Any) -> None:
    """``--overwrite`` replaces a run whole and keeps what is foreign, and removes nothing where the input is wrong.

    Args:
        main: That of train.py.
        words: The command's words, all but --output_dir.
        run: The output directory of a finished run, which is copied.
        folder: An empty folder to work in.
        wrong: Words that can't be: a data file that is not there.
        capsys: The fixture.
    """
    copy = folder / "run"
    shutil.copytree(run, copy)
    before = sorted(copy.rglob("*"))
    error_of(main, [*words, f"--output_dir={copy}", "--overwrite", *wrong], capsys)
    assert sorted(copy.rglob("*")) == before
    begin_run(copy, {}, overwrite=True)  # every file that the run wrote is known to be one
    remove_replaced_run(copy)
    assert [path.name for path in copy.iterdir()] == ["run.yaml"]
    for name in ("thesis.txt", "checkpoint-2/notes.md"):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text("mine")
    main([*words, f"--output_dir={copy}", "--overwrite"])
    assert (copy / "thesis.txt").read_text() == (copy / "checkpoint-2" / "notes.md").read_text() == "mine"
    assert (copy / "metrics.json").is_file() and not (copy / "replaced_run").exists()
    foreign = folder / "foreign"
    foreign.mkdir()
    (foreign / "run.yaml").write_text("mine: true\n")
    error_of(main, [*words, f"--output_dir={foreign}", "--overwrite"], capsys)
    assert (foreign / "run.yaml").read_text() == "mine: true\n"
