"""What an export writes beside its graphs: the folder as a whole or not at all, ``export.json``, and a card."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import seqdyconv
from seqdyconv.deploy.graphs import ExportError
from seqdyconv.runtime.folder import FORMAT, MANIFEST, is_exported


@dataclass(frozen=True)
class Written:
    """What the export of one kind of model has written into the folder.

    Args:
        task: what the runtime may do with it, such as ``"translation"``.
        graphs: the files of the graphs by name.
        settings: what the runtime must know, in JSON.
        notes: lines for the card.
        in_float: of each graph by name, the nodes that stay in float32 whatever the precision.
    """

    task: str
    graphs: dict[str, str]
    settings: dict[str, Any]
    notes: tuple[str, ...] = ()
    in_float: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@contextmanager
def new_folder(target: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder beside ``target``, which takes its name when the block has ended well.

    Args:
        target: the folder to make. One that is there already must be empty. A link stays, and leads to the new one.
        overwrite: replace one that an export wrote. Where an earlier overwriting was interrupted, the old one is put
            back first, or removed if the new one was complete.

    Raises:
        ExportError: it is there already, or the current directory is in it.
    """
    given, target = target, Path(os.path.realpath(target))
    if Path.cwd().is_relative_to(target):
        raise ExportError(f"{given} is the current directory, or above it: choose another name")
    old = target.with_name(f".{target.name}.old")
    if is_exported(old) and not os.path.lexists(target):  # an overwriting was interrupted
        old.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    if os.path.lexists(target):
        replaceable = target.is_dir() and (not any(target.iterdir()) or (overwrite and is_exported(target)))
        if not replaceable:
            again = ": set overwrite to replace it" if target.is_dir() and is_exported(target) else ""
            raise ExportError(f"{given} is there already{again or ', and is no exported folder: choose another name'}")
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if target.is_dir():
            target.rename(old)
            temporary.rename(target)
            shutil.rmtree(old)
        else:
            temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_manifest(folder: Path, written: Written, precision: str) -> None:
    """Write ``export.json``."""
    manifest = {
        "format": FORMAT,
        "task": written.task,
        "precision": precision,
        "graphs": written.graphs,
        "settings": written.settings,
        "seqdyconv": seqdyconv.__version__,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
