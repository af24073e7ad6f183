"""Tables whose fields are separated by commas, semicolons or tabs, as pandas, Excel and corpora write them.

csv
    A field in quotes may hold separators, line breaks and, twice each, quotes. The separator is a comma; or a semicolon
    where the header has semicolons and no comma, as Excel writes in countries with a decimal comma; or what a first
    line ``sep=;`` says.

tsv
    A quote is a quote, unless the whole file has its fields in quotes as pandas or Excel put them; then it is read as
    csv. That is so if every field that begins with a quote ends with one, quotes between them are twice there, no other
    field has a quote, and every row has as many fields as the header; and if moreover all names of the header are in
    quotes, or some field in quotes has a quote inside, or lines split at tabs would not all have as many fields as the
    header. (A file that has quotes around all fields with a comma, and around no others, may be either, and is
    refused.)

Both
    Lines are those of :func:`seqdyconv.files.decode_lines`, and blank ones are no rows. The first row has the names of
    the columns. A column without a name, such as the index that pandas writes, is left out. Every row must have as many
    fields as the header. All fields are texts: "NA", "12" and "" stay what they are.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from seqdyconv.errors import InputError
from seqdyconv.files import WHITE_SPACE, decode_lines, open_lines

Row = tuple[int, list[str]]  # the number of its first line, and its fields: none for a blank line

# Stands for a carriage return inside a line, which the csv module takes for a line's end. No UTF-8 text has it.
_RETURN = "\udc0d"
_LONGEST_FIELD = 2**31 - 1


def read_delimited(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a csv or tsv file by the names of their columns, as this module's text says.

    Raises:
        InputError: the file can't be read or is not such a table; the message names the line.
    """
    if path.suffix.lower() == ".tsv":
        rows = _csv_rows(_lines(path), path, "\t") if _has_quoted_fields(path) else _plain_rows(_lines(path))
    else:
        separator, named = _separator(path)
        rows = _csv_rows(_lines(path), path, separator)
        if named:
            next(rows)
    rows = ((line, fields) for line, fields in rows if fields)
    names = [name.strip(WHITE_SPACE) for name in next(rows, (1, [""]))[1]]
    columns = [(name, place) for place, name in enumerate(names) if name]
    if not columns:
        raise InputError(f"{path} has no header with the names of its columns")
    if repeated := [name for name, _ in columns if names.count(name) > 1]:
        raise InputError(f"{path} has more than one column {repeated[0]!r}")
    line = 0
    for line, fields in rows:
        if len(fields) != len(names):
            raise InputError(f"line {line} of {path} has {_count(fields)}, but the header has {len(names)}")
        yield {name: fields[place] for name, place in columns}
    if not line:
        raise InputError(f"{path} has a header but no rows")


def _lines(path: Path) -> Iterator[str]:
    return decode_lines(open_lines(path), str(path), keep_ends=True)


def _count(fields: list[str]) -> str:
    return f"{len(fields)} field{'s' if len(fields) > 1 else ''}"


def _plain_rows(lines: Iterable[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        text = line.rstrip("\r\n")
        yield number, text.split("\t") if text else []


def _csv_rows(lines: Iterable[str], path: Path, separator: str) -> Iterator[Row]:
    marked = (re.sub(r"\r(?!\r*\n?$)", _RETURN, line) if "\r" in line else line for line in lines)
    reader = csv.reader(marked, delimiter=separator, strict=True)
    while True:
        first = reader.line_num + 1
        limit = csv.field_size_limit(_LONGEST_FIELD)  # of the whole process
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(
                f"line {first} of {path} has quotes that are not those of {path.suffix} ({error}): a field that begins "
                "with a quote must end with one, and quotes inside it must be twice there"
            ) from None
        finally:
            csv.field_size_limit(limit)
        yield first, [field.replace(_RETURN, "\r") for field in fields]


def _separator(path: Path) -> tuple[str, bool]:
    """The separator of a csv file, and whether the first line does nothing but say it."""
    header = next(_lines(path), "").rstrip("\r\n")
    if match := re.fullmatch(r'"?sep=(.)"?', header, re.IGNORECASE):
        return match[1], True
    found = [separator for separator in ",;\t" if len(next(csv.reader([header], delimiter=separator), [])) > 1]
    if found[:1] == ["\t"]:
        raise InputError(f"{path} has tabs between its fields: a csv file has commas or semicolons, so name it .tsv")
    return (found or [","])[0], False


def _has_quoted_fields(path: Path) -> bool:
    """Whether quotes in a tsv file are marks around fields, not a part of them.

    Raises:
        InputError: nothing tells: fields with a comma are in quotes, as Excel writes them, or as quotations stand.
    """
    if not any(b'"' in line for line in open_lines(path)):
        return False
    read: list[str] = []  # the lines of a row

    def watched() -> Iterator[str]:
        for line in _lines(path):
            read.append(line)
            yield line

    width, inside, split_alike = 0, False, True
    needless: set[tuple[bool, bool]] = set()  # of fields that need no quotes: whether they have them, and a comma
    try:
        for _, fields in _csv_rows(watched(), path, "\t"):
            in_quotes = _in_quotes("".join(read), fields)
            if width == 0 and fields:
                if in_quotes and all(in_quotes):
                    return True
                width = len(fields)
            if in_quotes is None or len(fields) not in (0, width):
                return False
            inside |= any(quoted and '"' in field for quoted, field in zip(in_quotes, fields))
            split_alike &= not fields or all(line.count("\t") == width - 1 for line in read)
            needless |= {
                (quoted, "," in field) for quoted, field in zip(in_quotes, fields) if not re.search(r'["\t\r\n]', field)
            }
            read.clear()
    except InputError:  # of quotes; another one comes again where the rows are read
        return False
    if inside or not split_alike:
        return True
    if (True, True) in needless and not {(True, False), (False, True)} & needless:
        raise InputError(
            f"{path} has quotes around the fields with a comma alone, as Excel writes them, but as quotations stand "
            "too: save it as csv, where quotes that belong to a text are clear"
        )
    return False


def _in_quotes(row: str, fields: list[str]) -> list[bool] | None:
    """Which of the fields are in quotes in the row that they were read from; None if a quote stands in another one."""
    found, place = [], 0
    for field in fields:
        quoted = '"' + field.replace('"', '""') + '"'
        found.append(row.startswith(quoted, place))
        if '"' in field and not found[-1]:
            return None
        place += len(quoted if found[-1] else field) + 1
    return found
