"""Tables in JSON: an object per row, in lines or in one list."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqdyconv.errors import InputError, first_line
from seqdyconv.files import decode_lines, open_lines


def read_json(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file: an object per line (blank lines are none), or, in a .json file, a list of objects.

    The list may also stand under the key ``data`` of one object. Texts are read as they stand, also those that look
    like dates or numbers; NaN and infinite numbers are missing values; an integer beyond 64 bits is its digits.

    Raises:
        InputError: the file can't be read or holds something else; the message names the line or row.
    """
    rows = _list(path) if path.suffix.lower() == ".json" else None
    named = _lines(path) if rows is None else ((f"row {number}", row) for number, row in enumerate(rows, start=1))
    empty = True
    for where, row in named:
        if not isinstance(row, dict):
            raise InputError(f"{where} of {path} is {row!r:.40}, but must be an object, whose keys name the columns")
        empty = False
        yield row
    if empty:
        raise InputError(f"{path} holds no rows")


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(decode_lines(open_lines(path), str(path)), start=1):
        if line.strip():
            try:
                yield f"line {number}", _parse(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"line {number} of {path} is not JSON ({first_line(error)})") from None


def _list(path: Path) -> list[Any] | None:
    """The rows of a file that is one value; None if it has an object per line."""
    try:
        whole = _parse("".join(decode_lines(open_lines(path), str(path), keep_ends=True)))
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            return None
        raise InputError(f"{path} is not JSON ({first_line(error)})") from None
    if isinstance(whole, dict) and isinstance(whole.get("data"), list):
        whole = whole["data"]
    return whole if isinstance(whole, list) else [whole]


def _parse(text: str) -> Any:
    return json.loads(
        text, object_pairs_hook=_unique, parse_int=_integer, parse_float=_finite, parse_constant=lambda _: None
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        repeated = next(key for index, (key, _) in enumerate(pairs) if key in dict(pairs[:index]))
        raise ValueError(f"the key {repeated!r} is there twice")
    return found


def _integer(digits: str) -> int | str:
    return value if len(digits) <= 20 and -(2**63) <= (value := int(digits)) < 2**63 else digits


def _finite(digits: str) -> float | None:
    return value if math.isfinite(value := float(digits)) else None
