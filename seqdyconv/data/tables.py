"""Tables of text from the Hub or from local files, with one clear line for everything that is wrong with them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from datasets import (
    Dataset,
    Features,
    config,
    get_dataset_split_names,
    load_dataset,
)
from datasets.exceptions import DatasetGenerationError
from yaml import YAMLError

from seqdyconv.data.file_builder import FORMAT, FileBuilder
from seqdyconv.errors import InputError, first_line
from seqdyconv.files import shorten

READING_ERRORS = (OSError, ValueError, RuntimeError, DatasetGenerationError, YAMLError)
"""What is raised where a data set of the Hub can't be read, or the network fails."""
FILE_TYPES = {".tsv": "csv", ".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


class DataError(InputError):
    """The data, or what was said about it, is wrong; the message is one line for the user."""


def load_hub_splits(
    name: str,
    splits: Sequence[str],
    *,
    config: str | None,
    revision: str | None,
    instead: str,
    required: Sequence[str] = (),
    streaming: bool = False,
) -> dict[str, Any]:
    """Load those of the splits that a data set of the Hub has.

    Args:
        name: the data set: a name on the Hub, or a folder in its manner.
        splits: the wanted splits.
        config: the configuration (subset) of the data set.
        revision: a branch, tag or commit.
        instead: what else could be used, such as "local files (train_file)"; it ends the error message.
        required: those of the splits that must exist.
        streaming: they are ``IterableDataset``, of which nothing is read yet.

    Raises:
        DataError: a required split is missing, the data set is out of reach or needs a script, or there is no such
            name, configuration or revision.
    """
    if os.path.isdir(name):
        if Path.cwd().is_relative_to(Path(name).resolve()):  # which would be searched as a whole
            raise DataError(f"the data set {name!r} is the folder you are in, or one above it: use {instead}")
    elif not re.fullmatch(r"[\w.-]{1,96}(/[\w.-]{1,96})?", name, re.ASCII):
        raise DataError(f"the data set {name!r:.80} is neither a folder nor a name on the Hub: use {instead}")
    try:
        available = get_dataset_split_names(name, config, revision=revision)
        loaded = {
            split: load_dataset(name, config, split=split, revision=revision, streaming=streaming)
            for split in splits
            if split in available
        }
    except READING_ERRORS as error:
        reason = first_line(error.__cause__ if isinstance(error, DatasetGenerationError) and error.__cause__ else error)
        raise DataError(
            f"the data set {name} cannot be loaded ({reason}): check its name, dataset_config, "
            f"dataset_revision and the network, or use {instead}"
        ) from error
    check_splits(name, required, available)
    return loaded


def check_splits(name: str, required: Iterable[str], available: Iterable[str]) -> None:
    """Raise a ``DataError`` if the data set ``name`` lacks one of the required splits."""
    names = list(available)
    for split in required:
        if split not in names:
            raise DataError(f"the data set {name} has no split {split!r}; it has {list_names(names)}")


def load_table(path: str | Path, name: str) -> Dataset:
    """Load a csv or tsv file (see :mod:`seqdyconv.data.delimited`), json or jsonl (:mod:`seqdyconv.data.json_rows`),
    or parquet. All columns of csv and tsv are strings; columns of json that are not of one plain type are ``Json``.

    Args:
        path: the file; its ending says what it is.
        name: the argument that named the file, for messages.

    Raises:
        DataError: no such file, an unknown type, an empty or broken file, or bytes that are not UTF-8.
    """
    path = Path(path)
    kind = FILE_TYPES.get(path.suffix.lower())
    if kind is None:
        raise DataError(f"{name} is {path}, of an unknown type: allowed are {', '.join(FILE_TYPES)}")
    return _load_file(kind, path, name)


def load_lines(path: str | Path, name: str) -> Dataset:
    """Load a text file with a text per line, as :func:`seqdyconv.files.decode_lines` counts them: a column text.

    Args and errors are those of :func:`load_table`.
    """
    return _load_file("text", Path(path), name)


def _load_file(kind: str, path: Path, name: str) -> Dataset:
    if not os.path.isfile(path):
        raise DataError(f"{name} is {path}, which is {'a folder' if os.path.isdir(path) else 'not a file'}")
    state = path.stat()
    if state.st_size == 0:
        raise DataError(f"{name} is {path}, which is empty")
    try:
        version = f"{FORMAT} {state.st_ino} {state.st_size} {state.st_mtime_ns}"
        builder = FileBuilder(kind=kind, path=str(path.absolute()), state=version)
        builder.download_and_prepare()
        return builder.as_dataset("train")
    except (DatasetGenerationError, OSError, ValueError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, InputError):
            raise DataError(str(cause)) from error
        elsewhere = isinstance(cause, OSError) and cause.filename not in (None, str(path.absolute()))
        if elsewhere or "disk space" in str(cause):
            cache = config.HF_DATASETS_CACHE
            told = f"can't write to the cache {cache} ({first_line(cause)}): set HF_DATASETS_CACHE to another folder"
            raise DataError(told) from error
        raise DataError(f"{path} can't be read as {path.suffix or kind} ({first_line(cause)})") from error


def map_batches(
    dataset: Dataset,
    function: Callable[..., Any],
    description: str,
    features: Features | None = None,
    *,
    with_indices: bool = False,
) -> Dataset:
    """Replace all columns by those that ``function`` makes of a batch of rows; ``features`` are their types.

    With indices it also gets the numbers of the rows.
    """
    # Small results stay in memory: the cache on disk is for corpora that take minutes.
    return dataset.map(
        function,
        batched=True,
        with_indices=with_indices,
        remove_columns=dataset.column_names,
        features=features,
        keep_in_memory=len(dataset) <= 500_000,
        desc=description,
    )


def list_names(names: Iterable[str], limit: int = 20) -> str:
    """Names for a message: long ones are cut (a file without a header has texts for names), many are counted."""
    names = [shorten(name, 40) for name in map(str, names)]
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
