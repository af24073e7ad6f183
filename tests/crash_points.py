"""What a process leaves on the disk that is killed at one of its file operations, for all of them, in one run."""

import builtins
import io
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch


@contextmanager
def crash_points(folder: Path, copies: Path, every: int = 1) -> Iterator[list[Path]]:
    """A block that works in a folder; the list holds a copy of it as it was before each of its file operations.

    What a killed process has written stays, so that these are what kills leave behind. The file that was written last
    is there as a whole, and in another copy its first half only. `every` n-th copy is made.
    """
    number = itertools.count()
    found: list[Path] = []
    last: list[Callable[..., Any]] = []
    before: dict[str, tuple[int, int]] = {}

    def look() -> None:
        if not folder.is_dir():
            return
        files = {str(path.relative_to(folder)): path.stat() for path in sorted(folder.rglob("*"))}
        now = {name: (stat.st_size, stat.st_mtime_ns) for name, stat in files.items()}
        if now == before:
            return
        new = [name for name in now if now[name] != before.get(name) and (folder / name).is_file() and now[name][0]]
        if last and last[0] not in WRITING:  # What was moved to its place is never there in part.
            new = []
        before.clear()
        before.update(now)
        for cut in [None, *new[-1:]]:
            if next(number) % every:
                continue
            copy = copies / str(len(found))
            shutil.copytree(folder, copy)
            if cut is not None:
                os.truncate(copy / cut, now[cut][0] // 2)
            found.append(copy)

    def looking(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if function is not OPEN or set("wax+") & set(str(kwargs.get("mode", args[1] if len(args) > 1 else "r"))):
                with pytest.MonkeyPatch.context() as patch:
                    restore(patch)
                    look()
                last[:] = [function]
            return function(*args, **kwargs)

        return call

    def restore(patch: pytest.MonkeyPatch) -> None:
        for module, name, function in OPERATIONS:
            patch.setattr(module, name, function)

    with pytest.MonkeyPatch.context() as patch:
        for module, name, function in OPERATIONS:
            patch.setattr(module, name, looking(function))
        yield found
    look()


OPEN = builtins.open
WRITING = (OPEN, torch.save, safetensors.torch.serialize_file)
OPERATIONS = [
    (builtins, "open", OPEN),
    (io, "open", OPEN),
    *((os, name, getattr(os, name)) for name in ("replace", "rename", "unlink", "remove", "mkdir", "rmdir")),
    (torch, "save", torch.save),
    (safetensors.torch, "serialize_file", safetensors.torch.serialize_file),
]
