"""Which part of a recording a row of a table means, by its columns offset and duration, or start and end."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from datasets import Dataset

from seqdyconv.data.tables import DataError

_WHOSE = r"(?:(?:audio|clip|seg|segment|speech|utt|utterance)_)?"
_SECONDS = r"(?:_?(?:s|secs?|seconds?|time|timestamp|ts))?"
_MILLISECONDS = "_?(?:ms|msecs?|milliseconds?)"
_FRAMES = r"(?:frame|sample)s?"
_Cell = tuple[str, Any, float]  # the column, what stands there, the seconds of its unit
TOLERANCE = 0.1
"""Seconds by which the durations of tables may be wrong."""


def find_parts(table: Dataset, where: str) -> list[dict[str, Any]] | None:
    """The part of each row, in seconds, as ``{"start": 0.0, "end": None, "error": ""}``; None without such columns.

    The columns are called offset, start or begin, end, and duration, with or without a unit: ``start_time``, ``end_s``,
    ``duration_ms``. An end of None is that of the file. Where a row lacks one of them, or can't be meant so, ``error``
    says why.

    Raises:
        DataError: two columns of one meaning, or one that counts frames or samples.
    """
    columns = [
        _find(table.column_names, stems, where) for stems in ("begin|offset|onset|start", "end|stop", "dur|duration")
    ]
    if not any(columns):
        return None
    cells: list[list[_Cell | None]] = [
        [None] * len(table) if column is None else [(column[0], value, column[1]) for value in table[column[0]]]
        for column in columns
    ]
    return [_part(*row) for row in zip(*cells)]


def _find(names: Iterable[str], stems: str, where: str) -> tuple[str, float] | None:
    """The column of a kind and the seconds of its unit."""
    found = []
    for name in names:
        if re.fullmatch(rf"{_WHOSE}(?:{stems}){_SECONDS}", name, re.IGNORECASE):
            found.append((name, 1.0))
        elif re.fullmatch(rf"{_WHOSE}(?:{stems}){_MILLISECONDS}", name, re.IGNORECASE):
            found.append((name, 0.001))
        elif re.fullmatch(rf"{_WHOSE}(?:(?:{stems})_{_FRAMES}|{_FRAMES}_(?:{stems}))", name, re.IGNORECASE):
            raise DataError(
                f"{where} has the column {name!r}, but parts must be in seconds, such as offset and duration"
            )
    if len(found) > 1:
        raise DataError(f"{where} has the columns {found[0][0]!r} and {found[1][0]!r} of one meaning: leave one out")
    return found[0] if found else None


def _part(*cells: _Cell | None) -> dict[str, Any]:
    part: dict[str, Any] = {"start": 0.0, "end": None, "error": ""}
    try:
        start, end, duration = (None if cell is None else _seconds(*cell) for cell in cells)
    except ValueError as error:
        return part | {"error": str(error)}
    part["start"] = start or 0.0
    part["end"] = end if duration is None else part["start"] + duration
    if end is not None and end <= part["start"]:
        part["error"] = f"it ends at {end:g} s and begins at {part['start']:g} s"
    elif duration == 0:
        part["error"] = "it lasts 0 seconds"
    elif end is not None and duration is not None and abs(part["end"] - end) > TOLERANCE:
        part["error"] = f"it lasts {duration:g} s, but from {part['start']:g} s to {end:g} s is another time"
    return part


def _seconds(name: str, value: Any, unit: float) -> float:
    try:
        number = math.nan if isinstance(value, bool) or "_" in str(value) else unit * float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < math.inf:
        missing = value is None or value == ""
        raise ValueError(f"its {name} is missing" if missing else f"its {name} is {value!r:.40}, which is no time")
    return number
