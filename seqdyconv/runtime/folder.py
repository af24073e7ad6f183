"""An exported folder: what its ``export.json`` says, checked, and its graphs, checked too.

A folder holds ``export.json``, graphs in ONNX, the files of the tokenizer, the model's ``config.json`` and a card. Its
numbers are not trusted: a graph must have the inputs and outputs that are asked for, of the types and sizes that they
must have, or nothing runs.
"""

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from seqdyconv.errors import InputError, first_line

MANIFEST = "export.json"
FORMAT = 1
"""Of the folder. A reader knows its own and older ones."""
Array = npt.NDArray[Any]


class FolderError(InputError):
    """The folder can't be used; the message is one line for the user."""


def is_exported(path: str | Path) -> bool:
    """Whether a folder is one that an export has written."""
    return Path(path, MANIFEST).is_file()


class Graph:
    """One graph, ready to run, on one thread at a time or on several.

    Args:
        file: in ONNX.
        threads: that one run may use; 0: as many as there are cores.

    Attributes:
        inputs: the shape of each input by name, with names for sizes that are free.
        outputs: the same of the outputs.

    Raises:
        FolderError: the file is no graph, or one that needs more than the runtime has.
    """

    def __init__(self, file: Path, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # of a damaged file the error below tells
        options.add_session_config_entry("session.intra_op.allow_spinning", "0" if threads == 1 else "1")
        if not file.is_file():
            raise FolderError(f"the graph {file} is missing")
        try:
            self.session = onnxruntime.InferenceSession(
                str(file), options, providers=["CPUExecutionProvider"], disabled_optimizers=["SkipLayerNormFusion"]
            )
        except Exception as error:  # onnxruntime has a class for each kind of damage, none of which it documents
            raise FolderError(f"{file} is no graph that can run: {first_line(error)[:300]}") from None
        self.file = file
        self.inputs = {one.name: one.shape for one in self.session.get_inputs()}
        self.outputs = {one.name: one.shape for one in self.session.get_outputs()}
        self.types = {one.name: one.type for one in (*self.session.get_inputs(), *self.session.get_outputs())}

    def check(
        self,
        inputs: Mapping[str, Sequence[int | None]],
        outputs: Mapping[str, Sequence[int | None]],
        *,
        more_inputs: Sequence[str] = (),
        more_outputs: Sequence[str] = (),
    ) -> None:
        """Raise FolderError unless the graph has these inputs and outputs and no others.

        Args:
            inputs: the size of each axis of each by name; None where any will do or it is free.
            outputs: the same.
            more_inputs, more_outputs: how the names of others may begin, whose sizes are not known.
        """
        for what, wanted, got, others in (
            ("input", inputs, self.inputs, more_inputs),
            ("output", outputs, self.outputs, more_outputs),
        ):
            names = {name for name in got if not name.startswith(tuple(others))}
            if names != set(wanted):
                raise FolderError(
                    f"{self.file} must have the {what}s {', '.join(wanted)}, got {', '.join(sorted(names)) or 'none'}"
                )
            for name, sizes in wanted.items():
                shape = got[name]
                fits = len(shape) == len(sizes) and all(
                    size is None or not isinstance(axis, int) or axis == size for size, axis in zip(sizes, shape)
                )
                if not fits:
                    said = ["any" if size is None else size for size in sizes]
                    raise FolderError(f"{what} {name} of {self.file} must be {said}, got {shape}")

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name.

        Raises:
            FolderError: the graph fails on what it gets.
        """
        try:
            return dict(zip(self.outputs, self.session.run(None, dict(inputs)), strict=True))
        except Exception as error:  # as above
            raise FolderError(f"{self.file} can't compute: {first_line(error)[:300]}") from None


@dataclass
class Exported:
    """A folder whose ``export.json`` has been read.

    Args:
        folder: where it is.
        task: such as ``"translation"``.
        precision: of the weights, such as ``"float32"`` or ``"int8"``.
        graphs: the files of the graphs by name.
        settings: of the task.
    """

    folder: Path
    task: str
    precision: str
    graphs: dict[str, str]
    settings: dict[str, Any]
    _open: dict[tuple[str, int], Graph] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def graph(self, name: str, threads: int = 1) -> Graph:
        """A graph by name; the same one each time.

        Raises:
            FolderError: there is none, or it can't run.
        """
        if name not in self.graphs:
            raise FolderError(f"{self.folder} has no graph {name}: it has {', '.join(self.graphs)}")
        with self._lock:
            if (name, threads) not in self._open:
                self._open[name, threads] = Graph(self.folder / self.graphs[name], threads)
            return self._open[name, threads]

    def number(self, name: str, least: int = 0, most: int = 2**31 - 1) -> int:
        """A whole number of the settings.

        Raises:
            FolderError: it is missing, or is none from ``least`` to ``most``.
        """
        value = self.settings.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise FolderError(
                f"{name} in the settings of {self.folder / MANIFEST} must be a whole number from {least} to {most}, "
                f"got {value!r}"
            )
        return value


def open_folder(path: str | Path, *tasks: str) -> Exported:
    """Read the ``export.json`` of a folder.

    Args:
        path: the folder.
        tasks: what it may be for; any if none is given.

    Raises:
        FolderError: it is no exported folder, is damaged, newer than this version, or for another task.
    """
    folder = Path(path)
    file = folder / MANIFEST
    if not folder.is_dir():
        raise FolderError(f"there is no folder {folder}")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FolderError(f"{folder} is no exported model: it has no {MANIFEST}") from None
    except OSError as error:
        raise FolderError(f"can't read {file}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise FolderError(f"{file} is no JSON") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("format"), int):
        raise FolderError(f"{file} is not that of an exported model: it has no format")
    if manifest["format"] > FORMAT:
        raise FolderError(
            f"{folder} was exported by a newer seqdyconv, {str(manifest.get('seqdyconv'))[:40]}: its format is "
            f"{manifest['format']}, and this version reads up to {FORMAT}"
        )
    task, precision, graphs, settings = (manifest.get(key) for key in ("task", "precision", "graphs", "settings"))
    if not isinstance(task, str) or not isinstance(precision, str) or not isinstance(settings, dict):
        raise FolderError(f"{file} must have a task, a precision and settings")
    if not isinstance(graphs, dict) or not graphs:
        raise FolderError(f"{file} must name the graphs")
    for name in graphs.values():
        if not isinstance(name, str) or Path(name).name != name:
            raise FolderError(f"{file} must name files of its folder, got {name!r}")
    if tasks and task not in tasks:
        raise FolderError(f"{folder} is for {task}, and {' or '.join(tasks)} is asked for")
    return Exported(folder, task, precision, graphs, settings)


def checked_ids(ids: Array, size: int, name: str) -> Array:
    """Ids of tokens as int64, each of them a row of a table of ``size`` rows.

    Raises:
        FolderError: one is not: the tokenizer ``name`` is that of another model.
    """
    found = np.asarray(ids, dtype=np.int64)
    if found.size and not (found.min() >= 0 and found.max() < size):
        raise FolderError(f"{name} gives the token {int(found.max())}, and the model has {size}: it is another model's")
    return found
