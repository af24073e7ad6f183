"""What a number comes from: beside the metrics of each run and evaluation lies a record of how they came about."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import seqdyconv
from seqdyconv.files import write_text
from seqdyconv.machine import processor

RECORD = "record.json"
"""The file's name."""

PACKAGES = ("torch", "torchaudio", "transformers", "datasets", "tokenizers", "sacrebleu", "jiwer")

# Of a run's configuration: where things are, which says nothing of what they are.
_PLACES = ("output_dir", "logging_dir", "model_dir", "evaluation_dir", "overwrite", "resume", "run_name")


def write_record(
    folder: str | Path, command: str, config: Mapping[str, Any], metrics: Mapping[str, Any], model: Path | None = None
) -> None:
    """Write record.json: the command, the configuration, the metrics, and on what, with which code it was measured.

    Args:
        folder: Where to write to.
        command: What repeats it.
        config: The arguments that differ from their defaults.
        metrics: What was measured.
        model: The folder of the model, where it is not this one: the record of its training is taken in, if any.
    """
    record: dict[str, Any] = {
        "command": command,
        "config": {name: value for name, value in config.items() if name not in _PLACES},
        "ended": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "code": code(),
        "versions": versions(),
        "machine": machine(),
        "metrics": dict(metrics),
    }
    if model is not None and (model / RECORD).is_file():
        record["training"] = json.loads((model / RECORD).read_text(encoding="utf-8"))
    write_text(Path(folder) / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def code() -> dict[str, Any]:
    """The version of the package, and in a checkout of its own the commit and whether files differ from it.

    Example:
        >>> sorted(code())[-1]
        'version'
    """
    root = Path(seqdyconv.__file__).resolve().parents[1]
    found: dict[str, Any] = {"version": seqdyconv.__version__}
    if (root / ".git").exists() and (commit := _git(root, "rev-parse", "HEAD")):
        found |= {"commit": commit, "changed": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}
    return found


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide on numbers, as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """The processor, its cores and those that were used, and the accelerators."""
    accelerators = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerators": accelerators,
        "system": platform.system(),
    }


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
