"""The checkpoints in a run's output directory: complete ones, the newest, and what a killed process has left."""

import json
import re
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open

from seqdyconv.training.output_dir import remove_run_folder


def checkpoints(path: str | Path) -> list[Path]:
    """All complete checkpoints in an output directory, oldest first."""
    return [folder for folder in _folders(path) if is_complete(folder)]


def latest_checkpoint(path: str | Path) -> Path | None:
    """The newest complete checkpoint in an output directory, None if there is none."""
    return next((folder for folder in reversed(_folders(path)) if is_complete(folder)), None)


def remove_incomplete_checkpoints(path: str | Path) -> list[Path]:
    """Remove what a killed process has left half written, and return the folders that it was in."""
    broken = [folder for folder in _folders(path) if not is_complete(folder)]
    for folder in broken:
        remove_run_folder(folder)
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
