"""Rules for a run's output directory, and its newest complete checkpoint."""

import json
import re
import shutil
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from seqdyconv.errors import InputError
from seqdyconv.training.arguments import read_yaml, write_yaml

RUN_FILE = "run.yaml"
"""All arguments of a run, as resolved from its configuration file, command line and defaults."""


class OutputDirError(InputError):
    """The output directory can't be used for this run; the message is one line for the user."""


def prepare_output_dir(path: str | Path, resume: bool = False, overwrite: bool = False) -> Path:
    """Make the directory of a run, or accept an existing one.

    A directory that holds anything is refused, unless `resume` (go on with the run in it) or `overwrite` (delete that
    run and start anew) says so. `overwrite` deletes only a directory that a run has written, known by its run.yaml.

    Raises:
        OutputDirError: The directory can't be used, with the reason.
    """
    path = Path(path)
    if resume and overwrite:
        raise OutputDirError("resume and overwrite exclude each other: give one of them")
    if path.exists() and not path.is_dir():
        raise OutputDirError(f"output_dir {path} is a file, it must be a directory")
    holds_run = (path / RUN_FILE).is_file()
    if path.exists() and any(path.iterdir()):
        if not holds_run and (resume or overwrite):
            raise OutputDirError(f"output_dir {path} holds files that no run has written (no {RUN_FILE} in it)")
        if not resume and not overwrite:
            what = "another run: add --resume to go on with it or --overwrite to delete it" if holds_run else "files"
            raise OutputDirError(f"output_dir {path} holds {what}, or choose another output_dir")
        if overwrite:
            shutil.rmtree(path)
    elif resume:
        raise OutputDirError(f"there is no run to resume in output_dir {path}")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputDirError(f"can't make output_dir {path}: {error.strerror}") from None
    return path


def check_resumed_arguments(path: str | Path, arguments: Mapping[str, Any], may_change: Collection[str]) -> None:
    """Compare a run's arguments with those it was started with.

    Args:
        path: The output directory, whose run.yaml is read.
        arguments: The arguments of now.
        may_change: The keys that don't alter what is learnt.

    Raises:
        OutputDirError: Any other key differs; the message names the keys and both values.
    """
    before = read_yaml(Path(path) / RUN_FILE)
    changed = [
        f"{key} was {before.get(key)!r} and is now {arguments.get(key)!r}"
        for key in sorted(before.keys() | arguments.keys())
        if key not in may_change and before.get(key) != arguments.get(key)
    ]
    if changed:
        raise OutputDirError(f"can't resume the run in {path} with other arguments: {'; '.join(changed)}")


def write_run_file(path: str | Path, arguments: Mapping[str, Any]) -> None:
    """Write run.yaml into the output directory."""
    write_yaml(Path(path) / RUN_FILE, arguments)


def run_arguments(model_dir: str | Path, names: Collection[str]) -> dict[str, Any]:
    """Those of the named arguments that the run had which wrote `model_dir`, or holds it as a checkpoint, if any."""
    for folder in (Path(model_dir), Path(model_dir).parent):
        if (folder / RUN_FILE).is_file():
            values = read_yaml(folder / RUN_FILE)
            return {name: values[name] for name in names if name in values}
    return {}


def checkpoints(path: str | Path) -> list[Path]:
    """All complete checkpoints in an output directory, oldest first."""
    return [folder for folder in _folders(path) if is_complete(folder)]


def latest_checkpoint(path: str | Path) -> Path | None:
    """The newest complete checkpoint in an output directory, None if there is none."""
    return next((folder for folder in reversed(_folders(path)) if is_complete(folder)), None)


def remove_incomplete_checkpoints(path: str | Path) -> list[Path]:
    """Delete the folders that a killed process has left half written, and return their paths."""
    broken = [folder for folder in _folders(path) if not is_complete(folder)]
    for folder in broken:
        shutil.rmtree(folder)
    return broken


def is_complete(folder: str | Path) -> bool:
    """Whether a checkpoint folder can be resumed from.

    Saving takes several steps and may be killed at each: weights, optimizer, scheduler, random states, and last
    trainer_state.json. Each file is opened and its end looked for, since a file may be cut off too.
    """
    folder = Path(folder)
    try:
        json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        weights = list(folder.glob("model*.safetensors"))
        for file in weights:
            with safe_open(file, framework="pt"):
                pass
    except (OSError, ValueError, SafetensorError):
        return False
    states = [folder / "optimizer.pt", folder / "scheduler.pt", *folder.glob("rng_state*.pth")]
    return bool(weights) and len(states) > 2 and all(zipfile.is_zipfile(file) for file in states)


def _folders(path: str | Path) -> list[Path]:
    """The folders checkpoint-STEP in the order of their steps, complete or not."""
    steps = {}
    for folder in Path(path).glob("checkpoint-*"):
        if (match := re.fullmatch(r"checkpoint-(\d+)", folder.name)) and folder.is_dir():
            steps[int(match[1])] = folder
    return [steps[step] for step in sorted(steps)]
