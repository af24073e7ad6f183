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

OPEN = builtins.open
WRITING = (OPEN, torch.save, safetensors.torch.serialize_file)
OPERATIONS = [
    (builtins, "open", OPEN),
    (io, "open", OPEN),
    *((os, name, getattr(os, name)) for name in ("replace", "rename", "unlink", "remove", "mkdir", "rmdir")),
    (torch, "save", torch.save),
    (safetensors.torch, "serialize_file", safetensors.torch.serialize_file),
]


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

    def note(function: Callable[..., Any], path: str) -> None:
        look()
        last[:] = [function]

    with _watching(note):
        yield found
    look()


def watch_operations(folder: Path, note: Callable[[str], Any]) -> None:
    """Call a function with the path of each file operation below a folder, before it is done, from now on."""
    context = _watching(lambda function, path: note(path) if path.startswith(str(folder)) else None)
    context.__enter__()
    _WATCHED.append(context)  # else its end would come with its last reference


_WATCHED: list[Any] = []


@contextmanager
def _watching(note: Callable[[Callable[..., Any], str], Any]) -> Iterator[None]:
    """A block in which a function is called with each file operation that writes, and with its path."""

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if function is not OPEN or set("wax+") & set(str(kwargs.get("mode", args[1] if len(args) > 1 else "r"))):
                paths = [str(value) for value in (*args, *kwargs.values()) if isinstance(value, (str, Path))]
                with pytest.MonkeyPatch.context() as patch:
                    for module, name, original in OPERATIONS:  # of what is called here
                        patch.setattr(module, name, original)
                    note(function, paths[0] if paths else "")
            return function(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for module, name, function in OPERATIONS:
            patch.setattr(module, name, watched(function))
        yield
