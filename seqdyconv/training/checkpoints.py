"""The checkpoints in a run's output directory: which can be resumed from, and what a killed process has left."""

import dataclasses
import hashlib
import json
import math
import os
import pickle
import random
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from transformers import TrainerState
from transformers.trainer_pt_utils import safe_globals

from seqdyconv.errors import first_line
from seqdyconv.files import write_text
from seqdyconv.training.output_dir import CHECKPOINT, OutputDirError, remove_run_folder

STATE_FILE = "trainer_state.json"
"""Written last: a checkpoint that has it was saved to its end, and so was the final model of a run."""

SUMS_FILE = "SHA256SUMS"
"""The digests of a checkpoint's files, for ``sha256sum --check`` too."""

# What reading a damaged file raises; unpickling may raise nearly anything, as its documentation says.
_DAMAGES = (
    *(OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, EOFError, ImportError),
    *(SafetensorError, pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, struct.error),
)


def checkpoints(path: str | Path) -> list[Path]:
    """All checkpoints in an output directory that were saved to their end, oldest first."""
    return [folder for folder in _folders(path) if is_complete(folder)]


def latest_checkpoint(path: str | Path) -> Path | None:
    """The newest of them, None if there is none."""
    return next((folder for folder in reversed(_folders(path)) if is_complete(folder)), None)


def remove_incomplete_checkpoints(path: str | Path) -> list[Path]:
    """Remove what a killed process has left half written, and return the folders that it was in."""
    broken = [folder for folder in _folders(path) if not is_complete(folder)]
    for folder in broken:
        remove_run_folder(folder)
    return broken


def is_complete(folder: str | Path) -> bool:
    """Whether a checkpoint was saved to its end, be it damaged since or not: see :func:`check_checkpoint`."""
    return (Path(folder) / SUMS_FILE).is_file() or _read_json(Path(folder) / STATE_FILE) is not None


def seal_checkpoint(folder: str | Path) -> None:
    """Put a checkpoint's files on the disk, for good, and write their digests beside them."""
    folder = Path(folder)
    lines = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS_FILE):
        with open(file, "rb") as stream:
            os.fsync(stream.fileno())
        lines.append(f"{_digest(file)}  {file.relative_to(folder).as_posix()}\n")
    write_text(folder / SUMS_FILE, "".join(lines))


def check_checkpoint(folder: str | Path, processes: int = 1) -> None:
    """Refuse a checkpoint that can't be resumed from; nothing is removed.

    Its files must be as they were saved, as far as their digests say so, and each must be what its name says. Nothing
    in them is run.

    Args:
        folder: The checkpoint.
        processes: How many are to go on with it.

    Raises:
        OutputDirError: A file is missing, damaged or foreign; the message names it, and what to go on from without it.
    """
    folder = Path(folder)
    check_digests(folder)
    state = read_state(folder)
    if folder.name != f"checkpoint-{state.global_step}":
        raise damaged(folder, STATE_FILE, f"it is of step {state.global_step}")
    written = len(list(folder.glob("rng_state*.pth")))
    if written not in (0, processes):
        raise OutputDirError(
            f"{folder} was written by {written} processes and can't be resumed by {processes}: start as many, by "
            "torchrun --nproc_per_node"
        )
    states = ["rng_state.pth"] if processes == 1 else [f"rng_state_{index}.pth" for index in range(processes)]
    sharded = any((folder / name).exists() for name in ("optimizer_0", "optimizer.bin"))
    optional = [name for name in ("optimizer.bin", "scaler.pt") if (folder / name).is_file()]
    for name in (*([] if sharded else ["optimizer.pt"]), "scheduler.pt", *states, *optional):
        _check_pickled(folder, name)
    weights = sorted(folder.glob("model*.safetensors"))
    if not weights and not (folder / "pytorch_model_fsdp_0").is_dir():
        raise damaged(folder, "model.safetensors", "it is missing")
    for file in weights:
        try:
            with safe_open(file, framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise damaged(folder, file.name, first_line(error)) from None


def check_digests(folder: str | Path) -> None:
    """Refuse a checkpoint whose files are not as they were saved, as far as their digests say so.

    Raises:
        OutputDirError: A file is missing or another one; the message names it.
    """
    folder = Path(folder)
    for name, digest in _sums(folder).items():
        if not (folder / name).is_file():
            raise damaged(folder, name, "it is missing")
        if _digest(folder / name) != digest:
            raise damaged(folder, name, f"it is not as it was saved (its digest differs from that in {SUMS_FILE})")


def resumable_checkpoint(path: str | Path, processes: int = 1) -> Path | None:
    """The newest checkpoint in an output directory, which is checked; None if there is none.

    Raises:
        OutputDirError: It can't be resumed from.
    """
    folder = latest_checkpoint(path)
    if folder is not None:
        check_checkpoint(folder, processes)
    return folder


def read_state(folder: str | Path) -> TrainerState:
    """The state of a Trainer that was saved in a folder.

    Raises:
        OutputDirError: It is none.
    """
    folder = Path(folder)
    values = _read_json(folder / STATE_FILE)
    if (fault := _fault(values)) is not None:
        raise damaged(folder, STATE_FILE, fault)
    return TrainerState(**values)


def damaged(folder: str | Path, name: str, reason: str) -> OutputDirError:
    """The error of a checkpoint, or of a final model, that can't be used, with what to do."""
    folder = Path(folder)
    if re.fullmatch(CHECKPOINT, folder.name):
        earlier = [found for found in checkpoints(folder.parent) if _step(found) < _step(folder)]
        remedy = f"remove {folder} to " + (f"go on from {earlier[-1].name}" if earlier else "begin anew")
    else:
        newest = latest_checkpoint(folder)
        remedy = f"remove {folder / STATE_FILE} to " + (f"go on from {newest.name}" if newest else "train anew")
    return OutputDirError(f"can't use {folder / name}: {reason}; {remedy}")


def _folders(path: str | Path) -> list[Path]:
    """The folders checkpoint-STEP in the order of their steps, complete or not."""
    found = [folder for folder in Path(path).glob("checkpoint-*") if re.fullmatch(CHECKPOINT, folder.name)]
    return sorted((folder for folder in found if folder.is_dir() and not folder.is_symlink()), key=_step)


def _step(folder: Path) -> int:
    return int(folder.name.split("-")[1])


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sums(folder: Path) -> dict[str, str]:
    """The digest of each file; nothing for checkpoints of versions that wrote none."""
    if not (folder / SUMS_FILE).is_file():
        return {}
    try:
        lines = (folder / SUMS_FILE).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise damaged(folder, SUMS_FILE, first_line(error)) from None
    matches = [re.fullmatch(r"([0-9a-f]{64})  (.+)", line) for line in lines]
    if not lines or not all(matches):
        raise damaged(folder, SUMS_FILE, "it holds other lines than digests and names")
    return {match[2]: match[1] for match in matches if match}


def _check_pickled(folder: Path, name: str) -> None:
    """Whether torch can read a file, without running anything in it."""
    if not (folder / name).is_file():
        raise damaged(folder, name, "it is missing")
    try:
        with zipfile.ZipFile(folder / name) as archive:
            if (broken := archive.testzip()) is not None:
                raise ValueError(f"it is damaged at {broken}")
        with safe_globals():
            values = torch.load(folder / name, map_location="cpu", weights_only=True)
        if not isinstance(values, dict):
            raise ValueError(f"it holds a {type(values).__name__}")
        if name.startswith("rng_state"):
            random.Random().setstate(values["python"])
            np.random.RandomState().set_state(values["numpy"])
            torch.Generator().set_state(values["cpu"])
    except pickle.UnpicklingError:
        raise damaged(
            folder, name, "it holds other objects than tensors and plain values, none of which is run"
        ) from None
    except _DAMAGES as error:
        raise damaged(folder, name, first_line(error)) from None


def _read_json(file: Path) -> Any:
    """What a JSON file holds; None where it can't be read, such as one that was cut off."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _fault(values: Any) -> str | None:
    """What is wrong with a Trainer's state as it was read, if anything."""
    if not isinstance(values, dict):
        return "it is not the state of a training"
    if unknown := values.keys() - {item.name for item in dataclasses.fields(TrainerState)}:
        return f"the state of a training has no {sorted(unknown)[0]}"
    step, history = values.get("global_step"), values.get("log_history")
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        return f"global_step must be a whole number, got {step!r}"
    for name in ("epoch", "total_flos", "num_input_tokens_seen", "best_metric", "best_global_step", "train_batch_size"):
        value = values.get(name)
        if value is not None and (not isinstance(value, (int, float)) or not math.isfinite(value)):
            return f"{name} must be a number, got {value!r}"
    if not isinstance(history, list) or not all(isinstance(row, dict) for row in history):
        return "log_history must be a list of what was logged"
    if not isinstance(values.get("stateful_callbacks"), dict):
        return "stateful_callbacks must be a mapping"
    best = values.get("best_model_checkpoint")
    if best is not None and not (isinstance(best, str) and re.fullmatch(CHECKPOINT, Path(best).name)):
        return f"best_model_checkpoint must be a checkpoint of the run, got {best!r}"
    return None
