"""Tables of text from the Hub or from local files, with one clear line for everything that is wrong with them."""

from __future__ import annotations

import csv
import glob
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Value, get_dataset_split_names, load_dataset
from datasets.exceptions import DatasetGenerationError

from seqdyconv.errors import InputError, first_line

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
) -> dict[str, Dataset]:
    """Load those of the splits that a data set of the Hub has.

    Args:
        name: the data set: a name on the Hub, or a folder in its manner.
        splits: the wanted splits.
        config: the configuration (subset) of the data set.
        revision: a branch, tag or commit.
        instead: what else could be used, such as "local files (train_file)"; it ends the error message.
        required: those of the splits that must exist.

    Raises:
        DataError: a required split is missing, the data set is out of reach or needs a script, or there is no such
            name, configuration or revision.
    """
    try:
        available = get_dataset_split_names(name, config, revision=revision)
        loaded = {
            split: load_dataset(name, config, split=split, revision=revision) for split in splits if split in available
        }
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"the data set {name} cannot be loaded ({first_line(error)}): check its name, dataset_config, "
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
    """Load a csv or tsv file (with a header), json, jsonl or parquet. All columns of csv and tsv are strings.

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
    check_file(path, name, text=kind != "parquet")
    options: dict[str, Any] = {}
    if kind == "csv":
        # A quote is a quote in tsv, where nobody escapes it. Texts such as "NA" or "12" stay what they are.
        tsv = path.suffix.lower() == ".tsv"
        options = {"delimiter": "\t" if tsv else ",", "quoting": csv.QUOTE_NONE if tsv else csv.QUOTE_MINIMAL}
        header = _csv_header(path, options)
        options |= {"features": Features({column: Value("string") for column in header}), "keep_default_na": False}
    return load_local(kind, path, **options)


def check_file(path: Path, name: str, *, text: bool) -> None:
    """Check what a library would report without the place: a missing or empty file, bytes that are not UTF-8."""
    if not path.is_file():
        raise DataError(f"{name} is {path}, which is not a file")
    if path.stat().st_size == 0:
        raise DataError(f"{name} is {path}, which is empty")
    if text:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(f"{path}, line {number}: not UTF-8 ({error.reason})") from error


def load_local(kind: str, path: Path, **options: Any) -> Dataset:
    """Load one file with the builder ``kind`` of ``datasets`` (csv, json, parquet, text)."""
    try:
        return load_dataset(kind, data_files=glob.escape(str(path)), split="train", **options)
    except (DatasetGenerationError, OSError, ValueError) as error:
        if "corresponds to no data" in str(error):
            raise DataError(f"{path} holds no rows") from error
        raise DataError(
            f"{path} cannot be read as {path.suffix or kind} ({first_line(error.__cause__ or error)})"
        ) from error


def map_batches(
    dataset: Dataset,
    function: Callable[[dict[str, list[Any]]], Any],
    description: str,
    features: Features | None = None,
) -> Dataset:
    """Replace all columns by those that ``function`` makes of a batch of rows; ``features`` are their types."""
    # Small results stay in memory: the cache on disk is for corpora that take minutes.
    return dataset.map(
        function,
        batched=True,
        remove_columns=dataset.column_names,
        features=features,
        keep_in_memory=len(dataset) <= 500_000,
        desc=description,
    )


def list_names(names: Iterable[str], limit: int = 20) -> str:
    """Names for a message: long ones are cut (a file without a header has texts for names), many are counted."""
    names = [name if len(name) <= 40 else name[:37] + "..." for name in map(str, names)]
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _csv_header(path: Path, options: dict[str, Any]) -> list[str]:
    limit = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a text may be longer than the 131,072 characters of old
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            rows = csv.reader(lines, **options)
            header, first = next(rows, []), next(rows, None)
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as {path.suffix} ({first_line(error)})") from error
    finally:
        csv.field_size_limit(limit)
    if first is None:
        raise DataError(f"{path} has a header but no rows")
    if len(first) > len(header):  # pandas would take the first fields for row names
        raise DataError(f"{path}: the first row has {len(first)} fields, but the header {len(header)}")
    return header
