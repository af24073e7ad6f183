"""Files as Arrow tables in the cache of ``datasets``, mapped into memory, so that a corpus may be larger than that.

The module has nothing but the builder: ``datasets`` replaces ``open``, ``os.path`` and the like in a builder's module.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
from datasets import ArrowBasedBuilder, BuilderConfig, DatasetInfo, Features, Json, SplitGenerator, Value
from datasets.builder import Key
from datasets.table import table_cast

from seqdyconv.data.delimited import read_delimited
from seqdyconv.data.json_rows import read_json
from seqdyconv.errors import InputError
from seqdyconv.files import decode_lines, open_lines

# Part of the name in the cache: raise it whenever the same file would give other rows.
FORMAT = 1


@dataclass
class FileConfig(BuilderConfig):  # type: ignore[misc]
    """What is read, and when it changes: the name in the cache is made of these values."""

    kind: str = "text"  # text, csv, json or parquet
    path: str = ""
    state: str = ""  # size, time ...


class FileBuilder(ArrowBasedBuilder):  # type: ignore[misc]
    """Writes the rows of one file into the cache of ``datasets``, as its own builders do."""

    BUILDER_CONFIG_CLASS = FileConfig

    def _info(self) -> DatasetInfo:
        return DatasetInfo()

    def _split_generators(self, dl_manager: object) -> list[SplitGenerator]:
        if self.config.kind == "parquet":
            self.info.features = Features.from_arrow_schema(pa.parquet.read_schema(self.config.path))
        return [SplitGenerator(name="train", gen_kwargs={})]

    def _generate_tables(self) -> Iterator[tuple[Key, pa.Table]]:
        kind, path = self.config.kind, Path(self.config.path)
        if kind == "parquet":
            file = pa.parquet.ParquetFile(path)
            if not file.metadata.num_rows:
                raise InputError(f"{path} holds no rows")
            for number, batch in enumerate(file.iter_batches()):
                yield Key(0, number), table_cast(pa.Table.from_batches([batch]), self.info.features.arrow_schema)
            return
        read = partial(_READERS[kind], path)
        features = _features(read() if kind == "json" else islice(read(), 1))
        rows, first = read(), 0
        while batch := list(islice(rows, 10_000)):
            try:
                columns = [_column([row.get(name) for row in batch], feature) for name, feature in features.items()]
            except UnicodeEncodeError as error:  # JSON can write what is no text
                row = next(row for row, values in enumerate(batch, first + 1) if error.object in values.values())
                raise InputError(f"row {row} of {path} has half of a surrogate pair in {error.object!r:.40}") from None
            yield Key(0, first), pa.table(columns, list(features))
            first += len(batch)


def _read_lines(path: Path) -> Iterator[dict[str, str]]:
    return ({"text": line} for line in decode_lines(open_lines(path), str(path)))


_READERS: dict[str, Callable[[Path], Iterator[dict[str, Any]]]] = {
    "text": _read_lines,
    "csv": read_delimited,
    "json": read_json,
}


def _features(rows: Iterable[Mapping[str, Any]]) -> dict[str, Value | Json]:
    """The types of the columns: that of all values of a column, where it is a plain one."""
    found: dict[str, set[type]] = {}
    for row in rows:
        for name, value in row.items():
            found.setdefault(name, set()).add(type(value))
    plain = {str: "string", bool: "bool", int: "int64", float: "float64"}

    def feature(types: set[type]) -> Value | Json:
        (kind,) = types if len(types) == 1 else (float if types == {int, float} else None,)
        return Value(plain[kind]) if kind in plain else Json()

    return {name: feature(types - {type(None)} or {str}) for name, types in found.items()}


def _column(values: list[Any], feature: Value | Json) -> pa.Array:
    if isinstance(feature, Json):
        texts = [None if value is None else json.dumps(value) for value in values]
        return pa.array(texts, pa.string()).cast(pa.json_())
    if feature.dtype == "float64":
        values = [None if value is None else float(value) for value in values]
    return pa.array(values, feature.pa_type)
